"""Proof: an artifact's outputs against float64 of the original model."""
