"""What a runner is to the harness: files to bring to the device, and how the program is started there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor


@dataclass(frozen=True)
class Runner:
    """A program that takes a runner's options and writes `deploy_kit.benchmarks.measurement.RunnerResult`.

    ``files`` are copied to the device, the program first; where there are none, ``command`` is on the device already.
    ``command`` are the words between the program and the options.
    """

    name: str
    command: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def words(self, folder: str) -> list[str]:
        """How it is started when its files are in ``folder`` on the device."""
        program = [f"{folder}/{self.files[0].name}"] if self.files else []
        return [*program, *self.command]


def write_input(tensor: Tensor, file: Path, place: str) -> str:
    """Write an input as a runner reads it into ``file``; the word after ``--input`` where that is at ``place``."""
    file.write_bytes(tensor.detach().contiguous().numpy().tobytes())
    return f"{place}:{str(tensor.dtype).removeprefix('torch.')}:{','.join(map(str, tensor.shape))}"
