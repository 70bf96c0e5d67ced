"""What every long-running process of ours needs: a locked data directory, secrets in files, logs, listen addresses.

Knows nothing of nodes, coordinators or models.
"""
