from __future__ import annotations

import ast
import importlib.util
import platform
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import deploy_kit
from deploy_kit.cells.recipe import Recipe, make_recipe
from deploy_kit.check import keys
from deploy_kit.check.keys import Keys

ROOT = Path(__file__).parents[2]

REFERENCE = {"models": ["levit_128s", "edgevit_xxs"], "targets": ["onnx", "executorch"]}
EVERY = {"levit_128s/onnx", "levit_128s/executorch", "edgevit_xxs/onnx", "edgevit_xxs/executorch"}


def keys_of(recipe: Recipe) -> dict[str, str]:
    made = Keys(recipe)
    return {cell.id.removesuffix("/fp32"): made.of(cell) for cell in recipe.cells()}


def changed(recipe: Recipe, change: Callable[[], object]) -> set[str]:
    """The cells whose keys a change changes."""
    before = keys_of(recipe)
    change()
    after = keys_of(recipe)
    return {cell for cell in before if before[cell] != after[cell]}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package, which is looked at in the place of the one that runs."""
    folder = tmp_path / "copy" / "deploy_kit"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "deploy_kit", folder, ignore=ignored)
    for part in ("models", "exporters", "benchmarks"):
        shutil.copytree(ROOT / part, folder / part, ignore=ignored)
    spec = importlib.util.spec_from_file_location(
        "deploy_kit", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    monkeypatch.setattr(deploy_kit, "__spec__", spec)
    return folder


@pytest.mark.parametrize(
    ("file", "cells"),
    [
        ("models/levit.py", {"levit_128s/onnx", "levit_128s/executorch"}),
        ("models/levit_layers.py", {"levit_128s/onnx", "levit_128s/executorch"}),
        ("models/weights/edgevit_digits.safetensors", {"edgevit_xxs/onnx", "edgevit_xxs/executorch"}),
        ("exporters/onnx.py", {"levit_128s/onnx", "edgevit_xxs/onnx"}),
        ("exporters/ort_worker.py", {"levit_128s/onnx", "edgevit_xxs/onnx"}),
        ("exporters/policies/executorch.cpu.json", {"levit_128s/executorch", "edgevit_xxs/executorch"}),
        ("models/layers.py", EVERY),
        ("models/checkpoint.py", EVERY),
        ("capture.py", EVERY),
        ("fusion/batch_norm.py", EVERY),
        ("parity/reference.py", EVERY),
        ("cells/worker.py", EVERY),
        ("models/swin.py", set()),
        ("models/__init__.py", set()),
        ("models/macs.json", set()),
        ("exporters/coreml.py", set()),
        ("cli/export.py", set()),
        ("check/engine.py", set()),
        ("benchmarks/harness.py", set()),
    ],
)
def test_what_decides_an_artifact_and_nothing_else_counts(
    file: str, cells: set[str], package: Path, tmp_path: Path
) -> None:
    path = package / file
    assert changed(make_recipe(REFERENCE, tmp_path), lambda: path.write_bytes(path.read_bytes() + b"\n# new")) == cells


USER = {
    "shop/__init__.py": "",
    "shop/nets/__init__.py": "from .small import Small\n",
    "shop/nets/small.py": "def build():\n    from ..layers import block\n    return open('table.txt')\n",
    "shop/nets/table.txt": "1",
    "shop/layers.py": "import torch\nimport importlib\nimportlib.import_module('shop.late')\n",
    "shop/late.py": "from shop import *\n",
    "shop/other.py": "",
    "elsewhere.py": "",
    "weights/net.bin": "1",
    "shop/data.py": "FILE = 'weights/net.bin'\n",
}


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("shop/nets/small.py", True),
        ("shop/nets/__init__.py", True),
        ("shop/__init__.py", True),
        ("shop/layers.py", True),
        ("shop/late.py", True),
        ("shop/nets/table.txt", True),
        ("shop/other.py", False),
        ("shop/data.py", False),
        ("elsewhere.py", False),
    ],
)
def test_of_a_user_s_model_all_that_it_imports_in_the_project_counts(
    file: str, counts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in USER.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    recipe = make_recipe({"models": ["shop.nets:Small"], "targets": ["onnx"]}, tmp_path)
    found = changed(recipe, lambda: (tmp_path / file).write_text("x = 1\n"))
    assert found == ({"shop.nets:Small/onnx"} if counts else set())
    assert not any(name.split(".")[0] == "shop" for name in sys.modules)


NAMES = {
    "shop/net.py": "Path(__file__).parent / 'weights' / 'w.pt'",
    "shop/near.py": "os.path.join(here, '..', 'kept', 'v1', 'w+b=1.ckpt')",
    "shop/whole.py": "load('./kept/v1')",
    "flat.py": "torch.load(f'{here}/kept/v1/x')",
}


@pytest.mark.parametrize(
    ("model", "file", "counts"),
    [
        ("shop.net", "shop/weights/w.pt", True),
        ("shop.net", "shop/data/anything.bin", True),
        ("shop.net", "shop/__pycache__/x.bin", False),
        ("shop.net", "kept/v1/w+b=1.ckpt", False),
        ("shop.near", "kept/v1/w+b=1.ckpt", True),
        ("shop.near", "kept/v1/x", False),
        ("shop.whole", "kept/v1/x", True),
        ("shop.whole", "kept/other", False),
        ("flat", "kept/v1/x", False),
        ("flat", "shop/weights/w.pt", False),
    ],
)
def test_weights_count_that_a_model_s_code_names(
    model: str, file: str, counts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ("weights/w.pt", "data/anything.bin", "__pycache__/x.bin")
    for name in (*(f"shop/{each}" for each in files), "kept/v1/w+b=1.ckpt", "kept/v1/x", "kept/other"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    for name, text in NAMES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    recipe = make_recipe({"models": [f"{model}:build"], "targets": ["onnx"]}, tmp_path)
    found = changed(recipe, lambda: (tmp_path / file).write_text("2"))
    assert bool(found) == counts


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages: the user's, with a record, one that it needs, and one of no distribution."""
    site = tmp_path / "lib" / "site-packages"
    for name in ("mine", "needed", "loose"):
        (site / name).mkdir(parents=True)
        (site / name / "__init__.py").write_text("import needed, loose\n" if name == "mine" else "x = 1\n")
        if name != "loose":
            info = site / f"{name}-1.0.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            (info / "top_level.txt").write_text(f"{name}\n")
            (info / "RECORD").write_text(f"{name}/__init__.py,sha256=1,6\n{name}-1.0.dist-info/INSTALLER,sha256=2,4\n")
    monkeypatch.syspath_prepend(str(site))
    keys._distributions.cache_clear()
    yield site
    keys._distributions.cache_clear()


@pytest.mark.parametrize(
    ("file", "before", "after", "counts"),
    [
        ("mine/__init__.py", "loose", "loose, os", True),
        ("mine-1.0.dist-info/RECORD", "sha256=1", "sha256=3", True),
        ("needed-1.0.dist-info/RECORD", "sha256=1", "sha256=3", True),
        ("needed-1.0.dist-info/RECORD", "sha256=2", "sha256=3", False),
        ("needed/__init__.py", "1", "2", False),
        ("loose/__init__.py", "1", "2", True),
    ],
)
def test_an_installed_package_counts_by_its_content_at_the_same_version(
    file: str, before: str, after: str, counts: bool, installed: Path, tmp_path: Path
) -> None:
    recipe = make_recipe({"models": ["mine:build"], "targets": ["onnx"]}, tmp_path)
    path = installed / file
    found = changed(recipe, lambda: path.write_text(path.read_text().replace(before, after)))
    assert bool(found) == counts


def test_a_module_that_comes_or_cannot_be_read_changes_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = make_recipe({"models": ["brandnew:net"], "targets": ["onnx"]}, tmp_path)
    assert changed(recipe, lambda: (tmp_path / "brandnew.py").write_text("x = 1\n"))
    assert changed(recipe, lambda: (tmp_path / "brandnew.py").write_text("x = (\n"))


def test_the_code_of_reference_models_counts_for_a_model_that_may_build_on_them(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("from deploy_kit.models import create_model\n")
    recipe = make_recipe({"models": ["mine:net", "levit_128s"], "targets": ["onnx"]}, tmp_path)
    path = package / "models" / "swin.py"
    assert changed(recipe, lambda: path.write_text(path.read_text() + "# new\n")) == {"mine:net/onnx"}


def test_files_count_by_their_content_wherever_they_are(tmp_path: Path) -> None:
    def recipe(folder: Path) -> Recipe:
        return make_recipe(
            {
                "models": ["levit_128s", "edgevit_xxs", "net.pt2"],
                "targets": ["onnx"],
                "model": {"levit_128s": {"weights": "levit.pth"}},
                "accuracy": {"data": "data.safetensors", "models": ["edgevit_xxs"]},
                "options": {"onnx": {"calibration": "images"}},
            },
            folder,
        )

    one = tmp_path / "one"
    (one / "images").mkdir(parents=True)
    for name in ("levit.pth", "data.safetensors", "net.pt2", "images/a.png"):
        (one / name).write_text(name)
    two = shutil.copytree(one, tmp_path / "two")
    assert keys_of(recipe(one)) == keys_of(recipe(two))
    for name, cells in {
        "levit.pth": {"levit_128s/onnx"},
        "data.safetensors": {"edgevit_xxs/onnx"},
        "net.pt2": {"net.pt2/onnx"},
        "images/a.png": {"levit_128s/onnx", "edgevit_xxs/onnx", "net.pt2/onnx"},
    }.items():
        assert changed(recipe(two), (two / name).unlink) == cells


def test_options_count(tmp_path: Path) -> None:
    plain = {**REFERENCE, "targets": ["onnx"]}
    before = keys_of(make_recipe(plain, tmp_path))
    for more, cells in (
        ({"options": {"onnx": {"opset": 18}}}, {"levit_128s/onnx", "edgevit_xxs/onnx"}),
        ({"model": {"levit_128s": {"seed": 1}}}, {"levit_128s/onnx"}),
        ({"model": {"levit_128s": {"input_size": "256"}}}, {"levit_128s/onnx"}),
        ({"instructions": True}, {"levit_128s/onnx", "edgevit_xxs/onnx"}),
        ({"limit": 7, "jobs": 2}, set()),
    ):
        after = keys_of(make_recipe({**plain, **more}, tmp_path))
        assert {cell for cell in before if before[cell] != after[cell]} == cells


def test_the_toolchain_counts_where_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, real = make_recipe(REFERENCE, tmp_path), keys._version

    def upgrade(package: str) -> Callable[[], None]:
        return lambda: monkeypatch.setattr(keys, "_version", lambda name: "9" if name == package else real(name))

    assert changed(recipe, upgrade("onnxruntime")) == {"levit_128s/onnx", "edgevit_xxs/onnx"}
    assert changed(recipe, upgrade("executorch")) >= {"levit_128s/executorch", "edgevit_xxs/executorch"}
    assert changed(recipe, upgrade("torch")) == EVERY
    monkeypatch.setattr(keys, "_version", real)
    assert changed(recipe, lambda: monkeypatch.setattr(platform, "python_version", lambda: "3.99.0")) == EVERY
    assert changed(recipe, lambda: monkeypatch.setattr(platform, "machine", lambda: "riscv64")) == EVERY


def test_the_torch_that_prepacks_counts_for_mobile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "version.py"
    file.write_text("1.13")
    monkeypatch.setattr(keys, "SYSTEM_TORCH", (str(tmp_path / "ver*.py"),))
    recipe = make_recipe({"models": ["levit_128s"], "targets": ["onnx", "torchscript-lite"]}, tmp_path)
    assert changed(recipe, lambda: file.write_text("2.0")) == {"levit_128s/torchscript-lite"}


def test_timm_counts_for_its_models_and_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = {"models": ["timm/resnet18", "levit_128s", "levit_128"], "targets": ["onnx"]}
    recipe = make_recipe({**document, "model": {"levit_128": {"weights": "timm"}}}, tmp_path)
    real = keys._version
    upgraded = lambda: monkeypatch.setattr(keys, "_version", lambda name: "9" if name == "timm" else real(name))  # noqa: E731
    assert changed(recipe, upgraded) == {"timm/resnet18/onnx", "levit_128/onnx"}


def test_many_keys_look_at_each_file_and_module_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [f"{family}" for family in ("levit_128s", "edgevit_xxs", "mobilenetv2_100", "swin_tiny", "vit_tiny")]
    targets = ["torchscript-lite", "onnx", "executorch", "coreml", "openvino"]
    recipe = make_recipe({"models": [*models, *(f"{name}:x" for name in "abcdefghij")], "targets": targets}, tmp_path)
    cells = recipe.cells()
    seen: Counter[tuple[str, str]] = Counter()

    def counted(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(what: Any, *more: Any) -> Any:
            seen[name, str(what)] += 1
            return real(what, *more)

        monkeypatch.setattr(owner, name, call)

    made = Keys(recipe)
    counted(keys, "_content")
    counted(keys, "_find")
    counted(Path, "read_bytes")
    assert len({made.of(cell) for cell in cells}) == len(cells) == 75
    assert {name for name, _ in seen} == {"_content", "_find", "read_bytes"}
    assert [what for what, count in seen.items() if count > 1] == []


def test_two_threads_never_parse_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11 would end one of them with a SystemError, now and then."""
    parse, at_once, most = ast.parse, [0], [0]

    def slow(*given: Any, **named: Any) -> ast.AST:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        time.sleep(0.05)
        at_once[0] -= 1
        return parse(*given, **named)

    monkeypatch.setattr(ast, "parse", slow)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: keys._parse(f"size = {number}".encode(), "net", False), range(4)))
    assert most == [1]
