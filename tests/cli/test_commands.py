"""Every command in this process: what it prints for people and for programs, and how it fails."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest
import torch
from sklearn.datasets import load_sample_image

from deploy_kit.artifact import Artifact, open_artifact
from deploy_kit.exporters import onnx as onnx_target
from deploy_kit.exporters import onnx_file
from deploy_kit.exporters.mobile import interpreter
from tests.cli.support import Ended
from tests.parity.test_locate import spoil_the_head
from tests.support import TINY, TINY_SIZE, TOKENS, TOKENS_SIZE, Tiny, random

Command = Callable[..., Ended]
EXPORT = ("export", TINY, "--input-size", TINY_SIZE)


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    path = tmp_path / "flower.jpg"
    PIL.Image.fromarray(load_sample_image("flower.jpg")).save(path)
    return path


def test_export_prints_one_table_with_the_figures_of_every_target(deploykit: Command, tmp_path: Path) -> None:
    ended = deploykit(*EXPORT, "-t", "onnx", "-t", "torchscript-lite", "--out", tmp_path)
    assert ended.code == 0, ended.err
    assert "weights: as the callable made them" in ended.out
    for word in ("onnxruntime", "torch lite", "ok", "SNR", "top-1", "operators", "100%", "model.onnx", "model.ptl"):
        assert word in ended.out
    for stage in ("capture", "fuse", "prepack", "prove"):
        assert f"s  {stage}" in ended.err
    folder = tmp_path / "tests.support.tiny"
    assert open_artifact(folder / "onnx").manifest.proof.passed
    assert open_artifact(folder / "torchscript-lite").manifest.proof.passed


def test_export_says_that_weights_are_random(deploykit: Command, tmp_path: Path) -> None:
    arguments = ("export", "edgevit_xxs", "-t", "onnx", "--input-size", 32, "--num-classes", 5, "--out", tmp_path)
    ended = deploykit(*arguments, "--seed", 7, "--json")
    (result,) = ended.json
    assert result["weights"] == "random (seed 7): not trained"
    folder = tmp_path / "edgevit_xxs" / "onnx"
    weights = open_artifact(folder).manifest.model.weights
    assert (weights.kind, weights.seed) == ("random", 7)
    assert "random (seed 7): not trained" in deploykit("inspect", folder).out


def test_export_takes_a_checkpoint(deploykit: Command, tmp_path: Path) -> None:
    torch.save(random(Tiny(), 8).state_dict(), tmp_path / "best.pth")
    arguments = (*EXPORT, "-t", "onnx", "--out", tmp_path, "--weights", tmp_path / "best.pth")
    (result,) = deploykit(*arguments, "--json").json
    assert result["weights"].startswith("best.pth, sha256 ")
    assert deploykit("verify", tmp_path / "tests.support.tiny" / "onnx").code == 0


def test_export_takes_integers_of_a_type_and_bound(deploykit: Command, tmp_path: Path) -> None:
    ended = deploykit("export", TOKENS, "--input-size", TOKENS_SIZE, "-t", "onnx", "--out", tmp_path)
    assert ended.code == 0, ended.err
    folder = tmp_path / "tests.support.tokens" / "onnx"
    assert open_artifact(folder).manifest.model.input_size == TOKENS_SIZE
    assert deploykit("verify", folder).code == 0
    for size in ("1x12:int16", "1x12:int64:0", "1x12:int64:51", "1x12:float32:5"):
        ended = deploykit("export", TOKENS, "--input-size", size, "-t", "onnx", "--out", tmp_path / "new")
        assert ended.code == 2
        assert (ended.err.count("error:"), ended.err.count("fix:"), "Traceback" in ended.err) == (1, 1, False)
    assert not (tmp_path / "new").exists()


def test_export_takes_the_options_of_its_targets(deploykit: Command, tmp_path: Path) -> None:
    ended = deploykit(*EXPORT, "-t", "onnx", "--out", tmp_path, "--opset", 18, "--dynamic-batch")
    assert ended.code == 0
    options = open_artifact(tmp_path / "tests.support.tiny" / "onnx").manifest.options
    assert (options["opset"], options["dynamic_batch"]) == (18, True)


def test_a_failed_proof_is_exit_code_1_and_leaves_nothing(
    deploykit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = onnx_target.Onnx.run

    def broken(self: onnx_target.Onnx, *args: object) -> object:
        ran = run(self, *args)  # type: ignore[arg-type]  # passed through
        ran.outputs[0][0] += 1e-2
        return ran

    monkeypatch.setattr(onnx_target.Onnx, "run", broken)
    monkeypatch.setattr("deploy_kit.api.locate", lambda *args: "head")
    ended = deploykit(*EXPORT, "-t", "onnx", "--out", tmp_path, "--json")
    assert (ended.code, ended.out) == (1, "")
    assert "does not compute what the model computes" in ended.err
    assert "it diverges at head" in ended.err
    assert "fix: do not ship it" in ended.err
    assert list(tmp_path.rglob("*.onnx")) == []


def test_consent_to_a_loss_is_none_to_a_wrong_file(
    deploykit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_target, "convert", spoil_the_head(onnx_target.convert))
    ended = deploykit(*EXPORT, "-t", "onnx", "--precision", "int8", "--allow-lossy", "--out", tmp_path)
    assert ended.code == 1
    assert "does not compute what the model computes" in ended.err
    assert "dB in the same precision; it diverges at head" in " ".join(ended.err.split())
    assert "fix: do not ship it" in ended.err
    assert "Traceback" not in ended.err
    assert list(tmp_path.rglob("*.onnx")) == []


def test_one_failed_target_of_two_does_not_stop_the_other(
    deploykit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interpreter, "_system_pythons", lambda: iter(()))
    worker = tmp_path / "worker.py"
    worker.write_text("raise SystemExit('no kernel')")
    monkeypatch.setattr(onnx_file, "WORKER", worker)
    ended = deploykit(*EXPORT, "-t", "onnx", "-t", "torchscript-lite", "--out", tmp_path, "--json")
    assert ended.code == 1
    failed, ok = ended.json
    assert (failed["outcome"], ok["outcome"]) == ("export_failed", "ok")
    assert "no kernel" in failed["error"]
    assert failed["artifact"] is None
    assert "not prepacked" in ok["notes"][0]


def test_a_precision_that_a_target_does_not_have_is_unavailable_there_alone(deploykit: Command, tmp_path: Path) -> None:
    arguments = (*EXPORT, "-t", "onnx", "-t", "torchscript-lite", "--out", tmp_path, "--precision", "fp16", "--json")
    ended = deploykit(*arguments)
    assert ended.code == 1
    onnx, lite = ended.json
    assert (onnx["outcome"], lite["outcome"]) == ("ok", "unavailable")
    assert onnx["noise_ratio"] is None, "fp16 is not measured by float32's own error"
    assert "--precision 'fp16'" in lite["error"]
    assert lite["seconds"] is None
    assert "--precision 'fp16'" in ended.err
    alone = deploykit(*EXPORT, "-t", "torchscript-lite", "--out", tmp_path, "--precision", "fp16")
    assert alone.code == 2
    assert not (tmp_path / "tests.support.tiny" / "torchscript-lite").exists()


def test_fuse_shows_rewrites_and_costs_and_writes_nothing(
    deploykit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("fuse", TINY, "-t", "onnx", "--input-size", TINY_SIZE)
    record = deploykit(*arguments, "--json").json
    assert "affine_into_neighbours" in [rewrite["pass_name"] for rewrite in record["rewrites"]]
    table = deploykit(*arguments).out
    for word in ("affine_into_neighbours", "bn", "layout operators", "largest tensor rank", "parameters", "MACs"):
        assert word in table
    assert f"{record['before']['macs']:,}" in table
    assert list(tmp_path.iterdir()) == []


def test_verify_prints_the_same_proof_for_people_and_programs(deploykit: Command, tiny_onnx: Artifact) -> None:
    proof = deploykit("verify", tiny_onnx.folder, "--json").json
    assert proof["passed"] is True
    table = deploykit("verify", tiny_onnx.main_file).out
    assert f"proven by {proof['verified_by']}" in table
    assert all(case["case"] in table for case in proof["cases"])


def test_inspect_prints_the_manifest(deploykit: Command, tiny_onnx: Artifact) -> None:
    assert deploykit("inspect", tiny_onnx.folder, "--json").json == tiny_onnx.manifest.model_dump(mode="json")
    table = deploykit("inspect", tiny_onnx.folder).out
    for word in (
        TINY,
        "float32 [1, 3, 32, 32]",
        "RGB",
        "model.onnx",
        "affine_into_neighbours",
        "Conv",
        "onnxruntime",
    ):
        assert word in table
    assert tiny_onnx.manifest.files[0].sha256 in table


def test_run_classifies_real_images(deploykit: Command, tiny_onnx: Artifact, photograph: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"class {index}" for index in range(10)))
    predictions = deploykit("run", tiny_onnx.folder, photograph, photograph, "--labels", labels, "--json").json
    assert [p["rank"] for p in predictions] == [1, 2, 3, 4, 5] * 2
    probabilities = [p["probability"] for p in predictions[:5]]
    assert probabilities == sorted(probabilities, reverse=True)
    best = predictions[0]
    assert best["label"] == f"class {best['index']}"
    scores = random(Tiny())(tiny_onnx.manifest.preprocessing.apply(PIL.Image.open(photograph)))  # type: ignore[union-attr]
    assert best["index"] == scores.argmax().item()
    assert best["probability"] == pytest.approx(scores.softmax(1).max().item(), rel=1e-4)


def test_run_shows_as_many_classes_as_asked(deploykit: Command, tiny_onnx: Artifact, photograph: Path) -> None:
    assert len(deploykit("run", tiny_onnx.folder, photograph, "--top", 1, "--json").json) == 1
    assert len(deploykit("run", tiny_onnx.folder, photograph, "--top", 99, "--json").json) == 10
    table = deploykit("run", tiny_onnx.folder, photograph, "--top", 3).out
    assert table.count("%") == 3


def test_run_works_on_the_mobile_interpreter(
    deploykit: Command, tiny_onnx: Artifact, tiny_lite: Artifact, photograph: Path
) -> None:
    lite, ort = (deploykit("run", a.folder, photograph, "--json").json for a in (tiny_lite, tiny_onnx))
    assert [p["index"] for p in lite] == [p["index"] for p in ort]
    assert lite[0]["probability"] == pytest.approx(ort[0]["probability"], rel=1e-4)


def test_targets_lists_names_and_options(deploykit: Command) -> None:
    rows = {row["name"]: row for row in deploykit("targets", "--json").json}
    assert "--opset" in rows["onnx"]["options"]
    assert "--bytecode-version" in rows["torchscript-lite"]["options"]
    assert all(name in deploykit("targets").out for name in rows)


def test_doctor_says_what_is_here(deploykit: Command) -> None:
    checks = deploykit("doctor", "--json").json
    found = {(check["target"], check["needs"]): check["found"] for check in checks}
    assert found["onnx", "onnxruntime"]
    assert "onnxruntime" in deploykit("doctor").out


def test_doctor_has_the_command_for_what_is_missing(deploykit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(interpreter.VARIABLE, raising=False)
    monkeypatch.setattr(interpreter, "_system_pythons", lambda: iter(()))
    ended = deploykit("doctor")
    assert ended.code == 0
    assert "missing (optional)" in ended.out
    assert "sudo apt-get install python3-torch" in ended.out


def test_doctor_survives_a_wrong_interpreter(deploykit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(interpreter.VARIABLE, "/no/such/python")
    ended = deploykit("doctor")
    assert ended.code == 0, ended.err
    assert "/no/such/python" in ended.out


MISTAKES = {
    "unknown model": (("export", "edgevit_xs2", "-t", "onnx"), "did you mean edgevit_xs"),
    "unknown target": (("export", "edgevit_s", "-t", "onx"), "did you mean onnx"),
    "no target": (("export", "edgevit_s"), "--target"),
    "unknown option": (("export", "edgevit_s", "-t", "onnx", "--opsett", "20"), "--opset"),
    "unknown command": (("exprt",), "export"),
    "unknown activation": (("export", "edgevit_s", "-t", "onnx", "--activation", "rellu"), "did you mean relu"),
    "wrong size": (("export", "edgevit_s", "-t", "onnx", "--input-size", "100"), "multiples of 32"),
    "no size": (("export", TINY, "-t", "onnx"), "--input-size 1x3x224x224"),
    "option of another target": (("export", "edgevit_s", "-t", "onnx", "--bytecode-version", "7"), "leave it out"),
    "opset too old": (("export", "edgevit_s", "-t", "onnx", "--opset", "9"), "--opset 9"),
    "opset no number": (("export", "edgevit_s", "-t", "onnx", "--opset", "new"), "--opset"),
    "missing weights": (("export", "edgevit_s", "-t", "onnx", "--weights", "no.pth"), "no checkpoint file 'no.pth'"),
    "weights that do not fit": (("export", "edgevit_s", "-t", "onnx", "--weights", "tiny.pth"), "does not fit"),
    "weights that are no checkpoint": (("export", "edgevit_s", "-t", "onnx", "--weights", "text"), "not a checkpoint"),
    "missing program": (("export", "no.pt2", "-t", "onnx"), "no exported program"),
    "missing module": (("export", "no.such:model", "-t", "onnx", "--input-size", "1x3"), "cannot be imported"),
    "no classes": (("export", "edgevit_s", "-t", "onnx", "--num-classes", "0"), "at least one class"),
    "no artifact": (("verify", "."), "is not an artifact"),
    "no folder": (("inspect", "nowhere"), "is not an artifact"),
    "missing image": (("run", "ARTIFACT", "no.jpg"), "no image file"),
    "no image": (("run", "ARTIFACT", "text"), "is not an image"),
    "no labels": (("run", "ARTIFACT", "flower.jpg", "--labels", "no.txt"), "no.txt"),
    "nothing to show": (("run", "ARTIFACT", "flower.jpg", "--top", "0"), "--top"),
    "fuse for nothing": (("fuse", "edgevit_s", "-t", "tensorflow"), "no target called"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_one_clear_error_and_exit_code_2(
    kind: str,
    deploykit: Command,
    tiny_onnx: Artifact,
    photograph: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(random(Tiny()).state_dict(), tmp_path / "tiny.pth")
    (tmp_path / "text").write_text("just text")
    arguments, message = MISTAKES[kind]
    ended = deploykit(*(tiny_onnx.folder if word == "ARTIFACT" else word for word in arguments))
    assert ended.code == 2, ended.err
    assert message in ended.err
    assert ended.out == ""
    assert "Traceback" not in ended.err
    assert not (tmp_path / "artifacts").exists()


def test_a_bug_of_ours_keeps_its_traceback(deploykit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*args: object, **options: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("deploy_kit.api.fuse", bug)
    with pytest.raises(ZeroDivisionError):
        deploykit("fuse", TINY, "-t", "onnx", "--input-size", TINY_SIZE)


def test_an_artifact_in_the_way_stops_before_the_work(
    deploykit: Command, tiny_onnx: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_onnx.folder, tmp_path / "tests.support.tiny" / "onnx")
    monkeypatch.setattr("deploy_kit.api.export", None)
    ended = deploykit(*EXPORT, "-t", "onnx", "--out", tmp_path)
    assert ended.code == 2
    assert "--force" in ended.err


def test_tables_fit_a_narrow_terminal_without_losing_text(
    deploykit: Command, tiny_onnx: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    out = deploykit("inspect", tiny_onnx.folder).out
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= 50


@pytest.fixture(params=["missing", "none"])
def no_temporary_folder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The folder for temporary files is gone, or there never was one that could be written."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone") if request.param == "missing" else None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "gone")])


@pytest.mark.usefixtures("no_temporary_folder")
@pytest.mark.parametrize("command", ["export", "verify", "run"])
def test_temporary_files_that_cannot_be_written_are_the_users_error(
    command: str, deploykit: Command, tiny_onnx: Artifact, photograph: Path, tmp_path: Path
) -> None:
    export = (*EXPORT, "-t", "onnx", "--out", tmp_path / "out")
    words = {"export": export, "verify": ("verify", tiny_onnx.folder), "run": ("run", tiny_onnx.folder, photograph)}
    ended = deploykit(*words[command])
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("error: temporary files cannot be written") == 1
    assert "TMPDIR" in ended.err
    assert not (tmp_path / "out").exists()
