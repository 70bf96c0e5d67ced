"""How a ring should run: what its stages, memories and links were measured to do, and the plan that follows from it.

Pure numbers: no torch, no sockets, no clock. The head of a ring plans with it, `deserve plan` uses it on paper, and
benchmarks compare its predictions with what was measured.
"""
