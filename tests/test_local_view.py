"""pg_tqdb_status, in every way of asking."""

from __future__ import annotations

import pytest

from tests import builders as m
from tqdbproxy.core.statement import Reason, Strategy
from tqdbproxy.core.writebatch.types import Company
from tqdbproxy.postgres.clients.local import LocalView
from tqdbproxy.postgres.clients.status import Status
from tqdbproxy.postgres.framing import FramingError

STATUS = Status("main", "primary")
VIEW = "SELECT * FROM pg_tqdb_status"
NAMES = ("variable_name", "value")
ROWS = b"".join(
    [
        m.data_row("Shard", "main"),
        m.data_row("Backend", "primary"),
        m.data_row("LastBatchSize", ""),
        m.data_row("LastBatchWaitMs", ""),
        m.data_row("LastStrategy", ""),
        m.data_row("Reason", ""),
        m.complete("SELECT 6"),
    ]
)
IDLE = b"I"[0]


def is_view(text: bytes) -> bool:
    return text == VIEW.encode()


def ask(view: LocalView, *messages: bytes, status: int = IDLE) -> bytes:
    """The answer to a unit that comes in one piece."""
    data = b"".join(messages)
    assert view.concerns(data, is_view)
    reply, used = view.answer(data, STATUS, status)
    assert used == len(data)
    return reply


def test_the_rows() -> None:
    company = Company(7, 0.01234, Strategy.PREPARED)
    assert Status("s", "write-batch", company, Reason.UNSAFE).rows() == (
        ("Shard", "s"),
        ("Backend", "write-batch"),
        ("LastBatchSize", "7"),
        ("LastBatchWaitMs", "12.340"),
        ("LastStrategy", "prepared"),
        ("Reason", "unsafe"),
    )


def test_a_query() -> None:
    assert LocalView().simple(STATUS, b"T"[0]) == m.row_description(*NAMES) + ROWS + m.ready("T")


def test_the_unnamed_statement() -> None:
    view = LocalView()
    assert ask(view, m.unit(VIEW)) == m.PARSE_COMPLETE + m.BIND_COMPLETE + ROWS + m.ready()
    described = m.row_description(*NAMES)
    assert ask(view, m.unit(VIEW, describe=True)) == m.PARSE_COMPLETE + m.BIND_COMPLETE + described + ROWS + m.ready()
    assert not view.asking


def test_a_named_statement_in_several_units() -> None:
    view = LocalView()
    described = m.parameter_description() + m.row_description(*NAMES)
    assert ask(view, m.parse(VIEW, "v"), m.describe_statement("v"), m.SYNC) == (
        m.PARSE_COMPLETE + described + m.ready()
    )  # fmt: skip
    assert ask(view, m.describe_statement("v"), m.FLUSH, m.SYNC) == described + m.ready()
    executed = m.BIND_COMPLETE + ROWS
    assert ask(view, m.bind(statement="v", portal="p"), m.execute("p"), m.SYNC) == executed + m.ready()
    assert ask(view, m.bind(statement="v"), m.execute(), m.close_portal(), m.SYNC) == (
        executed + m.CLOSE_COMPLETE + m.ready()
    )  # fmt: skip
    assert ask(view, m.close_statement("v"), m.SYNC) == m.CLOSE_COMPLETE + m.ready()
    assert not view.known
    assert not view.concerns(m.bind(statement="v") + m.SYNC, is_view)


@pytest.mark.parametrize(
    ("results", "formats"), [([], (0, 0)), ([0], (0, 0)), ([1], (1, 1)), ([0, 1], (0, 1)), ([1, 0], (1, 0))]
)
def test_the_formats_that_were_asked_for(results: list[int], formats: tuple[int, int]) -> None:
    reply = ask(LocalView(), m.unit(VIEW, describe=True, results=results))
    assert m.split(reply)[2] == m.row_description(*NAMES, formats=formats)


def test_too_many_formats() -> None:
    view = LocalView()
    with pytest.raises(FramingError, match="bind message has 3 result formats but query has 2 columns"):
        ask(view, m.unit(VIEW, results=[0, 0, 0]))


def test_a_unit_cut_at_every_byte_gets_the_same_answer() -> None:
    data = m.unit(VIEW, describe=True)
    whole = ask(LocalView(), data)
    for cut in range(len(m.parse(VIEW)), len(data)):
        view = LocalView()
        assert view.concerns(data[:cut], is_view)
        first, used = view.answer(data[:cut], STATUS, IDLE)
        rest, end = view.answer(data[used:], STATUS, IDLE)
        assert (first + rest, used + end, view.asking) == (whole, len(data), False)


def test_what_comes_after_the_sync_is_left_alone() -> None:
    view = LocalView()
    data = m.unit(VIEW)
    assert view.concerns(data, is_view)
    assert view.answer(data + m.query("x"), STATUS, IDLE)[1] == len(data)


@pytest.mark.parametrize(
    "other",
    [m.describe_statement("x"), m.describe_portal("x"), m.execute("x"), m.query("select 1")],
    ids=m.kinds,
)
def test_it_must_be_the_only_statement_of_its_unit(other: bytes) -> None:
    view = LocalView()
    reply = ask(view, m.parse(VIEW), m.bind(), other, m.execute(), m.SYNC)
    assert m.kinds(reply) == "12EZ"
    assert m.error_of(reply)["C"] == "0A000"
    assert ask(view, m.unit(VIEW)).endswith(ROWS + m.ready())


@pytest.mark.parametrize(
    "data",
    [
        m.parse("select 1"),
        m.bind(statement="unknown"),
        m.describe_statement("unknown"),
        m.describe_portal(),
        m.close_statement("unknown"),
        m.close_portal(),
        m.execute(),
        m.message(b"P", b"no end"),
        m.message(b"B"),
        m.message(b"C"),
        m.message(b"D"),
        m.message(b"C", b"S"),
        m.parse(VIEW)[:-1],
    ],
    ids=m.kinds,
)
def test_what_does_not_concern_it(data: bytes) -> None:
    view = LocalView()
    ask(view, m.parse(VIEW, "v"), m.SYNC)
    assert not view.concerns(data, is_view)
    assert not view.asking


def test_portals_end_with_their_unit() -> None:
    view = LocalView()
    ask(view, m.parse(VIEW, "v"), m.bind(statement="v", portal="p"), m.SYNC)
    assert m.kinds(ask(view, m.describe_statement("v"), m.execute("p"), m.SYNC)) == "tTEZ"


def test_a_name_that_is_another_statement_now() -> None:
    view = LocalView()
    ask(view, m.parse(VIEW, "v"), m.SYNC)
    view.forget(b"v")
    assert not view.known
    assert not view.concerns(m.bind(statement="v") + m.SYNC, is_view)
