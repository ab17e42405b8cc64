"""Whether a cell takes longer than the baseline's artifact did: both are run in turn, here and now.

A time of another day or machine is nothing to compare with. So the baseline's artifacts, and the program that timed
them where that is the user's own, are kept in a folder by their content; a baseline names them by their sha256.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from deploy_kit.artifact import Artifact, open_artifact
from deploy_kit.benchmarks.comparison import Comparison, Ratio, Verdict, compare
from deploy_kit.benchmarks.protocol import protocol_of
from deploy_kit.benchmarks.runners.base import Runner
from deploy_kit.benchmarks.runners.choice import choose_runner, targets_of
from deploy_kit.benchmarks.runners.program import Program
from deploy_kit.benchmarks.summary import summarise
from deploy_kit.cells.recipe import Latency
from deploy_kit.check.baseline import UPDATE, Baseline, Known, artifact_sha256
from deploy_kit.check.cache import size_of
from deploy_kit.check.compare import ACCEPT
from deploy_kit.check.findings import Checked, Finding, Kind, Level
from deploy_kit.devices.base import Device
from deploy_kit.devices.registry import get_device
from deploy_kit.disk import locked
from deploy_kit.errors import DeployKitError, UserError
from deploy_kit.manifest import MANIFEST, read_manifest

PROGRAM = "program, sha256 "
"""How the identity of a runner begins that is a program of the user's."""

LEFT_S = 3600.0
"""Seconds after which a copy that is not whole is of a killed run."""

MOST_NOTES = 4
"""Of the conditions of a comparison, as many are told: a busy machine has one a round."""


class BaselineFiles:
    """A folder of artifacts and programs, each under the sha256 of its content; several processes may use it at once.

    What is in it is whole or absent, and is checked when it is taken out: what was damaged is not there.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._held: ExitStack | None = None

    @contextmanager
    def holding(self) -> Iterator[None]:
        """What is taken out in the body stays until its end, whoever trims the folder."""
        with ExitStack() as self._held:
            try:
                yield
            finally:
                held, self._held = self._held, None
                held.close()

    def keep_artifact(self, folder: Path) -> str:
        """Keep a copy of an artifact; returns its sha256, as `artifact_sha256` has it."""
        sha256 = artifact_sha256(folder)
        if self.artifact(sha256) is None:
            self._put(sha256, lambda place: shutil.copytree(folder, place, dirs_exist_ok=True))
        return sha256

    def keep_stand_in(self, folder: Path, key: str) -> None:
        """Keep a copy of an artifact that was made of what has a key, where its content is not that which is named."""
        if self.stand_in(key) is None:
            self._put(_place_of(key), lambda place: shutil.copytree(folder, place, dirs_exist_ok=True))

    def stand_in(self, key: str) -> Artifact | None:
        """The artifact that was kept as one made of what has this key; None where there is none."""
        return self._opened(_place_of(key))

    def keep_program(self, program: Path) -> str:
        """Keep a copy of a program; returns its sha256."""
        sha256 = _file_sha256(program)
        if self.program(sha256) is None:
            self._put(sha256, lambda place: shutil.copy2(program, place / program.name))
        return sha256

    def artifact(self, sha256: str | None) -> Artifact | None:
        """The artifact with this content; None where it is not there, or is no longer what it was."""
        return self._opened(sha256, sha256)

    def has(self, name: str | None) -> bool:
        """Whether something is there, by the sizes of an artifact's files: none is read. It counts as used."""
        place = self._place(name)
        try:
            if place is None or not any(place.iterdir()):
                return False
            files = read_manifest(place).files if (place / MANIFEST).is_file() else []
            whole = all((place / file.path).stat().st_size == file.bytes for file in files)
        except (OSError, UserError):
            return False
        _used(place)
        return whole

    def _opened(self, name: str | None, sha256: str | None = None) -> Artifact | None:
        place = self._taken(name)
        try:
            if place is None or (sha256 is not None and artifact_sha256(place) != sha256):
                return None
            found = open_artifact(place)
        except UserError:
            return None
        _used(place)
        return found

    def program(self, sha256: str | None) -> Path | None:
        """The program with this content; None where it is not there, or is no longer what it was."""
        place = self._taken(sha256)
        if place is None:
            return None
        files = list(place.iterdir())
        if len(files) != 1 or not files[0].is_file() or _file_sha256(files[0]) != sha256:
            return None
        _used(place)
        return files[0]

    def trim(self, limit_bytes: int, needed: Collection[str] = ()) -> int:
        """Remove what was used longest ago until the rest has at most so many bytes, and what killed runs have left.

        What is ``needed`` stays, and what others have in `holding`.

        Returns:
            The bytes that the rest has.
        """
        for scratch in self.folder.glob(".*"):
            if time.time() - _last_use(scratch) > LEFT_S:
                shutil.rmtree(scratch, ignore_errors=True)
        places = [place for place in self.folder.glob("*") if self._place(place.name) and place.is_dir()]
        sizes = {place: size_of(place) for place in places}
        left = sum(sizes.values())
        for place in sorted(places, key=_last_use):
            if left <= limit_bytes:
                break
            if place.name not in needed and _removed(place):
                left -= sizes[place]
        return left

    def _taken(self, sha256: str | None) -> Path | None:
        """Where something is, which stays there while `holding`; None where it is not, or is being removed."""
        place = self._place(sha256)
        if place is None:
            return None
        with ExitStack() as stack:
            if not stack.enter_context(locked(place, shared=True)):
                return None
            if self._held is not None:
                self._held.push(stack.pop_all())
        return place

    def _place(self, sha256: str | None) -> Path | None:
        return self.folder / sha256 if sha256 and re.fullmatch(r"[0-9a-f]{64}", sha256) else None

    def _put(self, sha256: str, fill: Callable[[Path], object]) -> None:
        place = self.folder / sha256
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{sha256[:16]}-", dir=self.folder) as scratch:
                new = Path(scratch) / "new"
                new.mkdir()
                fill(new)
                if place.exists():  # it is damaged, or it would not be put again
                    os.rename(place, Path(scratch) / "damaged")
                try:
                    os.rename(new, place)
                except OSError:
                    if not place.is_dir():  # another process was first
                        raise
        except OSError as error:
            raise DeployKitError(
                f"the baseline's files cannot be kept in {str(self.folder)!r}: {error.strerror or error}",
                fix="free some space, or name another folder",
            ) from error


def _place_of(key: str) -> str:
    """The name of what was made of what has a key."""
    return hashlib.sha256(f"made of {key}".encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _used(place: Path) -> None:
    with suppress(OSError):  # a folder that may only be read
        os.utime(place)


def _last_use(place: Path) -> float:
    try:
        return place.stat().st_mtime
    except OSError:
        return 0.0


def _removed(place: Path) -> bool:
    """Remove what nobody has in `BaselineFiles.holding`; whether it is gone."""
    with locked(place) as lock:
        if lock:
            shutil.rmtree(place, ignore_errors=True)
    return not place.exists()


def needed(baseline: Baseline | None) -> set[str]:
    """What the cells of a baseline are timed against, and by: the names of artifacts and of programs of the user's."""
    cells = [] if baseline is None else list(baseline.cells.values())
    programs = {known.runner.removeprefix(PROGRAM) for known in cells if known.runner}
    stand_ins = {_place_of(known.key) for known in cells}
    return {known.sha256 for known in cells if known.sha256} | programs | stand_ins


def keep(cells: Sequence[Checked], latency: Latency, files: BaselineFiles) -> dict[str, str]:
    """Keep what later checks time against: the artifacts of the cells that work, and the user's own runner.

    Returns:
        What times each cell, as `Known.runner` has it, by the cells' ids; a cell that the device does not run has none.

    Raises:
        DeployKitError: the device is not there, there is no such runner, or the files cannot be kept.
    """
    found = {}
    device = get_device(latency.device)
    runnable = targets_of(device, latency.runner)
    identities: dict[str, str] = {}
    for checked in cells:
        cell = checked.result.cell
        if not checked.result.works or checked.artifact is None or cell.target not in runnable:
            continue
        if cell.target not in identities:
            runner = choose_runner(device, cell.target, latency.threads, latency.runner)
            identities[cell.target] = identity(runner, latency.runner)
            program = own_program(runner, latency.runner)
            if program is not None:
                files.keep_program(program)
        files.keep_artifact(checked.artifact)
        found[cell.id] = identities[cell.target]
    return found


def own_program(runner: Runner, wanted: str | None) -> Path | None:
    """The user's own program, where that is what times."""
    return runner.files[0] if wanted is not None and type(runner) is Program and runner.files else None


def identity(runner: Runner, wanted: str | None = None) -> str:
    """What tells a runner from others: the sha256 of the user's program, or the versions of the runtime."""
    program = own_program(runner, wanted)
    if program is not None:
        return f"{PROGRAM}{_file_sha256(program)}"
    version = runner.version if isinstance(runner, Program) else ""
    digests = "".join(_file_sha256(file) for file in runner.files)
    built = f"files, sha256 {hashlib.sha256(digests.encode()).hexdigest()}" if digests else ""
    return "; ".join(part for part in (runner.name, version, built) if part)


@dataclass(frozen=True)
class Timing:
    """What came of timing a cell; ``ratio`` is None where nothing was timed."""

    ratio: Ratio | None = None
    findings: list[Finding] = field(default_factory=list)


def time_against(
    known: Known | None, checked: Checked, latency: Latency, files: BaselineFiles, *, command: str = ""
) -> Timing:
    """Time a cell against the baseline's artifact, each by its own runner; a cell that has not changed is not timed.

    Of a cell that has not changed the artifact is kept, and so is the runner: later checks time against them, also
    where the baseline was written on another machine.

    The verdict is that of `deploykit compare`. A slower one is an error where a second comparison says it too: one in
    a hundred shows a difference that is none, and a check may have hundreds of cells. The outputs are not compared: the
    artifact is proven.

    Args:
        known: what is expected of the cell.
        command: what repeats the check; it is kept.
    """
    if known is None or not known.works or checked.artifact is None:
        return Timing()
    cell = checked.result.cell.id
    try:
        with files.holding():
            return _timing(known, checked, checked.artifact, latency, files, command)
    except DeployKitError as error:
        return _not_compared(cell, f"its latency could not be compared: {error}", error.fix)


def _timing(
    known: Known, checked: Checked, folder: Path, latency: Latency, files: BaselineFiles, command: str
) -> Timing:
    cell, target = checked.result.cell.id, checked.result.cell.target
    device = get_device(latency.device)
    same = known.key == checked.key or known.sha256 == artifact_sha256(folder)
    if target not in targets_of(device, latency.runner):
        text = f"its latency is not compared: {device.spec} does not run {target}"
        return Timing() if same else _not_compared(cell, text, "", Level.NOTE)
    runner = choose_runner(device, target, latency.threads, latency.runner)
    now = identity(runner, latency.runner)
    _keep_expected(known, now, runner, latency, files)
    if same and known.runner is not None:
        _keep_unchanged(known, folder, files)
    if same and known.runner == now:
        return Timing()
    if known.runner is None:
        text = "its latency could not be compared: the baseline was written without timing it"
        return _not_compared(cell, text, f"write it again: {UPDATE}")
    artifact = open_artifact(folder)
    former, conditions = runner, []
    before = artifact if same else files.artifact(known.sha256)
    if before is None:
        before = files.stand_in(known.key)
        conditions.append(
            "the baseline's artifact is not here, and another one stands for it that was made of the same"
        )
    if before is None:
        return _missing(cell, "artifact", known.sha256, files)
    if known.runner.startswith(PROGRAM) and known.runner != now:
        own = known.runner.removeprefix(PROGRAM)
        program = files.program(own)
        if program is None:
            return _missing(cell, "runner", own, files)
        former = choose_runner(device, target, latency.threads, str(program))
    elif known.runner != now:
        changed = f"the runner was {known.runner!r}, which is not here, and is {now!r}"
        if same:
            text = f"its latency could not be compared: {changed}, and the artifact is the same"
            return _not_compared(cell, text, f"accept the new runner: {UPDATE}")
        conditions.append(f"{changed}: it timed both")
    return _verdict(cell, (before, artifact), (former, runner), device, latency, command, conditions)


def _keep_expected(known: Known, now: str, runner: Runner, latency: Latency, files: BaselineFiles) -> None:
    """Keep the user's own program, where it is the one that the baseline names."""
    program = own_program(runner, latency.runner)
    if program is not None and known.runner == now and not files.has(now.removeprefix(PROGRAM)):
        files.keep_program(program)


def _keep_unchanged(known: Known, folder: Path, files: BaselineFiles) -> None:
    """Keep the artifact that the baseline names, or else one that was made of the same as that."""
    if files.has(known.sha256):
        return
    if artifact_sha256(folder) == known.sha256:
        files.keep_artifact(folder)
    elif not files.has(_place_of(known.key)):
        files.keep_stand_in(folder, known.key)


def _not_compared(cell: str, text: str, fix: str, level: Level = Level.WARNING) -> Timing:
    return Timing(None, [Finding(kind=Kind.NOT_COMPARED, level=level, cell=cell, message=text, fix=fix)])


def _missing(cell: str, what: str, sha256: str | None, files: BaselineFiles) -> Timing:
    text = (
        f"its latency could not be compared: the baseline's {what} ({sha256}) is not in {str(files.folder)!r}, "
        "or is damaged"
    )
    fix = (
        "check what the baseline expects here first, as on the main branch, which keeps it in that folder; "
        f"or write both: {UPDATE}"
    )
    return _not_compared(cell, text, fix)


def _verdict(
    cell: str,
    artifacts: tuple[Artifact, Artifact],
    runners: tuple[Runner, Runner],
    device: Device,
    latency: Latency,
    command: str,
    conditions: Sequence[str],
) -> Timing:
    protocol = protocol_of(
        warmup=latency.warmup, iterations=latency.iterations, threads=latency.threads, cores=latency.cores
    )

    def run() -> Comparison:
        return compare(artifacts, runners, device, protocol, latency.pairs, command=command, check=False)

    first = run()
    found = run() if first.verdict == Verdict.SLOWER else first
    notes = [*conditions, *found.notes]
    if first.verdict == Verdict.SLOWER and found.verdict != Verdict.SLOWER:
        notes.insert(0, f"a first comparison said slower ({_told(first)}), and a second did not")
    if found.verdict == Verdict.NOT_SHOWN and not notes:
        return Timing(found.ratio)
    before, after = (summarise([pair[index].result.samples_ns for pair in found.pairs]).p50_ms for index in (0, 1))
    text = f"an inference takes {_told(found)}: {after:.3f} ms, and {before:.3f} ms before; {found.verdict}"
    if notes:
        more = f"; and {len(notes) - MOST_NOTES} more such notes" if len(notes) > MOST_NOTES else ""
        text += f"; {'; '.join(notes[:MOST_NOTES])}{more}"
    level, fix = {
        Verdict.SLOWER: (Level.ERROR, f"see `deploykit profile`; {ACCEPT}"),
        Verdict.FASTER: (Level.NOTE, UPDATE),
        Verdict.NOT_SHOWN: (Level.NOTE, ""),
    }[found.verdict]
    finding = Finding(kind=Kind.LATENCY, level=level, cell=cell, message=text, before=before, after=after, fix=fix)
    return Timing(found.ratio, [finding])


def _told(found: Comparison) -> str:
    ratio = found.ratio
    return (
        f"{ratio.estimate:.3f} times as long as the baseline's ({ratio.low:.3f} to {ratio.high:.3f} at "
        f"{ratio.confidence:.1%} confidence, {len(found.pairs)} pairs on {found.device.spec})"
    )
