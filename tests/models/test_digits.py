from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from deploy_kit.api import export, reload_model, verify
from deploy_kit.benchmarks.train_digits import train, weights
from deploy_kit.classify import classify
from deploy_kit.errors import UserError
from deploy_kit.models import create_model, get_architecture
from deploy_kit.models.digits import Digits, count_right, load_digits_split, write_digit_images
from deploy_kit.models.edgevit import GlobalSparseAttention, LocalAggregation
from deploy_kit.models.registry import Trained
from deploy_kit.sources import load_model

Split = tuple[Digits, Digits]


@pytest.fixture(scope="module")
def split() -> Split:
    return load_digits_split()


@pytest.fixture(scope="module")
def trained() -> Trained:
    trained = get_architecture("edgevit_digits").trained
    assert trained is not None
    return trained


def test_the_trained_model_knows_all_but_one_of_the_digits_that_it_never_saw(split: Split) -> None:
    _, held_out = split
    right = count_right(load_model("edgevit_digits").module, held_out)
    assert right == 359
    assert get_architecture("edgevit_digits").published.top1 == round(100 * right / len(held_out.labels), 1)


def test_its_weights_are_those_of_the_registry_and_small(trained: Trained) -> None:
    data = trained.path.read_bytes()
    assert hashlib.sha256(data).hexdigest() == trained.sha256
    assert len(data) < 2e6


def test_it_has_every_ingredient_of_edgevit() -> None:
    modules = list(create_model("edgevit_digits").modules())
    rates = [module.rate for module in modules if isinstance(module, GlobalSparseAttention)]
    assert rates == [4, 2, 2, 2, 1]
    assert sum(isinstance(module, LocalAggregation) for module in modules) == 4
    assert sum(isinstance(module, nn.ConvTranspose2d) for module in modules) == 4


def test_the_split_is_always_the_same_disjoint_and_fair(split: Split) -> None:
    training, held_out = split
    assert training.images.shape == (1437, 3, 64, 64)
    assert held_out.images.shape == (360, 3, 64, 64)
    assert (training.images.min(), training.images.max()) == (-1, 1)
    seen = {image.numpy().tobytes() for image in training.images}
    assert not any(image.numpy().tobytes() in seen for image in held_out.images)
    assert all(35 <= share <= 37 for share in held_out.labels.bincount().tolist())
    assert load_digits_split()[1].labels.equal(held_out.labels)


def test_image_files_are_the_digits_to_train_on(split: Split, tmp_path: Path) -> None:
    import PIL.Image

    training, _ = split
    paths = write_digit_images(tmp_path / "new" / "folder", 12)
    assert sorted((tmp_path / "new" / "folder").iterdir()) == paths
    for path, image, label in zip(paths, training.images, training.labels):
        assert torch.equal(get_architecture("edgevit_digits").preprocessing.apply(PIL.Image.open(path))[0], image)
        assert path.stem.endswith(f"_{label}")


@pytest.mark.parametrize("count", [0, -1, 1438])
def test_no_more_files_than_there_are_digits(count: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1437 digits"):
        write_digit_images(tmp_path / "none", count)
    assert not (tmp_path / "none").exists()


def test_an_artifact_of_it_says_so_reads_digits_and_can_be_verified(tmp_path: Path) -> None:
    artifact = export("edgevit_digits", "onnx", out=tmp_path, options={"simplify": False})
    record = artifact.manifest.model
    assert record.weights.kind == "package"
    assert record.weights.description == f"trained weights of the package, sha256 {record.weights.sha256[:12]}"
    assert reload_model(artifact.manifest).record == record
    assert verify(artifact.folder).passed
    paths = write_digit_images(tmp_path / "digits", 10)
    assert [int(path.stem[-1]) for path in paths] == [int(s.argmax()) for s in classify(artifact, paths)]


@pytest.mark.parametrize("options", [{"num_classes": 5}, {"activation": "relu"}])
def test_another_model_than_the_trained_one_is_random_and_says_so(options: dict[str, object]) -> None:
    record = load_model("edgevit_digits", seed=3, **options).record  # type: ignore[arg-type]
    assert record.weights.description == "random (seed 3): not trained"


def test_a_checkpoint_of_ones_own_replaces_the_trained_weights(tmp_path: Path) -> None:
    torch.save(create_model("edgevit_digits", seed=1).state_dict(), tmp_path / "mine.pth")
    assert load_model("edgevit_digits", weights=tmp_path / "mine.pth").record.weights.kind == "checkpoint"


def test_digits_of_another_size_are_not_cropped() -> None:
    preprocessing = load_model("edgevit_digits", input_size=96).preprocessing
    assert preprocessing is not None
    assert (preprocessing.resize, preprocessing.crop, preprocessing.mean) == (96, (96, 96), (0.5, 0.5, 0.5))


def test_training_learns_and_a_seed_gives_one_model(split: Split) -> None:
    few = Digits(split[0].images[:96], split[0].labels[:96])
    first, again, other = (train(few, epochs=2, seed=seed) for seed in (0, 0, 1))
    assert all(value.equal(weights(again)[name]) for name, value in weights(first).items())
    assert not weights(first)["head.weight"].equal(weights(other)["head.weight"])
    longer = train(few, epochs=12, seed=0)
    assert count_right(longer, few) > 48, "half of what it was shown"


@pytest.mark.slow
def test_the_script_makes_the_weights(tmp_path: Path, trained: Trained) -> None:
    from deploy_kit.benchmarks.train_digits import main

    assert main(["--out", str(tmp_path / "new.safetensors")]) == 0
    assert (tmp_path / "new.safetensors").stat().st_size == trained.path.stat().st_size
    new = load_model("edgevit_digits", weights=tmp_path / "new.safetensors").module
    _, held_out = load_digits_split()
    assert count_right(new, held_out) >= 355
