"""``deploykit fuse``."""

from __future__ import annotations

from collections import Counter

from deploy_kit.cli.console import print_json, print_table, show_stages
from deploy_kit.cli.parameters import Activation, Classes, InputSize, Json, Model, Seed, Target, Weights


def command(
    model: Model,
    target: Target,
    weights: Weights = None,
    activation: Activation = None,
    num_classes: Classes = None,
    input_size: InputSize = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Show what fusion would rewrite in MODEL for a target, and what that does to its cost. Writes nothing."""
    from deploy_kit.api import fuse
    from deploy_kit.sources import load_model

    with show_stages() as stages:
        with stages.stage(f"load {model}"):
            loaded = load_model(
                model, weights=weights, input_size=input_size, activation=activation, num_classes=num_classes, seed=seed
            )
        record = fuse(loaded, target, stages=stages).record
    if json:
        print_json(record)
        return
    rewrites = Counter((rewrite.pass_name, rewrite.module, rewrite.detail) for rewrite in record.rewrites)
    print_table(
        f"{loaded.name} for {target}: {len(record.rewrites)} rewrites",
        ["pass", "module", "rewrite"],
        [(name, module or "(the model)", detail) for name, module, detail in rewrites],
    )
    before, after = record.before, record.after
    print_table(
        "cost",
        ["", "before", "after"],
        [
            ("operators", before.operator_count, after.operator_count),
            ("layout operators", before.layout_operators, after.layout_operators),
            ("largest tensor rank", before.largest_rank, after.largest_rank),
            ("parameters", f"{before.parameters:,}", f"{after.parameters:,}"),
            ("MACs", *(None if cost.macs is None else f"{cost.macs:,}" for cost in (before, after))),
        ],
    )
    names = sorted({*before.operators, *after.operators}, key=lambda name: -before.operators.get(name, 0))
    print_table(
        "operators",
        ["operator", "before", "after"],
        [(name, before.operators.get(name, 0), after.operators.get(name, 0)) for name in names],
    )
