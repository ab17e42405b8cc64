"""Cells: a model, a target and a precision, exported and proven each in a process of its own."""
