"""A recipe: which models, targets and precisions a check or a sweep is of, as a TOML file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deploy_kit.api import parse_options
from deploy_kit.errors import UserError, unknown_name
from deploy_kit.exporters import get_exporter, list_targets
from deploy_kit.models import list_models, smallest_models
from deploy_kit.parity.compare import Precision

DEFAULT_RECIPE = Path("deploykit.toml")

FILE = ".pt2"
"""How the name of a model ends that is a file."""

ALL, SMALLEST = "all", "smallest"
"""Words that stand for models: all reference models, and the smallest of each family."""

Positive = Annotated[int, Field(ge=1)]

WEEK = 7 * 24 * 3600
"""The most seconds that a cell may have."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelOptions(_Part):
    """What `deploy_kit.sources.load_model` is told of a model; ``weights`` is a file beside the recipe, or ``timm``."""

    weights: str | None = None
    input_size: str | None = None
    activation: str | None = None
    num_classes: int | None = None
    seed: int = 0


class CellSpec(_Part):
    """One cell: what is exported to which target, and how; ``precision`` is as the target's options have it."""

    model: str
    target: str
    precision: Precision
    options: dict[str, Any] = {}
    of_model: ModelOptions = ModelOptions()

    @property
    def id(self) -> str:
        """Its name in results: ``MODEL/TARGET/PRECISION``; of a model in a file, the file's name, wherever it is."""
        model = Path(self.model).name if self.model.endswith(FILE) else self.model
        return f"{model}/{self.target}/{self.precision}"

    @property
    def slug(self) -> str:
        """Its name as a file or folder."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.id.replace("/", "--")).strip("-.")


class Accuracy(_Part):
    """Labelled inputs in a safetensors file: ``inputs``, of the model's shape but for the batch, and ``labels``.

    They are asked of the models in ``models``; none is all.
    """

    data: Path
    models: tuple[str, ...] = ()


class Latency(_Part):
    """How a changed artifact is timed against the baseline's: as ``deploykit compare`` does."""

    device: str = "local"
    threads: Positive = 1
    warmup: Annotated[int, Field(ge=0)] = 10
    iterations: Positive = 50
    pairs: int | None = None
    cores: str | None = None
    runner: str | None = None


class Bench(_Part):
    """What a sweep measures of each cell, as ``deploykit bench`` does, on each of ``devices``."""

    devices: tuple[str, ...] = ("local",)
    warmup: Annotated[int, Field(ge=0)] = 10
    iterations: Positive = 50
    rounds: Positive = 1
    threads: tuple[Positive, ...] = (1,)
    cores: str | None = None
    cool_to: float | None = None
    runner: str | None = None
    energy: str = "none"


Timing = TypeVar("Timing", Latency, Bench)


class Tolerances(_Part):
    """By how much a figure may be worse than the baseline's: parts of it, but for accuracy, which is in points of 1."""

    size: Annotated[float, Field(ge=0)] = 0.01
    error: Annotated[float, Field(ge=0)] = 1.0
    accuracy: Annotated[float, Field(ge=0)] = 0.0
    instructions: Annotated[float, Field(ge=0)] = 0.0


class Recipe(_Part):
    """A whole recipe; paths in it are relative to its file, and have been made absolute by `read_recipe`."""

    models: Annotated[tuple[str, ...], Field(min_length=1)]
    targets: tuple[str, ...] = ()
    """None are all that are installed."""
    precisions: tuple[Precision, ...] = ()
    """None is each target's default; one that a target does not offer makes no cell of it."""
    options: dict[str, dict[str, Any]] = {}
    """Of targets, by their names."""
    model: dict[str, ModelOptions] = {}
    """Of models, by their names."""
    limit: Annotated[int, Field(ge=1, le=WEEK)] = 1800
    """Seconds that a cell may take."""
    jobs: Positive = 1
    """Cells at a time."""
    memory_gb: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """What the cells at work may take together; None is what the machine has free."""
    instructions: bool = False
    """Whether ARM instructions are counted, where qemu is here, of the targets that have a native runner."""
    accuracy: Accuracy | None = None
    latency: Latency | None = None
    bench: Bench | None = None
    tolerances: Tolerances = Tolerances()

    def cells(self) -> list[CellSpec]:
        """Every cell, model by model.

        Raises:
            UserError: a target or option that there is not, a precision that no target here offers, or two files of one
                name.
        """
        found = self._of(self.targets or tuple(list_targets()))
        installed = installed_targets()
        found = found if self.targets else [cell for cell in found if cell.target in installed]
        if not found:
            raise UserError(f"no target offers {' or '.join(self.precisions)}", fix="name another precision")
        return found

    def elsewhere(self) -> list[CellSpec]:
        """What would be cells too where all targets are installed; of a recipe that names its targets, none."""
        installed = installed_targets()
        return [] if self.targets else self._of(tuple(name for name in list_targets() if name not in installed))

    def _of(self, targets: tuple[str, ...]) -> list[CellSpec]:
        """The cells of some targets."""
        found: dict[str, CellSpec] = {}
        for model in model_names(self.models):
            of_model = self.model.get(model, ModelOptions())
            for target in targets:
                for precision, options in target_options(target, self.precisions, self.options.get(target, {})):
                    cell = CellSpec(model=model, target=target, precision=precision, options=options, of_model=of_model)
                    if found.setdefault(cell.id, cell).model != model:
                        raise UserError(
                            f"two models have the name {cell.id.split('/')[0]!r}", fix="rename one of the files"
                        )
        return list(found.values())


def read_recipe(path: Path) -> Recipe:
    """The recipe in a TOML file; `UserError` where it is not there or cannot be understood."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"there is no recipe {str(path)!r}", fix="write one with `deploykit init MODEL`, or name the cells by flags"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"the recipe {str(path)!r} cannot be read: {error}", fix="mend the file") from error
    recipe = make_recipe(document, path.parent.resolve(), f"the recipe {str(path)!r}")
    asked = () if recipe.accuracy is None else recipe.accuracy.models
    for model in asked:  # those of a recipe less some of its models may be others
        if model not in (named := model_names(recipe.models)):
            raise unknown_name("model in the recipe", model, named)
    return recipe


def make_recipe(document: Mapping[str, Any], folder: Path, called: str = "the recipe") -> Recipe:
    """A recipe from plain values, with the paths in it relative to ``folder``; `UserError` says what is wrong in it."""
    try:
        recipe = Recipe.model_validate(dict(document))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{called} has a mistake at {where!r}: {first['msg']}", fix="mend it there") from error
    known = list_targets()
    for target in (*recipe.targets, *recipe.options):
        if target not in known:
            raise unknown_name("target", target, known)
    named = set(model_names(recipe.models)) if recipe.model else set()
    for model in recipe.model:
        if model not in named:
            raise unknown_name("model in the recipe", model, named)
    accuracy = recipe.accuracy and recipe.accuracy.model_copy(update={"data": folder / recipe.accuracy.data})
    if accuracy is not None:
        accuracy = accuracy.model_copy(update={"models": tuple(_placed(name, folder) for name in accuracy.models)})
    of_models = {_placed(name, folder): _absolute(options, folder) for name, options in recipe.model.items()}
    of_targets = {name: _with_folders(name, given, folder) for name, given in recipe.options.items()}
    models = tuple(_placed(name, folder) for name in recipe.models)
    placed = {"accuracy": accuracy, "model": of_models, "models": models, "options": of_targets}
    timed = {"latency": _with_runner(recipe.latency, folder), "bench": _with_runner(recipe.bench, folder)}
    return recipe.model_copy(update={**placed, **timed})


def _placed(model: str, folder: Path) -> str:
    """A model's name; of a file, its path."""
    return str(folder / model) if model.endswith(FILE) else model


def _with_runner(timing: Timing | None, folder: Path) -> Timing | None:
    """How something is timed, with the path of the runner where it is a program, and no app such as ``app:cpuOnly``."""
    from deploy_kit.benchmarks.runners.choice import APP

    if timing is None or timing.runner is None or timing.runner.partition(":")[0] == APP:
        return timing
    return timing.model_copy(update={"runner": str(folder / timing.runner)})


def _with_folders(target: str, given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A target's options, with the path in those that take one, such as the folder of calibration images."""
    fields = get_exporter(target).options_type.model_fields
    paths = {name for name, field in fields.items() if Path in (field.annotation, *get_args(field.annotation))}
    return {name: str(folder / value) if name in paths and value else value for name, value in given.items()}


def _absolute(options: ModelOptions, folder: Path) -> ModelOptions:
    if options.weights in (None, "timm"):
        return options
    return options.model_copy(update={"weights": str(folder / str(options.weights))})


def model_names(words: tuple[str, ...]) -> list[str]:
    """The models that a recipe names, each once."""
    return list(_model_names(words))


@cache  # which is the smallest of a family takes seconds to say
def _model_names(words: tuple[str, ...]) -> tuple[str, ...]:
    named = {ALL: list_models, SMALLEST: lambda: smallest_models(list_models())}
    return tuple(dict.fromkeys(name for word in words for name in (named[word]() if word in named else [word])))


def installed_targets() -> list[str]:
    """The targets that have all they need here."""
    return [
        name
        for name in list_targets()
        if all(need.found is not None or need.optional for need in get_exporter(name).requirements())
    ]


def target_options(
    target: str, precisions: tuple[Precision, ...], options: Mapping[str, Any]
) -> list[tuple[Precision, dict[str, Any]]]:
    """The precisions of ``precisions`` that a target offers (its default, of none), each with the options for it.

    Raises:
        UserError: an option that the target does not take.
    """
    exporter = get_exporter(target)
    field = exporter.options_type.model_fields.get("precision")
    default = exporter.precision(parse_options(exporter, options))
    if not precisions:
        return [(default, dict(options))]
    if field is None:
        return [(default, dict(options))] if default in precisions else []
    offered = get_args(field.annotation)
    return [(precision, {**options, "precision": precision}) for precision in precisions if precision in offered]
