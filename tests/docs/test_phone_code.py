"""What the pages show for phones is compiled against stubs of the runtimes' classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.android_app.support import compile_java, needs_java
from tests.docs.support import PAGES, Block, blocks
from tests.ios_app.conftest import HERE as IOS
from tests.ios_app.conftest import swift

STUBS = [Path(__file__).parents[1] / "android_app" / "stubs", Path(__file__).parent / "stubs"]
JAVA = [block for page in PAGES for block in blocks(page, "java")]
SWIFT = [block for page in PAGES for block in blocks(page, "swift")]


def _write(shown: list[Block], folder: Path) -> list[Path]:
    files = []
    for number, block in enumerate(shown):
        assert block.name is not None, f"{block.where}: the first line is to name the file"
        files.append(folder / str(number) / block.name)
        files[-1].parent.mkdir()
        files[-1].write_text(block.text, encoding="utf-8")
    return files


def test_there_is_code_for_both_kinds_of_phone() -> None:
    assert {block.page.stem for block in JAVA} >= {"tutorial", "onnx", "torchscript-lite", "executorch"}
    assert {block.page.stem for block in SWIFT} >= {"coreml", "executorch"}


@needs_java
def test_the_java_fits_the_runtimes_classes(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    compile_java(tmp_path / "out", [*STUBS, *_write(JAVA, tmp_path)])


def test_the_swift_fits_the_frameworks(tmp_path: Path) -> None:
    import shutil

    compiler = shutil.which("swiftc")
    if compiler is None:
        pytest.skip("there is no swiftc (Debian 13: swiftlang; macOS: Xcode)")
    modules = ["-I", str(tmp_path), "-swift-version", "5"]
    for name in ("CoreML", "ExecuTorch"):
        out = str(tmp_path / f"{name}.swiftmodule")
        words = ["-emit-module", "-module-name", name, "-emit-module-path", out, "-parse-as-library"]
        swift(compiler, *modules, *words, str(IOS / "stubs" / f"{name}.swift"))
    for file in _write(SWIFT, tmp_path):
        swift(compiler, *modules, "-typecheck", "-parse-as-library", "-warnings-as-errors", str(file))
