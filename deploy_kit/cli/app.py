"""The commands, put together; and where every error ends."""

from __future__ import annotations

import signal
import sys
import warnings
from types import FrameType
from typing import Annotated

import typer

from deploy_kit.cli import (
    advise,
    bench,
    bisect,
    check,
    compare,
    devices,
    doctor,
    export,
    fuse,
    init,
    inspect,
    lint,
    models,
    papers,
    profile,
    report,
    run,
    sweep,
    targets,
    verify,
)

app = typer.Typer(
    name="deploykit",
    help="Fuse a model, export it to an on-device runtime, prove the result and measure it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    export,
    init,
    lint,
    advise,
    fuse,
    verify,
    bisect,
    check,
    profile,
    bench,
    compare,
    papers,
    report,
    inspect,
    run,
    sweep,
    models,
    targets,
    devices,
    doctor,
):
    app.command(command.__name__.rsplit(".", 1)[-1])(command.command)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"deploykit {version('deploy-kit')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Fuse a model, export it to an on-device runtime, prove the result and measure it."""


def main() -> None:
    """Run the command line: 0 is success, 1 a failed proof or export, 2 the user's mistake, 130 Ctrl-C."""
    from deploy_kit.cli.console import print_error
    from deploy_kit.disk import explained
    from deploy_kit.errors import DeployKitError

    signal.signal(signal.SIGTERM, _terminate)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # they are about torch's own future
    try:
        with explained():
            app()
    except DeployKitError as error:
        print_error(error)
        sys.exit(error.exit_code)


def _terminate(number: int, frame: FrameType | None) -> None:
    """Leave through the clean-up code when asked to end."""
    sys.exit(128 + number)
