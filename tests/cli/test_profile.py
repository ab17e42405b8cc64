"""``deploykit profile``: tables, JSON, the plot, and how it fails."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest

import deploy_kit.profile
from deploy_kit.artifact import Artifact
from deploy_kit.profile.roofline import Peaks
from tests.cli.support import Ended
from tests.support import TINY, TINY_SIZE, TOKENS, TOKENS_SIZE

Command = Callable[..., Ended]


@pytest.fixture(autouse=True)
def peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring the machine takes seconds, and is tested on its own."""
    monkeypatch.setattr(deploy_kit.profile, "measure_peaks", lambda threads: Peaks(200.0, 20.0, "torch"))


def test_an_artifact_s_profile_is_one_document(deploykit: Command, tiny_onnx: Artifact, tmp_path: Path) -> None:
    plot = tmp_path / "roof.svg"
    ended = deploykit("profile", tiny_onnx.folder, "--iterations", 2, "--plot", plot, "--json")
    assert ended.code == 0, ended.err
    found = ended.json
    assert (found["target"], found["threads"], found["iterations"]) == ("onnx", 1, 2)
    assert found["peaks"] == {"gflops": 200.0, "gbytes": 20.0, "products_by": "torch"}
    assert sum(part["share"] for part in found["kinds"]) == pytest.approx(1)
    assert sum(operator["macs"] for operator in found["operators"]) == found["total"]["macs"]
    assert found["memory_bound_share"] + found["compute_share"] == pytest.approx(1)
    names = [title.text for title in ElementTree.parse(plot).getroot().iter("{http://www.w3.org/2000/svg}title")]
    assert {"all", "compute", "Conv", "Gemm", "layout"} <= set(names)


def test_a_model_is_exported_profiled_and_not_kept(
    deploykit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = deploykit(
        "profile", TINY, "-t", "torchscript-lite", "--input-size", TINY_SIZE, "--iterations", 2, "--top", 1
    )
    assert ended.code == 0, ended.err
    for words in ("memory-bound", "compute", "with the profiler", "of roofline", "GFLOP/s", "tests.support.tiny"):
        assert words in ended.out
    assert "layout operators" in ended.err
    assert "prove" in ended.err
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_takes_integers_is_profiled(deploykit: Command) -> None:
    ended = deploykit("profile", TOKENS, "-t", "onnx", "--input-size", TOKENS_SIZE, "--iterations", 2, "--json")
    assert ended.code == 0, ended.err
    assert "Gather" in [operator["operator"] for operator in ended.json["operators"]]


@pytest.mark.parametrize(
    ("arguments", "said", "fix"),
    [
        (("nowhere",), "there is no artifact at 'nowhere'", "--target"),
        ((TINY, "-t", "executorch"), "the target executorch cannot be profiled", "onnx"),
        ((TINY, "-t", "onyx"), "there is no target called 'onyx'", "onnx"),
        ((TINY, "-t", "onnx", "--plot", "roof.png"), "is neither", ".svg"),
        ((TINY, "-t", "onnx", "--plot", "no/roof.svg"), "cannot be written", "folder"),
        ((".", "--seed", 3), "an artifact has its model already", "--target"),
    ],
)
def test_mistakes_are_told_before_the_work(
    deploykit: Command, arguments: tuple[object, ...], said: str, fix: str
) -> None:
    ended = deploykit("profile", *arguments)
    assert ended.code == 2
    assert said in ended.err
    assert fix in ended.err
    assert " s  " not in ended.err


def test_an_artifact_has_its_target(deploykit: Command, tiny_onnx: Artifact) -> None:
    ended = deploykit("profile", tiny_onnx.folder, "-t", "onnx")
    assert ended.code == 2
    assert "leave out --target" in ended.err


def test_an_artifact_whose_target_has_no_profiler_is_unavailable(
    deploykit: Command, tiny_onnx: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy_kit.profile.runtimes.PROFILED", {})
    ended = deploykit("profile", tiny_onnx.folder)
    assert ended.code == 2
    assert "the target onnx cannot be profiled" in ended.err
