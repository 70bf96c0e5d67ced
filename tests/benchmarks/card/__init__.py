"""The engine on a GPU, measured: `tests/benchmarks/gpu.py` is the way in. `roofline` is pure and tested everywhere."""
