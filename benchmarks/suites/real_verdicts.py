"""What `deploykit compare` says on this machine of A against itself, and against a runner that does 5% more work.

    python -m deploy_kit.benchmarks.suites.real_verdicts [--comparisons 6]

`suites.false_verdicts` simulates many more comparisons than can be run; this shows that the machine is as it assumes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deploy_kit.api import export
from deploy_kit.benchmarks.comparison import Comparison, Verdict, compare, pair_ratios
from deploy_kit.benchmarks.protocol import Protocol
from deploy_kit.benchmarks.runners.local import local_runner
from deploy_kit.benchmarks.runners.program import Program
from deploy_kit.benchmarks.timing import machine
from deploy_kit.cli.console import print_json, print_line, print_table
from deploy_kit.devices.local import Local

SLOWER = Path(__file__).with_name("slower_runner.py")
TARGET = "onnx"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and print a table, or one JSON document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="mobilenet_v3_small")
    parser.add_argument("--comparisons", type=int, default=6)
    parser.add_argument("--pairs", type=int, help="none is as many as compare runs by itself")
    parser.add_argument("--share", type=float, default=0.05, help="of an inference that the slower runner works on")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    runner = local_runner(TARGET, 1)
    contestants = {"itself": runner, f"{chosen.share:.0%} more work": slower(runner, chosen.share)}
    found: dict[str, list[Comparison]] = {name: [] for name in contestants}
    with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
        artifact = export(chosen.model, TARGET, out=folder)
        for number in range(chosen.comparisons):
            for name, other in contestants.items():
                done = compare(
                    (artifact, artifact), (runner, other), Local(), Protocol(), chosen.pairs, command="", check=False
                )
                found[name].append(done)
                shown = f"{done.ratio.estimate:.4f} ({done.ratio.low:.4f} to {done.ratio.high:.4f})"
                print_line(f"{number + 1}: A against {name}: {shown}, {len(done.pairs)} pairs: {done.verdict}")
    rows = [row(name, comparisons) for name, comparisons in found.items()]
    if chosen.json:
        print_json({"machine": machine(), "results": rows})
        return 0
    print_line(f"{machine()}; {chosen.model}, {TARGET}; pairs of {Protocol().iterations} inferences")
    print_table(
        "verdicts of A against",
        ["B", *Verdict, "ratios", "noise of a pair", "pairs"],
        [
            [each["b"], *(each[verdict] for verdict in Verdict), each["ratios"], each["noise"], each["pairs"]]
            for each in rows
        ],
    )
    return 0


def slower(runner: Program, share: float) -> Program:
    """The runner with more work in every inference."""
    program, *options = runner.command[-3:]
    assert program.endswith("python_runner.py")
    words = (*runner.command[:-3], str(SLOWER), "--share", str(share), *options)
    return replace(runner, name=f"{runner.name}, {share:.0%} slower", command=words)


def row(name: str, comparisons: Sequence[Comparison]) -> dict[str, object]:
    """The verdicts on a contestant, its ratios, and how much the ratios of single pairs scatter."""
    counts = Counter(each.verdict for each in comparisons)
    ratios = sorted(each.ratio.estimate for each in comparisons)
    noise = statistics.median(statistics.stdev(pair_ratios(each.pairs)) for each in comparisons)
    shown = f"{ratios[0]:.3f} to {ratios[-1]:.3f}"
    pairs = [len(each.pairs) for each in comparisons]
    verdicts = {str(verdict): counts[verdict] for verdict in Verdict}
    ran = f"{min(pairs)} to {max(pairs)}"
    return {"b": name, **verdicts, "ratios": shown, "noise": f"{noise:.1%}", "pairs": ran}


if __name__ == "__main__":
    sys.exit(main())
