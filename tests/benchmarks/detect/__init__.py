"""What `tests/benchmarks/detection.py` measures: stages, cheats, honest audits, cost, and the table of them."""
