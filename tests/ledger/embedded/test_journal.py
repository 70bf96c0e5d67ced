"""A journal takes what its sender signed, once, keeps it, and comes back as it was."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from journal_parties import NOW_S, OWNER, OWNER_KEY, edit, open_journal, signed_by
from ledger_parties import ACCOUNTS, KEYS, TERMS

from deserve_ledger.calls import Deposit, OpenJob, Withdraw
from deserve_ledger.embedded.calls import Issue, Retire
from deserve_ledger.embedded.entries import extend
from deserve_ledger.embedded.journal import Journal
from deserve_ledger.embedded.tip import EVENTS_AN_ENTRY, first_tip, replay
from deserve_ledger.errors import BadSignature, InvalidField, JournalUnusable, Refused, RolledBack

PAYER, PAYER_KEY = ACCOUNTS[0], KEYS[0]


def funded(folder, amount=1000, **options) -> Journal:
    journal = open_journal(folder, **options)
    journal.append(signed_by(OWNER_KEY, 0, Issue(PAYER, amount)))
    return journal


def test_what_took_effect_is_there_after_opening_again(tmp_path):
    journal = funded(tmp_path)
    journal.append(signed_by(PAYER_KEY, 0, Deposit(700)))
    journal.append(signed_by(PAYER_KEY, 1, OpenJob(bytes(32), ACCOUNTS[1], ACCOUNTS[2], 200, NOW_S + 50)))
    tip, events = journal.tip, journal.events(0, 100)
    journal.close()
    again = open_journal(tmp_path)
    assert again.tip == tip
    assert again.events(0, 100) == events
    assert [event.name for event in events] == ["Issued", "Deposited", "JobOpened"]
    assert [event.position // EVENTS_AN_ENTRY for event in events] == [1, 2, 3]
    assert again.state.balances[PAYER] == 500
    again.close()


def test_a_call_sent_again_is_answered_as_it_was_and_takes_effect_once(tmp_path):
    journal = funded(tmp_path)
    call = signed_by(PAYER_KEY, 0, Deposit(100))
    first = journal.append(call)
    journal.append(signed_by(PAYER_KEY, 1, Withdraw(30)))
    assert journal.append(call) == first
    assert journal.state.balances[PAYER] == 70
    journal.close()


@pytest.mark.parametrize("nonce", [1, 5])
def test_a_nonce_out_of_turn_is_refused(tmp_path, nonce):
    journal = funded(tmp_path)
    with pytest.raises(Refused, match="BadNonce"):
        journal.append(signed_by(PAYER_KEY, nonce, Deposit(1)))
    journal.append(signed_by(PAYER_KEY, 0, Deposit(1)))
    with pytest.raises(Refused, match="BadNonce"):
        journal.append(signed_by(PAYER_KEY, 0, Deposit(2)))
    journal.close()


@pytest.mark.parametrize("expires_s", [NOW_S, NOW_S - 1, NOW_S + 3601])
def test_a_call_is_taken_only_while_it_is_valid(tmp_path, expires_s):
    journal = funded(tmp_path)
    with pytest.raises(Refused, match="CallExpired"):
        journal.append(signed_by(PAYER_KEY, 0, Deposit(1), expires_s))
    journal.close()


def test_a_refused_call_leaves_no_entry_and_its_nonce_free(tmp_path):
    journal = funded(tmp_path)
    before = journal.tip
    with pytest.raises(Refused, match="InsufficientBalance"):
        journal.append(signed_by(PAYER_KEY, 0, Withdraw(1)))
    assert journal.tip is before
    journal.append(signed_by(PAYER_KEY, 0, Deposit(1)))
    journal.close()


def test_only_the_sender_signs_and_only_for_this_journal(tmp_path):
    journal = funded(tmp_path)
    good = signed_by(PAYER_KEY, 0, Deposit(1))
    for forged in (
        replace(good, sender=ACCOUNTS[1]),
        replace(good, call=signed_by(PAYER_KEY, 0, Deposit(2)).call),
        replace(good, expires_s=good.expires_s + 1),
        replace(good, nonce=1),
        replace(good, signature=good.signature[:64]),
    ):
        with pytest.raises(BadSignature):
            journal.append(forged)
    journal.close()


def test_only_the_owner_issues_and_never_above_the_width(tmp_path):
    journal = funded(tmp_path)
    with pytest.raises(Refused, match="NotIssuer"):
        journal.append(signed_by(PAYER_KEY, 0, Issue(PAYER, 1)))
    with pytest.raises(Refused, match="SupplyExceeded"):
        journal.append(signed_by(OWNER_KEY, 1, Issue(OWNER, 2**128 - 1000)))
    journal.append(signed_by(PAYER_KEY, 0, Retire(400)))
    journal.append(signed_by(OWNER_KEY, 1, Issue(OWNER, 2**128 - 1000)))
    assert dict(journal.state.tokens) == {PAYER: 600, OWNER: 2**128 - 1000}
    journal.close()


def test_strangers_do_not_make_the_journal_grow(tmp_path):
    journal = funded(tmp_path)
    with pytest.raises(Refused, match="UnknownAccount"):
        journal.append(signed_by(KEYS[3], 0, Deposit(0)))
    journal.close()


def test_a_journal_that_cannot_be_written_says_so_and_takes_nothing_more(tmp_path):
    journal = funded(tmp_path)
    before = journal.tip
    journal._tables._connection.execute("PRAGMA query_only=ON")
    with pytest.raises(JournalUnusable, match="cannot be written"):
        journal.append(signed_by(PAYER_KEY, 0, Deposit(1)))
    assert journal.tip is before
    journal._tables._connection.execute("PRAGMA query_only=OFF")
    with pytest.raises(JournalUnusable, match="opened again"):
        journal.append(signed_by(PAYER_KEY, 0, Deposit(1)))
    journal.close()
    again = open_journal(tmp_path)
    again.append(signed_by(PAYER_KEY, 0, Deposit(1)))
    again.close()


def test_time_never_goes_back(tmp_path):
    clock = [float(NOW_S)]
    journal = funded(tmp_path, clock=lambda: clock[0])
    clock[0] -= 30
    entry, _ = journal.append(signed_by(PAYER_KEY, 0, Deposit(1)))
    assert entry.time_s == journal.now_s() == NOW_S
    journal.close()


def test_everybody_can_replay_it(tmp_path):
    journal = funded(tmp_path)
    journal.append(signed_by(PAYER_KEY, 0, Deposit(700)))
    tip = first_tip(OWNER, TERMS)
    for entry in journal.entries(0, 10):
        tip = replay(tip, entry)
    assert tip == journal.tip
    again = journal.entries(1, 1)[0]
    with pytest.raises(RolledBack, match="BadNonce"):
        replay(tip, replace(again, number=3))
    with pytest.raises(BadSignature):
        replay(tip, replace(again, number=3, signed=replace(again.signed, nonce=1)))
    journal.close()


def test_a_snapshot_changes_nothing_but_the_time(tmp_path):
    journal = funded(tmp_path, snapshot_every=3)
    for nonce in range(6):
        journal.append(signed_by(PAYER_KEY, nonce, Deposit(nonce)))
    tip = journal.tip
    journal.close()
    assert edit(tmp_path, "SELECT number FROM snapshots") == [(6,)]
    again = open_journal(tmp_path)
    assert again.tip == tip
    again.close()
    edit(tmp_path, "UPDATE snapshots SET number = 5")
    with pytest.raises(RolledBack, match="6"):
        open_journal(tmp_path)


def test_one_owner_one_set_of_terms_one_process(tmp_path):
    journal = funded(tmp_path)
    script = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('SELECT * FROM entries')"
    path = str(tmp_path / "journal.sqlite")
    other = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False)
    assert "locked" in other.stderr
    with pytest.raises(JournalUnusable, match="another process"):
        open_journal(tmp_path)
    journal.close()
    with pytest.raises(InvalidField, match="terms"):
        Journal(tmp_path / "journal.sqlite", OWNER_KEY, replace(TERMS, min_stake=1))
    with pytest.raises(InvalidField, match="owner"):
        Journal(tmp_path / "journal.sqlite", KEYS[0], TERMS)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"unbonding_s": 150}, "unbonding_s"),
        ({"release_delay_s": 99}, "release_delay_s"),
        ({"min_stake": 0}, "min_stake"),
        ({"commit_period_s": 0}, "commit_period_s"),
        ({"refund_grace_s": 3650 * 86400 + 1}, "refund_grace_s"),
    ],
)
def test_terms_that_trap_somebody_are_named(tmp_path, change, field):
    with pytest.raises(InvalidField, match=field):
        Journal(tmp_path / "journal.sqlite", OWNER_KEY, replace(TERMS, **change))


def test_links_lead_from_any_entry_to_the_head(tmp_path):
    journal = funded(tmp_path)
    for nonce in range(5):
        journal.append(signed_by(PAYER_KEY, nonce, Deposit(1)))
    for start in range(1, 7):
        assert extend(journal.hash_of(start), journal.links(start, 6)) == journal.tip.head.entry_hash
    with pytest.raises(InvalidField, match="7"):
        journal.hash_of(7)
    journal.close()
