"""The command line: ``deploykit``."""

from deploy_kit.cli.app import main

__all__ = ["main"]
