"""An owner that takes back what it has shown is found out by whoever kept a head, and by itself."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from journal_parties import OWNER, OWNER_KEY, edit, open_journal, signed_by
from ledger_parties import ACCOUNTS, KEYS

from deserve_ledger.calls import Deposit
from deserve_ledger.embedded.calls import Issue
from deserve_ledger.embedded.heads import HeadWatch, JournalHead, sign_head
from deserve_ledger.embedded.tip import first_tip
from deserve_ledger.errors import BadSignature, InvalidField, RolledBack


def written(folder, amounts):
    folder.mkdir(exist_ok=True)
    journal = open_journal(folder)
    if journal.tip.head.length == 0:
        journal.append(signed_by(OWNER_KEY, 0, Issue(ACCOUNTS[0], 1000)))
    for amount in amounts:
        journal.append(signed_by(KEYS[0], journal.tip.nonces.get(ACCOUNTS[0], 0), Deposit(amount)))
    return journal


def watch_of(journal, path):
    genesis = first_tip(OWNER, journal.state.terms).head.entry_hash
    return HeadWatch(path, OWNER, journal.state.domain, genesis)


def show(journal, watch):
    watch.accept(journal.signed_head(), journal.links(watch.head.length, journal.tip.head.length))


def test_a_journal_that_grows_is_followed_and_the_head_is_kept(tmp_path):
    journal = written(tmp_path / "a", [1, 2])
    watch = watch_of(journal, tmp_path / "head")
    show(journal, watch)
    journal.append(signed_by(KEYS[0], 2, Deposit(3)))
    show(journal, watch)
    show(journal, watch)
    assert watch.head == journal.tip.head
    again = watch_of(journal, tmp_path / "head")
    assert (again.head, again.newest) == (watch.head, watch.newest)
    journal.close()


def test_an_older_head_is_a_rollback(tmp_path):
    journal = written(tmp_path / "a", [1])
    watch = watch_of(journal, tmp_path / "head")
    older = journal.signed_head()
    journal.append(signed_by(KEYS[0], 1, Deposit(3)))
    show(journal, watch)
    with pytest.raises(RolledBack, match="3 entries and is shown with 2"):
        watch.accept(older, [])
    assert watch.head == journal.tip.head
    journal.close()


def test_a_fork_is_found_out_by_the_first_who_compare(tmp_path):
    journal = written(tmp_path / "a", [1])
    watch = watch_of(journal, tmp_path / "head")
    journal.close()
    os.mkdir(tmp_path / "b")
    for part in (tmp_path / "a").iterdir():
        (tmp_path / "b" / part.name).write_bytes(part.read_bytes())
    one, other = written(tmp_path / "a", [2, 3]), written(tmp_path / "b", [3, 2])
    assert (one.tip.head.length, one.state.balances) == (other.tip.head.length, other.state.balances)
    show(one, watch)
    with pytest.raises(RolledBack, match="as shown before"):
        watch.accept(other.signed_head(), [])
    other.append(signed_by(KEYS[0], 3, Deposit(1)))
    with pytest.raises(RolledBack, match="as shown before"):
        show(other, watch)
    one.close()
    other.close()


def test_only_the_owner_signs_heads_and_links_must_lead_there(tmp_path):
    journal = written(tmp_path / "a", [1])
    watch = watch_of(journal, tmp_path / "head")
    with pytest.raises(BadSignature):
        watch.accept(sign_head(KEYS[0], journal.state.domain, journal.tip.head), journal.links(0, 2))
    with pytest.raises(InvalidField, match="links"):
        watch.accept(journal.signed_head(), journal.links(0, 1))
    with pytest.raises(RolledBack):
        watch.accept(journal.signed_head(), [bytes(32), bytes(32)])
    assert watch.newest is None
    journal.close()


def test_a_watch_is_of_one_journal(tmp_path):
    journal = written(tmp_path / "a", [1])
    watch = watch_of(journal, tmp_path / "head")
    show(journal, watch)
    with pytest.raises(RolledBack, match="other terms"):
        HeadWatch(tmp_path / "head", OWNER, journal.state.domain, bytes(32))
    journal.close()


def test_a_truncated_tail_is_detected_by_the_owner_and_by_everybody_else(tmp_path):
    journal = written(tmp_path / "a", [1, 2, 3])
    watch = watch_of(journal, tmp_path / "head")
    show(journal, watch)
    journal.close()
    edit(tmp_path / "a", "DELETE FROM entries WHERE number = 4")
    edit(tmp_path / "a", "DELETE FROM events WHERE position >= 4 * 256")
    with pytest.raises(RolledBack, match="4"):
        open_journal(tmp_path / "a")
    (tmp_path / "a" / "journal.sqlite.head").unlink()
    shorter = open_journal(tmp_path / "a")
    with pytest.raises(RolledBack, match="4 entries and is shown with 3"):
        show(shorter, watch)
    shorter.append(signed_by(KEYS[0], 2, Deposit(9)))
    with pytest.raises(RolledBack, match="as shown before"):
        show(shorter, watch)
    shorter.close()


def test_a_file_whose_end_is_cut_off_is_not_opened_as_if_nothing_were_amiss(tmp_path):
    journal = written(tmp_path / "a", [3] * 60)
    watch = watch_of(journal, tmp_path / "head")
    show(journal, watch)
    journal.close()
    path = tmp_path / "a" / "journal.sqlite"
    whole = path.read_bytes()
    for pages in (1, 3, 6):
        path.write_bytes(whole[: -4096 * pages])
        with pytest.raises(RolledBack):
            open_journal(tmp_path / "a")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET time_s = time_s + 1 WHERE number = 2",
        "UPDATE entries SET entropy = zeroblob(32) WHERE number = 2",
        "UPDATE entries SET hash = zeroblob(32) WHERE number = 2",
        "UPDATE entries SET call = (SELECT call FROM entries WHERE number = 3) WHERE number = 2",
        "DELETE FROM entries WHERE number = 2",
    ],
)
def test_a_rewritten_entry_is_detected_when_the_journal_is_opened(tmp_path, statement):
    written(tmp_path / "a", [1, 2]).close()
    edit(tmp_path / "a", statement)
    with pytest.raises(RolledBack, match="not the one that was written"):
        open_journal(tmp_path / "a")


def test_a_head_of_another_journal_means_nothing_here(tmp_path):
    journal = written(tmp_path / "a", [1])
    watch = watch_of(journal, tmp_path / "head")
    elsewhere = sign_head(OWNER_KEY, replace(journal.state.domain, chain_id=1), JournalHead(9, bytes(32)))
    with pytest.raises(BadSignature):
        watch.accept(elsewhere, [bytes(32)] * 9)
    journal.close()
