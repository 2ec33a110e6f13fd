"""What a session does with what its client says: pure, one step after another."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import builders as m
from tests.talks import BROKEN, IDLE, OPEN, SIMPLE, VIEW, WRITE, Talk, bound
from tqdbproxy.core.routing import Rules
from tqdbproxy.core.statement import Kind
from tqdbproxy.postgres.clients.session import KEPT_BYTES
from tqdbproxy.postgres.clients.steps import Step
from tqdbproxy.postgres.clients.units import KEPT_FRONTS, LARGEST_OUTLINE, Pattern, SimplePattern
from tqdbproxy.postgres.clients.walk import INSPECTED
from tqdbproxy.postgres.framing import FramingError


@pytest.fixture
def talk() -> Talk:
    return Talk()


# The forward lane


@pytest.mark.parametrize(
    "data",
    [
        m.query("select 1"),
        m.query("select 1") * 3,
        m.unit("select $1", b"x", describe=True),
        m.parse("select 1") + m.FLUSH,
        m.SYNC,
        m.FLUSH,
        m.function_call(1),
        m.copy_data(b"x") + m.COPY_DONE,
        m.copy_fail("x"),
        m.TERMINATE,
        m.query(""),
        m.lying(b"d", 1 << 29, b"part"),
        m.message(b"Q"),
        m.message(b"P") + m.SYNC,
        m.message(b"B"),
        m.message(b"C"),
        m.message(b"D"),
        m.message(b"E"),
        m.message(b"P", b"no end") + m.SYNC,
    ],
    ids=m.kinds,
)
def test_what_is_passed_on_as_it_came(talk: Talk, data: bytes) -> None:
    talk.forwards(data)
    again = Talk()
    again.batches(m.unit(WRITE, b"x"))
    again.forwards(m.query("select 1"), data)


@pytest.mark.parametrize(
    ("data", "units"),
    [
        (m.query("select 1"), 1),
        (m.unit("select 1") * 3, 3),
        (m.query("a") + m.SYNC + m.function_call(1), 3),
        (m.parse("a") + m.FLUSH, 0),
        (m.copy_data(b"x" * 50) + m.COPY_DONE, 0),
    ],
)
def test_every_unit_is_counted_whatever_the_pieces(data: bytes, units: int) -> None:
    for size in range(1, len(data) + 1):
        talk = Talk()
        kept = b""
        for piece in m.chunks(data, [size]):
            step = talk.read(kept + piece)
            kept = step.rest if step is not None else b""
        assert (kept, talk.session.sent) == (b"", units)


def test_a_query_that_is_not_whole_waits_and_a_huge_one_streams(talk: Talk) -> None:
    assert talk.read(m.query("select 1")[:9]) == Step(rest=m.query("select 1")[:9])
    huge = m.query("select '" + "x" * INSPECTED + "'")
    assert talk.read(huge[:500]) is None
    assert talk.session.mid_message
    talk.forwards(huge[500:])
    assert (talk.session.sent, talk.session.mid_message) == (1, False)
    assert talk.session.history.identity is None


@pytest.mark.parametrize("length", [0, 3, -1, -(2**31), 2**31 - 1])
@pytest.mark.parametrize("kind", [b"Q", b"P", b"B", b"d", b"S", b"X"])
def test_lengths_that_lie(kind: bytes, length: int) -> None:
    lie = m.lying(kind, length)
    for before in (b"", m.query("select 1"), m.SYNC, m.unit("select 1")):
        assert refused(before, lie) == before
    assert refused(m.parse("select 1"), lie) in (m.parse("select 1"), b"")


def refused(before: bytes, after: bytes) -> bytes:
    """What was forwarded until the client was refused."""
    talk = Talk()
    sent = b""
    rest = before + after
    while True:
        try:
            step = talk.read(rest)
        except FramingError:
            return sent
        assert step is not None
        sent += step.forward
        if step.refuse:
            return sent
        assert step.forward, "nobody refuses it"
        rest = step.rest


@pytest.mark.parametrize("kind", [b"p", b"R", b"Z", b"\0", b"\xff"])
def test_messages_that_no_client_sends(talk: Talk, kind: bytes) -> None:
    step = talk.read(m.SYNC + m.message(kind, b"x"))
    assert step == Step(forward=m.SYNC, refuse=f"invalid frontend message type {kind[0]}")


@given(st.binary(min_size=1, max_size=120))
def test_random_bytes(data: bytes) -> None:
    for before in (b"", m.parse(WRITE, "s") + m.SYNC, m.parse(VIEW, "v") + m.SYNC):
        talk = Talk()
        if before:
            talk.read(before)
            talk.done(talk.session.sent)
        try:
            step = talk.read(data)
        except FramingError:
            continue
        assert step is None or data.startswith(step.forward)


# Which units leave the forward lane


@pytest.mark.parametrize("data", [m.query(SIMPLE), m.unit(WRITE, b"1"), m.unit(WRITE, b"1", describe=True)])
def test_a_lone_hinted_write(talk: Talk, data: bytes) -> None:
    step = talk.read(data)
    assert step is not None
    assert step.unit is not None
    assert (step.unit.raw, step.window_s, step.rest) == (data, 0.01, b"")
    assert talk.session.sent == 0
    for _ in range(2):
        again = talk.read(data + m.TERMINATE)
        assert again is not None
        assert (again.key, again.rest) == (step.key, m.TERMINATE)


def test_it_is_waited_for_until_it_is_whole(talk: Talk) -> None:
    data = m.unit(WRITE, b"1")
    for cut in range(1, len(data)):
        assert talk.read(data[:cut]) == Step(rest=data[:cut])


def test_writes_with_one_key_hint_belong_together_whatever_their_text(talk: Talk) -> None:
    one = talk.batches(m.query("/* batch:10 key:k */ insert into t values (1)"))
    two = talk.batches(m.query("/* batch:10 key:k */ delete from t where a = 1"))
    assert one.key == two.key
    assert one.unit.template != two.unit.template  # type: ignore[union-attr]


def test_different_texts_and_settings_do_not_belong_together(talk: Talk) -> None:
    keys = [talk.batches(m.query(SIMPLE)).key, talk.batches(m.query(SIMPLE.replace("into t", "into u"))).key]
    talk.forwards(m.query("set a.b = 1"))
    talk.done()
    keys.append(talk.batches(m.query(SIMPLE)).key)
    talk.session.parameter_changed(b"TimeZone", b"CET")
    keys.append(talk.batches(m.query(SIMPLE)).key)
    assert len(set(keys)) == 4
    talk.forwards(m.query("discard all"))
    talk.done()
    talk.session.parameter_changed(b"TimeZone", b"UTC")
    assert talk.batches(m.query(SIMPLE)).key not in keys[2:]
    assert talk.asked == ["retire", "retire", "forget", "retire", "retire"]


@pytest.mark.parametrize(
    ("before", "done", "data", "reason"),
    [
        (m.query("begin"), OPEN, m.query(SIMPLE), "transaction"),
        (m.query("begin"), BROKEN, m.unit(WRITE, b"1"), "transaction"),
        (m.query("select 1"), None, m.query(SIMPLE), "pipeline"),
        (m.query("select 1"), None, m.unit(WRITE, b"1"), "pipeline"),
        (b"", None, m.query(SIMPLE) + m.query("select 1"), "pipeline"),
        (b"", None, m.query("select 1") + m.query(SIMPLE), "pipeline"),
        (b"", None, m.unit(WRITE, b"1") + m.SYNC, "pipeline"),
        (b"", None, m.parse(WRITE) + m.bind(b"1") + m.execute() + m.bind(b"2") + m.execute() + m.SYNC, "pipeline"),
        (b"", None, m.parse(WRITE) + m.bind(b"1", portal="p") + m.execute("p") + m.SYNC, "pipeline"),
        (m.query("create temp table x (a int)"), IDLE, m.query(SIMPLE), "session_state"),
        (b"", None, m.query(SIMPLE + "; select 1"), "multi_statement"),
        (b"", None, m.query("/* batch:1 */ select 1"), "not_a_write"),
        (b"", None, m.query("/* batch:1 */ insert into t values (lastval())"), "unsafe"),
    ],
)
def test_why_a_hint_is_not_followed(talk: Talk, before: bytes, done: int | None, data: bytes, reason: str) -> None:
    if before:
        talk.forwards(before)
    if done is not None:
        talk.done(status=done)
    talk.forwards(data)
    assert set(talk.excluded()) == {reason}


def test_what_the_configuration_forbids() -> None:
    for rules, reason in ((Rules(batching=False), "disabled"), (Rules(max_bytes=20), "no_capacity")):
        talk = Talk(rules)
        talk.forwards(m.query(SIMPLE))
        talk.done()
        talk.forwards(m.unit(WRITE, b"1" * 30))
        assert talk.excluded() == {reason: 2}


def test_a_configuration_that_changes_is_obeyed_at_once(talk: Talk) -> None:
    talk.batches(m.unit(WRITE, b"1"))
    talk.session._book.rules = Rules(batching=False)
    talk.forwards(m.unit(WRITE, b"1"))
    assert talk.excluded() == {"disabled": 1}


def test_after_a_copy_in_the_extended_protocol_nothing_is_batched(talk: Talk) -> None:
    talk.forwards(m.unit("copy t from stdin"))
    talk.session.copy_began()
    talk.forwards(m.COPY_DONE, m.SYNC)
    talk.done()
    talk.forwards(m.query(SIMPLE))
    assert talk.excluded() == {"pipeline": 1}


def test_a_copy_in_the_simple_protocol_changes_nothing(talk: Talk) -> None:
    talk.forwards(m.query("copy t from stdin"))
    talk.session.copy_began()
    talk.forwards(m.copy_data(b"x"), m.COPY_DONE)
    talk.done()
    assert talk.session.tracked
    talk.batches(m.query(SIMPLE))


# Counting


def test_statements_are_counted_by_caller(talk: Talk) -> None:
    talk.forwards(m.query("select 1"), m.query("insert into t values (1)"))
    talk.done(2)
    talk.batches(m.query(SIMPLE))
    talk.forwards(m.query("/* file:b.py */ select 1"))
    talk.done()
    caller = talk.metrics.caller("a.py", "", Kind.INSERT)
    assert (caller.queries, caller.batched) == (1, 1)
    assert talk.metrics.caller("b.py", "", Kind.SELECT).queries == 1
    assert sum(counts.queries for counts in talk.metrics.plain.values()) == 2


def test_a_hinted_statement_in_a_pipeline_is_counted_once(talk: Talk) -> None:
    talk.forwards(m.unit(WRITE, b"1") * 2)
    assert talk.metrics.caller("a.py", "", Kind.INSERT).queries == 2
    assert sum(counts.queries for counts in talk.metrics.plain.values()) == 0


# The quick way of what is like the write before it


def slow(talk: Talk) -> Talk:
    """It has forgotten what its client uses to say."""
    session = talk.session
    session.usual, session._again, session._again_simple = None, Pattern(None, None), SimplePattern()
    return talk


def taken(talk: Talk, data: bytes) -> object:
    """What becomes of these bytes, as far as anybody can see."""
    try:
        step = talk.read(data)
    except FramingError as problem:
        return str(problem)
    if step is None:
        return None
    unit = step.unit
    what = unit and (unit.raw, unit.sql, unit.types, unit.tail, unit.size, unit.limit, unit.shape, unit.template)
    return what, step.key and step.key.template, step.window_s, step.forward, step.local, step.rest, step.hold


def like(write: bytes) -> Iterator[bytes]:
    """The write, cut off everywhere, with more behind it, and with each of its bytes another one."""
    yield write
    yield write + m.TERMINATE
    yield write + write
    for at in range(len(write)):
        yield write[:at] or m.SYNC
        for other in (0, write[at] ^ 1, ord("'"), ord("9")):
            yield write[:at] + bytes([other]) + write[at + 1 :]


@pytest.mark.parametrize(
    "write",
    [
        m.query(SIMPLE),
        m.query("/* batch:10 */ insert into t values (7, '8', 1.5)"),
        m.unit(WRITE, b"1"),
        m.unit(WRITE + " returning a", b"1", describe=True),
    ],
    ids=m.kinds,
)
def test_the_quick_way_leads_where_the_slow_one_does(write: bytes) -> None:
    for data in like(write):
        quick, careful = Talk(), Talk()
        quick.batches(write)
        careful.batches(write)
        assert taken(quick, data) == taken(slow(careful), data), data


@pytest.mark.parametrize("value", [b"", b"1", b"22", b"x" * 500])
def test_the_quick_way_of_values_of_other_sizes(value: bytes) -> None:
    quick, careful = Talk(), Talk()
    for each in (quick, careful):
        each.batches(m.unit(WRITE, b"1"))
        each.batches(m.unit(WRITE, b"1234567"))
    assert taken(quick, m.unit(WRITE, value)) == taken(slow(careful), m.unit(WRITE, value))


def test_what_is_kept_of_sizes_is_small_whatever_the_text_and_the_names(talk: Talk) -> None:
    long = f"{WRITE[:-1]}, {'9' * 10000})"
    for size in range(200):
        talk.batches(m.unit(long, b"x" * size))
    fronts = talk.session._again._outline.fronts
    assert 0 < len(fronts) <= KEPT_FRONTS
    assert max(map(len, fronts.values())) < 100
    talk.forwards(m.parse(WRITE, "s" * 10000), m.SYNC)
    talk.done()
    talk.batches(bound("s" * 10000))
    assert talk.session._again._outline.fronts == {}


@pytest.mark.parametrize(("name", "shared"), [("s", True), ("s" * LARGEST_OUTLINE, False)])
def test_sessions_whose_clients_say_the_same_share_an_outline(name: str, shared: bool) -> None:
    write = bound(name)
    one, other = Talk(), Talk()
    for each in (one, other):
        each.forwards(m.parse(WRITE, name), m.SYNC)
        each.done()
        each.batches(write)
    assert (one.session._again._outline is other.session._again._outline) is shared
    assert one.batches(write.replace(b"\0\0\0\x011", b"\0\0\0\x017")).unit is not other.batches(write).unit


def test_the_quick_way_is_taken_once_nothing_else_has_been_said(talk: Talk) -> None:
    write = m.unit(WRITE, b"1")
    talk.batches(write)
    quick = talk.session.usual
    assert quick is not None
    assert talk.batches(m.unit(WRITE, b"22")) is quick.step
    talk.forwards(m.query("select 1"))
    assert talk.session.usual is None
    talk.done()
    assert talk.batches(write) is quick.step


@pytest.mark.parametrize("size", [100, KEPT_BYTES, 10 * KEPT_BYTES])
def test_large_values_are_not_kept(talk: Talk, size: int) -> None:
    step = talk.batches(m.unit(WRITE, b"x" * size))
    assert step.unit is not None
    assert len(step.unit.raw) < 2 * KEPT_BYTES
    again = talk.read(m.unit(WRITE, b"y" * size))
    assert again is not None
    assert again.unit is not None
    assert again.unit.tail.count(b"y") == size


def test_the_quick_way_ends_where_settings_rules_or_a_key_are_others(talk: Talk) -> None:
    write = m.unit(WRITE, b"1")
    key = talk.batches(write).key
    talk.session.parameter_changed(b"TimeZone", b"CET")
    other = talk.batches(write).key
    assert other != key
    talk.session._book.rules = Rules(batching=False)
    talk.forwards(write)
    assert talk.excluded() == {"disabled": 1}
