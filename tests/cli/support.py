"""The command line, in this process or as the real program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).with_name("deploykit")


@dataclass(frozen=True)
class Ended:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def environment(**variables: str) -> dict[str, str]:
    """Of the real program: it finds `tests.support` from any folder, its output is wide and plain, on one core."""
    ours = {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **ours, **variables}


def program(*arguments: object, cwd: Path = ROOT, **variables: str) -> Ended:
    """Run the real program."""
    words = [str(PROGRAM), *map(str, arguments)]
    done = subprocess.run(
        words, cwd=cwd, env=environment(**variables), capture_output=True, text=True, timeout=300, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr)
