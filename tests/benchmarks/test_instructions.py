from __future__ import annotations

from pathlib import Path

import pytest

from deploy_kit.benchmarks import instructions
from deploy_kit.benchmarks.native import Bundle
from deploy_kit.errors import MissingDependencyError


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A runner that is not reached, and a counting plugin that is no longer compiled."""
    plugin = tmp_path / "count.so"
    plugin.touch()
    monkeypatch.setattr(instructions, "_plugin", lambda: plugin)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    folder = tmp_path / "bundle"
    folder.mkdir()
    return Bundle("executorch", "aarch64", folder)


def test_a_qemu_without_plugins_is_named_with_what_to_install(bundle: Bundle, tmp_path: Path) -> None:
    qemu = tmp_path / instructions.QEMU
    qemu.write_text("#!/bin/sh\necho \"qemu: unknown option 'plugin'\" >&2\nexit 1\n")
    qemu.chmod(0o755)
    with pytest.raises(MissingDependencyError, match="takes no plugins: qemu: unknown option") as missing:
        instructions.count_instructions(bundle, tmp_path / "model.pte", [])
    assert missing.value.fix == instructions.INSTALL


def test_without_qemu_it_says_how_to_get_it(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="which is not installed") as missing:
        instructions.count_instructions(bundle, tmp_path / "model.pte", [])
    assert missing.value.fix == instructions.INSTALL
