"""The key of a cell: a hash of the content of all that decides its artifact.

What counts is found without importing anything: the code by its import statements, those in functions too, and the
files that it names, and the data in its package; the versions and records of what it imports from other distributions;
the weights and labelled inputs; the options; Python and the kind of machine. Two cells with the same key come to the
same, but for a file whose name is only known when the model's code runs, outside of its package.
"""

from __future__ import annotations

import ast
import glob
import hashlib
import importlib
import json
import os
import platform
import re
import shutil
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.machinery import ModuleSpec
from importlib.metadata import distribution, entry_points, packages_distributions, version
from pathlib import Path
from typing import Any

import deploy_kit
from deploy_kit.cells.recipe import CellSpec, Recipe, model_names
from deploy_kit.cells.result import SCHEMA
from deploy_kit.errors import unknown_name
from deploy_kit.exporters import GROUP

PACKAGE = "deploy_kit"
MODELS = f"{PACKAGE}.models"
WORKER = f"{PACKAGE}.cells.worker"
INTERPRETER = f"{PACKAGE}.exporters.mobile.interpreter"
NATIVE = f"{PACKAGE}.benchmarks.native"

WITHOUT = ("cli", "devices", "check", "sweep", "report", "benchmarks", "pytest_plugin")
"""Parts of this package that decide no artifact."""
COUNTING = ("cli", "check", "sweep", "report", "pytest_plugin")
"""The same, where instructions are counted."""

IN_MODELS = ("macs.json",)
"""Data of the models' package that is of no one model, and decides nothing."""

SYSTEM_TORCH = (
    "/usr/lib/python3*/dist-packages/torch/version.py",
    "/usr/local/lib/python3*/*-packages/torch/version.py",
    "/opt/homebrew/lib/python3*/site-packages/torch/version.py",
)
"""Where the Pythons of `deploy_kit.exporters.mobile.interpreter` have their torch, which prepacks."""

NAME = re.compile(r"[^\s*?|<>\"'][^\r\n\t*?|<>\"]{0,199}")
"""Strings that may be the name of a file or folder, or a path."""

DEEPEST = 4
"""Folders in folders that are looked into, where strings name each of them."""

TOOLCHAIN = ("torch", "torchvision", "timm")
"""Packages that a model may be of, and that their versions and records stand for: they are large, and nobody's own."""

INSTALLED = re.compile(r"[/\\](site|dist)-packages[/\\]")
"""In the path of what was installed."""

RECORDED = re.compile(r"(?m)^(?!\.\./|[^/]*\.dist-info/|.*\.pyc,).+")
"""Lines of a distribution's record that are of its code and data, and not of how and where it was installed."""


@dataclass(frozen=True)
class Source:
    """What is in a source file: the modules that it may import, strings that may name files, decorated functions."""

    imports: tuple[str, ...]
    words: tuple[str, ...]
    decorated: frozenset[str]


@dataclass(frozen=True)
class Module:
    """A source file that was found."""

    path: Path
    sha256: str
    source: Source


@dataclass
class Found:
    """What some code is made of: its own files, and the versions of what it takes from other distributions."""

    files: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    imports: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """What a key is made of."""
        return {"files": self.files, "versions": self.versions}


class Keys:
    """Makes the keys of a recipe's cells; an object reads a file once, and a new one reads it again.

    Raises:
        OSError: a file that counts cannot be read.
    """

    def __init__(self, recipe: Recipe):
        importlib.invalidate_caches()  # modules may be new, and packages of another version
        self.recipe = recipe
        self._without = tuple(f"{PACKAGE}.{part}" for part in (COUNTING if recipe.instructions else WITHOUT))
        self._specs: dict[str, ModuleSpec | None] = {}
        self._modules: dict[str, Module | None] = {}
        self._names: dict[Path, set[str]] = {}
        self._parts: dict[str, Found] = {}
        self._code: dict[tuple[str, bool], str] = {}
        self._contents: dict[Path, str] = {}
        self._released: dict[str, str] = {}
        self._records: dict[str, str | None] = {}
        modules = (name.partition(":")[0] for name in model_names(recipe.models) if ":" in name)
        self._own = {module.partition(".")[0] for module in modules} - set(TOOLCHAIN)

    def of(self, cell: CellSpec) -> str:
        """The key of a cell: 32 hexadecimal digits."""
        return _digest(self.made_of(cell))[:32]

    def of_model(self, cell: CellSpec) -> str:
        """A hash of what decides what a cell's model computes, whatever the target is."""
        made = self.made_of(cell)
        return _digest([cell.model, *(made[part] for part in ("of_model", "package", "model"))])

    def made_of(self, cell: CellSpec) -> dict[str, Any]:
        """All that decides what comes of a cell, as plain values with the hashes of their content."""
        target = _module_of_target(cell.target)
        of_model = cell.of_model.model_dump(mode="json") | {"weights": self._weights(cell)}
        accuracy = self.recipe.accuracy
        asked = accuracy is not None and (not accuracy.models or cell.model in accuracy.models)
        return {
            "schema": SCHEMA,
            "id": cell.id,
            "options": {name: self._plain(value) for name, value in cell.options.items()},
            "of_model": of_model,
            "package": self._code_of(WORKER),
            "target": self._code_of(target),
            "model": self._model(cell),
            "accuracy": self._content(accuracy.data) if accuracy is not None and asked else None,
            "instructions": self._counting if self.recipe.instructions else None,
            "system": self._system(target, cell),
            "python": platform.python_version(),
            "machine": [platform.system(), platform.machine()],
        }

    def _weights(self, cell: CellSpec) -> str | None:
        weights = cell.of_model.weights
        return weights if weights in (None, "timm") else self._content(Path(str(weights)))

    def _plain(self, value: Any) -> Any:
        """An option's value; the content of the file or folder that it names, where it names one."""
        if isinstance(value, str | Path) and os.path.exists(value):
            return self._content(Path(value))
        return value if isinstance(value, str | int | float | bool | None) else json.loads(json.dumps(value))

    def _model(self, cell: CellSpec) -> Any:
        """What a model is made of: its file, or its code; for timm's, timm."""
        name = cell.model
        if name.endswith(".pt2"):
            return self._content(Path(name))
        timm = {part: self._version_of(part) for part in ("timm", "torchvision")}
        if name.startswith("timm/"):
            return timm
        if ":" in name:
            return self._code_of(name.partition(":")[0], every_model=True)
        of_weights = timm if cell.of_model.weights == "timm" else {}
        return {"code": [self._code_of(module) for module in self._files_of(name)], "timm": of_weights}

    def _files_of(self, name: str) -> list[str]:
        """The modules that register a reference model of this name; all that register any, where none is seen to."""
        found = [module for module, functions in self._registering.items() if name in functions]
        return found or sorted(self._registering)

    @cached_property
    def _registering(self) -> dict[str, frozenset[str]]:
        """The modules of reference models, with the names of the functions that are decorated in them."""
        package = self._read(MODELS)
        modules = {name: self._read(name) for name in (package.source.imports if package else ())}
        return {
            name: module.source.decorated
            for name, module in modules.items()
            if module is not None and f"{MODELS}.registry.register" in module.source.imports
        }

    # Code.

    def _code_of(self, root: str, *, every_model: bool = False) -> str:
        """A hash of what a module is made of, with all that it imports."""
        if (root, every_model) not in self._code:
            self._code[root, every_model] = _digest(self.closure(root, every_model=every_model).plain())
        return self._code[root, every_model]

    def closure(self, root: str, *, every_model: bool = False) -> Found:
        """What a module is made of; reference models that ``root`` does not import itself, only if ``every_model``.

        Files have the names of modules, or a module's name and their own; what is not there has the hash ``missing``.
        """
        found, waiting, seen = Found(), [root], set[str]()
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            part = self._part(name)
            found.files |= part.files
            found.versions |= part.versions
            # The package of models does nothing but to import them.
            waiting += [each for each in part.imports if every_model or name != MODELS or each not in self._registering]
        if not found.files and not found.versions:
            found.files[root] = "missing"
        return found

    def _part(self, name: str) -> Found:
        """What a module is made of by itself, and what it imports; nothing where it is none that counts."""
        if name not in self._parts:
            self._parts[name] = self._look_at(name)
        return self._parts[name]

    def _look_at(self, name: str) -> Found:
        top = name.partition(".")[0]
        if self._is_without(name) or top in sys.stdlib_module_names:
            return Found()
        installed = self._is_installed(top)
        found = Found(versions=self._versions(top) if installed else {})
        if installed and top not in self._own:
            return found
        if name == top != PACKAGE:
            found.files |= self._data_of(top)
        module = self._read(name)
        if module is None:
            return found
        if name != MODELS:
            found.files[name] = module.sha256
        found.imports += [*_packages(name), *module.source.imports]
        named: dict[str, list[str]] = {}
        for path in self._named(name, module):
            beside = _name_of(path, name, module)
            if beside is None:
                named.setdefault(f"{name}: {path.name}", []).append(self._content(path))
            else:
                found.imports.append(beside)
        found.files |= {label: each[0] if len(each) == 1 else _digest(each) for label, each in named.items()}
        return found

    def _data_of(self, top: str) -> dict[str, str]:
        """The content of all in a top-level package that is no source, or of a module that is none."""
        spec = self._spec(top)
        if spec is None:
            return {}
        if spec.submodule_search_locations is None:
            origin = Path(spec.origin or "")
            return {} if origin.suffix == ".py" or not origin.is_file() else {top: self._content(origin)}
        found = []
        for place in spec.submodule_search_locations:
            for folder, names, files in os.walk(place):
                names[:] = sorted(name for name in names if name != "__pycache__" and not name.startswith("."))
                data = sorted(name for name in files if not name.endswith((".py", ".pyc")))
                paths = [path for name in data if (path := Path(folder, name)).is_file()]
                found += [(path.relative_to(place).as_posix(), self._content(path)) for path in paths]
        return {f"{top}: data": _digest(found)} if found else {}

    def _is_without(self, name: str) -> bool:
        return any(name == part or name.startswith(f"{part}.") for part in self._without)

    def _is_installed(self, top: str) -> bool:
        """Whether a top-level module is of another distribution, which its version and record stand for."""
        spec = self._spec(top)
        if top == PACKAGE or spec is None or top not in _distributions():
            return False
        places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
        return all(INSTALLED.search(place or "") for place in places)

    def _versions(self, top: str) -> dict[str, str]:
        return {name: f"{self._version_of(name)} {self._record(name)}" for name in _distributions()[top]}

    def _version_of(self, name: str) -> str:
        if name not in self._released:
            self._released[name] = _version(name)
        return self._released[name]

    def _record(self, name: str) -> str | None:
        """The hash of what is recorded of the content of a distribution's files; None where there is no record."""
        if name not in self._records:
            try:
                text = distribution(name).read_text("RECORD")
            except ImportError:  # it is being installed anew
                text = None
            self._records[name] = None if text is None else _digest(sorted(RECORDED.findall(text)))
        return self._records[name]

    def _spec(self, name: str) -> ModuleSpec | None:
        """Where a module is, as an import in the current folder finds it; nothing is imported."""
        if name not in self._specs:
            parent = name.rpartition(".")[0]
            above = self._spec(parent) if parent else None
            if name == PACKAGE:
                self._specs[name] = deploy_kit.__spec__
            elif not parent:
                self._specs[name] = _find(name, [os.getcwd(), *sys.path])
            else:
                places = None if above is None else above.submodule_search_locations
                self._specs[name] = None if places is None else _find(name, list(places))
        return self._specs[name]

    def _read(self, name: str) -> Module | None:
        """A module's source; None where there is none, as of a folder or a name in a module."""
        if name not in self._modules:
            spec = self._spec(name)
            path = None if spec is None or spec.origin is None else Path(spec.origin)
            self._modules[name] = None
            if spec is not None and path is not None and path.suffix == ".py" and path.is_file():
                content = path.read_bytes()
                source = _parse(content, name, spec.submodule_search_locations is not None)
                self._modules[name] = Module(path, hashlib.sha256(content).hexdigest(), source)
        return self._modules[name]

    def _named(self, name: str, module: Module) -> Iterator[Path]:
        """The files that a module's strings name: see `_named_by_user`; of this package's, beside it or in its data."""
        if name.partition(".")[0] != PACKAGE:
            yield from self._named_by_user(name, module)
            return
        for word in module.source.words:
            found = module.path.parent / word
            if not self._is_file(module.path.parent, word):
                yield from self._data.get(word, ())
            elif word not in IN_MODELS:
                yield found

    def _named_by_user(self, name: str, module: Module) -> Iterator[Path]:
        """Files that strings name, or some together: ``Path(__file__).parent / "weights" / "net.pt"``.

        They are looked for in the module's folder, in those above it up to where its top-level package is, and in the
        current folder. A folder that a path of several parts names counts whole.
        """
        above = module.path.parents[: name.count(".") + 1 + (module.path.name == "__init__.py")]
        level = [each for each in dict.fromkeys([*above, Path.cwd()]) if not INSTALLED.search(f"{each}/")]
        seen: set[Path] = set()
        for _ in range(DEEPEST):
            below = []
            for folder in level:
                for word in module.source.words:
                    path = Path(os.path.normpath(folder / word))
                    if path in seen or not self._is_there(folder, word):
                        continue
                    seen.add(path)
                    if path.is_file():
                        yield path
                    elif path.is_dir():
                        below.append(path)
                        above_us = any(each.is_relative_to(path) for each in (module.path, Path.cwd()))
                        if "/" in word.removesuffix("/") and not above_us:
                            yield path
            level = below

    def _is_file(self, folder: Path, word: str) -> bool:
        return self._is_there(folder, word) and os.path.isfile(folder / word)

    def _is_there(self, folder: Path, word: str) -> bool:
        """Whether a folder has what the path ``word`` begins with; it is listed once, and asked often."""
        if folder not in self._names:
            self._names[folder] = set(os.listdir(folder)) if os.access(folder, os.R_OK | os.X_OK) else set()
        first = word.partition("/")[0]
        return first in self._names[folder] or first in (".", "..")

    @cached_property
    def _data(self) -> dict[str, list[Path]]:
        """The data in the folders of targets and models, by name with and without the suffix."""
        found: dict[str, list[Path]] = {}
        for package in (MODELS, f"{PACKAGE}.exporters"):
            spec = self._spec(package)
            for folder in (spec.submodule_search_locations or ()) if spec else ():
                for path in sorted(Path(folder).glob("*/*")):
                    if path.suffix not in (".py", ".pyc") and path.is_file():
                        for word in (path.name, path.stem):
                            found.setdefault(word, []).append(path)
        return found

    # Content.

    def _content(self, path: Path) -> str:
        """The hash of a file, or of the names and contents of all files in a folder."""
        if path not in self._contents:
            self._contents[path] = _content(path)
        return self._contents[path]

    def _system(self, target: str, cell: CellSpec) -> list[str]:
        """What is not of this Python: the torch of those that prepack for mobile, where the target does."""
        if INTERPRETER not in self.closure(target).files:
            return []
        named = cell.options.get("mobile_python") or os.environ.get("DEPLOYKIT_MOBILE_PYTHON")
        program = named and shutil.which(named)
        of_named = [str(Path(program).parents[1] / "lib/python3*/*-packages/torch/version.py")] if program else []
        places = of_named if named else SYSTEM_TORCH
        files = sorted(path for pattern in places for path in glob.glob(pattern))
        return [str(named), *(self._content(Path(path)) for path in files)]

    @cached_property
    def _counting(self) -> dict[str, Any]:
        """What counts instructions: the runners' sources and the emulator."""
        from deploy_kit.benchmarks.native import sources_folder
        from deploy_kit.devices.qemu import QEMU

        qemu = shutil.which(QEMU)
        return {
            "sources": self._content(sources_folder()),
            "qemu": None if qemu is None else self._content(Path(qemu)),
            "compilers": [shutil.which(name) for name in ("gcc", "aarch64-linux-gnu-g++")],
        }


def _module_of_target(target: str) -> str:
    found = entry_points(group=GROUP)
    if target not in found.names:
        raise unknown_name("target", target, found.names)
    return found[target].module


def _find(name: str, path: list[str]) -> ModuleSpec | None:
    found = (finder.find_spec(name, path) for finder in sys.meta_path)
    return next((spec for spec in found if spec is not None), None)


def _packages(name: str) -> list[str]:
    """The packages that a module is in."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _name_of(path: Path, name: str, module: Module) -> str | None:
    """The name of a source file beside a module; None of another file."""
    if path.suffix != ".py" or path.parent != module.path.parent:
        return None
    package = name if module.path.name == "__init__.py" else name.rpartition(".")[0]
    return f"{package}.{path.stem}" if package else path.stem


_PARSER = threading.Lock()
"""Python 3.11 counts the depth of a tree for all threads at once, and fails where two make one (gh-106905)."""


@cache
def _parse(content: bytes, name: str, is_package: bool) -> Source:
    imports: dict[str, None] = {}
    words: dict[str, None] = {}
    package = name if is_package else name.rpartition(".")[0]
    try:
        with _PARSER:
            tree = ast.parse(content)
    except (SyntaxError, ValueError):
        tree = ast.Module([], [])  # it cannot be imported either; its content counts
    for node in _nodes(tree):
        imports |= dict.fromkeys(_imported(node, package))
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words[node.value] = None
    top = name.partition(".")[0]
    for word in words:  # modules that are run, or imported, by their names
        if re.fullmatch(rf"{re.escape(top)}(\.\w+)+", word):
            imports[word] = None
    names = tuple(word for word in words if NAME.fullmatch(word))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    decorated = frozenset(node.name for node in functions if node.decorator_list)
    return Source(tuple(imports), names, decorated)


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that are for type checkers alone."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def _imported(node: ast.AST, package: str) -> Iterable[str]:
    """The modules that a statement imports, and the names that may be modules."""
    if isinstance(node, ast.Import):
        return [name for alias in node.names for name in (*_packages(alias.name), alias.name)]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parts = package.split(".")
            above = parts[: len(parts) - node.level + 1]
            base = ".".join([*above, *([base] if base else [])])
        return [*_packages(base), base, *(f"{base}.{alias.name}" for alias in node.names)] if base else []
    if isinstance(node, ast.Call) and not package.startswith(PACKAGE):  # what is imported so here is optional
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        first = node.args[0] if node.args else None
        if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
            return [str(first.value)]
    return []


@cache
def _distributions() -> dict[str, list[str]]:
    """The distributions that have a top-level module."""
    return {name: sorted(set(names)) for name, names in packages_distributions().items()}


def _version(name: str) -> str:
    try:
        return version(name)
    except ImportError:
        return "missing"


def _content(path: Path) -> str:
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file() and each.parent.name != "__pycache__")
        return _digest([(each.relative_to(path).as_posix(), _content(each)) for each in files])
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return "missing"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
