"""Golden vectors: what the published implementation of each architecture computes.

Each ``<arch>.npz`` beside this file records, for one architecture, the layout of its official
checkpoint (key, shape, dtype), the constants that a checkpoint carries (index tables, masks) and the
float64 outputs that the official implementation produced for seeded inputs. Weights are not stored:
``state_dict`` regenerates them from the key names, so a file stays small and any implementation that
loads official checkpoints can be compared with the official one without its code.

    g = Golden.load("edgevit_xxs")
    model = create_model("edgevit_xxs"); load_checkpoint(model, g.state_dict())
    for inputs, expected in g.cases():              # float64
        torch.testing.assert_close(model.double()(*inputs), expected[0], rtol=1e-9, atol=1e-9)

Only numpy and torch are needed.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent


def _rng(*words: object) -> np.random.Generator:
    digest = hashlib.sha256(":".join(map(str, words)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def weight(key: str, shape: tuple[int, ...], seed: int, gain: float) -> np.ndarray:
    """The float32 value of one checkpoint entry: a function of its name, shape, seed and gain alone.

    ``gain`` is the variance that a matrix or kernel keeps; it is chosen per architecture so that
    activations neither vanish nor explode.
    """
    rng = _rng(seed, key)
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    noise = rng.standard_normal(shape)
    if leaf == "running_var":
        value = rng.uniform(0.5, 1.5, shape)
    elif leaf == "running_mean":
        value = 0.1 * noise
    elif "attention_bias" in leaf or "relative_position_bias" in leaf:
        value = 0.5 * noise
    elif "layer_scale" in leaf or leaf in ("gamma", "gamma_1", "gamma_2"):
        value = rng.uniform(0.4, 0.8, shape)
    elif len(shape) >= 2:
        fan_in = math.prod(shape[1:])
        value = noise * math.sqrt(gain / fan_in)
    elif leaf == "weight":  # a norm's gain
        value = 1.0 + 0.1 * noise
    else:  # biases, tokens, position embeddings of one dimension
        value = 0.1 * noise
    return np.asarray(value, np.float32)


class Golden:
    """One architecture's golden vectors; see the module's docstring."""

    def __init__(self, meta: dict, arrays: dict[str, np.ndarray]):
        self.meta, self.arrays = meta, arrays

    @classmethod
    def load(cls, arch: str, folder: Path | str = HERE) -> Golden:
        with np.load(Path(folder) / f"{arch}.npz") as file:
            arrays = {name: file[name] for name in file.files}
        return cls(json.loads(str(arrays.pop("meta"))), arrays)

    @property
    def arch(self) -> str:
        return self.meta["arch"]

    @property
    def parameters(self) -> int:
        """Trainable parameters of the official implementation."""
        return self.meta["parameters"]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """A checkpoint in the official layout, float32, regenerated from its key names."""
        state = {}
        for key, shape, _dtype in self.meta["layout"]:
            constant = self.arrays.get(f"constant:{key}")
            value = (
                constant if constant is not None else weight(key, tuple(shape), self.meta["seed"], self.meta["gain"])
            )
            state[key] = torch.from_numpy(np.array(value))
        return state

    def cases(self):
        """Yield (inputs, expected outputs) in float64; an output may be a strided sample, see ``sample``."""
        for index, case in enumerate(self.meta["cases"]):
            if "inputs" in case:  # inputs that cannot be drawn from noise alone are stored
                inputs = tuple(torch.from_numpy(self.arrays[f"input:{index}:{i}"]) for i in range(case["inputs"]))
            else:
                noise = _rng("input", case["seed"]).standard_normal(case["shape"]).astype(np.float32)
                inputs = (torch.from_numpy(noise).double() * case["scale"],)
            outputs = tuple(torch.from_numpy(self.arrays[f"output:{index}:{i}"]) for i in range(case["outputs"]))
            yield inputs, outputs


def sample(output: torch.Tensor, limit: int = 4096) -> torch.Tensor:
    """The part of an output that is stored: all of it, or every k-th of its elements, flattened."""
    flat = output.detach().double().reshape(-1)
    return output.detach().double() if flat.numel() <= limit else flat[:: math.ceil(flat.numel() / limit)]
