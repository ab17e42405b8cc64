"""``deploykit papers``: mistakes, exit codes, what it leaves, and every command of its page of the docs."""

from __future__ import annotations

import csv
import errno
import inspect
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy_kit.artifact import Artifact
from deploy_kit.benchmarks.papers import suite
from deploy_kit.benchmarks.papers.report import Results
from deploy_kit.benchmarks.runners.base import Runner
from deploy_kit.cli import papers
from deploy_kit.exporters import get_exporter
from tests.benchmarks.papers.support import NOISY, fake_export
from tests.benchmarks.test_harness import DOCUMENT, Folder, script, writes
from tests.cli.support import Ended

Command = Callable[..., Ended]
ROOT = Path(__file__).parents[2]
FIGURE = ("results.json", "results.csv", "figure.svg", "figure.html")


class Phone:
    """A phone that is a folder; ``runner`` is what times there."""

    def __init__(self, tmp_path: Path):
        self.programs = tmp_path / "programs"
        self.programs.mkdir()
        (tmp_path / "phone").mkdir()
        self.device = Folder(tmp_path / "phone")
        self.runner: Runner = writes(self.programs, DOCUMENT)


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_onnx: Artifact) -> Phone:
    """A phone, and small models for it; relative paths are in ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    fake_export(monkeypatch, tiny_onnx)
    found = Phone(tmp_path)
    monkeypatch.setattr("deploy_kit.devices.registry.get_device", lambda spec: found.device)
    monkeypatch.setattr("deploy_kit.benchmarks.runners.choice.choose_runner", lambda *given: found.runner)
    return found


ONE = ("papers", "--device", "adb:1234", "--models", "edgevit_xxs", "--targets", "onnx")


def test_the_figure_is_printed_and_left_in_the_folder(deploykit: Command, phone: Phone, tmp_path: Path) -> None:
    ended = deploykit(*ONE, "--out", "out")
    assert ended.code == 0, ended.err
    for words in ("edgevit_xxs", "74.4", "0.01", "published, on other devices", "32.8", "random weights"):
        assert words in ended.out
    assert all((tmp_path / "out" / name).is_file() for name in FIGURE)
    found = Results.model_validate_json((tmp_path / "out" / "results.json").read_text())
    assert (found.rows[0].valid, found.command) == (True, shlex.join(["deploykit", *ONE, "--out", "out"]))
    protocol = found.protocol
    assert (protocol.iterations, protocol.warmup, protocol.threads, protocol.rounds) == (50, 10, 1, 1)
    kinds = [line["kind"] for line in csv.DictReader((tmp_path / "out" / "results.csv").open())]
    assert kinds[0] == "measured"
    assert set(kinds[1:]) == {"published"}


def test_the_same_command_again_measures_nothing_again(deploykit: Command, phone: Phone) -> None:
    first = deploykit(*ONE, "--json")
    started = len(phone.device.commands)
    second = deploykit(*ONE, "--json")
    assert len(phone.device.commands) == started > 0
    assert second.json == first.json
    assert "measured before" in second.err


def test_json_is_what_is_kept(deploykit: Command, phone: Phone, tmp_path: Path) -> None:
    ended = deploykit(*ONE, "--json", "--rounds", 2)
    assert ended.json == json.loads((tmp_path / "papers" / "results.json").read_text())
    assert len(ended.json["rows"][0]["measurement"]["rounds"]) == 2


def test_a_measurement_that_is_not_valid_makes_the_exit_code_1(deploykit: Command, phone: Phone) -> None:
    written = phone.programs / "document.json"
    written.write_text(json.dumps(NOISY))
    phone.runner = script(phone.programs, f'cat "{written}" > "$result"')
    ended = deploykit(*ONE)
    assert ended.code == 1
    assert "edgevit_xxs, onnx: too noisy" in ended.err
    written.write_text(json.dumps(DOCUMENT))
    assert deploykit(*ONE).code == 1
    assert deploykit(*ONE, "--again").code == 0


def test_a_model_that_fails_makes_the_exit_code_1_and_the_figure_is_there(
    deploykit: Command, phone: Phone, tmp_path: Path
) -> None:
    phone.runner = script(phone.programs, "echo 'error: out of memory' >&2; exit 1")
    ended = deploykit(*ONE)
    assert ended.code == 1
    assert "failed" in ended.out
    assert "out of memory" in ended.err
    assert all((tmp_path / "papers" / name).is_file() for name in FIGURE)


def test_the_default_models_are_measured_in_their_order(deploykit: Command, phone: Phone) -> None:
    found = deploykit("papers", "--device", "adb:1234", "--targets", "onnx", "--json").json
    assert [row["model"] for row in found["rows"]] == list(suite.MODELS)
    assert suite.MODELS[:3] == ("edgevit_xxs", "edgevit_xs", "edgevit_s")


@pytest.mark.parametrize(
    ("words", "message", "fix"),
    [
        (["--models", "edgevit_xxxs"], "there is no reference model called 'edgevit_xxxs'", "edgevit_xxs"),
        (["--models", " , "], "' , ' names nothing", "commas"),
        (["--targets", "onyx"], "there is no target called 'onyx'", "onnx"),
        (["--device", "toaster"], "there is no kind of device called 'toaster'", "local"),
        (["--cores", "prime"], "local has no cores called 'prime'", "it has"),
        (["--targets", "coreml"], "coreml cannot be timed here", "onnx"),
        (["--runner", "no/such/runner"], "there is no program 'no/such/runner'", "executable"),
        (["--out", "file/deeper"], "cannot be written", "--out"),
        (["--rounds", "2000"], "--rounds 2000 cannot be", "--rounds"),
    ],
)
def test_mistakes_are_told_before_the_work(
    deploykit: Command,
    words: list[str],
    message: str,
    fix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    ended = deploykit("papers", "--targets", "onnx", *words)
    assert ended.code == 2, ended.err
    assert message in ended.err
    assert fix in ended.err
    assert " s  " not in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_one_error_and_leaves_no_half_file(
    deploykit: Command, phone: Phone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Path.write_text

    def half(self: Path, text: str, **named: Any) -> None:
        right(self, text[:10])
        if "results" in self.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        right(self, text, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", half)
        ended = deploykit(*ONE)
    assert ended.code == 1
    assert "there is no space left to write" in ended.err
    assert "Traceback" not in ended.err
    assert [path.name for path in (tmp_path / "papers").iterdir() if path.is_file()] == []
    assert deploykit(*ONE).code == 0


def _page_commands() -> list[str]:
    text = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    return [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]


def test_the_commands_of_its_page_work(deploykit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For real, on this machine, which may be busy: then a measurement says so and the exit code is 1."""
    monkeypatch.chdir(tmp_path)
    commands = _page_commands()
    assert commands
    for command in commands:
        program, *words = command.split()
        assert program == "deploykit"
        ended = deploykit(*words)
        assert ended.code == 0 or (ended.code == 1 and "note: " in ended.err and "failed" not in ended.out), ended.err
    assert all((tmp_path / "figure" / name).is_file() for name in FIGURE)


def test_the_links_of_its_page_lead_somewhere() -> None:
    page = ROOT / "docs" / "papers.md"
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert link.startswith("http") or (page.parent / link).exists(), link


def test_its_page_has_every_field_and_column(deploykit: Command, phone: Phone, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    document = deploykit(*ONE, "--json").json
    for name in [*document, *document["rows"][0], *document["published"][0], *document["published"][0]["points"][0]]:
        assert f"`{name}`" in text, name
    for column in csv.DictReader((tmp_path / "papers" / "results.csv").open()).fieldnames or []:
        assert f"`{column}`" in text, column


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed that could draw the page")
@pytest.mark.slow
def test_a_browser_draws_the_page(deploykit: Command, phone: Phone, tmp_path: Path) -> None:
    import subprocess

    from PIL import Image

    assert deploykit(*ONE).code == 0
    picture = tmp_path / "picture.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,800", f"--screenshot={picture}"]
    subprocess.run(
        [str(CHROMIUM), *options, (tmp_path / "papers" / "figure.html").as_uri()], check=True, capture_output=True
    )
    colours = {pixel[:3] for pixel in Image.open(picture).convert("RGB").crop((70, 90, 820, 620)).getdata()}
    assert (0x1F, 0x6F, 0xB4) in colours, "the measured mark is not drawn"


def test_the_figure_s_target_is_one_that_exports() -> None:
    default = inspect.signature(papers.command).parameters["targets"].default
    assert get_exporter(default).name == default == "torchscript-lite"
