"""Devices: what artifacts are run on, and how files and commands get there; one file a kind."""
