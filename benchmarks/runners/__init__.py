"""Runners: programs that load an artifact on a device, time it, and write one JSON document of raw samples."""
