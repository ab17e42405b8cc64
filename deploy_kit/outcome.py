"""How an export can end; one list for every target, table and manifest."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """The end of one export."""

    OK = "ok"
    """Proven by the target's runtime, or by a reference interpreter of its format."""
    OK_UNDELEGATED = "ok_undelegated"
    """Proven, but a convolution or matrix product runs outside the accelerated part."""
    EMITTED_UNVERIFIED = "emitted_unverified"
    """Written, and nothing here can run it."""
    EXPORT_FAILED = "export_failed"
    """The model could not be captured, or converted to the target's format."""
    LOWER_FAILED = "lower_failed"
    """The target's backend refused the converted model."""
    LOAD_FAILED = "load_failed"
    """The runtime did not load the file."""
    RUN_FAILED = "run_failed"
    """The runtime loaded the file and did not run it."""
    MISMATCH = "mismatch"
    """The file computes something else than the model."""
    LOSSY = "lossy"
    """A reduced precision loses more than its limits allow."""
    UNAVAILABLE = "unavailable"
    """What the target needs is not installed here, or the files changed meanwhile: nothing is known of it."""
    CRASHED = "crashed"
    """The process of the export crashed."""
    TOO_SLOW = "too_slow"
    """The export was ended at its time limit."""
