"""Where files, batches, rows, leases and results live; see `interface` for what the rest may rely on."""
