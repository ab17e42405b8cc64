"""deploykit: fuse, export, prove and measure a model for every on-device runtime.

``load_model``, ``fuse``, ``export`` and ``verify`` are imported when first used, so that
``import deploy_kit`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploy_kit.api import export, fuse, verify
    from deploy_kit.sources import load_model

__all__ = ["export", "fuse", "load_model", "verify"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'deploy_kit' has no attribute {name!r}")
    from deploy_kit import api

    return getattr(api, name)
