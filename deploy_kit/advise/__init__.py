"""What other activations, norms, stems and attention would save: variants of a model, each measured on a device."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from deploy_kit.advise.activations import activation_variants
from deploy_kit.advise.attention import attention_variants
from deploy_kit.advise.normalisation import normalisation_variants
from deploy_kit.advise.stem import stem_variants
from deploy_kit.advise.variant import Effect, Variant
from deploy_kit.api import export
from deploy_kit.benchmarks.timers import Race, Timer, get_timer
from deploy_kit.benchmarks.timing import Ratio, Timing, speedup, summarise
from deploy_kit.disk import explained
from deploy_kit.errors import DeployKitError, UserError
from deploy_kit.exporters import get_exporter
from deploy_kit.sources import LoadedModel, load_model, with_graph
from deploy_kit.stages import Stages

AS_IT_IS = "as it is"
RACE = Race(processes=3, warmup=5, iterations=15)


@dataclass(frozen=True)
class Advice:
    """What a variant costs on a device, beside the model as it is.

    ``places`` is at how many places the model was changed. ``saved_ms`` is of the medians, negative where the variant
    is slower. What was not measured is None, and ``problem`` says why.
    """

    target: str
    group: str
    variant: str
    effect: Effect
    places: int
    timing: Timing | None
    faster: Ratio | None
    saved_ms: float | None
    problem: str | None = None

    @property
    def clear(self) -> bool:
        """Whether every process says the same: faster, or slower."""
        return self.faster is not None and not self.faster.lowest <= 1 <= self.faster.highest


@dataclass(frozen=True)
class Report:
    """What was measured of one model on one device: the model itself by target, and its variants.

    ``failed`` has the targets that the model as it is could not be measured with, and why; ``conditions`` are what was
    not good on the device meanwhile.
    """

    model: str
    device: str
    described: str
    threads: int
    as_it_is: dict[str, Timing]
    advice: list[Advice]
    failed: dict[str, str]
    conditions: list[str]


def all_variants() -> list[Variant]:
    """Every variant that is measured of a model which has what it changes."""
    return [*activation_variants(), *normalisation_variants(), *stem_variants(), *attention_variants()]


@explained()
def advise(
    model: str | nn.Module | LoadedModel,
    targets: Sequence[str] | None = None,
    *,
    device: str = "local",
    options: Mapping[str, Any] | None = None,
    stages: Stages | None = None,
) -> Report:
    """Measure what variants of a model would save on a device.

    Each variant is exported and proven like a model of its own; all of a target are timed in turn.

    Args:
        model: a source that `load_model` takes, or what it returned.
        targets: to measure with; None is every target that the device times and that is installed here.
        device: where it is measured, as ``--device`` names it.
        options: of the targets, by name.
        stages: to time and announce the work; None does so silently.

    Raises:
        UserError: an unknown name, or a target that the device cannot time.
        DeployKitError: the model as it is cannot be measured with any of the targets.
    """
    stages = stages or Stages()
    timer = get_timer(device)
    if timer.unit != "seconds":
        raise UserError(f"{timer.spec} has no times to give advice on", fix="name a real device, or local")
    for target in targets or ():
        timer.require(target)
    names = list(dict.fromkeys(targets)) if targets else installed(timer)
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    with timer:
        return _advise(loaded, names, timer, options or {}, stages)


def _advise(
    loaded: LoadedModel, names: Sequence[str], timer: Timer, options: Mapping[str, Any], stages: Stages
) -> Report:
    found: dict[str, Timing] = {}
    advice: list[Advice] = []
    failed: dict[str, str] = {}
    for target in names:
        try:
            with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
                found[target], variants = _measure(loaded, target, timer, options, Path(scratch), stages)
            advice += variants
        except DeployKitError as error:
            failed[target] = str(error)
            if len(failed) == len(names):
                raise
    return Report(loaded.name, timer.spec, timer.description, 1, found, advice, failed, timer.conditions)


def installed(timer: Timer) -> list[str]:
    """The targets that a timer times and that have all they need here; `UserError` where there is none."""
    names = []
    for name in timer.targets:
        try:
            needs = get_exporter(name).requirements()
        except UserError:
            continue
        if all(need.found is not None or need.optional for need in needs):
            names.append(name)
    if not names:
        raise UserError(f"nothing here can be timed on {timer.spec}", fix="see what is missing: deploykit doctor")
    return names


def _measure(
    loaded: LoadedModel, target: str, timer: Timer, options: Mapping[str, Any], folder: Path, stages: Stages
) -> tuple[Timing, list[Advice]]:
    with stages.stage(f"{target}: export the model as it is"):
        own = export(loaded, target, out=folder / "own", options=options)
    artifacts = {AS_IT_IS: own}
    tried: list[tuple[Variant, int, str | None]] = []
    for variant in all_variants():
        graph = loaded.capture()
        places = variant.edit(graph)
        if not places:
            continue
        graph.clean()
        with stages.stage(f"{target}: export it with {variant.name}"):
            try:
                changed = export(with_graph(loaded, graph), target, out=folder / str(len(tried)), options=options)
            except DeployKitError as error:
                tried.append((variant, places, str(error)))
                continue
        artifacts[variant.name] = changed
        tried.append((variant, places, None))
    with stages.stage(f"{target}: time them in turn"):
        inputs = tuple(loaded.capture().example_inputs)
        rounds = timer.time(target, artifacts, inputs, RACE)
    timing = summarise(rounds, AS_IT_IS)
    advice = []
    for variant, places, problem in tried:
        of = None if problem else summarise(rounds, variant.name)
        faster = None if problem else speedup(rounds, variant.name, AS_IT_IS)
        saved = None if of is None else timing.median_ms - of.median_ms
        advice.append(Advice(target, variant.group, variant.name, variant.effect, places, of, faster, saved, problem))
    return timing, advice
