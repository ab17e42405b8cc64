"""``pip`` for the workflows that tests run: deploykit is there already, and nothing is downloaded or installed.

Words that name deploykit, with or without extras and a version, are looked at and left out, and the program
``deploykit`` is put beside this one. All else is asked of the real pip, which may say only that it is there:
`tests.workflows` sets PIP_NO_INDEX and PIP_DRY_RUN.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import metadata, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OWN = re.compile(rf"(?:deploy-kit|{re.escape(str(ROOT))})(?:\[([\w,-]+)\])?(?:==([\w.]+)| @ \S+)?")


def main(programs: Path, words: list[str]) -> int:
    """Do what ``pip WORDS`` would; the exit code."""
    asked = [OWN.fullmatch(word) for word in words]
    for own in filter(None, asked):
        extras = set((own[1] or "").split(",")) - {""}
        if unknown := extras - set(metadata("deploy-kit").get_all("Provides-Extra") or []):
            print(f"deploykit has no extra {unknown}", file=sys.stderr)
            return 1
        if own[2] not in (None, version("deploy-kit")):
            print(f"there is no deploykit {own[2]}", file=sys.stderr)
            return 1
        program = programs / "deploykit"
        if not program.exists():
            program.symlink_to(Path(sys.executable).parent / "deploykit")
    rest = ["pip" if own else word for word, own in zip(words, asked)]  # pip is there, too
    return subprocess.run([sys.executable, "-m", "pip", *rest], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
