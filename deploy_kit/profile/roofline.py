"""The roofline: how fast a processor could do a piece of work, given its arithmetic and its memory traffic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Peaks:
    """What this machine reached at best, in the same run: GFLOP/s in float32, and GB/s of a large copy.

    ``products_by`` names the library whose matrix product was the fastest.
    """

    gflops: float
    gbytes: float
    products_by: str

    @property
    def ridge(self) -> float:
        """FLOP per byte from which on arithmetic sets the pace, and not memory."""
        return self.gflops / self.gbytes

    def bound(self, intensity: float) -> float:
        """GFLOP/s that work of so many FLOP per byte can reach at most."""
        return min(self.gflops, intensity * self.gbytes)


@dataclass(frozen=True)
class Rates:
    """What a piece of work reached. A value is None where something it needs was not measured.

    ``intensity`` is in FLOP per byte. ``of_roofline`` is the share of what the machine can reach at that intensity;
    of work without multiply-accumulates it is the share of the memory's bandwidth.
    """

    gflops: float | None
    gbytes: float | None
    intensity: float | None
    of_roofline: float | None


def rates(ms: float, macs: int | None, moved: int | None, peaks: Peaks | None) -> Rates:
    """The rates of work that took ``ms``, of so many multiply-accumulates (2 FLOP each) and bytes.

    Without ``peaks``, or without a time that can be told from 0, there is nothing to compare with.
    """
    if ms <= 0:
        return Rates(None, None, None, None)
    gflops = None if macs is None else 2 * macs / ms / 1e6
    gbytes = None if moved is None else moved / ms / 1e6
    intensity = None if macs is None or not moved else 2 * macs / moved
    share = None
    if peaks is not None and gflops is not None and gbytes is not None and intensity is not None:
        share = gflops / peaks.bound(intensity) if gflops else gbytes / peaks.gbytes
    return Rates(gflops, gbytes, intensity, share)
