"""The prepared statements of a session: listed only when the server has confirmed them."""

from __future__ import annotations

import pytest

from tests import builders as m
from tqdbproxy.postgres.clients.prepared import Prepared, PreparedStatement
from tqdbproxy.postgres.sql import Text, Texts

ONE = PreparedStatement(Text(stripped=b"one"))
TWO = PreparedStatement(Text(stripped=b"two"))


def confirmed(*named: tuple[bytes, PreparedStatement]) -> Prepared:
    prepared = Prepared()
    for name, statement in named:
        prepared.parsed(1, name, statement)
    prepared.unit_done(1, failed=False)
    return prepared


def test_a_statement_counts_when_its_unit_has_succeeded() -> None:
    prepared = Prepared()
    assert not prepared.interesting
    prepared.parsed(3, b"s", ONE)
    assert (prepared.get(b"s"), prepared.bound(b"s"), prepared.interesting) == (None, ONE, True)
    prepared.unit_done(2, failed=False)
    assert prepared.get(b"s") is None
    prepared.unit_done(3, failed=False)
    assert (prepared.get(b"s"), prepared.bound(b"s")) == (ONE, ONE)


def test_a_failed_unit_prepared_nothing_that_counts() -> None:
    prepared = confirmed((b"s", ONE))
    prepared.parsed(2, b"s", TWO)
    prepared.parsed(2, b"t", TWO)
    prepared.unit_done(2, failed=True)
    assert (prepared.get(b"s"), prepared.get(b"t"), prepared.interesting) == (None, None, False)


def test_the_newest_parse_is_what_a_bind_means() -> None:
    prepared = Prepared()
    prepared.parsed(1, b"s", ONE)
    prepared.parsed(2, b"s", TWO)
    assert prepared.bound(b"s") == TWO
    prepared.unit_done(1, failed=False)
    assert prepared.get(b"s") is None
    prepared.unit_done(2, failed=False)
    assert prepared.get(b"s") == TWO


def test_a_parse_of_no_interest_replaces_one() -> None:
    prepared = confirmed((b"s", ONE))
    prepared.parsed(2, b"s", None)
    assert (prepared.get(b"s"), prepared.bound(b"s"), prepared.interesting) == (None, None, False)


def test_dropped_by_name_and_all_of_them() -> None:
    prepared = confirmed((b"s", ONE), (b"t", TWO), (b"", ONE))
    prepared.dropped(b"s")
    assert (prepared.get(b"s"), prepared.get(b"t"), prepared.get(b"")) == (None, TWO, ONE)
    prepared.parsed(2, b"u", ONE)
    prepared.dropped(None)
    prepared.unit_done(2, failed=False)
    assert [prepared.get(name) for name in (b"t", b"", b"u")] == [None, ONE, None]
    prepared.dropped(b"")
    assert not prepared.interesting


def test_what_was_kept_back_is_sent_once() -> None:
    prepared = Prepared()
    prepared.kept_back(m.parse("one"), ONE)
    assert (prepared.get(b""), prepared.interesting) == (ONE, True)
    assert (prepared.take_unsent(), prepared.take_unsent()) == (m.parse("one"), b"")
    assert (prepared.get(b""), prepared.interesting) == (ONE, True)


def test_a_query_that_was_kept_back_leaves_no_unnamed_statement() -> None:
    prepared = confirmed((b"", ONE))
    prepared.kept_back(m.close_statement(), None)
    assert (prepared.get(b""), prepared.interesting) == (None, True)
    assert prepared.take_unsent() == m.close_statement()
    assert not prepared.interesting


def test_what_destroys_the_unnamed_statement_makes_the_repair_needless() -> None:
    prepared = Prepared()
    prepared.kept_back(m.parse("one"), ONE)
    prepared.dropped(b"")
    assert (prepared.take_unsent(), prepared.get(b"")) == (b"", None)
    for name in (b"other", None):
        prepared = Prepared()
        prepared.kept_back(m.parse("one"), ONE)
        prepared.dropped(name)
        assert prepared.take_unsent() == m.parse("one")


def test_what_would_have_destroyed_the_unnamed_statement_was_skipped() -> None:
    """The server's own is older than any that the client could mean."""
    prepared = Prepared()
    prepared.kept_back(m.parse("one"), ONE)
    prepared.parsed(1, b"", None)
    assert prepared.unsent == b""
    prepared.unit_done(1, failed=True)
    assert prepared.take_unsent() == m.close_statement()
    assert not prepared.interesting


@pytest.mark.parametrize(("first", "failed"), [(True, True), (True, False), (False, False)])
def test_the_unnamed_statement_was_destroyed(first: bool, failed: bool) -> None:
    prepared = Prepared()
    prepared.kept_back(m.parse("one"), ONE)
    prepared.parsed(1, b"", None, first=first)
    prepared.unit_done(1, failed=failed)
    assert (prepared.unsent, prepared.interesting) == (b"", False)


# Statements that change their session

SET = PreparedStatement(Texts().look(b"set a.b = 1"))


def test_what_was_parsed_in_a_unit_that_failed_may_be_there() -> None:
    prepared = Prepared()
    prepared.parsed(1, b"s", SET)
    prepared.parsed(1, b"t", ONE)
    prepared.unit_done(1, failed=True)
    assert (prepared.in_doubt(2, b"s"), prepared.in_doubt(2, b"t"), prepared.interesting) == (True, False, True)


@pytest.mark.parametrize("failed", [True, False])
@pytest.mark.parametrize("name", [b"s", None])
def test_what_was_closed_may_be_there_until_that_is_confirmed(name: bytes | None, failed: bool) -> None:
    prepared = confirmed((b"s", SET))
    prepared.dropped(name, 2)
    assert (prepared.get(b"s"), prepared.in_doubt(3, b"s")) == (None, True)
    prepared.unit_done(2, failed)
    assert (prepared.in_doubt(3, b"s"), prepared.interesting) == (failed, failed)


def test_a_parse_in_the_same_unit_ends_the_doubt() -> None:
    """The server skips what follows, if it fails."""
    prepared = confirmed((b"", SET))
    prepared.parsed(2, b"", ONE)
    assert (prepared.in_doubt(2, b""), prepared.in_doubt(3, b""), prepared.bound(b"")) == (False, True, ONE)
    prepared.unit_done(2, failed=True)
    assert prepared.in_doubt(3, b"")
    prepared.dropped(b"")
    assert not prepared.in_doubt(3, b"")


def test_the_first_of_its_unit_destroys_the_unnamed_statement() -> None:
    prepared = confirmed((b"", SET), (b"s", SET))
    prepared.parsed(2, b"", None, first=True)
    assert not prepared.in_doubt(3, b"")
    prepared.parsed(3, b"s", None, first=True)
    assert prepared.in_doubt(4, b"s")


def test_what_is_newer_on_its_way_decides() -> None:
    prepared = confirmed((b"s", SET))
    prepared.dropped(b"s", 2)
    prepared.parsed(3, b"s", SET)
    prepared.dropped(b"s", 3)
    prepared.unit_done(2, failed=False)
    assert prepared.in_doubt(4, b"s")
    prepared.unit_done(3, failed=False)
    assert not prepared.in_doubt(4, b"s")


def test_all_that_is_newer_on_its_way_decides() -> None:
    prepared = confirmed((b"s", SET))
    prepared.dropped(None, 2)
    prepared.parsed(3, b"t", SET)
    prepared.dropped(None, 3)
    prepared.unit_done(2, failed=False)
    prepared.unit_done(3, failed=True)
    assert prepared.in_doubt(4, b"t")


def test_what_may_not_have_been_executed_confirms_nothing() -> None:
    prepared = confirmed((b"s", SET))
    prepared.dropped(b"s", 0)
    prepared.unit_done(2, failed=False)
    assert prepared.in_doubt(3, b"s")


def test_so_many_doubts_are_told_apart() -> None:
    prepared = Prepared()
    for number in range(200):
        prepared.parsed(number, b"%d" % number, SET)
        prepared.unit_done(number, failed=True)
    assert prepared.in_doubt(200, b"x")
    prepared.dropped(None, 200)
    prepared.unit_done(200, failed=False)
    assert not prepared.interesting


def test_long_names_may_mean_the_same() -> None:
    prepared = confirmed((b"s" * 62, SET), (b"t" * 62, SET))
    assert not prepared.in_doubt(2, b"s" * 62)
    assert prepared.in_doubt(2, b"s" * 63)
    assert prepared.in_doubt(2, None)
    prepared = confirmed((b"s" * 63, SET))
    assert prepared.in_doubt(2, b"s" * 64)
    assert prepared.in_doubt(2, b"x")


def test_what_was_not_looked_at_may_have_closed_anything() -> None:
    prepared = confirmed((b"s", SET), (b"t", ONE))
    prepared.lost()
    assert [prepared.get(name) for name in (b"s", b"t")] == [None, None]
    assert (prepared.in_doubt(2, b"s"), prepared.in_doubt(2, b"t")) == (True, False)
