"""The papers' figure: accuracy against latency and energy, of what is measured here and of what others published."""
