"""Sweeps: many cells on many devices, resumable, with their results in a database."""
