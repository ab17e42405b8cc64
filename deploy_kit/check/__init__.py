"""Checks: cells compared with a committed baseline."""
