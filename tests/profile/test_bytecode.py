"""What is read in ``.ptl`` files that torch itself wrote."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from deploy_kit.profile.bytecode import INPUT, Call, Code, UnknownCodeError, read_code


class Parts(nn.Module):
    """Lists, several outputs of an operator, a constant, and a value that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.split(3, 1)
        values, indices = torch.cat([second, first, y], 1).topk(6)
        return self.layer(values) * 2, values + indices


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu() if bool(x.sum() > 0) else x


def save(module: nn.Module | torch.jit.ScriptModule, file: Path) -> Path:
    scripted = (
        torch.jit.freeze(module.eval()) if isinstance(module, torch.jit.ScriptModule) else torch.jit.script(module)
    )
    scripted._save_for_lite_interpreter(str(file))
    return file


def test_calls_are_in_order_with_the_makers_of_their_inputs(tmp_path: Path) -> None:
    traced = torch.jit.trace(Parts().eval(), (torch.zeros(1, 6), torch.zeros(1, 2)))
    assert read_code(save(traced, tmp_path / "parts.ptl")) == Code(
        [
            Call("aten::split", (INPUT,)),
            Call("aten::cat", (0, 0, INPUT)),
            Call("aten::topk", (1,)),
            Call("aten::linear", (2,)),
            Call("aten::mul", (3,)),
            Call("aten::add", (2, 2)),
        ],
        results=(4, 5),
    )


def test_a_file_that_branches_is_not_followed(tmp_path: Path) -> None:
    with pytest.raises(UnknownCodeError, match="which has the instruction"):
        read_code(save(Branches(), tmp_path / "branches.ptl"))


def test_a_file_of_an_old_version_is_not_followed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "old.ptl", "w") as archive:
        archive.writestr("old/bytecode.pkl", pickle.dumps((5, ())))
    with pytest.raises(UnknownCodeError, match="version 5"):
        read_code(tmp_path / "old.ptl")


def test_what_is_no_such_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "text.ptl").write_text("text")
    with pytest.raises(UnknownCodeError):
        read_code(tmp_path / "text.ptl")
