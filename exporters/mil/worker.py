"""The part of the coreml target that loads a saved package and executes it, in a process of its own.

``python -m deploy_kit.exporters.mil.worker JOB RESULT``: JOB and RESULT are JSON files.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from deploy_kit.exporters.mil.interpreter import execute
from deploy_kit.exporters.mil.package import load_package
from deploy_kit.exporters.mil.registry import UnsupportedOperatorError


def main() -> None:
    """Run a package on every case and keep the outputs; a package with unknown operators is said to have them."""
    job = json.loads(Path(sys.argv[1]).read_text())
    sys.modules["sklearn"] = None  # type: ignore[assignment]  # coremltools imports it only to say that it is too new
    function = load_package(Path(job["package"]))
    result = {"coremltools": version("coremltools"), "unsupported": None}
    try:
        cases = torch.load(job["inputs"], weights_only=True)
        torch.save([execute(function, case) for case in cases], job["outputs"])
    except UnsupportedOperatorError as error:
        result["unsupported"] = str(error)
    Path(sys.argv[2]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
