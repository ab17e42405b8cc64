"""A recipe, a workflow and a pre-commit hook for a model, from templates."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.metadata import distribution, requires, version
from pathlib import Path
from typing import Any

from deploy_kit.errors import UserError

RECIPE = Path("deploykit.toml")
WORKFLOW = Path(".github/workflows/deploykit.yml")
PRE_COMMIT = Path(".pre-commit-config.yaml")
"""What is written, in the folder that is asked for; the last where it is asked for."""

EXTRAS = ("coreml", "executorch", "openvino", "tensorrt")
"""The targets that need an extra of deploykit's, which has their name."""

DEBIAN = {"torchscript-lite": "python3-torch libopenblas0-pthread"}
"""Packages of Debian and Ubuntu that a target needs."""


@dataclass(frozen=True)
class Start:
    """What the files are written for: a model that was loaded, and what `load_model` was told of it."""

    model: str
    targets: list[str]
    input_size: str | None = None
    weights: str | None = None


def render(start: Start, folder: Path, *, pre_commit: bool) -> dict[Path, str]:
    """The files for ``folder`` and what is in them."""
    templates = {RECIPE: "deploykit.toml.jinja", WORKFLOW: "deploykit.yml.jinja"}
    if pre_commit:
        templates[PRE_COMMIT] = "pre-commit-config.yaml.jinja"
    values = {
        "model": beside(start.model, folder) if start.model.endswith(".pt2") else start.model,
        "targets": start.targets,
        "of_model": _of_model(start, folder),
        "debian": " ".join(DEBIAN[target] for target in start.targets if target in DEBIAN),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "torch": _torch(),
        "requirement": _requirement(start),
        "own": _own_packages(folder) if ":" in start.model else None,
    }
    return {path: _fill(name, values) for path, name in templates.items()}


def _fill(template: str, values: Mapping[str, object]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(  # the braces are GitHub's
        loader=PackageLoader("deploy_kit.init", "."),
        variable_start_string="<<",
        block_start_string="<%",
        block_end_string="%>",
        variable_end_string=">>",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        autoescape=False,
    )
    environment.filters["toml"] = _toml
    return environment.get_template(template).render(values)


def _toml(value: str | list[str]) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _of_model(start: Start, folder: Path) -> dict[str, str]:
    weights = start.weights if start.weights in (None, "timm") else beside(str(start.weights), folder)
    options = {"input_size": start.input_size, "weights": weights}
    return {name: value for name, value in options.items() if value is not None}


def beside(path: str, folder: Path) -> str:
    """A file as a recipe in ``folder`` names it."""
    return Path(os.path.relpath(path, folder)).as_posix()


def _torch() -> str:
    """The torch that deploykit is made for, as pip is told it."""
    found = (re.fullmatch(r"(torch==[^\s;]+).*", line) for line in requires("deploy-kit") or [])
    return next(match[1] for match in found if match)


def _requirement(start: Start) -> str:
    """This deploykit with the extras that are needed, as pip is told it: of the repository that it came from, or of
    the package index."""
    extras = [target for target in EXTRAS if target in start.targets]
    if start.model.startswith("timm/") or start.weights == "timm":
        extras.append("timm")
    name = f"deploy-kit[{','.join(extras)}]".replace("[]", "")
    origin = _origin()
    if "vcs_info" in origin:
        return f"{name} @ {origin['vcs_info']['vcs']}+{origin['url']}@{origin['vcs_info']['commit_id']}"
    return f"{name}=={version('deploy-kit')}"


def from_a_folder() -> bool:
    """Whether this deploykit was installed from a folder, which CI does not have."""
    return "dir_info" in _origin()


def _origin() -> dict[str, Any]:
    """What pip wrote of where it got deploykit: PEP 610; empty for the package index."""
    text = distribution("deploy-kit").read_text("direct_url.json")
    return json.loads(text) if text else {}


def _own_packages(folder: Path) -> str | None:
    """What tells pip of the packages that the model's own code imports, where the folder has such a file."""
    if (folder / "requirements.txt").is_file():
        return "--requirement requirements.txt"
    return "--editable ." if (folder / "pyproject.toml").is_file() else None


def write(files: Mapping[Path, str], folder: Path, *, force: bool) -> None:
    """Write files into a folder: all or none.

    Raises:
        UserError: one is there, and ``force`` is not given; a pre-commit configuration has other hooks too, and is
            never replaced; or one cannot be written.
    """
    there = [path for path in files if (folder / path).exists()]
    if PRE_COMMIT in there:
        lines = "".join(f"\n{line}" for line in files[PRE_COMMIT].splitlines() if not line.startswith("#"))
        raise UserError(f"there is a {str(folder / PRE_COMMIT)!r} already", fix=f"add this to it by hand:{lines}")
    if there and not force:
        named = " and ".join(repr(str(folder / path)) for path in there)
        raise UserError(f"there is a {named} already", fix="replace it with --force")
    with ExitStack() as undo:
        places = {path: folder / path for path in files}
        places |= {path: place.resolve() for path, place in places.items() if place.is_symlink()}  # a link stays one
        staged = {path: _staged(places[path], text, undo) for path, text in files.items()}
        for path, new in staged.items():
            os.replace(new, places[path])
        undo.pop_all()


def _staged(path: Path, text: str, undo: ExitStack) -> Path:
    """A file with this text beside ``path``, for a rename that cannot fail halfway; ``undo`` removes what was made."""
    new = path.with_name(f".{path.name}-{secrets.token_hex(4)}.new")
    try:
        for parent in reversed(path.parents):
            if not parent.exists():
                parent.mkdir()
                undo.callback(_gone, parent.rmdir)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        undo.callback(_gone, new.unlink)
        new.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be written: {error.strerror or error}") from error
    return new


def _gone(remove: Callable[[], None]) -> None:
    with suppress(OSError):
        remove()
