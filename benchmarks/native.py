"""The native runners: C++ programs that time an artifact with no Python, built here for this machine and for phones.

`build_runner` compiles ``android_app/native`` against the published ``executorch`` wheel or against Debian's libtorch,
and keeps what it made in ``~/.cache/deploykit/native``. What a user installs, on Debian 12:

- for this machine: ``sudo apt-get install g++``, and for torchscript-lite ``libtorch-dev libopenblas0-pthread``;
- for arm64: ``sudo apt-get install g++-aarch64-linux-gnu``. ExecuTorch's wheel and Debian's libraries for arm64 are
  fetched by pip and apt into the cache; nothing of arm64 is installed;
- for executorch: ``pip install 'deploy-kit[executorch]'``.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy_kit.benchmarks.runners.program import Program
from deploy_kit.errors import DeployKitError, MissingDependencyError, unknown_name

RUNNER = "runner"
SOURCES = ("runner.h", "runner.cc", "executorch.cc", "pool.cc", "cores_arm.cc", "torchscript_lite.cc")
COMPILERS = {"x86_64": "x86_64-linux-gnu-g++", "aarch64": "aarch64-linux-gnu-g++"}
PACKAGES = {"x86_64": "g++", "aarch64": "g++-aarch64-linux-gnu"}
LOADERS = {"x86_64": "ld-linux-x86-64.so.2", "aarch64": "ld-linux-aarch64.so.1"}
LIBC = ("libc.so", "libm.so", "libdl.so", "libpthread.so", "librt.so", "ld-linux")

VERSIONS = "versions.json"
TORCH_PACKAGES = "libtorch-dev libopenblas0-pthread"
TORCH_LIBRARIES = (
    "libXNNPACK libblas libc10 libcpuinfo libdnnl libfmt libgcc_s libgfortran libgflags libglog libgomp liblapack "
    "liblzma libonnx libonnx_proto libopenblas libprotobuf libpthreadpool libquadmath libsleef libstdc++ libtorch_cpu "
    "libunwind libz"
)
"""What the mobile interpreter calls; libtorch names three times as many, for video, databases and clusters."""

ARM_PACKAGES = (
    "libtorch-dev libtorch1.13 libc6 libcpuinfo0 libdnnl2 libfmt9 libgcc-s1 libgfortran5 libgflags2.2 libgomp1 "
    "libgoogle-glog0v6 liblzma5 libonnx1 libopenblas0-pthread libprotobuf32 libpthreadpool0 libsleef3 libstdc++6 "
    "libunwind8 libxnnpack0 zlib1g"
)
"""Debian 12's packages with those libraries, and the headers."""


class BuildError(DeployKitError):
    """A compiler, pip or apt failed; the message has its last words."""


@dataclass(frozen=True)
class Bundle:
    """A runner and the shared libraries that it needs, in one folder without folders in it."""

    engine: str
    """``executorch`` or ``torchscript-lite``."""
    abi: str
    """``x86_64`` or ``aarch64``."""
    folder: Path

    @property
    def files(self) -> list[Path]:
        """What has to be on the device, all in one folder."""
        return sorted(self.folder.iterdir())

    def command(self, folder: str) -> list[str]:
        """The first words of the command that starts the runner, where its files are in ``folder``.

        For arm64 that is the loader in the bundle, which comes with its C library: a phone has another one.
        """
        loader = LOADERS[self.abi]
        if not (self.folder / loader).exists():
            return [f"{folder}/{RUNNER}"]
        return [f"{folder}/{loader}", "--library-path", folder, f"{folder}/{RUNNER}"]


@dataclass(frozen=True)
class _Recipe:
    """What one runner is made of."""

    sources: list[str]
    flags: list[str]
    """For the compiler: the language, headers and definitions."""
    libraries: list[str]
    """The shared libraries that the source calls."""
    folders: list[Path]
    """Where shared libraries are looked for before the compiler's own."""
    keep: Callable[[str], bool]
    """Whether a library that is named as needed is really called; the others become stubs."""
    versions: dict[str, str]


def build_runner(engine: str, abi: str) -> Bundle:
    """The runner of an engine for an ABI, compiled on the first call and found in the cache after that.

    Args:
        engine: ``executorch`` or ``torchscript-lite``.
        abi: ``x86_64`` or ``aarch64``.

    Raises:
        UserError: there is no such engine or ABI.
        MissingDependencyError: a compiler, a package or a library is not there; its ``fix`` is the command for it.
        BuildError: the compiler or a download failed.
    """
    if engine not in _RECIPES:
        raise unknown_name("native runner", engine, _RECIPES)
    if abi not in COMPILERS:
        raise unknown_name("ABI", abi, COMPILERS)
    compiler = _compiler(abi)
    recipe = _RECIPES[engine](abi)
    sources = sources_folder()
    facts = {
        "sources": {name: (sources / name).read_text() for name in SOURCES},
        "build": Path(__file__).read_text(),
        "compiler": _output([compiler, "-dumpfullversion"]),
        "versions": recipe.versions,
        "abi": abi,
        "engine": engine,
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def fill(folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
            objects = _compile(compiler, sources, recipe, Path(scratch))
            _carry_libraries(compiler, abi, recipe, folder)
            _link(compiler, objects, folder)

    return Bundle(engine, abi, build_folder(f"{engine}-{abi}-{key}", fill))


def native_runner(engine: str, abi: str) -> Program:
    """`build_runner` as the harness takes it; raises the same."""
    bundle = build_runner(engine, abi)
    return _NativeRunner(f"native-{engine}", files=tuple(bundle.files), bundle=bundle)


@dataclass(frozen=True)
class _NativeRunner(Program):
    bundle: Bundle | None = None

    def words(self, folder: str) -> list[str]:
        assert self.bundle is not None
        return self.bundle.command(folder)


def build_folder(name: str, fill: Callable[[Path], None]) -> Path:
    """A folder in the cache, made by ``fill`` where it is not there yet: whole, or absent where that fails."""
    folder = cache_folder() / name
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    try:
        fill(temporary)
        temporary.chmod(0o755)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process may have been first: its folder is as good
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def cache_folder() -> Path:
    """Where runners and what they are built from are kept: ``~/.cache/deploykit/native``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deploykit" / "native"


def sources_folder() -> Path:
    """The C++ sources: beside this file where it is installed, in ``android_app`` in a clone."""
    here = Path(__file__).resolve().parent
    installed = here / "native_sources"
    return installed if installed.is_dir() else here.parent / "android_app" / "native"


# What the runners are built against.


def _executorch(abi: str) -> _Recipe:
    package = _wheel_folder(abi) / "executorch"
    version = _executorch_version()
    library = next((package / "extension" / "pybindings").glob("_portable_lib*.so"), None)
    if library is None:
        raise BuildError(f"executorch {version} for {abi} has no library that a program can be built against")
    include = package / "include"
    inside = {path.name: path for path in package.rglob("*.so")}
    needed = [inside[name] for name in _needed(library) if name in inside]
    torch = _package_folder("torch")
    carried = {*inside, *(["libc10.so"] if abi == "x86_64" else [])}  # it says what an x86 processor can do
    return _Recipe(
        sources=["executorch.cc", "pool.cc", *(["cores_arm.cc"] if abi == "aarch64" else [])],
        flags=[
            "-std=c++20",
            f"-I{include}",
            f"-I{include}/executorch/runtime/core/portable_type/c10",
            "-idirafter",
            f"{torch}/include",
            "-DC10_USING_CUSTOM_GENERATED_MACROS",
            f'-DDEPLOYKIT_RUNTIME="executorch {version}"',
        ],
        libraries=[library.name, *(path.name for path in needed)],
        folders=[library.parent, *(path.parent for path in needed), torch / "lib"],
        keep=lambda name: name in carried or name.startswith(("libstdc++", "libgcc_s")),
        versions={"executorch": version},
    )


def _executorch_version() -> str:
    try:
        return importlib.metadata.version("executorch")
    except importlib.metadata.PackageNotFoundError:
        raise MissingDependencyError(
            "the runner of executorch is built against its package, which is not installed",
            fix="pip install 'deploy-kit[executorch]'",
        ) from None


def _wheel_folder(abi: str) -> Path:
    """A folder with the package ``executorch`` in it as it is published for an ABI."""
    version = _executorch_version()
    if abi == platform.machine():
        return _package_folder("executorch").parent

    def fill(folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
            _pip_download(f"executorch=={version}", f"manylinux_2_28_{abi}", scratch)
            with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as archive:
                wanted = re.compile(r"executorch/(include/.*|.*\.so)")
                archive.extractall(folder, [name for name in archive.namelist() if wanted.fullmatch(name)])

    return build_folder(f"executorch-{version}-{abi}", fill)


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(f"the package {name} is not installed", fix="pip install 'deploy-kit[executorch]'")
    return Path(next(iter(spec.submodule_search_locations)))


def _pip_download(package: str, system: str, folder: str) -> None:
    options = ["--quiet", "--only-binary=:all:", "--no-deps", "--platform", system, "--dest", folder]
    call([sys.executable, "-m", "pip", "download", *options, package], f"pip could not fetch {package} for {system}")


def _torchscript_lite(abi: str) -> _Recipe:
    root = Path("/") if abi == platform.machine() else _debian_root(abi)
    libraries = root / "usr" / "lib" / f"{abi}-linux-gnu"
    torch = next(libraries.glob("libtorch_cpu.so.*.*.*"), None)
    if torch is None or not (root / "usr/include/torch/csrc/jit/mobile/import.h").is_file():
        raise MissingDependencyError(
            "the runner of torchscript-lite is built against Debian's libtorch, which is not installed",
            fix=f"sudo apt-get install {TORCH_PACKAGES}",
        )
    blas = libraries / "openblas-pthread"
    if not blas.is_dir():
        raise MissingDependencyError(
            "the runner of torchscript-lite needs OpenBLAS, which is not installed: with the reference BLAS it would "
            "be ten times slower than on a phone",
            fix="sudo apt-get install libopenblas0-pthread",
        )
    include = root / "usr" / "include"
    version = _torch_version(root)
    return _Recipe(
        sources=["torchscript_lite.cc"],
        flags=[
            "-std=c++17",
            *([] if root == Path("/") else ["-isystem", str(include)]),
            "-isystem",
            f"{include}/torch/csrc/api/include",
            f'-DDEPLOYKIT_RUNTIME="libtorch {version.split("+")[0]}"',
        ],
        libraries=[re.sub(r"(\.so\.\d+\.\d+).*", r"\1", torch.name), "libc10.so.1.13"],
        folders=[blas, libraries, root / "lib" / f"{abi}-linux-gnu"],
        keep=lambda name: name.split(".so")[0] in TORCH_LIBRARIES.split(),
        versions={"libtorch": version},
    )


def _torch_version(root: Path) -> str:
    """The version of Debian's package: the library's own name keeps the first of its series."""
    if root == Path("/"):
        return _output(["dpkg-query", "-W", "-f", "${Version}", "libtorch-dev"])
    return json.loads((root / VERSIONS).read_text())["libtorch-dev"]


_RECIPES: dict[str, Callable[[str], _Recipe]] = {"executorch": _executorch, "torchscript-lite": _torchscript_lite}


def _debian_root(abi: str) -> Path:
    """A folder with Debian's packages for another ABI unpacked: fetched with a state of apt's own, none installed."""
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise MissingDependencyError(
                f"libtorch for {abi} comes from Debian's packages, and there is no {program} here",
                fix="build on Debian 12, or give a runner of your own",
            )

    def fill(folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
            packages = _apt_download(scratch, "arm64")
            for package in packages:
                call(["dpkg-deb", "-x", package, folder], f"{package.name} could not be unpacked")
        versions = dict(package.name.split("_")[:2] for package in packages)
        (folder / VERSIONS).write_text(json.dumps(versions, indent=1))

    return build_folder(f"debian-{abi}-{hashlib.sha256(ARM_PACKAGES.encode()).hexdigest()[:8]}", fill)


def _apt_download(scratch: str, architecture: str) -> list[Path]:
    state = Path(scratch, "state")
    for part in ("state/lists/partial", "cache/archives/partial", "packages"):
        Path(scratch, part).mkdir(parents=True)
    (state / "status").touch()
    options = {
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::Cache": Path(scratch, "cache"),
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    apt = ["apt-get", "-q", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    call([*apt, "update"], f"apt could not fetch Debian's lists of packages for {architecture}")
    folder = Path(scratch, "packages")
    call(
        [*apt, "download", *ARM_PACKAGES.split()],
        f"apt could not fetch Debian 12's packages for {architecture}",
        folder,
    )
    return sorted(folder.glob("*.deb"))


# Compiling, and finding what has to come along.


def _compiler(abi: str) -> str:
    own = "g++" if abi == platform.machine() else COMPILERS[abi]
    path = shutil.which(own)
    if path is None:
        package = "g++" if abi == platform.machine() else PACKAGES[abi]
        raise MissingDependencyError(
            f"there is no C++ compiler for {abi} ({own})", fix=f"sudo apt-get install {package}"
        )
    return path


def _compile(compiler: str, sources: Path, recipe: _Recipe, folder: Path) -> list[Path]:
    objects = []
    for name in (*recipe.sources, "runner.cc"):
        target = folder / f"{name}.o"
        options = ["-O2", "-Wall", "-Wextra", "-pthread", *recipe.flags]
        call([compiler, *options, "-c", sources / name, "-o", target], f"{name} could not be compiled")
        objects.append(target)
    return objects


def _link(compiler: str, objects: Sequence[Path], folder: Path) -> None:
    """Link the runner, so that it names every library in the folder: some have search paths of their own."""
    options = ["-rpath,$ORIGIN", "--disable-new-dtags", "--no-as-needed", "--unresolved-symbols=ignore-in-shared-libs"]
    words = ["-pthread", "-rdynamic", *(f"-Wl,{option}" for option in options)]
    libraries = sorted(path for path in folder.iterdir() if not path.name.startswith(LIBC))
    call([compiler, *words, *objects, *libraries, "-o", folder / RUNNER], "the runner could not be linked")


def _carry_libraries(compiler: str, abi: str, recipe: _Recipe, folder: Path) -> None:
    """Put the libraries that the runner needs beside it: those that are called, and stubs of the rest."""
    stubs: set[str] = set()
    waiting = list(recipe.libraries)
    while waiting:
        name = waiting.pop()
        if (folder / name).exists() or name in stubs:
            continue
        if name.startswith(LIBC):
            if abi != "aarch64":
                continue
        elif not recipe.keep(name):
            stubs.add(name)
            continue
        shutil.copyfile(_find_library(compiler, recipe.folders, name), folder / name)
        waiting += _needed(folder / name)
    loader = folder / LOADERS[abi]
    if loader.exists():
        loader.chmod(0o755)
    _write_stubs(compiler, abi, folder, sorted(stubs))


def _find_library(compiler: str, folders: Sequence[Path], name: str) -> Path:
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    found = Path(_output([compiler, f"-print-file-name={name}"]))
    if not found.is_absolute():
        raise BuildError(f"the library {name}, which the runner needs, is nowhere to be found")
    return found


STUB = r"""
#include <string.h>
#include <unistd.h>
__attribute__((noreturn, noinline)) static void missing(const char* name) {
  static const char text[] = "error: the runner has no library with ";
  if (write(2, text, sizeof text - 1) < 0 || write(2, name, strlen(name)) < 0 || write(2, "\n", 1) < 0) _exit(1);
  _exit(1);
}
#define FUNCTION(id, name) void f##id(void) __asm__(name); void f##id(void) { missing(name); }
#define OBJECT(id, name) char o##id[4096] __asm__(name);
"""


def _write_stubs(compiler: str, abi: str, folder: Path, names: Sequence[str]) -> None:
    """Libraries with the symbols that those in a folder want and none there has; nothing may call them."""
    if not names:
        return
    libraries = list(folder.iterdir())
    system = [_find_library(compiler, [], name) for name in ("libc.so.6", "libm.so.6", LOADERS[abi])]
    defined = {symbol for path in (*libraries, *system) for symbol in _symbols(path, defined=True)}
    contents: dict[str, dict[str, tuple[str, str]]] = {name: {} for name in names}
    for path in libraries:
        owners = _version_owners(path)
        for symbol, (kind, version) in _symbols(path, defined=False).items():
            owner = owners.get(version, names[0])
            if symbol not in defined and owner in contents:
                contents[owner][symbol] = (kind, version)
    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
        for name, symbols in contents.items():
            _write_stub(compiler, folder / name, symbols, Path(scratch))


def _write_stub(compiler: str, target: Path, symbols: dict[str, tuple[str, str]], scratch: Path) -> None:
    lines = []
    by_version: dict[str, list[str]] = {}
    for i, (symbol, (kind, version)) in enumerate(symbols.items()):
        lines.append(f'{"OBJECT" if kind == "OBJECT" else "FUNCTION"}({i}, "{symbol}")')
        by_version.setdefault(version, []).append(symbol)
    source, script = scratch / "stub.c", scratch / "stub.map"
    source.write_text(STUB + "\n".join(lines) + "\n")
    named = {version: group for version, group in by_version.items() if version}
    script.write_text("".join(f"{version} {{ global: {'; '.join(group)}; }};\n" for version, group in named.items()))
    flags = ["-shared", "-fPIC", "-fno-lto", "-O1", f"-Wl,-soname,{target.name}"]
    if named:
        flags.append(f"-Wl,--version-script,{script}")
    call([compiler, "-x", "c", *flags, source, "-o", target], f"a stub of {target.name} could not be made")


def _needed(path: Path) -> list[str]:
    return re.findall(r"\(NEEDED\).*\[(.+)\]", _output(["readelf", "-dW", path]))


def _symbols(path: Path, *, defined: bool) -> dict[str, tuple[str, str]]:
    """The dynamic symbols that a library has or wants: type and version, or "" by name."""
    symbols = {}
    for line in _output(["readelf", "-W", "--dyn-syms", path]).splitlines():
        words = line.split()
        if len(words) < 8 or not words[0].rstrip(":").isdigit() or words[4] not in ("GLOBAL", "WEAK", "UNIQUE"):
            continue
        if (words[6] != "UND") == defined and (defined or words[4] == "GLOBAL"):
            name, _, version = words[7].partition("@")
            symbols[name] = (words[3], version.lstrip("@"))
    return symbols


def _version_owners(path: Path) -> dict[str, str]:
    """The library that each version of symbols comes from, as a library that needs them says."""
    owners, owner = {}, ""
    for line in _output(["readelf", "-W", "-V", path]).splitlines():
        if found := re.search(r"Version: \d+\s+File: (\S+)", line):
            owner = found[1]
        elif found := re.search(r"Name: (\S+)\s+Flags:", line):
            owners[found[1]] = owner
    return owners


# Programs and folders.


def _output(command: Sequence[str | Path]) -> str:
    return call(command, f"{Path(command[0]).name} failed").strip()


def call(command: Sequence[str | Path], failure: str, folder: Path | None = None) -> str:
    """What a program prints; raises `BuildError` with its first words of error where it fails."""
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        words = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in words if re.search(r"error|E:", line)] or words
        raise BuildError(f"{failure}: {errors[0].strip() if errors else f'exit code {done.returncode}'}")
    return done.stdout
