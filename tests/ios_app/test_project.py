"""The Xcode project: what it names is there, and it hangs together; no Xcode reads it here."""

from __future__ import annotations

import json
import plistlib
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from deploy_kit.devices.ios import APP
from tests.ios_app.conftest import CORE, HERE, PROJECT, swift

TOKEN = re.compile(r"""\s+|/\*.*?\*/|//[^\n]*|"((?:[^"\\]|\\.)*)"|([\w./$!-]+)|([{}()=;,<>])""", re.DOTALL)


def read_openstep(text: str) -> Any:
    """A property list in the old format of NeXT, which Xcode keeps its projects in."""
    tokens: list[tuple[str, str]] = []
    place = 0
    while place < len(text):
        found = TOKEN.match(text, place)
        assert found, text[place : place + 40]
        place = found.end()
        if found[1] is not None or found[2] is not None:
            tokens.append(("word", found[1] if found[1] is not None else found[2]))
        elif found[3] is not None:
            tokens.append(("mark", found[3]))
    tokens.reverse()

    def expect(mark: str) -> None:
        assert tokens.pop() == ("mark", mark)

    def value() -> Any:
        kind, word = tokens.pop()
        if kind == "word":
            return word
        if word == "{":
            found: dict[str, Any] = {}
            while tokens[-1] != ("mark", "}"):
                kind, key = tokens.pop()
                assert kind == "word"
                assert key not in found, f"{key} is there twice"
                expect("=")
                found[key] = value()
                expect(";")
            expect("}")
            return found
        assert word == "("
        items = []
        while tokens[-1] != ("mark", ")"):
            items.append(value())
            expect(",")
        expect(")")
        return items

    whole = value()
    assert not tokens
    return whole


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    found = read_openstep((PROJECT / "Benchmark.xcodeproj" / "project.pbxproj").read_text())
    assert isinstance(found, dict)
    return found


def of_kind(project: dict[str, Any], isa: str) -> dict[str, dict[str, Any]]:
    return {key: each for key, each in project["objects"].items() if each["isa"] == isa}


def only(project: dict[str, Any], isa: str) -> dict[str, Any]:
    (found,) = of_kind(project, isa).values()
    return found


def test_every_object_that_is_named_is_there_and_every_object_is_named(project: dict[str, Any]) -> None:
    objects = project["objects"]
    named = {project["rootObject"]}

    def look(value: Any) -> None:
        if isinstance(value, dict):
            for key, each in value.items():
                look(each)
                look(key)
        elif isinstance(value, list):
            for each in value:
                look(each)
        elif re.fullmatch("[0-9A-F]{24}", value):
            named.add(value)

    for each in objects.values():
        look(each)
    assert named == set(objects)


def test_every_file_that_is_named_is_there_and_every_source_is_built(project: dict[str, Any]) -> None:
    objects = project["objects"]

    def files(group: str, folder: Path) -> list[tuple[str, Path]]:
        each = objects[group]
        here = folder / each["path"] if "path" in each else folder
        if each["isa"] != "PBXGroup":
            return [(group, here)] if each["sourceTree"] == "<group>" else []
        return [found for child in each["children"] for found in files(child, here)]

    found = files(only(project, "PBXProject")["mainGroup"], PROJECT)
    assert all(file.exists() for _, file in found), found
    sources = {objects[objects[build]["fileRef"]]["path"] for build in only(project, "PBXSourcesBuildPhase")["files"]}
    there = {file.name for file in (PROJECT / "App").iterdir() if file.suffix in (".swift", ".mm")}
    assert sources == there
    resources = {objects[objects[each]["fileRef"]]["path"] for each in only(project, "PBXResourcesBuildPhase")["files"]}
    assert resources == {"Assets.xcassets"}
    assert {"Info.plist", "Config.xcconfig", "Threads.h"} <= {file.name for _, file in found}


def test_the_target_has_what_it_is_built_with(project: dict[str, Any]) -> None:
    objects = project["objects"]
    target = only(project, "PBXNativeTarget")
    assert target["productType"] == "com.apple.product-type.application"
    whole = objects[only(project, "PBXProject")["buildConfigurationList"]]["buildConfigurations"]
    own = objects[target["buildConfigurationList"]]["buildConfigurations"]
    for outer, inner in zip(whole, own, strict=True):
        assert objects[outer]["name"] == objects[inner]["name"]
        base = objects[objects[inner]["baseConfigurationReference"]]["path"]
        settings = objects[outer]["buildSettings"] | objects[inner]["buildSettings"]
        assert base == "Config.xcconfig"
        assert settings["IPHONEOS_DEPLOYMENT_TARGET"] == "17.0"  # that of ExecuTorch's package
        assert settings["OTHER_LDFLAGS"] == "-all_load"  # without it ExecuTorch's backends are left out
        assert settings["GENERATE_INFOPLIST_FILE"] == "NO"
        for name in ("INFOPLIST_FILE", "SWIFT_OBJC_BRIDGING_HEADER"):
            assert (PROJECT / settings[name]).is_file()
        icons = PROJECT / "App" / "Assets.xcassets" / f"{settings['ASSETCATALOG_COMPILER_APPICON_NAME']}.appiconset"
        assert icons.is_dir()
    assert {objects[each]["name"] for each in own} == {"Debug", "Release"}
    config = (PROJECT / "Config.xcconfig").read_text()
    assert f"PRODUCT_BUNDLE_IDENTIFIER = $(BUNDLE_PREFIX){APP}\n" in config
    assert "Signing.xcconfig\n" in (PROJECT / ".gitignore").read_text()


def test_packages(project: dict[str, Any]) -> None:
    objects = project["objects"]
    local = only(project, "XCLocalSwiftPackageReference")
    assert (PROJECT / local["relativePath"] / "Package.swift").is_file()
    remote = only(project, "XCRemoteSwiftPackageReference")
    engine = (PROJECT / "App" / "ExecuTorchEngine.swift").read_text()
    (version,) = re.findall(r"ExecuTorch (\d+\.\d+\.\d+)", engine)
    assert remote["repositoryURL"] == "https://github.com/pytorch/executorch"
    assert remote["requirement"] == {"kind": "branch", "branch": f"swiftpm-{version}"}
    pyproject = (PROJECT.parent / "pyproject.toml").read_text()
    assert f"executorch=={version}" in pyproject, "the exporter's version is another"
    target = only(project, "PBXNativeTarget")
    linked = {
        objects[objects[each]["productRef"]]["productName"]
        for each in only(project, "PBXFrameworksBuildPhase")["files"]
    }
    assert linked == {objects[each]["productName"] for each in target["packageProductDependencies"]}
    assert {"BenchmarkCore", "executorch", "backend_xnnpack", "backend_coreml", "kernels_optimized"} <= linked
    for each in target["packageProductDependencies"]:
        assert objects[objects[each]["package"]]["isa"].endswith("SwiftPackageReference")


def test_the_scheme_builds_the_target(project: dict[str, Any]) -> None:
    (scheme,) = (PROJECT / "Benchmark.xcodeproj" / "xcshareddata" / "xcschemes").iterdir()
    root = ElementTree.parse(scheme).getroot()
    references = root.findall(".//BuildableReference")
    (target,) = of_kind(project, "PBXNativeTarget")
    assert len(references) == 3
    assert {each.get("BlueprintIdentifier") for each in references} == {target}
    assert {each.get("ReferencedContainer") for each in references} == {"container:Benchmark.xcodeproj"}
    launch = root.find("LaunchAction")
    assert launch is not None
    assert launch.get("buildConfiguration") == "Release"


def test_the_property_list_shares_the_apps_folder() -> None:
    found = plistlib.loads((PROJECT / "App" / "Info.plist").read_bytes())
    assert found["UIFileSharingEnabled"] is True
    assert found["LSSupportsOpeningDocumentsInPlace"] is True
    assert found["CFBundleIdentifier"] == "$(PRODUCT_BUNDLE_IDENTIFIER)"
    assert found["CFBundlePackageType"] == "APPL"
    assert found["UILaunchScreen"] == {}, "without it the app gets the screen of an iPhone 5"
    for file in (PROJECT / "App" / "Assets.xcassets").rglob("Contents.json"):
        assert json.loads(file.read_text())["info"]["version"] == 1


def test_the_pool_of_threads_links_to_executorchs_own_names(tmp_path: Path) -> None:
    """What `Threads.mm` declares has the symbols of ExecuTorch's header, which Apple's frameworks lack."""
    executorch = pytest.importorskip("executorch", reason="executorch is not installed")
    include = Path(next(iter(executorch.__path__))) / "include"
    header = "executorch/extension/threadpool/threadpool.h"
    if not (include / header).is_file():
        pytest.skip("this executorch has no header of its pool")
    (tmp_path / "pthreadpool.h").write_text(
        'typedef struct pthreadpool* pthreadpool_t; extern "C" void pthreadpool_destroy(pthreadpool_t);\n'
    )
    (tmp_path / "theirs.cc").write_text(
        f'#include "{header}"\nbool set(unsigned n) {{ using namespace executorch::extension::threadpool; '
        "return get_threadpool()->_unsafe_reset_threadpool(n); }\n"
    )
    ours = tmp_path / "ours.cc"
    ours.write_text((PROJECT / "App" / "Threads.mm").read_text())
    macros = include / "executorch/runtime/core/portable_type/c10"
    flags = ["-std=c++17", "-w", "-DC10_USING_CUSTOM_GENERATED_MACROS", f"-I{PROJECT / 'App'}"]
    places = [f"-I{tmp_path}", f"-I{include}", f"-I{macros}"]
    for file in (tmp_path / "theirs.cc", ours):
        words = ["g++", *flags, *places, "-c", str(file), "-o", str(file.with_suffix(".o"))]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def wanted(name: str) -> set[str]:
        listed = subprocess.run(["nm", "-u", tmp_path / f"{name}.o"], capture_output=True, text=True, check=True)
        return {line.split()[-1] for line in listed.stdout.splitlines() if "threadpool" in line}

    assert len(wanted("ours")) == 2
    assert wanted("ours") == wanted("theirs")


@pytest.mark.slow
def test_the_cores_own_tests(swiftc: str, tmp_path: Path) -> None:
    said = swift(str(Path(swiftc).with_name("swift")), "test", "--scratch-path", str(tmp_path), cwd=CORE)
    assert "CoreTests" in said or not said


def test_the_apps_sources_fit_the_frameworks_as_they_are_documented(swiftc: str, tmp_path: Path) -> None:
    """Against stubs written by hand from Apple's documentation and ExecuTorch's sources."""
    modules = ["-I", str(tmp_path), "-swift-version", "5"]
    core = sorted(map(str, CORE.glob("Sources/BenchmarkCore/*.swift")))
    stubs = {"BenchmarkCore": core} | {
        name: [str(HERE / "stubs" / f"{name}.swift")]
        for name in ("CoreML", "ExecuTorch", "Combine", "UIKit", "SwiftUI")
    }
    for name, files in stubs.items():
        out = str(tmp_path / f"{name}.swiftmodule")
        words = ["-emit-module", "-module-name", name, "-emit-module-path", out, "-parse-as-library"]
        swift(swiftc, *modules, *words, *files)
    app = sorted(map(str, (PROJECT / "App").glob("*.swift")))
    header = ["-import-objc-header", str(PROJECT / "App" / "Benchmark-Bridging-Header.h")]
    swift(swiftc, *modules, "-typecheck", "-parse-as-library", "-warnings-as-errors", *header, *app)
