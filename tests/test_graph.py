from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from deploy_kit.capture import capture
from deploy_kit.graph import (
    Graph,
    argument,
    aten,
    is_call,
    is_getitem,
    is_view,
    module_path,
    only_user,
    rank,
    set_argument,
    shape,
    source_line,
)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.register_buffer("offset", torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x) + self.offset  # the line that source_line finds
        first, _ = y.chunk(2, 1)
        return first.flatten(1) * 2


@pytest.fixture
def graph() -> Graph:
    torch.manual_seed(0)
    return capture(Model(), (torch.randn(2, 3, 5, 5),))


def only(graph: Graph, op: object) -> fx.Node:
    (node,) = graph.calls(op)
    return node


def test_calls_lists_the_calls_of_some_operators(graph: Graph) -> None:
    found = list(graph.calls(aten.relu.default, aten.conv2d.default))
    assert [node.target for node in found] == [aten.conv2d.default, aten.relu.default]


def test_every_tensor_has_a_shape(graph: Graph) -> None:
    assert shape(only(graph, aten.conv2d.default)) == (2, 4, 5, 5)
    assert rank(only(graph, aten.flatten.using_ints)) == 2
    assert all("val" in node.meta for node in graph.nodes if node.op != "output")


def test_constants_are_read_from_their_nodes(graph: Graph) -> None:
    conv = only(graph, aten.conv2d.default)
    weight = graph.constant(argument(conv, "weight"))
    assert weight is not None
    assert weight.shape == (4, 3, 3, 3)
    assert not weight.requires_grad
    assert graph.constant(conv) is None
    assert graph.constant(None) is None
    assert graph.constant(3) is None


def test_a_new_constant_gets_a_free_name_and_memory_of_its_own(graph: Graph) -> None:
    conv, value = only(graph, aten.conv2d.default), torch.zeros(4)
    nodes = [graph.add_constant(value, "body.0.bias", conv) for _ in range(2)]
    value += 1
    assert [node.target for node in nodes] == ["body_0_bias", "body_0_bias_1"]
    assert all(graph.constant(node).equal(torch.zeros(4)) for node in nodes)
    assert shape(nodes[0]) == (4,)


def test_a_new_constant_does_not_hide_a_submodule(graph: Graph) -> None:
    node = graph.add_constant(torch.zeros(4), "body", only(graph, aten.conv2d.default))
    assert node.target == "body_1"


def test_arguments_are_found_by_name_position_keyword_and_default(graph: Graph) -> None:
    conv = only(graph, aten.conv2d.default)
    assert argument(conv, "padding") == [1, 1]
    assert argument(conv, "dilation") == [1, 1]
    assert argument(conv, "groups") == 1
    assert argument(only(graph, aten.add.Tensor), "alpha") == 1
    with pytest.raises(AssertionError, match="no argument called colour"):
        argument(conv, "colour")


def test_arguments_are_set_past_those_that_were_given(graph: Graph) -> None:
    conv, x = only(graph, aten.conv2d.default), torch.randn(2, 3, 5, 5)
    weight, bias = (graph.constant(argument(conv, name)) for name in ("weight", "bias"))
    set_argument(conv, "dilation", [2, 2])
    set_argument(conv, "padding", [2, 2])
    assert (argument(conv, "dilation"), argument(conv, "padding"), argument(conv, "stride")) == ([2, 2], [2, 2], [1, 1])
    graph.clean()
    expected = (F.conv2d(x, weight, bias, padding=2, dilation=2).relu() + 1)[:, :2].flatten(1) * 2
    torch.testing.assert_close(graph.module(x), expected)


def test_setting_an_argument_keeps_the_keywords_after_it() -> None:
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(1, dtype=torch.float64)

    graph = capture(Mean(), (torch.randn(2, 3),))
    mean = only(graph, aten.mean.dim)
    set_argument(mean, "keepdim", True)
    graph.clean()
    assert graph.module(torch.ones(2, 3)).shape == (2, 1)
    assert graph.module(torch.ones(2, 3)).dtype == torch.float64
    set_argument(mean, "dtype", torch.float32)
    graph.clean()
    assert graph.module(torch.ones(2, 3)).dtype == torch.float32


def test_a_call_is_made_with_its_shape_and_origin(graph: Graph) -> None:
    relu = only(graph, aten.relu.default)
    new = graph.call(aten.transpose.int, relu, 1, 2, before=relu.next, like=relu)
    assert shape(new) == (2, 5, 4, 5)
    assert module_path(new) == "body.1"


def test_replacing_leaves_the_replacement_its_own_input(graph: Graph) -> None:
    relu = only(graph, aten.relu.default)
    twice = graph.call(aten.mul.Tensor, relu, 2, before=relu.next)
    graph.replace(relu, twice)
    assert twice.args[0] is relu
    assert list(relu.users) == [twice]


def test_a_replaced_node_is_no_user_any_more(graph: Graph) -> None:
    relu = only(graph, aten.relu.default)
    conv = relu.args[0]
    graph.replace(relu, conv)
    assert list(conv.users) == [only(graph, aten.add.Tensor)]


def test_clean_drops_what_nothing_reads(graph: Graph) -> None:
    add = only(graph, aten.add.Tensor)
    graph.replace(add, add.args[0])
    graph.clean()
    assert "offset" not in dict(graph.module.named_buffers())
    assert len(list(graph.calls(aten.add.Tensor))) == 0
    assert graph.module(torch.randn(2, 3, 5, 5)).shape == (2, 50)


def test_a_copy_is_edited_alone(graph: Graph) -> None:
    x, before = torch.randn(2, 3, 5, 5), str(graph.module.graph)
    expected = graph.module(x)
    copied = graph.copy()
    relu = only(copied, aten.relu.default)
    copied.replace(relu, relu.args[0])
    copied.replace(only(copied, aten.add.Tensor), only(copied, aten.conv2d.default))
    copied.clean()
    assert not copied.module(x).equal(expected)
    assert str(graph.module.graph) == before
    assert graph.module(x).equal(expected)


def test_only_user_counts_uses_and_not_only_users() -> None:
    class Uses(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            doubled = x.relu() + x.relu().sigmoid()
            return torch.cat([doubled.tanh(), doubled.tanh()]) + torch.cat([(y := doubled.cos()), y])

    graph = capture(Uses(), (torch.randn(2, 3),))
    (doubled,) = (node for node in graph.calls(aten.add.Tensor) if is_call(node.args[0], aten.relu.default))
    first, second = graph.calls(aten.tanh.default)
    joined = only_user(first)
    assert is_call(joined, aten.cat.default)
    assert only_user(second) is joined
    assert only_user(doubled) is None
    assert only_user(only(graph, aten.cos.default)) is None


def test_x_plus_x_is_two_uses() -> None:
    class Double(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.relu()
            return y + y

    graph = capture(Double(), (torch.randn(2, 3),))
    assert only_user(only(graph, aten.relu.default)) is None


def test_views_are_told_from_computations(graph: Graph) -> None:
    assert is_view(only(graph, aten.flatten.using_ints))
    assert is_view(only(graph, aten.chunk.default))
    assert not is_view(only(graph, aten.relu.default))
    assert not is_view(argument(only(graph, aten.conv2d.default), "weight"))
    assert not is_view(3)
    (item,) = (node for node in graph.nodes if is_getitem(node))
    assert is_view(item)


def test_nodes_know_their_module_and_source_line(graph: Graph) -> None:
    assert module_path(only(graph, aten.conv2d.default)) == "body.0"
    assert module_path(only(graph, aten.add.Tensor)) == ""
    line = source_line(only(graph, aten.add.Tensor))
    assert "test_graph.py" in line
    assert "self.body(x) + self.offset" in line
    assert "in forward" in line


def test_a_module_called_twice_keeps_one_path() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.fc(x))

    graph = capture(Twice(), (torch.randn(2, 3),))
    assert [module_path(node) for node in graph.calls(aten.linear.default)] == ["fc", "fc"]


def test_nodes_without_origin_have_no_path_and_no_line(graph: Graph) -> None:
    placeholder = next(node for node in graph.nodes if node.op == "placeholder")
    assert module_path(placeholder) == ""
    assert source_line(placeholder) == ""
