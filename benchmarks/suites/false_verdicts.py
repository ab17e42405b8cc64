"""How often `deploykit compare` is wrong, by simulation: A against itself, and against what does 5% more work.

    python -m deploy_kit.benchmarks.suites.false_verdicts

Each pair's two times share a slow drift of the machine, and each has noise of its own: normal, with now and then a
disturbance that makes it up to a half slower. The noise is given by its standard deviation relative to the time of an
inference. Pairs are added until the interval is narrow, as ``compare`` does; ``suites.real_verdicts`` runs real ones.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections.abc import Sequence

from deploy_kit.benchmarks.comparison import Verdict, enough, ratio_of
from deploy_kit.cli.console import print_json, print_line, print_table

NOISES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.08)
DISTURBED = 0.05
"""The share of rounds that something disturbs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate and print a table, or one JSON document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, help="none is as many as compare would run")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    rows = []
    for noise in NOISES:
        for slower in (0.0, 0.05):
            found, pairs = shares(noise, slower, chosen.pairs, chosen.trials, chosen.seed)
            verdicts = {str(name): found[name] for name in Verdict}
            rows.append({"noise": noise, "b_is_slower_by": slower, **verdicts, "pairs": pairs})
    if chosen.json:
        print_json({"pairs": chosen.pairs, "trials": chosen.trials, "seed": chosen.seed, "results": rows})
        return 0
    print_line(f"{chosen.trials} comparisons in each row, seed {chosen.seed}")
    print_table(
        "share of verdicts",
        ["noise of a round", "B is slower by", *Verdict, "pairs, mean"],
        [
            (
                *(f"{row['noise']:.1%}", f"{row['b_is_slower_by']:.0%}"),
                *(f"{row[str(verdict)]:.2%}" for verdict in Verdict),
                f"{row['pairs']:.0f}",
            )
            for row in rows
        ],
    )
    return 0


def shares(
    noise: float, slower: float, pairs: int | None, trials: int, seed: int
) -> tuple[dict[Verdict, float], float]:
    """The share of each verdict over simulated comparisons in which B takes ``1 + slower`` times as long as A.

    Args:
        pairs: of each comparison; None is as many as are `enough`.

    Returns:
        The shares, and the mean number of pairs.
    """
    generator = random.Random(json.dumps([seed, noise, slower]))
    counts = dict.fromkeys(Verdict, 0)
    run = 0
    for _ in range(trials):
        ratios: list[float] = []
        while not (enough(ratios) if pairs is None else len(ratios) == pairs):
            ratios.append(_pair(generator, noise, slower))
        counts[ratio_of(ratios).verdict] += 1
        run += len(ratios)
    return {verdict: count / trials for verdict, count in counts.items()}, run / trials


def _pair(generator: random.Random, noise: float, slower: float) -> float:
    """One pair's ratio; a drift of the machine within it is as large as the noise, and its sign is chance."""
    drift = generator.gauss(0, noise)
    a = _round(generator, noise)
    b = (1 + slower) * _round(generator, noise) * math.exp(drift)
    return b / a


def _round(generator: random.Random, noise: float) -> float:
    disturbance = generator.uniform(0, 0.5) if generator.random() < DISTURBED else 0.0
    return math.exp(generator.gauss(0, noise)) + disturbance


if __name__ == "__main__":
    sys.exit(main())
