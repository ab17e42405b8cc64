"""What every runner's results are held to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy_kit.benchmarks.runners.base import fetch_result
from deploy_kit.devices.base import DeviceError
from deploy_kit.devices.local import Local
from tests.benchmarks.support import runner_document


def test_outputs_that_are_too_large_together_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    outputs = [{"file": f"{index}.bin", "dtype": "float32", "shape": [10]} for index in range(5)]
    (there / "result.json").write_text(json.dumps({**runner_document([1000] * 3), "outputs": outputs}))
    for output in outputs:
        (there / str(output["file"])).write_bytes(bytes(40))
    fetch_result(Local(), str(there), here, "x")
    assert len(list(here.glob("*.bin"))) == 5
    for file in here.iterdir():
        file.unlink()
    monkeypatch.setattr("deploy_kit.benchmarks.runners.base.LARGEST_PULL", 100)
    with pytest.raises(DeviceError, match="outputs of more than 100 bytes"):
        fetch_result(Local(), str(there), here, "x")
    assert not (here / "4.bin").exists()
