"""Reading an ``.mlpackage`` back, and keeping coremltools quiet."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep coremltools' warnings about versions and its progress bars off the screen within the body."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    nowhere = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def load_package(package: Path) -> Any:
    """The main function of a saved package's MIL program, with its weights."""
    with quiet():
        from coremltools.converters.mil.frontend.milproto.load import load
        from coremltools.models.utils import load_spec

        spec = load_spec(str(package))
        weights = package / "Data" / "com.apple.CoreML" / "weights"
        program = load(spec, specification_version=spec.specificationVersion, file_weights_dir=str(weights))
    return program.functions["main"]
