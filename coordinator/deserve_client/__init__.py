"""The `deserve` command and the client of the batch API: light, no torch, no chain, nothing of ours."""
