"""Speed, memory and fidelity, measured. `python -m tests.benchmarks` (or `make bench`) runs them all."""
