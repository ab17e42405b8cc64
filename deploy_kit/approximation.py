"""Approximations, which a user consents to by name: how far they are from the model is measured, and recorded."""

from __future__ import annotations

from dataclasses import replace

from deploy_kit.errors import UserError, unknown_name
from deploy_kit.fusion import APPROXIMATIONS
from deploy_kit.manifest import ApproximationRecord
from deploy_kit.parity.compare import compare
from deploy_kit.parity.inputs import make_cases
from deploy_kit.parity.reference import Reference, compute_references
from deploy_kit.sources import LoadedModel, with_graph


def approximate(loaded: LoadedModel, name: str) -> LoadedModel:
    """The model that computes ``name`` of `APPROXIMATIONS` in the place of what it approximates.

    Everything after is proven against that. The record says how far it is from the model as it was, in float64, on
    the inputs that proofs are made on.

    Raises:
        UserError: an unknown name, or one that the model has nothing for.
    """
    if name not in APPROXIMATIONS:
        raise unknown_name("approximation", name, APPROXIMATIONS)
    graph = loaded.capture()
    places = len(APPROXIMATIONS[name].run(graph))
    if not places:
        raise UserError(f"{loaded.name} has nothing that {name} approximates", fix="leave it out")
    approximated = with_graph(loaded, graph)
    cases = make_cases(loaded.input_shapes, loaded.preprocessing, own=loaded.draw)
    before, after = (compute_references(model.module, cases) for model in (loaded, approximated))
    found = [
        compare(case.name, case.kind, new.exact, Reference(old.exact, old.eager))
        for case, old, new in zip(cases, before, after)
    ]
    agreements = [comparison.top1_agrees for comparison in found if comparison.top1_agrees is not None]
    record = ApproximationRecord(
        name=name,
        places=places,
        max_relative_error=max(comparison.max_relative_error or 0.0 for comparison in found),
        snr_db=min(comparison.snr_db or 0.0 for comparison in found),
        top1_agreement=sum(agreements) / len(agreements) if agreements else None,
    )
    return replace(approximated, record=loaded.record.model_copy(update={"approximation": record}))
