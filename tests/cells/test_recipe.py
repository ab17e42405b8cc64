from __future__ import annotations

from pathlib import Path

import pytest

from deploy_kit.cells import recipe
from deploy_kit.cells.recipe import CellSpec, ModelOptions, make_recipe, read_recipe
from deploy_kit.errors import UserError
from deploy_kit.models import list_models


def ids(tmp_path: Path, **values: object) -> list[str]:
    return [cell.id for cell in make_recipe(values, tmp_path).cells()]


def test_a_recipe_is_models_times_targets_times_precisions(tmp_path: Path) -> None:
    file = tmp_path / "deploykit.toml"
    file.write_text("""
models = ["edgevit_xxs", "nets:small"]
targets = ["onnx", "torchscript-lite"]
precisions = ["fp32", "fp16"]

[options.onnx]
opset = 17

[model."nets:small"]
weights = "small.pth"
input_size = "32"
""")
    cells = read_recipe(file).cells()
    assert [cell.id for cell in cells] == [
        "edgevit_xxs/onnx/fp32",
        "edgevit_xxs/onnx/fp16",
        "edgevit_xxs/torchscript-lite/fp32",
        "nets:small/onnx/fp32",
        "nets:small/onnx/fp16",
        "nets:small/torchscript-lite/fp32",
    ]
    assert cells[4].options == {"opset": 17, "precision": "fp16"}
    assert cells[4].of_model == ModelOptions(weights=str(tmp_path / "small.pth"), input_size="32")
    assert cells[4].slug == "nets-small--onnx--fp16"


def test_none_is_every_installed_target_at_its_default_precision(tmp_path: Path) -> None:
    found = ids(tmp_path, models=["edgevit_xxs"])
    assert {"edgevit_xxs/onnx/fp32", "edgevit_xxs/torchscript-lite/fp32"} <= set(found)
    assert "edgevit_xxs/onnx/fp16" not in found
    assert ids(tmp_path, models=["edgevit_xxs"], targets=["coreml"]) == ["edgevit_xxs/coreml/fp16"]


def test_cells_of_targets_that_are_not_installed_are_elsewhere_unless_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "installed_targets", lambda: ["onnx"])
    values = {"models": ["edgevit_xxs"], "precisions": ["fp16"]}
    chosen = make_recipe(values, tmp_path)
    assert [cell.id for cell in chosen.cells()] == ["edgevit_xxs/onnx/fp16"]
    there = [cell.id for cell in chosen.elsewhere()]
    assert {"edgevit_xxs/coreml/fp16", "edgevit_xxs/openvino/fp16"} <= set(there)
    assert not {"edgevit_xxs/onnx/fp16", "edgevit_xxs/torchscript-lite/fp32"} & set(there)
    named = make_recipe({**values, "targets": ["onnx", "coreml"]}, tmp_path)
    assert [cell.target for cell in named.cells()] == ["onnx", "coreml"]
    assert named.elsewhere() == []
    wrong = make_recipe({**values, "options": {"coreml": {"speed": 1}}}, tmp_path)
    with pytest.raises(UserError, match="speed"):  # before anything is exported, and not after all of it
        wrong.cells()


def test_words_stand_for_models(tmp_path: Path) -> None:
    every = ids(tmp_path, models=["all", "edgevit_xxs"], targets=["onnx"])
    assert every == [f"{name}/onnx/fp32" for name in list_models()]
    smallest = [cell.split("/")[0] for cell in ids(tmp_path, models=["smallest"], targets=["onnx"])]
    assert {"edgevit_xxs", "levit_128s", "flatformer"} <= set(smallest)
    assert len(smallest) < len(list_models()) / 2


@pytest.mark.parametrize(
    ("document", "wrong"),
    [
        ("models = []", "'models'"),
        ("targets = ['onnx']", "'models'"),
        ("models = ['a']\nspeed = 1", "'speed'"),
        ("models = ['a']\nlimit = 0", "'limit'"),
        ("models = ['a']\nprecisions = ['fp8']", "'precisions.0'"),
        ("models = ['a']\ntargets = ['onyx']", "no target called 'onyx'"),
        ("models = ['a']\n[options.onyx]\nopset = 1", "no target called 'onyx'"),
        ("models = ['edgevit_s']\n[model.edgevit_xs]\nseed = 1", "no model in the recipe called 'edgevit_xs'"),
        ("models = [", "cannot be read"),
        ("models = ['a']\n[accuracy]\ndata = 'x'\nmodels = ['b']", "no model in the recipe called 'b'"),
    ],
)
def test_a_mistake_is_named(document: str, wrong: str, tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text(document)
    with pytest.raises(UserError, match=wrong) as found:
        read_recipe(file)
    assert found.value.fix


def test_no_recipe_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no recipe") as found:
        read_recipe(tmp_path / "none.toml")
    assert "deploykit init" in found.value.fix


def test_options_are_checked_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="opsett"):
        ids(tmp_path, models=["edgevit_xxs"], targets=["onnx"], options={"onnx": {"opsett": 17}})
    with pytest.raises(UserError, match="no target offers fp16"):
        ids(tmp_path, models=["edgevit_xxs"], targets=["torchscript-lite"], precisions=["fp16"])


def test_a_cell_is_known_by_its_parts() -> None:
    cell = CellSpec(model="nets:a net", target="onnx", precision="int8")
    assert (cell.id, cell.slug) == ("nets:a net/onnx/int8", "nets-a-net--onnx--int8")


def test_a_cell_of_a_file_has_its_name_wherever_it_is(tmp_path: Path) -> None:
    document = {
        "models": ["sub/net.pt2"],
        "targets": ["onnx"],
        "model": {"sub/net.pt2": {"seed": 3}},
        "options": {"onnx": {"calibration": "images", "opset": 18}},
    }
    (cell,) = make_recipe(document, tmp_path).cells()
    assert cell.id == "net.pt2/onnx/fp32"
    assert cell.model == str(tmp_path / "sub/net.pt2")
    assert cell.of_model.seed == 3
    assert cell.options == {"calibration": str(tmp_path / "images"), "opset": 18}
    with pytest.raises(UserError, match=r"two models have the name 'net\.pt2'"):
        make_recipe({"models": ["a/net.pt2", "b/net.pt2"], "targets": ["onnx"]}, tmp_path).cells()


@pytest.mark.parametrize("section", ["bench", "latency"])
def test_a_runner_is_a_program_beside_the_recipe_or_an_app(section: str, tmp_path: Path) -> None:
    file = tmp_path / "deploykit.toml"

    def read(runner: str) -> str:
        file.write_text(f"models = ['edgevit_xxs']\n[{section}]\nrunner = '{runner}'")
        return getattr(read_recipe(file), section).runner  # type: ignore[no-any-return]  # a word of the recipe

    assert read("tools/runner") == str(tmp_path / "tools/runner")
    assert read("/opt/runner") == "/opt/runner"
    assert [read(word) for word in ("app", "app:cpuOnly")] == ["app", "app:cpuOnly"]
