"""What a file was made from, for those that ask why it fails its proof."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deploy_kit.exporters.base import Exporter, Options
from deploy_kit.graph import Graph
from deploy_kit.sources import LoadedModel


@dataclass(frozen=True)
class Origin:
    """A model, its graph after the ``passes``, the same in the file's precision, and who wrote the file of that.

    In float32 ``fused`` and ``lowered`` are the same graph.
    """

    loaded: LoadedModel
    passes: Sequence[str]
    fused: Graph
    lowered: Graph
    exporter: Exporter
    options: Options
