from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Callable, Iterator

import pytest

from deploy_kit.cli import main
from tests.cli.support import Ended


@pytest.fixture
def deploykit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Ended]]:
    """Run the command line in this process."""
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["deploykit", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return Ended(int(caught.value.code or 0), captured.out, captured.err)

    with warnings.catch_warnings():
        yield run
    signal.signal(signal.SIGTERM, handler)
