"""Messages: records and bytes, compared with bytes that were put together after the manual."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import builders as m
from tqdbproxy.postgres import messages
from tqdbproxy.postgres.framing import FramingError
from tqdbproxy.postgres.messages import Bind, Parse, StartupMessage, error_fields, result_formats

name = st.binary(max_size=20).map(lambda raw: raw.replace(b"\0", b""))


def test_a_startup_message() -> None:
    raw = m.startup(0x00030002, user="me", database="d", options="-c a=b")
    message = StartupMessage.parse(raw)
    assert message == StartupMessage(0x00030002, ((b"user", b"me"), (b"database", b"d"), (b"options", b"-c a=b")), raw)
    assert (message.option(b"user"), message.option(b"x"), message.option(b"x", b"y")) == (b"me", b"", b"y")


def test_the_last_of_two_equal_options_counts() -> None:
    body = b"\0\3\0\0user\0a\0user\0b\0\0"
    message = StartupMessage.parse(struct.pack("!I", 4 + len(body)) + body)
    assert message.option(b"user") == b"b"


@pytest.mark.parametrize("rest", [b"", b"user\0a\0", b"user\0\0", b"user\0a", b"user\0a\0x\0\0"])
def test_a_startup_message_that_is_none(rest: bytes) -> None:
    with pytest.raises(FramingError):
        StartupMessage.parse(struct.pack("!II", 8 + len(rest), 0x30000) + rest)


@given(name, name, st.lists(st.integers(0, 2**32 - 1), max_size=4))
def test_parse(statement: bytes, sql: bytes, types: list[int]) -> None:
    tail = struct.pack(f"!H{len(types)}I", len(types), *types)
    raw = m.message(b"P", statement + b"\0" + sql + b"\0" + tail)
    record = Parse.parse(b"xx" + raw + m.SYNC, 2, 2 + len(raw))
    assert record == Parse(statement, sql, tail)
    assert record.encode() == raw


@given(name, name, st.binary(max_size=30))
def test_bind(portal: bytes, statement: bytes, tail: bytes) -> None:
    raw = m.message(b"B", portal + b"\0" + statement + b"\0" + tail)
    record = Bind.parse(raw + m.SYNC, 0, len(raw))
    assert record == Bind(portal, statement, tail)
    assert record.encode() == raw


@pytest.mark.parametrize("body", [b"", b"name", b"name\0", b"name\0text"])
@pytest.mark.parametrize("record", [Parse, Bind])
def test_texts_without_an_end_are_not_looked_for_in_the_next_message(
    record: type[Parse] | type[Bind], body: bytes
) -> None:
    raw = m.message(b"P", body)
    with pytest.raises(FramingError):
        record.parse(raw + m.query("x") * 2, 0, len(raw))


def tail_of(bind: bytes) -> bytes:
    return bind[7:]


@pytest.mark.parametrize("results", [[], [0], [1], [0, 1, 1]])
@pytest.mark.parametrize("parameters", [[], [b""], [None], [b"abc", None, b"x" * 300]])
def test_result_formats(results: list[int], parameters: list[bytes | None]) -> None:
    tail = tail_of(m.bind(*parameters, formats=[1] * len(parameters), results=results))
    assert result_formats(tail) == struct.pack(f"!H{len(results)}H", len(results), *results)
    for wrong in (*(tail[:cut] for cut in range(len(tail))), tail + b"\0"):
        with pytest.raises(FramingError):
            result_formats(wrong)


@given(st.binary(max_size=60))
def test_random_tails_of_a_bind(tail: bytes) -> None:
    try:
        formats = result_formats(tail)
    except FramingError:
        return
    assert tail.endswith(formats)


def test_what_servers_send() -> None:
    assert messages.command_complete("SELECT 1") == m.complete("SELECT 1")
    assert messages.ready_for_query(b"T"[0]) == m.ready("T")
    assert messages.data_row(("a", "é")) == m.data_row("a", "é")
    assert messages.row_description(("a", "b"), (0, 1)) == m.row_description("a", "b", formats=[0, 1])
    assert messages.close_statement(b"s") == m.close_statement("s")
    assert messages.parameter_status(m.parameter_status("a", "b"), 0) == (b"a", b"b")


def test_an_error_and_its_fields() -> None:
    raw = messages.error_response("ERROR", "23505", "no", hint="try")
    assert raw == m.error("23505", "no", H="try")
    assert error_fields(raw, 0, len(raw)) == {"S": "ERROR", "V": "ERROR", "C": "23505", "M": "no", "H": "try"}


def test_constants() -> None:
    assert m.execute() == messages.EXECUTE_ALL_FRAME
    assert m.describe_portal() == messages.DESCRIBE_PORTAL_FRAME
    assert messages.SYNC_FRAME == m.SYNC
    assert messages.TERMINATE_FRAME == m.TERMINATE
    assert messages.SSL_REQUEST_PACKET == m.SSL_REQUEST
    assert (messages.PARSE_COMPLETE_FRAME, messages.BIND_COMPLETE_FRAME) == (m.PARSE_COMPLETE, m.BIND_COMPLETE)
    assert (messages.CLOSE_COMPLETE_FRAME, messages.NO_DATA_FRAME) == (m.CLOSE_COMPLETE, m.NO_DATA)
    assert m.ready() == messages.READY_IDLE_FRAME
