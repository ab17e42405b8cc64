"""Results that a command also writes into a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deploy_kit.errors import DeployKitError, UserError


def check_out(out: Path) -> None:
    """Raise `UserError` where results cannot be written there, before anything is measured."""
    if out.suffix != ".json":
        raise UserError(f"{str(out)!r} is no .json file", fix="give --out a name that ends in .json")
    if not out.parent.is_dir():
        raise UserError(f"there is no folder {str(out.parent)!r}", fix="make it first")


def write(out: Path, results: Any) -> None:
    """Write results as JSON; the file is whole or as it was, and `DeployKitError` says why it could not be written."""
    from deploy_kit.disk import replace

    try:
        replace(out, json.dumps(results, indent=1) + "\n")
    except OSError as error:
        raise DeployKitError(
            f"the results cannot be written into {str(out)!r}: {error.strerror}",
            fix="free some space, or choose another --out",
        ) from error
