from __future__ import annotations

from tests.cli.conftest import deploykit

__all__ = ["deploykit"]
