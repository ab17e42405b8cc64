"""The search for the fastest form of a model on a device: equivalent forms, each proven before it is timed.

A form is the target's policy with some passes turned on or off, and some of its options set otherwise. The search
starts from the policy as it is and tries one change at a time; a form that is proven and faster takes its place.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from deploy_kit.api import artifact_folder, build, expect, fuse, parse_options
from deploy_kit.artifact import Artifact, check_free, workspace
from deploy_kit.benchmarks.timers import Race, Timer, get_timer
from deploy_kit.benchmarks.timing import Ratio, Rounds, speedup
from deploy_kit.disk import explained
from deploy_kit.errors import DeployKitError, ExportError, UserError
from deploy_kit.exporters import get_exporter
from deploy_kit.exporters.base import Exporter, Options
from deploy_kit.fusion import Policy
from deploy_kit.graph import Graph
from deploy_kit.manifest import MANIFEST, UNTRIED, Manifest, RatioRecord, TrialRecord, TuningRecord
from deploy_kit.outcome import Outcome
from deploy_kit.sources import LoadedModel, load_model
from deploy_kit.stages import Stages

WARMUP, ITERATIONS, ROUNDS, MOST_ROUNDS = 5, 15, 3, 7
"""Of a race: inferences in a process, and how many processes decide it: more where the first ones disagree."""

GOOD = (Outcome.OK, Outcome.OK_UNDELEGATED)

UNCHANGED = "changes nothing here"
"""The result of a change that leaves the form as it is."""

HOPED = 1.02
"""How many times faster turning a pass over has made some model, for it to be tried before the target's options."""


@dataclass(frozen=True)
class Form:
    """An equivalent form of a model: the passes that are turned over in its policy, and the options set otherwise."""

    toggled: tuple[str, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()

    def changed(self, change: Change) -> Form:
        """This form with one change more."""
        if change.option is None:
            return replace(self, toggled=(*self.toggled, change.name))
        kept = tuple(item for item in self.options if item[0] != change.name)
        return replace(self, options=(*kept, (change.name, change.option)))

    def policy(self, exporter: Exporter, options: Options) -> Policy:
        """The policy of this form, which has ``options``."""
        policy = exporter.policy(options)
        for name in self.toggled:
            policy = policy.toggled(name)
        return policy

    def given(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of this form, where the user gave ``options``."""
        return {**options, **dict(self.options)}


@dataclass(frozen=True)
class Change:
    """One step of the search: a pass turned over, or an option set to another value."""

    name: str
    description: str
    option: Any = None


@dataclass(frozen=True)
class Built:
    """A form's files, proven, with their manifest."""

    form: Form
    folder: Path
    manifest: Manifest

    @property
    def artifact(self) -> Artifact:
        """What is timed."""
        return Artifact(self.folder, self.manifest)

    @property
    def files(self) -> dict[str, str]:
        """What tells its files from another form's."""
        return {file.path: file.sha256 for file in self.manifest.files}


@explained()
def tune(
    model: str | nn.Module | LoadedModel,
    target: str,
    *,
    device: str = "local",
    budget: float = 120.0,
    out: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    force: bool = False,
    stages: Stages | None = None,
) -> Artifact:
    """Export a model in the fastest form that is found within a budget, proven and measured.

    What was tried is kept beside the artifact until the search has tried everything: the same call goes on with it.

    Args:
        model: a source that `load_model` takes, or what it returned.
        target: a name from `deploy_kit.exporters.list_targets`.
        device: where it is measured, as ``--device`` names it; ``qemu:aarch64`` counts instructions.
        budget: seconds after which no further form is tried.
        out: the folder that gets ``MODEL/TARGET/``; None is ``artifacts``.
        options: of the target, by name.
        force: replace an artifact that is there.
        stages: to time and announce the work; None does so silently.

    Returns:
        The artifact, whose manifest has the whole table in ``tuning``.

    Raises:
        ExportError: the target's own form cannot be exported, or is not proven.
        UserError: what was asked for cannot be, or the device cannot time the target's files.
    """
    if not is_budget(budget):
        raise UserError(f"a budget of {budget:g} s is no time to search in", fix="pass seconds, such as budget=120")
    stages = stages or Stages()
    exporter, timer = get_exporter(target), get_timer(device)
    timer.require(target)
    given = dict(options or {})
    parse_options(exporter, given)
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    folder = artifact_folder(loaded, target, out)
    check_free(folder, force=force)
    with (
        workspace(folder, force=force) as temporary,
        tempfile.TemporaryDirectory(prefix="deploykit-") as scratch,
        timer,
    ):
        notes = Notes(folder.with_name(f"{target}.tuning.json"))
        search = Search(loaded, exporter, given, timer, Path(scratch), stages, notes)
        best, record = search.run(budget)
        shutil.copytree(best.folder, temporary, dirs_exist_ok=True)
        manifest = best.manifest.model_copy(update={"tuning": record})
        (temporary / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    if record.complete:
        notes.forget()
    return Artifact(folder, manifest)


def is_budget(seconds: float) -> bool:
    """Whether something can be tried in so many seconds, and they end."""
    return math.isfinite(seconds) and seconds > 0


class Notes:
    """What a search has found so far, in a file that is replaced whole; of another search than this one it is void."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.fingerprint = ""
        self.trials: list[TrialRecord] = []
        self.conditions: list[str] = []
        """What was not good during earlier searches."""

    def open(self, fingerprint: str) -> None:
        """Read what an earlier search for the same has left."""
        self.fingerprint = fingerprint
        try:
            text = self.file.read_text(encoding="utf-8")
            document = json.loads(text)
            if document["fingerprint"] == fingerprint:
                self.trials = TypeAdapter(list[TrialRecord]).validate_python(document["trials"])
                self.conditions = TypeAdapter(list[str]).validate_python(document["conditions"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            fix = "delete it, and the search starts again"
            raise UserError(f"{str(self.file)!r} cannot be read: {error}", fix=fix) from error

    def known(self, change: str, over: list[str]) -> TrialRecord | None:
        """What an earlier search found of a change of the form that has the changes ``over``."""
        return next((trial for trial in self.trials if trial.change == change and trial.over == over), None)

    def add(self, trial: TrialRecord, conditions: list[str]) -> None:
        """Keep what was found, and what was not good in this search until then."""
        self.trials.append(trial)
        document = {
            "fingerprint": self.fingerprint,
            "trials": [trial.model_dump(mode="json") for trial in self.trials],
            "conditions": [*self.conditions, *conditions],
        }
        temporary = self.file.with_name(f".{self.file.name}.part")
        temporary.write_text(json.dumps(document, indent=1), encoding="utf-8")
        os.replace(temporary, self.file)

    def forget(self) -> None:
        """Remove the file."""
        self.file.unlink(missing_ok=True)


class Search:
    """One search: what is searched for, where it is measured, and the files of the forms that were tried."""

    def __init__(
        self,
        loaded: LoadedModel,
        exporter: Exporter,
        options: Mapping[str, Any],
        timer: Timer,
        scratch: Path,
        stages: Stages,
        notes: Notes,
    ) -> None:
        chosen = parse_options(exporter, options)
        self.dynamic = exporter.dynamic_batch(chosen)
        self.loaded = loaded if self.dynamic else replace(loaded, graph=loaded.capture())  # captured once for all forms
        self.exporter, self.options = exporter, options
        self.timer, self.scratch, self.stages, self.notes = timer, scratch, stages, notes
        self.codes: dict[Form, str] = {}
        self.inputs = tuple(self.loaded.capture().example_inputs)
        self.expected = expect(loaded, exporter, chosen, stages)

    def run(self, budget: float) -> tuple[Built, TuningRecord]:
        """Try one change after the other until all are tried or the budget is spent."""
        start = time.monotonic()
        base = best = self.build(Form(), self.stages)
        if base.manifest.outcome not in GOOD:
            raise ExportError(
                f"the {self.exporter.name} artifact of {self.loaded.name} is {base.manifest.outcome}, and only forms "
                f"that are proven are compared: {'; '.join(base.manifest.proof.failures) or 'nothing here can run it'}",
                fix="export it without --tune, which says more about a proof that fails",
                outcome=base.manifest.outcome,
            )
        self.notes.open(self._fingerprint(base.manifest))
        noise = self._noise(base)
        trials: list[TrialRecord] = []
        changes = list(self._changes())
        for change in changes:
            over = [trial.change for trial in trials if trial.taken]
            trial = self.notes.known(change.description, over)
            if trial is None:
                if time.monotonic() - start >= budget:
                    trials.append(_untried(change, over))
                    continue
                trial, built = self._try(change, best, over, noise)
                self.notes.add(trial, self.timer.conditions)
            else:
                trial, built = self._again(trial, change, best)
            trials.append(trial)
            if built is not None:
                best = built
        taken = [trial.change for trial in trials if trial.taken]
        faster = _record(self._race(base, best)) if taken else None
        if faster is not None and faster.lowest < 1:  # the gains of the single changes did not add up
            best, taken, faster = base, [], None
        record = TuningRecord(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            device=self.timer.spec,
            described=self.timer.description,
            threads=1,
            warmup=WARMUP,
            iterations=ITERATIONS,
            budget_s=budget,
            spent_s=time.monotonic() - start,
            unit=self.timer.unit,
            noise=noise,
            conditions=[*self.notes.conditions, *self.timer.conditions],
            trials=trials,
            complete=all(trial.result != UNTRIED for trial in trials),
            taken=taken,
            faster=faster,
        )
        return best, record

    def build(self, form: Form, stages: Stages) -> Built:
        """Export a form and prove it, whatever comes of it."""
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        options = parse_options(self.exporter, form.given(self.options))
        policy = form.policy(self.exporter, options)
        manifest = build(self.loaded, self.exporter, options, folder, stages, policy, self.expected)
        return Built(form, folder, manifest)

    def _changes(self) -> Iterator[Change]:
        """Every change of the target's own form: passes that gained elsewhere, its options, and the other passes."""
        options = parse_options(self.exporter, self.options)
        policy = self.exporter.policy(options)
        on = set(policy.names)
        promises = {name: _promise(policy, name) for name in policy.optional}
        passes = [
            Change(name, f"{'without' if name in on else 'with'} {name}")
            for name in sorted(promises, key=lambda name: promises[name], reverse=True)
        ]
        yield from (change for change in passes if promises[change.name] >= HOPED)
        for name, values in self.exporter.alternatives(options).items():
            for value in values:
                yield Change(name, f"{name} = {_text(value)}", option=value)
        yield from (change for change in passes if promises[change.name] < HOPED)

    def _again(self, trial: TrialRecord, change: Change, best: Built) -> tuple[TrialRecord, Built | None]:
        """What an earlier search found; where it had taken the change, with its files made and proven again."""
        if not trial.taken:
            return trial, None
        built, problem = self._proven(best.form.changed(change))
        if problem is not None:
            return trial.model_copy(update={"result": f"no longer: {problem}", "taken": False}), None
        return trial, built

    def _proven(self, form: Form) -> tuple[Built | None, str | None]:
        """A form's files, or why it has none that are right."""
        try:
            built = self.build(form, Stages())
        except DeployKitError as error:
            return None, f"cannot be exported: {error}"
        if built.manifest.outcome not in GOOD:
            shutil.rmtree(built.folder)
            return None, f"{built.manifest.outcome}: {'; '.join(built.manifest.proof.failures)}"
        return built, None

    def _try(self, change: Change, best: Built, over: list[str], noise: float) -> tuple[TrialRecord, Built | None]:
        """Build one change of the best form, prove it and time it against the best form; the files if it is faster."""
        with self.stages.stage(f"try {change.description}"):
            trial = TrialRecord(change=change.description, over=over, result="", taken=False)
            form = best.form.changed(change)
            if change.option is None and self._is_same(best.form, form):
                return trial.model_copy(update={"result": UNCHANGED}), None
            built, problem = self._proven(form)
            if built is None:
                return trial.model_copy(update={"result": problem}), None
            if built.files == best.files:
                shutil.rmtree(built.folder)
                return trial.model_copy(update={"result": UNCHANGED}), None
            try:
                ratio = self._race(best, built)
            except DeployKitError as error:
                return trial.model_copy(update={"result": f"cannot be timed: {error}"}), None
            taken = ratio.lowest > 1 and ratio.median >= max(self.timer.least_gain, noise)
            result = "faster" if taken else "slower" if ratio.highest < 1 else "no clear difference"
            update = {
                "result": result,
                "taken": taken,
                "faster": _record(ratio),
                "noise_ratio": built.manifest.proof.noise_ratio,
            }
            if not taken:
                shutil.rmtree(built.folder)
            return trial.model_copy(update=update), built if taken else None

    def _is_same(self, one: Form, other: Form) -> bool:
        """Whether two forms are one graph; a form that cannot be fused is another, and its export will say why."""
        try:
            return self._code(one) == self._code(other)
        except DeployKitError:
            return False

    def _code(self, form: Form) -> str:
        """What tells a form's graph from another's."""
        if form not in self.codes:
            given = form.given(self.options)
            policy = form.policy(self.exporter, parse_options(self.exporter, given))
            self.codes[form] = fuse(self.loaded, self.exporter.name, given, policy=policy).after.module.code
        return self.codes[form]

    def _race(self, first: Built, second: Built) -> Ratio:
        """How many times faster the second is than the first; more processes where the first ones disagree."""
        rounds: Rounds = []
        for processes in (ROUNDS, MOST_ROUNDS - ROUNDS):
            artifacts = {"first": first.artifact, "second": second.artifact}
            rounds = [
                *rounds,
                *self.timer.time(
                    self.exporter.name,
                    artifacts,
                    self.inputs,
                    Race(processes, WARMUP, ITERATIONS),
                ),
            ]
            ratio = speedup(rounds, "second", "first")
            if not ratio.lowest <= 1 <= ratio.highest:
                break
        return ratio

    def _noise(self, base: Built) -> float:
        """How many times faster a form may seem than itself, in any process."""
        known = self.notes.known("nothing: the noise of the device", [])
        if known is None:
            with self.stages.stage("measure the noise of the device"):
                copy = self.scratch / "copy"
                shutil.copytree(base.folder, copy)
                ratio = self._race(base, replace(base, folder=copy))
            known = TrialRecord(
                change="nothing: the noise of the device", over=[], result="", taken=False, faster=_record(ratio)
            )
            self.notes.add(known, self.timer.conditions)
        assert known.faster is not None
        return max(known.faster.highest, 1 / known.faster.lowest)

    def _fingerprint(self, manifest: Manifest) -> str:
        """What a search depends on: the model, its graph, the options, the policy, the versions and the device."""
        depends = {
            "model": manifest.model.model_dump(mode="json"),
            "graph": _hash_graph(self.loaded.capture(dynamic_batch=self.dynamic)),
            "target": manifest.target,
            "options": manifest.options,
            "passes": manifest.fusion.passes,
            "calibration": manifest.details.get("calibration"),
            "toolchain": manifest.toolchain,
            "device": [self.timer.spec, self.timer.description],
            "changes": [change.description for change in self._changes()],
        }
        return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()


def _promise(policy: Policy, name: str) -> float:
    """How many times faster turning a pass over has made other models, at the best."""
    choice = next(choice for choice in policy.passes if choice.name == name)
    gains = [1 / found.faster if choice.on else found.faster for found in choice.measured]
    return max(gains, default=0.0 if choice.on else 1.0)


def _hash_graph(graph: Graph) -> str:
    """The sha256 of a graph's code and constants: a model's code may change while its name and weights do not."""
    digest = hashlib.sha256(graph.module.code.encode())
    for node in graph.nodes:
        value = graph.constant(node)
        if value is not None:
            digest.update(f"{node.target} {value.dtype} {list(value.shape)}\n".encode())
            digest.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _text(value: object) -> str:
    """An option's value in words."""
    return ", ".join(map(str, value)) or "nothing" if isinstance(value, tuple) else str(value)


def _untried(change: Change, over: list[str]) -> TrialRecord:
    return TrialRecord(change=change.description, over=over, result=UNTRIED, taken=False)


def _record(ratio: Ratio) -> RatioRecord:
    return RatioRecord(median=ratio.median, lowest=ratio.lowest, highest=ratio.highest)
