"""What devices that are reached by a shell have in common."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from deploy_kit.devices.base import DeviceError
from deploy_kit.devices.calls import check_size
from deploy_kit.errors import UserError

REFUSALS = {
    "No space left on device": ("is full", "free some space on it"),
    "Disk quota exceeded": ("has no more space for this user", "free some space on it"),
    "Read-only file system": ("cannot be written there", "choose another folder"),
    "Permission denied": ("does not permit it", "choose a folder that its user may write"),
}
"""What a device says when it takes or gives a file, and what that is."""


def words_of(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """A command as the device's shell reads it back."""
    settings = []
    for name, value in (environment or {}).items():
        if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise UserError(f"{name!r} is no name of a variable")
        settings.append(f"export {name}={shlex.quote(value)};")
    return " ".join([*settings, "exec", shlex.join(command)])


def check_path(path: str) -> None:
    """Raise `UserError` for what is no absolute path."""
    if not path.startswith("/"):
        raise UserError(f"{path!r} is no place on a device", fix="name a path from / on")


def reason(text: str) -> str:
    """The last line that is an error, or the last of all."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line]
    return [*lines, *errors][-1] if lines else "it said nothing"


def refusal(spec: str, said: str, what: str) -> DeviceError:
    """The error for a device that is there and said no."""
    for words, (problem, fix) in REFUSALS.items():
        if words in said:
            return DeviceError(f"{spec} {problem} ({what}): {words}", fix=fix)
    return DeviceError(f"{spec} failed {what}: {reason(said)}", fix="try it again")


def size_of(path: str) -> str:
    """The line of shell that prints what `arriving` is told of a file: its size, or nothing where there is none."""
    place = shlex.quote(path)
    return f"[ ! -f {place} ] || wc -c < {place}"


@contextmanager
def arriving(spec: str, source: str, target: Path, told: str) -> Iterator[tuple[Path, int]]:
    """Where the bytes of a file go that is pulled, and how many they are; ``target`` is whole or as it was.

    Raises:
        DeviceError: by ``told`` there is no such file or it is too large, or it did not arrive as a file of that size,
            or it cannot be written here.
    """
    told = told.strip()
    if not told:
        raise DeviceError(f"{spec} has no file {source!r}")
    if not re.fullmatch(r"\d{1,18}", told, re.ASCII):
        raise DeviceError(f"{spec} does not tell the size of {source!r}, but {told[:200]!r}")
    size = int(told)
    check_size(spec, source, size)
    try:
        if shutil.disk_usage(target.parent).free < size:
            raise DeviceError(f"there is no space for {str(target)!r} of {size} bytes", fix="free some space here")
        with TemporaryDirectory(dir=target.parent, prefix=".deploykit-") as folder:
            part = Path(folder, "part")
            yield part, size
            if part.is_symlink() or not part.is_file() or part.stat().st_size != size:
                raise DeviceError(f"{spec} did not give {source!r} as a file of {size} bytes", fix="try it again")
            part.replace(target)
    except OSError as error:
        raise DeviceError(f"{source!r} cannot be written to {str(target)!r}: {error.strerror}") from error
