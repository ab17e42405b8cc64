"""The plot holds every point, where it belongs, and reads well."""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from deploy_kit.errors import UserError
from deploy_kit.profile import Part, Profile
from deploy_kit.profile.kinds import Kind
from deploy_kit.profile.plot import check_plot, draw, write_plot
from deploy_kit.profile.roofline import Peaks, rates

PEAKS = Peaks(gflops=200.0, gbytes=20.0, products_by="torch")
SVG = "{http://www.w3.org/2000/svg}"


def part(name: str, kind: Kind | None, ms: float, macs: int | None, moved: int | None) -> Part:
    return Part(name, kind, 1, ms, ms / 10, macs, moved, rates(ms, macs, moved, PEAKS))


COMPUTE = [
    part("Conv", "compute", 2.0, 100_000_000, 8_000_000),
    part("Gemm", "compute", 2.0, 99_000_000, 8_000_000),
    part("MatMul<&>", "compute", 2.0, 98_000_000, 7_900_000),
    part("ConvTranspose", "compute", 1.0, 100_000, 1_000_000),
]
ADDCMUL = part("addcmul", "elementwise", 0.5, 1_000_000, 16_000_000)
MOVING = [part("Gelu", "elementwise", 1.0, 0, 17_000_000), part("Add", "elementwise", 0.5, 0, 20_000_000)]
PROFILE = Profile(
    model="toy <&>",
    target="onnx",
    precision="fp32",
    runtime="onnxruntime",
    machine="x86_64",
    threads=1,
    iterations=3,
    plain_ms=9.0,
    profiled_ms=10.0,
    operators_ms=10.0,
    memory_bound_share=0.3,
    compute_share=0.7,
    without_module_share=0.0,
    peaks=PEAKS,
    total=part("all", None, 10.0, 297_100_000, 62_000_000),
    kinds=[
        part("compute", "compute", 7.0, 297_100_000, 24_900_000),
        part("layout", "layout", 1.5, 0, None),
        part("elementwise", "elementwise", 1.5, 0, 37_000_000),
    ],
    by_operator=[*COMPUTE, *MOVING, ADDCMUL, part("Reshape", "layout", 1.5, 0, None)],
    by_module=[],
    operators=[],
    notes=[],
)


def drawn(profile: Profile = PROFILE) -> ElementTree.Element:
    return ElementTree.fromstring(draw(profile))


def marks(root: ElementTree.Element, tag: str, kind: str) -> dict[str, ElementTree.Element]:
    """The marks of a class by their titles."""
    found = [element for element in root.iter(SVG + tag) if element.get("class") == kind]
    return {str(element.findtext(f"{SVG}title")): element for element in found}


def test_every_part_with_an_intensity_is_a_point_and_what_only_moves_memory_is_a_bar() -> None:
    root = drawn()
    assert set(marks(root, "circle", "point")) == {"all", "compute", "addcmul", *(each.name for each in COMPUTE)}
    assert set(marks(root, "rect", "bar")) == {"elementwise", "Gelu", "Add"}
    texts = [text.text or "" for text in root.iter(f"{SVG}text")]
    assert any(text == "toy <&> on onnx, fp32" for text in texts)


def test_points_stand_at_their_logarithms_under_the_roof() -> None:
    root = drawn()
    points = marks(root, "circle", "point")
    corners = next(line for line in root.iter(f"{SVG}polyline") if line.get("id") == "roof").get("points", "").split()
    (_, _), (ridge, flat), (_, end) = (tuple(map(float, corner.split(","))) for corner in corners)
    assert flat == end
    decade = {
        text.text: float(text.get("x", 0)) for text in root.iter(f"{SVG}text") if text.get("text-anchor") == "middle"
    }
    wide = decade["10"] - decade["1"]
    assert ridge == pytest.approx(decade["10"])  # 200 GFLOP/s over 20 GB/s
    conv = points["Conv"]
    assert float(conv.get("cx", 0)) == pytest.approx(decade["10"] + math.log10(25 / 10) * wide, abs=0.2)
    assert all(float(point.get("cy", 0)) > flat for point in points.values())


def test_labels_overlap_neither_points_nor_each_other() -> None:
    root = drawn()
    labels = [text for text in root.iter(f"{SVG}text") if text.get("class") == "label"]
    lines = sorted(float(text.get("y", 0)) for text in labels)
    assert len(lines) == 7
    assert min(b - a for a, b in itertools.pairwise(lines)) >= 14
    rightmost = max(float(point.get("cx", 0)) + 5 for point in marks(root, "circle", "point").values())
    assert all(float(text.get("x", 0)) > rightmost for text in labels)
    assert max(lines) < float(root.get("height", 0))


def test_the_suffix_decides_between_a_picture_and_a_page(tmp_path: Path) -> None:
    write_plot(PROFILE, tmp_path / "roof.svg")
    write_plot(PROFILE, tmp_path / "roof.html")
    assert ElementTree.parse(tmp_path / "roof.svg").getroot().tag == f"{SVG}svg"
    page = (tmp_path / "roof.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert draw(PROFILE) in page


@pytest.mark.parametrize("name", ["roof.png", "nowhere/roof.svg", "folder.svg"])
def test_a_plot_that_cannot_be_written_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(UserError, match="plot") as error:
        check_plot(tmp_path / name)
    assert ".svg or .html" in error.value.fix
