"""What audits made of a node's name: pure functions from one standing to the next.

A node is a newcomer until it has passed enough audits in a row, and again after each failure: that costs it eight times
as many audits, no money. What money a failure costs is decided where it is held back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from deserve_coordinator.audits.policy import AuditPolicy

__all__ = ["Standing", "may_audit", "rate_ppm"]


@dataclass(frozen=True, slots=True)
class Standing:
    """Of one node. The last three are of its work as an auditor."""

    streak: int = 0
    """Audits passed since the last one that was not."""
    failures: int = 0
    barred: str = ""
    """Why it is out of this swarm for good; empty where it is not."""
    upheld: int = 0
    """Verdicts that stood, those on canaries included."""
    overruled: int = 0
    missed: int = 0
    """Canaries that it took for honest work, or the other way round."""

    def passed(self) -> Standing:
        return replace(self, streak=self.streak + 1)

    def failed(self) -> Standing:
        return replace(self, streak=0, failures=self.failures + 1)

    def judged(self, *, stood: bool) -> Standing:
        """As an auditor, after its verdict was confirmed or outvoted."""
        return replace(self, upheld=self.upheld + stood, overruled=self.overruled + (not stood))

    def checked(self, *, right: bool) -> Standing:
        """As an auditor, after a canary."""
        return replace(self, upheld=self.upheld + right, missed=self.missed + (not right))

    def put_out(self, reason: str) -> Standing:
        """Out for good; the first reason stays."""
        return replace(self, barred=self.barred or reason)


def rate_ppm(standing: Standing, policy: AuditPolicy) -> int:
    """Of a million stage-rows of such a node, how many are audited."""
    return policy.proven_ppm if standing.streak >= policy.proven_after else policy.newcomer_ppm


def may_audit(standing: Standing) -> bool:
    """Whether its verdicts are worth asking for: one missed canary says that it does not replay, and ends that.

    Of verdicts that were outvoted it may have one, and one more for each hundred that stood: hardware differs.
    """
    return not standing.barred and standing.missed == 0 and standing.overruled <= 1 + standing.upheld // 100
