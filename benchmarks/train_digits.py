"""Train ``edgevit_digits`` on scikit-learn's handwritten digits, and save its weights with the package's models.

python -m deploy_kit.benchmarks.train_digits

It takes a few minutes on two cores. The seed decides the result; the digits held out decide nothing, and are counted
once, at the end. Put the sha256 and the accuracy that it prints into ``models/edgevit.py``.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from deploy_kit.models import create_model
from deploy_kit.models.digits import Digits, count_right, load_digits_split
from deploy_kit.models.edgevit import DIGITS
from deploy_kit.parity.reference import one_thread

EPOCHS, BATCH = 60, 48
RATE, DECAY, SMOOTHING = 3e-3, 0.05, 0.1
SHIFT, DEGREES = 0.12, 12.0
"""Of the augmentation: the farthest that a digit is moved, as a share of half its side, and turned."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, count the right answers, save, and print what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=DIGITS.path, help="the file to write, .safetensors")
    chosen = parser.parse_args(arguments)
    training, held_out = load_digits_split()
    start = time.perf_counter()
    model = train(training, chosen.epochs, chosen.seed)
    seconds = time.perf_counter() - start
    data = save(weights(model))
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_bytes(data)
    right, total = count_right(model, held_out), len(held_out.labels)
    print(f"held out: {right} of {total} right ({right / total:.2%})")
    print(f"trained in {seconds:.0f} s: {chosen.epochs} epochs of {len(training.labels)} digits, seed {chosen.seed}")
    print(f"{chosen.out}: {len(data):,} bytes, sha256 {hashlib.sha256(data).hexdigest()}")
    return 0


def train(digits: Digits, epochs: int, seed: int) -> nn.Module:
    """A model trained on ``digits``, in evaluation mode; on one thread, so that a seed gives one model."""
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = create_model("edgevit_digits", seed=seed).train()
        steps = epochs * math.ceil(len(digits.labels) / BATCH)
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
        for epoch in range(epochs):
            total = 0.0
            for batch in torch.randperm(len(digits.labels)).split(BATCH):
                scores = model(augment(digits.images[batch]))
                loss = F.cross_entropy(scores, digits.labels[batch], label_smoothing=SMOOTHING)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.item() * len(batch)
            print(f"epoch {epoch + 1}: loss {total / len(digits.labels):.3f}", flush=True)
    return model.eval()


def augment(images: Tensor) -> Tensor:
    """Each image turned and moved a little by itself; what comes in from outside is the border's colour."""
    angles = (torch.rand(len(images)) * 2 - 1) * math.radians(DEGREES)
    shifts = (torch.rand(len(images), 2) * 2 - 1) * SHIFT
    cos, sin = angles.cos(), angles.sin()
    turns = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    grid = F.affine_grid(torch.cat([turns, shifts.unsqueeze(2)], 2), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A model's state dict without the counters that only training reads."""
    return {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}


if __name__ == "__main__":
    raise SystemExit(main())
