"""What confidence costs: `python -m benchmarks --help`."""
