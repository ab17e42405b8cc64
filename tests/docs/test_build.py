"""The documentation is built without a warning, and has what is written from the code."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import deploy_kit
from deploy_kit.cli.app import app
from deploy_kit.exporters import get_exporter
from tests.docs.support import DOCS, PAGES, ROOT
from tests.support import once

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("furo") is None, reason="Sphinx is not installed (pip install 'deploy-kit[docs]')"
    ),
    pytest.mark.xdist_group("docs"),
]

OURS = ("torchscript-lite", "onnx", "executorch", "coreml", "tensorrt", "openvino")


@pytest.fixture(scope="session")
def built(shared: Path) -> Path:
    """The pages as HTML."""

    def build(out: Path) -> None:
        command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(out)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    return once(shared, "docs", build)


def _text(built: Path, page: str) -> str:
    return re.sub(r"<[^>]+>", "", (built / f"{page}.html").read_text(encoding="utf-8"))


def test_every_page_is_there(built: Path) -> None:
    for page in PAGES:
        assert (built / page.relative_to(DOCS).with_suffix(".html")).is_file()


def test_every_command_is_in_the_reference_with_its_options(built: Path) -> None:
    text = _text(built, "reference/cli")
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        assert f"deploykit {name}" in text
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert all(option in text for option in parameter.opts), (name, parameter.opts)
    assert "Usage:" not in text


def test_everything_public_is_in_the_reference(built: Path) -> None:
    text = _text(built, "reference/api")
    for name in deploy_kit.__all__:
        assert re.search(rf"\b{name}\(", text), name


@pytest.mark.parametrize("target", OURS)
def test_every_option_of_a_target_is_on_its_page(built: Path, target: str) -> None:
    text = _text(built, f"targets/{target}")
    for name in get_exporter(target).options_type.model_fields:
        assert name in text, name


def test_no_mark_is_left_over(built: Path) -> None:
    for file in built.rglob("*.html"):
        assert not re.search(r"<!-- (commands|options)", file.read_text(encoding="utf-8")), file.name
