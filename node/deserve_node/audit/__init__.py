"""Audits: what a stage committed to of one row, computed again and compared.

`evidence` reads what the audited node shows, `replay` computes it in float32, `verdict` and `draws` compare within
tolerances that `calibration` measured and a `profile` holds; `worker` does all that for one task of the coordinator.
`cheats` are stages that misbehave, for the tests, the detection table and the testnet. Who is audited, and what follows
from a verdict, is the coordinator's business.
"""
