"""How fast the service answers, beside what its stores and its framework alone take: `python -m benchmarks.serving`."""
