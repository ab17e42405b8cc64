"""``deploykit report`` as people use it."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from inspect import signature
from pathlib import Path

import pytest

from deploy_kit.artifact import Artifact, open_artifact
from deploy_kit.cli import export
from deploy_kit.parity.inputs import InputType
from deploy_kit.report import reproduce
from tests.cli.support import Ended
from tests.report.support import check_of, result_of, spec_of

Run = Callable[..., Ended]

OPTIONS = signature(export.command).parameters
"""What `deploykit export` takes."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_onnx: Artifact) -> Path:
    """A folder to be in, with one artifact in ``artifacts``."""
    shutil.copytree(tiny_onnx.folder, tmp_path / "artifacts" / "tiny" / "onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_with_nothing_named_it_reports_on_the_artifacts(deploykit: Run, folder: Path) -> None:
    ended = deploykit("report")
    assert ended.code == 0, ended.err
    assert "1 cells from artifacts" in ended.out
    page = (folder / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert page.rstrip().endswith("</html>")


def test_json_is_the_data_of_the_page_and_the_page_is_written_too(deploykit: Run, folder: Path) -> None:
    (folder / "check.json").write_text(check_of([result_of(spec_of())]).model_dump_json())
    ended = deploykit("report", "artifacts", "check.json", "--out", "both.html", "--json")
    assert (ended.json["schema_version"], len(ended.json["cells"]), len(ended.json["runs"])) == (1, 2, 1)
    assert ended.json["cells"][1]["manifest"]["proof"]["passed"] is True
    assert (folder / "both.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.json"], "there is no file or folder 'none.json'"),
        (["artifacts", "none.json"], "there is no file or folder"),
        (["artifacts", "--out", "report.json"], "a report is an .html file"),
        (["artifacts", "--out", "none/report.html"], "there is no folder 'none'"),
        (["empty.json"], "is empty"),
    ],
)
def test_a_mistake_is_one_error_and_leaves_what_was_there(
    arguments: list[str], said: str, deploykit: Run, folder: Path
) -> None:
    (folder / "report.html").write_text("the last one")
    (folder / "empty.json").touch()
    ended = deploykit("report", *arguments)
    assert ended.code == 2
    assert ended.err.count("error:") == 1
    assert said in ended.err
    assert "fix:" in ended.err
    assert (folder / "report.html").read_text() == "the last one"
    assert sorted(path.name for path in folder.iterdir()) == ["artifacts", "empty.json", "report.html"]


@pytest.mark.slow
def test_the_command_that_it_shows_makes_the_same_artifact(deploykit: Run, folder: Path, tiny_onnx: Artifact) -> None:
    steps = reproduce.of_manifest(tiny_onnx.manifest, tiny_onnx.folder, OPTIONS)
    assert "simplify = False" in steps[0].note
    words = shlex.split(steps[0].command)
    assert words[:2] == ["deploykit", "export"]
    assert deploykit(*words[1:], "--out", "again").code == 0
    again = open_artifact(folder / "again" / "tests.support.tiny" / "onnx")
    assert again.manifest.model == tiny_onnx.manifest.model


def test_the_command_has_the_types_of_the_inputs(tiny_onnx: Artifact) -> None:
    manifest = tiny_onnx.manifest
    model = manifest.model.model_copy(update={"input_types": [InputType(dtype="int64", bound=7)]})
    step = reproduce.of_manifest(manifest.model_copy(update={"model": model}), tiny_onnx.folder, OPTIONS)[0]
    assert "--input-size 1x3x32x32:int64:7" in step.command


def test_the_command_of_a_cell_has_its_options_and_says_which_it_cannot_have() -> None:
    spec = spec_of("edgevit_xxs", precision="fp16", opset=20, keep_fp32=["a", "b"], simplify=False)
    (step,) = reproduce.of_cell(spec, OPTIONS)
    assert step.command == "deploykit export edgevit_xxs --target onnx --opset 20 --keep-fp32 a --keep-fp32 b"
    assert "simplify = False" in step.note


def test_what_the_page_shows_is_what_json_says(deploykit: Run, folder: Path) -> None:
    document = json.loads(deploykit("report", "--json").out)
    page = (folder / "report.html").read_text()
    for step in document["cells"][0]["reproduce"]:
        assert step["command"] in page
