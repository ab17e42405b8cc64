"""Order images channels-last in memory once, where they enter."""

from __future__ import annotations

import torch
from torch import fx

from deploy_kit.fusion.linear_ops import CONVOLUTIONS
from deploy_kit.graph import Graph, aten, is_call


def channels_last_input(graph: Graph) -> list[tuple[fx.Node, str]]:
    """contiguous(x, channels_last) = x: the same values in another order in memory.

    Convolutions keep the order of their input, so one copy at the entry saves one around each of
    them. Applied to inputs of rank 4 that a convolution reads.
    """
    changes = []
    for placeholder in [node for node in graph.nodes if node.op == "placeholder"]:
        users = [user for user in placeholder.users if is_call(user, *CONVOLUTIONS)]
        if placeholder.meta["val"].dim() != 4 or not users:
            continue
        ordered = graph.call(
            aten.contiguous.default, placeholder, before=placeholder.next, memory_format=torch.channels_last
        )
        for user in users:
            user.replace_input_with(placeholder, ordered)
        changes.append((users[0], "input ordered channels-last"))
    return changes
