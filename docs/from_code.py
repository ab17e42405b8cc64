"""The parts of the documentation that are written from the code: commands, and the options of targets.

A page has ``<!-- commands -->`` or ``<!-- options: TARGET -->`` where they go.
"""

from __future__ import annotations

import inspect
import re
from typing import Any, Literal, get_args, get_origin

import typer

from deploy_kit.cli.app import app
from deploy_kit.exporters import get_exporter


def fill(page: str) -> str:
    """The text of a page with what its marks ask for.

    A link to another folder's page, such as ``../android_app/README.md``, becomes one to the file: Sphinx would look
    for it among its own.
    """
    page = re.sub(r"<!-- commands -->", lambda found: commands(), page)
    page = re.sub(r"<!-- options: ([\w-]+) -->", lambda found: options(found[1]), page)
    return re.sub(r"\[([^\]]+)\]\(((?:\.\./)+\w+/README\.md)\)", r"{download}`\1 <\2>`", page)


def all_commands() -> dict[str, Any]:
    """Every command of the command line, by its name."""
    return typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a group


def commands() -> str:
    """The reference of all commands, in Markdown."""
    return "\n".join(_command(name, command) for name, command in all_commands().items())


def _command(name: str, command: Any) -> str:
    if hasattr(command, "commands"):
        parts = [_command(f"{name} {inner}", each) for inner, each in command.commands.items()]
        return "\n".join([f"## deploykit {name}\n\n{_prose(command.help)}\n", *parts])
    context = typer.Context(command, info_name=f"deploykit {name}")
    usage = command.get_usage(context).removeprefix("Usage: ").replace("{", "").replace("}", "")
    parts = [f"## deploykit {name}\n", f"```text\n{usage}\n```\n", _prose(command.help), ""]
    for kind, title in (("argument", "Arguments"), ("option", "Options")):
        rows = [_row(each, context) for each in command.params if each.param_type_name == kind and not each.hidden]
        if rows:
            parts += [f"| {title} | |", "|---|---|", *rows, ""]
    return "\n".join(parts)


def _row(parameter: Any, context: Any) -> str:
    name, text = parameter.get_help_record(context)
    return f"| `{_cell(name)}` | {_cell(_prose(text))} |"


def _prose(text: str | None) -> str:
    """The text of a docstring, with what Markdown would take for HTML or a mark as it is."""
    parts = re.split(r"(`[^`]*`)", inspect.cleandoc(text or ""))
    return "".join(part if part.startswith("`") else re.sub(r"([<>*\[\]])", r"\\\1", part) for part in parts)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def options(target: str) -> str:
    """A table of a target's options: as the command line and Python name them, their defaults, and what they mean."""
    given = {each.name: each for each in all_commands()["export"].params}
    rows = ["| Option | In Python | Values | Default | |", "|---|---|---|---|---|"]
    for name, field in get_exporter(target).options_type.model_fields.items():
        words = f"`{given[name].opts[0]}`" if name in given else "only in Python"
        text = given[name].help if name in given else PYTHON_ONLY[target, name]
        text = "What the artifact computes in." if name == "precision" else text.removeprefix(f"{target}: ")
        cells = [words, f"`{name}`", _values(field), _default(field.default), _prose(_sentence(text))]
        rows.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(rows)


def _sentence(text: str) -> str:
    first = text.split(maxsplit=1)[0]
    return text[:1].upper() + text[1:] if first.isalpha() else text


def _values(field: Any) -> str:
    """What an option takes, where its type says so."""
    kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if get_origin(kind) is Literal]
    if kinds:
        return ", ".join(f"`{value}`" for value in get_args(kinds[0]))
    least, most = (next((getattr(m, name) for m in field.metadata if hasattr(m, name)), None) for name in ("ge", "le"))
    return "" if least is None else f"{least} to {most}"


def _default(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value in (None, ()) else f"`{value}`"


PYTHON_ONLY = {
    ("onnx", "simplify"): "Run onnxsim, and keep what it makes where it computes the same and is not slower.",
    (
        "torchscript-lite",
        "prepack",
    ): "Lay the weights out for XNNPACK; without it the products are left to the BLAS.",
}
"""What the options do that the command line does not have."""
