"""What goes wrong with a node's money.

NodeError
├── WalletUnusable    its file cannot be opened or written
├── CreditRefused     a credit that the coordinator cannot mean: the session ends
│   └── CreditForged  two contents under one number, both signed: kept, and enough to slash the coordinator
└── Unpaid            the node has worked ahead of its pay as far as its operator allows
"""

from __future__ import annotations

from deserve_node.errors import NodeError

__all__ = ["CreditForged", "CreditRefused", "Unpaid", "WalletUnusable"]


class WalletUnusable(NodeError):
    pass


class CreditRefused(NodeError):
    pass


class CreditForged(CreditRefused):
    pass


class Unpaid(NodeError):
    pass
