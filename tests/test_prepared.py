"""The prepared statements of a session: listed only when the server has confirmed them."""

from __future__ import annotations

from tests import builders as m
from tqdbproxy.postgres.clients.prepared import Prepared, PreparedStatement
from tqdbproxy.postgres.sql import Text

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
    assert [prepared.get(name) for name in (b"t", b"", b"u")] == [None, None, None]
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
    for name in (b"", None):
        prepared = Prepared()
        prepared.kept_back(m.parse("one"), ONE)
        prepared.dropped(name)
        assert (prepared.take_unsent(), prepared.get(b"")) == (b"", None)
    prepared = Prepared()
    prepared.kept_back(m.parse("one"), ONE)
    prepared.dropped(b"other")
    assert prepared.take_unsent() == m.parse("one")
