"""A pytest plug-in: with ``--deploykit RECIPE`` each cell of the recipe is a test.

A cell fails with what `deploykit check` finds of it. Without the option nothing here is imported but pytest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from deploy_kit.cells.recipe import CellSpec, Recipe
    from deploy_kit.check.baseline import Baseline
    from deploy_kit.check.engine import Settings
    from deploy_kit.check.findings import Checked, Finding
    from deploy_kit.errors import DeployKitError


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("deploykit", "checks of models, as deploykit check does them")
    group.addoption("--deploykit", metavar="RECIPE", help="Make each cell of this recipe a test.")
    group.addoption(
        "--deploykit-baseline",
        metavar="FILE",
        help="What the cells are compared with; without it, NAME-baseline.json beside the recipe NAME.toml.",
    )
    group.addoption(
        "--deploykit-changed-only",
        action="store_true",
        help="Take a cell that nothing has changed of from the cache, and export the others alone.",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("deploykit") is None:
        for option in ("deploykit_baseline", "deploykit_changed_only"):
            if config.getoption(option):
                raise pytest.UsageError(f"--{option.replace('_', '-')} means nothing without --deploykit RECIPE")
        return
    from deploy_kit.errors import DeployKitError

    try:
        config.pluginmanager.register(Cells(config), "deploykit-cells")
    except DeployKitError as error:
        raise pytest.UsageError(_text(error)) from error


class Cells:
    """What pytest is told where there is a recipe."""

    def __init__(self, config: pytest.Config):
        from deploy_kit.cells.recipe import read_recipe
        from deploy_kit.check.baseline import baseline_of, read_baseline
        from deploy_kit.check.compare import gone
        from deploy_kit.check.engine import Settings, Shared
        from deploy_kit.check.ready import require

        asked_of = config.invocation_params.dir
        named = config.getoption("deploykit_baseline")
        self.path = (asked_of / config.getoption("deploykit")).resolve()
        self.recipe: Recipe = read_recipe(self.path)
        require(self.recipe)
        self.cells: list[CellSpec] = self.recipe.cells()
        baseline = baseline_of(self.path) if named is None else asked_of / named
        self.baseline: Baseline | None = read_baseline(baseline) if named or baseline.exists() else None
        there = [*self.cells, *self.recipe.elsewhere()]
        self.gone: list[Finding] = gone(self.baseline, there) if self.baseline is not None else []
        self.settings: Settings = Settings(changed_only=config.getoption("deploykit_changed_only"))
        self.shared = Shared(self.recipe)

    def check(self, cell: CellSpec) -> Checked:
        """Export, prove and compare one cell, or take it from the cache."""
        from deploy_kit.check.engine import check_cell

        return check_cell(cell, self.recipe, self.baseline, self.settings, self.shared)

    def pytest_unconfigure(self) -> None:
        self.shared.close()

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        return RecipeFile.of(self, parent) if file_path == self.path else None

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Add the cells, where the recipe is not in what was collected."""
        if not any(isinstance(item, CellItem | GoneItem) for item in items):
            items.extend(session.genitems(RecipeFile.of(self, session)))


class RecipeFile(pytest.File):
    """The recipe, as a file of tests."""

    cells: Cells

    @classmethod
    def of(cls, cells: Cells, parent: Any) -> RecipeFile:
        """The recipe of ``cells``, for pytest to collect."""
        node: RecipeFile = cls.from_parent(parent, path=cells.path)
        node.cells = cells
        return node

    def collect(self) -> Iterator[CellItem | GoneItem]:
        for cell in self.cells.cells:
            item: CellItem = CellItem.from_parent(self, name=cell.id)
            item.cell, item.cells = cell, self.cells
            yield item
        for finding in self.cells.gone:
            missed: GoneItem = GoneItem.from_parent(self, name=finding.cell)
            missed.finding = finding
            yield missed


class DeployKitWarning(pytest.PytestWarning):
    """What a check warns of; ``-W error`` makes it a failure."""


class _Item(pytest.Item):
    """What is told without a traceback."""

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, CellFailed | DeployKitWarning):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, self.name


class GoneItem(_Item):
    """A cell of the baseline that the recipe no longer has: there is nothing to test, and that is a warning."""

    finding: Finding

    def runtest(self) -> None:
        self.warn(DeployKitWarning(_said(self.finding)))
        pytest.skip("no longer in the recipe")


class CellItem(_Item):
    """One cell, as a test."""

    cell: CellSpec
    cells: Cells

    def runtest(self) -> None:
        from deploy_kit.check.findings import Level
        from deploy_kit.errors import DeployKitError
        from deploy_kit.outcome import Outcome

        try:
            checked = self.cells.check(self.cell)
        except DeployKitError as error:
            raise CellFailed(_text(error)) from error
        said: dict[Level, list[str]] = {level: [] for level in Level}
        for finding in checked.findings:
            said[finding.level].append(_said(finding))
        for warning in said[Level.WARNING]:
            self.warn(DeployKitWarning(warning))
        if said[Level.NOTE]:
            self.add_report_section("call", "deploykit", "\n".join(said[Level.NOTE]))
        if said[Level.ERROR]:
            raise CellFailed("\n".join(said[Level.ERROR]))
        if checked.result.outcome == Outcome.UNAVAILABLE:
            pytest.skip(checked.result.reason or "the target is not installed here")


class CellFailed(Exception):  # noqa: N818  (what pytest prints before the message)
    """What is wrong with a cell, and how to mend it."""


def _said(finding: Finding) -> str:
    fix = f"\n  fix: {finding.fix}" if finding.fix else ""
    return f"{finding.kind}: {finding.message}{fix}"


def _text(error: DeployKitError) -> str:
    return f"{error}\n  fix: {error.fix}" if error.fix else str(error)
