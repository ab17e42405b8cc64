from __future__ import annotations

from collections.abc import Callable

import pytest

from deploy_kit.models import create_model
from tests.cli.support import Ended

Command = Callable[..., Ended]


def test_lists_what_is_counted_and_what_is_published(deploykit: Command) -> None:
    rows = {row["name"]: row for row in deploykit("models", "--json").json}
    edgevit, flatformer = rows["edgevit_xxs"], rows["flatformer"]
    assert edgevit["parameters"] == sum(p.numel() for p in create_model("edgevit_xxs").parameters())
    assert (edgevit["macs"], edgevit["published_macs"]) == (551_262_816, 0.6e9)
    assert edgevit["macs_note"] == "the published figure is rounded"
    assert edgevit["published_latency"]["source"] == edgevit["paper"] == "https://arxiv.org/abs/2205.03436"
    assert (flatformer["input_size"], flatformer["macs"]) == ("9216 pillars", 12_381_585_408)
    assert flatformer["published_macs"] is None


def test_its_table_has_every_name_whole_and_where_latencies_stand(
    deploykit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS")
    rows, table = deploykit("models", "--json").json, deploykit("models").out
    assert {line.split()[0] for line in table.splitlines() if line.strip()} >= {row["name"] for row in rows}
    words = " ".join(table.split())
    for word in ("4,067,704", "0.5513 G", "top-1 74.4%", "32.8 ms", "(paper)", "arXiv:2205.03436"):
        assert word in words
