"""Six accounts that do to a ledger whatever they can think of, and what holds of it all the while.

A Hypothesis state machine over any `ledger_backends.Backend`, with what each party signed and got kept beside it.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import Any

from eth_hash.auto import keccak
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from ledger_backends import Known, Outcome, View
from ledger_parties import (
    ACCOUNTS,
    FUNDS,
    KEYS,
    PARTIES,
    SESSION,
    SESSION_KEY,
    TERMS,
    Signatures,
    address_of,
    node_of,
    peer_key,
    receipt_key,
    work_of,
)

from deserve_ledger import calls
from deserve_ledger.books import Books
from deserve_ledger.identifiers import job_id
from deserve_ledger.merkle import MerkleTree, claim_leaf
from deserve_ledger.records import Event, JobRecord

RECEIPTS = address_of(receipt_key(0))
WHO = st.integers(0, PARTIES - 1)
AMOUNT = st.integers(0, 400) | st.just(2 * FUNDS)
SEQ = st.integers(1, 3)
STAKE = st.sampled_from([TERMS.min_stake - 1, TERMS.min_stake, 3 * TERMS.min_stake, 17 * TERMS.min_stake])
PAYER = st.integers(0, 1) | WHO
SALT = st.sampled_from([0, 0, 0, 1, 2]).map(lambda number: keccak(b"salt %d" % number))
WAITS = st.sampled_from([0, 1, TERMS.commit_period_s, TERMS.reveal_period_s, TERMS.release_delay_s, TERMS.unbonding_s])
WRONGS = ["", "", "key", "work"]
CHANGES = st.sampled_from(["", "", "", "sum", "node", "epoch", "proof"])
"""Of a claim; with any but the first it is not under the root that is posted."""
WRONG = st.integers(0, 5).map(lambda number: number == 0)
"""Once in six: something is not as it should be."""


class Parties(RuleBasedStateMachine):
    """Abstract: `backend` makes the ledger. Six parties with one node each, two of which coordinate for all of them."""

    backend: Any

    def __init__(self) -> None:
        super().__init__()
        self.ledger = self.backend()
        self.signed = Signatures(self.ledger.domain)
        self.known = Known({node_of(i, n) for i in range(PARTIES) for n in range(2)})
        self.payouts: list[tuple[bytes, Any]] = []
        """Calls that pay against a signature, as they were accepted."""
        self.claims: list[tuple[bytes, int, bytes, int, tuple[bytes, ...]]] = []
        self.drawn: dict[bytes, int] = defaultdict(int)
        self.claimed: dict[tuple[bytes, bytes], int] = defaultdict(int)
        self.refunded: dict[bytes, int] = {}
        self.before: Any = None
        self.books = Books()
        self.books.read(Event(n, "Deposited", {"account": one, "amount": FUNDS}) for n, one in enumerate(ACCOUNTS))

    @initialize(stakes=st.lists(STAKE, min_size=PARTIES, max_size=PARTIES))
    def begin(self, stakes: list[int]) -> None:
        for operator, stake in enumerate(stakes):
            self._register(operator, 0, stake)
        for coordinator in (0, 1):
            self.submit(coordinator, calls.AddBond(400))
            self.submit(coordinator, calls.OpenJob(keccak(b"salt 0"), ACCOUNTS[0], SESSION, 500, self._deadline(300)))
            self.known.jobs.add(job_id(ACCOUNTS[coordinator], keccak(b"salt 0")))
            for operator in (2, 3):
                self.submit(coordinator, calls.Reserve(node_of(operator), 150))

    def _deadline(self, seconds: int) -> int:
        return self.ledger.now_s + seconds

    def submit(self, sender: int, call: calls.Call) -> Outcome:
        return self._submit(ACCOUNTS[sender], call)

    def _submit(self, sender: bytes, call: calls.Call) -> Outcome:
        outcome = self.ledger.submit(sender, call)
        if outcome[0] == "done":
            for name, fields in outcome[1]:
                self.books.read([Event(self.books.position + 1, name, fields)])
                self._see(name, fields)
            if isinstance(call, calls.RedeemVoucher | calls.Claim | calls.ClaimCredit):
                self.payouts.append((sender, call))
        return outcome

    def _see(self, name: str, fields: dict[str, Any]) -> None:
        """What each party got, by the events alone."""
        if name == "Challenged":
            self.known.challenges = fields["challengeId"]
        elif name == "Reserved":
            self.known.reservations.add((fields["coordinator"], fields["nodeId"]))
        elif name == "VoucherRedeemed":
            self.drawn[fields["jobId"]] += fields["amount"]
        elif name == "JobRefunded":
            assert fields["jobId"] not in self.refunded
            self.refunded[fields["jobId"]] = fields["amount"]
        elif name == "Claimed":
            self.claimed[fields["coordinator"], fields["nodeId"]] += fields["amount"]
        elif name in ("NodeSlashed", "CoordinatorSlashed"):
            injured = fields["submitter" if name == "NodeSlashed" else "injured"]
            shares = 2 if any(injured) else 1
            assert fields["burnt"] == fields["amount"] - shares * (fields["amount"] * 30 // 100)

    # Money, nodes, bonds

    @rule(who=WHO, amount=AMOUNT, inwards=st.booleans())
    def move_money(self, who: int, amount: int, inwards: bool) -> None:
        self.submit(who, calls.Deposit(amount) if inwards else calls.Withdraw(amount))

    @rule(who=WHO, number=st.integers(0, 1), stake=STAKE, wrong=WRONG)
    def register(self, who: int, number: int, stake: int, wrong: bool) -> None:
        self._register(who, number, stake, SESSION_KEY if wrong else receipt_key(number))

    def _register(self, who: int, number: int, stake: int, key: bytes | None = None) -> None:
        signature = self.signed.bind(who, number, 7, key or receipt_key(number))
        receipts = address_of(receipt_key(number))
        self.submit(who, calls.RegisterNode(peer_key(number), receipts, stake, 7, signature))

    @rule(who=WHO, of=WHO, amount=AMOUNT, what=st.sampled_from(["add", "unbond", "withdraw"]), wrong=WRONG)
    def change_stake(self, who: int, of: int, amount: int, what: str, wrong: bool) -> None:
        node = node_of(of if wrong else who)
        if what == "add":
            self.submit(who, calls.AddStake(node, amount))
        else:
            self.submit(who, calls.BeginUnbond(node) if what == "unbond" else calls.WithdrawStake(node))

    @rule(who=WHO, amount=AMOUNT, what=st.sampled_from(["add", "release", "withdraw"]))
    def change_bond(self, who: int, amount: int, what: str) -> None:
        made = {"add": calls.AddBond(amount), "release": calls.BeginBondRelease(), "withdraw": calls.WithdrawBond()}
        self.submit(who, made[what])

    # Jobs

    @rule(who=WHO, coordinator=WHO, salt=SALT, budget=AMOUNT, seconds=st.sampled_from([0, 1, 300, 400 * 86400]))
    def open_job(self, who: int, coordinator: int, salt: bytes, budget: int, seconds: int) -> None:
        self.known.jobs.add(job_id(ACCOUNTS[who], salt))
        opened = calls.OpenJob(salt, ACCOUNTS[coordinator], SESSION, budget, self._deadline(seconds))
        self.submit(who, opened)

    @rule(
        who=WHO, payer=PAYER, salt=SALT, cumulative=AMOUNT, seq=SEQ, by=st.sampled_from(["session", "payer", "other"])
    )
    def redeem(self, who: int, payer: int, salt: bytes, cumulative: int, seq: int, by: str) -> None:
        key = {"session": SESSION_KEY, "payer": KEYS[payer], "other": KEYS[payer - 1]}[by]
        self.known.jobs.add(job_id(ACCOUNTS[payer], salt))
        signed = self.signed.voucher(job_id(ACCOUNTS[payer], salt), cumulative, seq, key, by != "other")
        self.submit(who, calls.RedeemVoucher(*signed))

    @rule(who=WHO, payer=PAYER, salt=SALT)
    def refund(self, who: int, payer: int, salt: bytes) -> None:
        self.known.jobs.add(job_id(ACCOUNTS[payer], salt))
        self.submit(who, calls.Refund(job_id(ACCOUNTS[payer], salt)))

    # What coordinators owe nodes

    @rule(who=WHO, of=WHO, number=st.integers(0, 1), amount=AMOUNT, what=st.sampled_from(["add", "ask", "release"]))
    def change_reservation(self, who: int, of: int, number: int, amount: int, what: str) -> None:
        node = node_of(of, number)
        made = {"add": calls.Reserve(node, amount), "ask": calls.RequestRelease(node, amount)}
        self.submit(who, made.get(what, calls.Release(node)))

    @rule(who=st.integers(0, 1), epoch=SEQ, sums=st.lists(AMOUNT, max_size=PARTIES), claimant=WHO, change=CHANGES)
    def post_root(self, who: int, epoch: int, sums: list[int], claimant: int, change: str) -> None:
        nodes = [node_of(operator) for operator in range(len(sums))]
        leaves = [claim_leaf(ACCOUNTS[who], epoch, *owed) for owed in zip(nodes, sums, strict=True)]
        tree = MerkleTree(leaves)
        self.known.roots.add((ACCOUNTS[who], epoch))
        if self.submit(who, calls.PostRoot(epoch, tree.root))[0] == "done":
            for index, (node, cumulative) in enumerate(zip(nodes, sums, strict=True)):
                self.signed.owe(who, node, cumulative)
                self.claims.append((ACCOUNTS[who], epoch, node, cumulative, tree.proof(index)))
            self.claim(claimant, len(self.claims) - 1, change)

    @rule(who=WHO, index=st.integers(0, 30), change=CHANGES)
    def claim(self, who: int, index: int, change: str) -> None:
        if not self.claims:
            return
        claim = calls.Claim(*self.claims[index % len(self.claims)])
        changes: dict[str, dict[str, Any]] = {
            "": {},
            "sum": {"cumulative": claim.cumulative + 1},
            "node": {"node_id": node_of(2) if claim.node_id != node_of(2) else node_of(3)},
            "epoch": {"epoch": claim.epoch % 3 + 1},
            "proof": {"proof": (*claim.proof, bytes(32))},
        }
        outcome = self.submit(who, dataclasses.replace(claim, **changes[change]))
        assert not change or outcome[0] == "refused"

    @rule(who=WHO, coordinator=st.integers(0, 1), of=WHO, cumulative=AMOUNT, seq=SEQ, wrong=WRONG)
    def claim_credit(self, who: int, coordinator: int, of: int, cumulative: int, seq: int, wrong: bool) -> None:
        key = SESSION_KEY if wrong else KEYS[coordinator]
        signed = self.signed.credit(coordinator, node_of(of), cumulative, seq, key)
        self.submit(who, calls.ClaimCredit(*signed))

    @rule(index=st.integers(0, 30))
    def replay_pays_zero(self, index: int) -> None:
        """A reservation may have grown meanwhile, so a credit that was not covered in full may pay its rest, once."""
        if not self.payouts:
            return
        sender, call = self.payouts[index % len(self.payouts)]
        self._submit(sender, call)
        before = self.ledger.view(self.known).balances
        outcome = self._submit(sender, call)
        assert outcome == ("refused", "JobClosed") or [fields["amount"] for _, fields in outcome[1]] == [0]
        assert self.ledger.view(self.known).balances == before

    # Cheats

    @rule(
        who=WHO, of=WHO, job=st.none() | WHO, units=st.tuples(SEQ, SEQ), wrong=st.sampled_from(["", "", "key", "work"])
    )
    def slash_node(self, who: int, of: int, job: int | None, units: tuple[int, int], wrong: str) -> None:
        work = work_of(bytes(32) if job is None else job_id(ACCOUNTS[job], keccak(b"salt 0")), 1)
        key = SESSION_KEY if wrong == "key" else receipt_key(0)
        one = self.signed.receipt(work, node_of(of), units[0], receipt_key(0))
        other = self.signed.receipt(work, node_of(of), units[1], key)
        shown = dataclasses.replace(work, chunk=2) if wrong == "work" else work
        self.submit(who, calls.SlashNode(shown, *one, *other))

    @rule(who=WHO, coordinator=st.integers(0, 1), of=WHO, sums=st.tuples(AMOUNT, AMOUNT), seqs=st.tuples(SEQ, SEQ))
    def slash_coordinator(
        self, who: int, coordinator: int, of: int, sums: tuple[int, int], seqs: tuple[int, int]
    ) -> None:
        one, other = (
            self.signed.credit(coordinator, node_of(of), cumulative, seq, KEYS[coordinator])
            for cumulative, seq in zip(sums, seqs, strict=True)
        )
        self.submit(who, calls.SlashCoordinator(*one, *other))

    # Arbitration

    @rule(who=WHO, of=WHO, chunk=SEQ, wrong=WRONG)
    def challenge(self, who: int, of: int, chunk: int, wrong: bool) -> None:
        work = work_of(job_id(ACCOUNTS[0], keccak(b"salt 0")), chunk)
        signed = self.signed.receipt(work, node_of(of), 64, SESSION_KEY if wrong else receipt_key(0))
        self.submit(who, calls.Challenge(work, *signed, keccak(b"evidence")))

    @rule(challenge_id=SEQ)
    def draw_panel(self, challenge_id: int) -> None:
        self.submit(0, calls.DrawPanel(challenge_id))

    @rule(challenge_id=SEQ, seat=st.integers(0, 2), guilty=st.booleans(), reveals=st.booleans(), who=st.none() | WHO)
    def vote(self, challenge_id: int, seat: int, guilty: bool, reveals: bool, who: int | None) -> None:
        panel = self._panel(challenge_id)
        node = panel[seat] if panel else node_of(seat)
        self._vote(challenge_id, node, guilty, reveals, self._operator(node) if who is None else who)

    def _panel(self, challenge_id: int) -> tuple[bytes, ...]:
        found = self.ledger.view(self.known).challenges.get(challenge_id)
        return found.panel if found is not None else ()

    def _operator(self, node: bytes) -> int:
        return next(i for i in range(PARTIES) if node in (node_of(i, 0), node_of(i, 1)))

    def _vote(self, challenge_id: int, node: bytes, guilty: bool, reveals: bool, who: int) -> None:
        salt = keccak(node)
        words = (challenge_id.to_bytes(32, "big"), node, guilty.to_bytes(32, "big"), salt)
        if reveals:
            self.submit(who, calls.RevealVote(challenge_id, node, guilty, salt))
        else:
            self.submit(who, calls.CommitVote(challenge_id, node, keccak(b"".join(words))))

    @rule(of=WHO, who=WHO, verdicts=st.lists(st.booleans(), min_size=3, max_size=3) | st.just([True] * 3), acts=SEQ)
    def whole_trial(self, of: int, who: int, verdicts: list[bool], acts: int) -> None:
        """Each part of it is a rule too; together they would hardly ever come about by chance."""
        work = work_of(job_id(ACCOUNTS[1], keccak(b"salt 0")), 10 + self.known.challenges)
        signed = self.signed.receipt(work, node_of(of), 64, receipt_key(0))
        if self.submit(who, calls.Challenge(work, *signed, keccak(b"evidence")))[0] == "refused":
            return
        number = self.known.challenges
        self.ledger.pass_time(5, TERMS.draw_delay_blocks + 1)
        self.submit(who, calls.DrawPanel(number))
        panel = self._panel(number)
        for reveals in (False, True):
            for node, guilty in zip(panel, verdicts[:acts] if reveals else verdicts, strict=False):
                self._vote(number, node, guilty, reveals, self._operator(node))
            self.ledger.pass_time(TERMS.commit_period_s if not reveals else acts % 2 * TERMS.reveal_period_s, 1)
        self.submit(of, calls.Resolve(number))

    @rule(who=WHO, challenge_id=SEQ)
    def resolve(self, who: int, challenge_id: int) -> None:
        self.submit(who, calls.Resolve(challenge_id))

    @rule(seconds=WAITS, blocks=st.sampled_from([0, 1, 3, 300]))
    def wait(self, seconds: int, blocks: int) -> None:
        self.ledger.pass_time(seconds, blocks)

    @rule()
    def compare(self) -> None:
        self.ledger.compare(self.known)

    # What always holds

    @invariant()
    def holds(self) -> None:
        now = self.ledger.view(self.known)
        self._sums_hold(now)
        self.books.check(now.totals)
        assert {account: self.books.accounts[account].balance for account in ACCOUNTS} == now.balances
        self._nobody_is_paid_above_what_was_signed(now)
        if self.before is not None:
            self._what_only_grows_grew(self.before, now)
        self.before = now

    def _sums_hold(self, now: View) -> None:
        totals = now.totals
        escrows = [0 if job.refunded else job.budget - job.drawn for job in now.jobs.values()]
        bonds = [one.bond for one in (*now.coordinators.values(), *now.challenges.values())]
        assert totals.balances == sum(now.balances.values())
        assert totals.stakes == sum(node.stake for node in now.nodes.values())
        assert totals.undrawn == sum(escrows)
        assert totals.reservations == sum(one.amount for one in now.reservations.values())
        assert totals.bonds == sum(bonds)
        assert now.held == totals.held
        assert totals.held + sum(now.tokens.values()) == FUNDS * PARTIES

    def _nobody_is_paid_above_what_was_signed(self, now: View) -> None:
        for job, record in now.jobs.items():
            assert record.drawn == self.drawn[job] <= min(record.budget, self.signed.vouched[job])
            assert record.refunded == (job in self.refunded)
            assert not record.refunded or self.refunded[job] + record.drawn == record.budget
        for owed, record in now.reservations.items():
            assert record.claimed == self.claimed[owed] <= self.signed.credited[owed]

    def _what_only_grows_grew(self, before: View, now: View) -> None:
        assert all(now.jobs[job].drawn >= record.drawn for job, record in before.jobs.items())
        assert all(now.reservations[pair].claimed >= one.claimed for pair, one in before.reservations.items())
        assert all(now.nodes[node].slashed >= one.slashed for node, one in before.nodes.items())
        assert all(now.challenges[i].resolved >= one.resolved for i, one in before.challenges.items())
        assert all(one == bytes(32) or now.roots[root] == one for root, one in before.roots.items())
        assert now.totals.burnt >= before.totals.burnt

    def teardown(self) -> None:
        try:
            self._everybody_leaves()
        finally:
            self.ledger.close()

    def _everybody_leaves(self) -> None:
        """Whoever is owed can always withdraw: once everybody has gone, nothing is left in the ledger."""
        self.ledger.compare(self.known)
        now = self.ledger.view(self.known)
        for operator in range(PARTIES):
            for number in (0, 1):
                self.submit(operator, calls.BeginUnbond(node_of(operator, number)))
            self.submit(operator, calls.BeginBondRelease())
        for (coordinator, node), held in now.reservations.items():
            if held.amount:
                self._done(coordinator, calls.RequestRelease(node, held.amount))
        self.ledger.pass_time(366 * 86400 + TERMS.unbonding_s, 1)
        for number, challenge in now.challenges.items():
            if not challenge.resolved:
                self._done(ACCOUNTS[0], calls.Resolve(number))
        for job, record in now.jobs.items():
            if record != JobRecord() and not record.refunded:
                self._done(ACCOUNTS[5], calls.Refund(job))
            if record != JobRecord():
                assert self.submit(5, calls.Refund(job)) == ("refused", "JobClosed")
        for (coordinator, node), held in now.reservations.items():
            if held.amount:
                self._done(coordinator, calls.Release(node))
        for node, record in self.ledger.view(self.known).nodes.items():
            if record.stake:
                self._done(record.operator, calls.WithdrawStake(node))
        for account, coordinator in self.ledger.view(self.known).coordinators.items():
            if coordinator.bond:
                self._done(account, calls.WithdrawBond())
        for account, balance in self.ledger.view(self.known).balances.items():
            self._done(account, calls.Withdraw(balance))
        self.ledger.compare(self.known)
        left = self.ledger.view(self.known)
        assert left.held == left.totals.held == 0
        assert sum(left.tokens.values()) == FUNDS * PARTIES

    def _done(self, sender: bytes, call: calls.Call) -> None:
        assert self._submit(sender, call)[0] == "done"
