"""What a session knows of its prepared statements, and of the status view among them."""

from __future__ import annotations

import pytest

from tests import builders as m
from tests.talks import BROKEN, DESCRIBED, IDLE, OPEN, SIMPLE, VIEW, WRITE, Talk, bound
from tqdbproxy.core.caching import Entry
from tqdbproxy.core.routing import Rules
from tqdbproxy.core.statement import Kind
from tqdbproxy.core.writebatch.types import NO_COMPANY
from tqdbproxy.postgres.capture import Answer
from tqdbproxy.postgres.clients.steps import Step
from tqdbproxy.postgres.clients.walk import INSPECTED
from tqdbproxy.postgres.described import Described


@pytest.fixture
def talk() -> Talk:
    return Talk()


# Prepared statements


def prepare(talk: Talk, sql: str = WRITE, name: str = "s") -> None:
    talk.forwards(m.parse(sql, name), m.describe_statement(name), m.SYNC)
    talk.done()


def test_a_named_statement_of_interest(talk: Talk) -> None:
    prepare(talk)
    assert talk.batches(bound()).unit.text.stripped == b"insert into t values ($1)"  # type: ignore[union-attr]
    assert talk.batches(bound()).rest == b""


@pytest.mark.parametrize(
    "gone",
    [
        m.close_statement("s") + m.SYNC,
        m.query("deallocate s"),
        m.query("deallocate all"),
        m.query("discard all"),
        m.unit("deallocate s"),
        m.parse("select 1", "s") + m.SYNC,
    ],
    ids=["close", "deallocate", "deallocate all", "discard all", "extended", "replaced"],
)
def test_a_named_statement_that_is_gone(talk: Talk, gone: bytes) -> None:
    prepare(talk)
    talk.batches(bound())
    talk.forwards(gone)
    talk.done()
    talk.forwards(bound())


def test_the_proxys_own_statements_go_with_all_of_them(talk: Talk) -> None:
    for text, asked in (("deallocate s", []), ("deallocate all", ["forget"]), ("discard all", ["forget", "retire"])):
        talk.asked.clear()
        talk.forwards(m.query(text))
        talk.done()
        assert talk.asked == asked


def test_a_statement_whose_parse_failed(talk: Talk) -> None:
    talk.forwards(m.parse(WRITE, "s"), m.SYNC)
    talk.done(failed=True)
    talk.forwards(bound())


UNNAMED = m.unit(WRITE, b"1")
REPAIR = m.parse(WRITE)


@pytest.mark.parametrize(
    "data",
    [
        m.bind(b"1") + m.execute() + m.FLUSH,
        m.describe_statement() + m.SYNC,
        m.bind(b"1") + m.execute() + m.bind(b"2") + m.execute() + m.SYNC,
        m.bind(b"1") + m.execute() + m.SYNC + m.bind(b"1", statement="n") + m.execute() + m.SYNC,
        m.bind(b"1", statement="n") + m.execute() + m.bind(b"1") + m.execute() + m.SYNC,
        m.describe_statement("n") + m.describe_statement() + m.SYNC,
        m.bind(b"1", statement="n") + m.execute() + m.FLUSH,
        m.bind(b"1") + m.execute() + m.parse("select 1") + m.SYNC,
    ],
    ids=m.kinds,
)
def test_the_unnamed_statement_is_repaired_before_it_can_be_used(talk: Talk, data: bytes) -> None:
    talk.batches(UNNAMED)
    step = talk.read(data)
    assert step is not None
    assert (step.forward, step.rest) == (REPAIR, data)
    assert talk.asked == [1]
    talk.forwards(data)
    assert talk.asked == [1]


NAMED = m.bind(b"1", statement="n") + m.execute() + m.SYNC


@pytest.mark.parametrize(
    "data",
    [
        m.SYNC,
        m.FLUSH,
        m.function_call(1),
        NAMED,
        NAMED * 2,
        m.parse("select 1", "other") + m.SYNC,
        m.describe_statement("n") + m.SYNC,
        m.close_statement("n") + m.SYNC,
        m.copy_data(b"x"),
    ],
    ids=m.kinds,
)
def test_what_does_not_use_the_unnamed_statement_has_nothing_to_do_with_it(talk: Talk, data: bytes) -> None:
    """Its table may have gone, or be locked."""
    talk.batches(UNNAMED)
    talk.forwards(data)
    assert talk.asked == []
    talk.done(talk.session.sent - talk.session.done)
    use = m.describe_statement() + m.SYNC
    step = talk.read(use)
    assert step is not None
    assert (step.forward, step.rest) == (REPAIR, use)


def test_a_unit_is_waited_for_as_long_as_it_does_not_use_the_unnamed_statement(talk: Talk) -> None:
    """As libpq sends a pipeline: statement by statement, and then the Sync."""
    talk.batches(UNNAMED)
    first = m.parse("select 1", "n") + m.bind(statement="n") + m.execute()
    for data in (first[:3], first[:-1], first, first + m.bind(statement="n") + m.execute()):
        step = talk.read(data)
        assert step is not None
        assert (step.forward, step.rest, step.hold) == (b"", data, False)
    talk.forwards(first + m.SYNC)
    assert talk.asked == []
    talk.done()
    step = talk.read(first + m.bind() + m.execute())
    assert step is not None
    assert step.forward == REPAIR


@pytest.mark.parametrize("data", [m.close_statement() + m.SYNC, m.parse("select 1") + m.bind() + m.execute() + m.SYNC])
def test_who_replaces_the_unnamed_statement_does_not_use_it(talk: Talk, data: bytes) -> None:
    talk.batches(UNNAMED)
    talk.forwards(NAMED + data)
    talk.done(2)
    talk.forwards(m.describe_statement() + m.SYNC)
    assert talk.asked == []


def test_a_use_of_the_unnamed_statement_waits_for_what_is_before_it(talk: Talk) -> None:
    """The reply to the repair is told apart by being the next one."""
    talk.batches(UNNAMED)
    use = m.describe_statement() + m.SYNC
    step = talk.read(NAMED + use)
    assert step is not None
    assert (step.forward, step.rest) == (NAMED, use)
    step = talk.read(use)
    assert step is not None
    assert (step.forward, step.rest, step.hold) == (b"", use, True)
    talk.done()
    step = talk.read(use)
    assert step is not None
    assert (step.forward, step.rest) == (REPAIR, use)
    talk.forwards(use)


def test_a_named_statement_that_is_forwarded_after_all_needs_no_repair(talk: Talk) -> None:
    prepare(talk)
    talk.batches(UNNAMED)
    step = talk.read(bound())
    assert step is not None
    assert talk.settles(step, None).forward == bound()
    assert talk.asked == []


def test_the_unnamed_statement_is_used_again_without_a_repair_if_it_was_sent_to_be_described(talk: Talk) -> None:
    talk.batches(UNNAMED)
    assert talk.session.prepared.unsent_before(b"") == REPAIR
    assert talk.batches(bound("")).unit.raw == bound("")  # type: ignore[union-attr]
    assert talk.session.prepared.unsent_before(b"") == b""
    step = talk.batches(bound(""))
    assert step.unit is not None
    assert talk.session.forward_alone(step.unit, NO_COMPANY) == bound("")
    assert talk.asked == []


def test_the_unnamed_statement_is_repaired_if_it_could_not_be_described(talk: Talk) -> None:
    talk.batches(UNNAMED)
    step = talk.read(bound(""))
    assert step is not None
    assert talk.settles(step, None).forward == REPAIR + bound("")
    assert talk.asked == [1]


# Settled statements


def test_a_statement_is_settled_when_it_is_used_for_the_first_time(talk: Talk) -> None:
    prepare(talk)
    step = talk.read(bound())
    assert step is not None
    assert step.unit is not None
    assert (step.unit.raw, step.settle, step.key, step.rest) == (bound(), b"s", None, b"")
    first = talk.settles(step).unit
    assert first is not None
    assert (first.types, first.columns) == (DESCRIBED.types, DESCRIBED.columns)
    assert first.template == (b"insert into t values ($1)", DESCRIBED.types, DESCRIBED.columns)
    assert talk.session._again.ready
    assert talk.session._again.holds(talk.session.prepared)
    again = talk.read(bound())
    assert again is not None
    assert again is talk.session._again.step
    assert (again.unit.template, again.unit.columns) == (first.template, first.columns)  # type: ignore[union-attr]
    assert talk.metrics.caller("a.py", "", Kind.INSERT).queries == 2


def test_a_statement_that_can_not_be_described_is_tried_again(talk: Talk) -> None:
    prepare(talk)
    for number in (1, 2):
        step = talk.read(bound())
        assert step is not None
        assert talk.settles(step, None).forward == bound()
        talk.done(failed=True)
        assert talk.metrics.caller("a.py", "", Kind.INSERT).queries == number
    assert talk.batches(bound()).key is not None
    assert talk.excluded() == {}


@pytest.mark.parametrize("gone", [m.close_statement("s") + m.SYNC, m.query("deallocate s"), m.query("discard all")])
def test_another_statement_of_that_name_is_settled_again(talk: Talk, gone: bytes) -> None:
    prepare(talk)
    talk.batches(bound())
    talk.forwards(gone)
    talk.done()
    prepare(talk, WRITE.replace("into t", "into u"))
    step = talk.read(bound())
    assert step is not None
    assert (step.settle, step.key) == (b"s", None)
    assert talk.settles(step).unit.sql == b"insert into u values ($1)"  # type: ignore[union-attr]


def test_a_statement_means_what_it_meant_under_the_settings_of_its_parse(talk: Talk) -> None:
    """Its constants were read under these, and aren't read again."""
    prepare(talk)
    talk.batches(bound())
    for number, setting in ((1, "SET datestyle = 'DMY'"), (2, "RESET datestyle")):
        talk.forwards(m.query(setting))
        talk.done()
        if number == 1:
            talk.forwards(bound())
            talk.done()
    assert talk.excluded() == {"session_state": 1}
    talk.batches(bound())
    talk.forwards(m.query("SET datestyle = 'DMY'"))
    talk.done()
    prepare(talk)
    talk.batches(bound())
    assert talk.excluded() == {"session_state": 1}


def test_a_setting_that_changes_while_the_statement_is_described(talk: Talk) -> None:
    """By the server's own configuration, say: it reports that within its answer."""
    prepare(talk)
    step = talk.read(bound())
    assert step is not None
    talk.session.parameter_changed(b"TimeZone", b"Asia/Tokyo")
    assert talk.settles(step) == Step(forward=bound())
    assert talk.excluded() == {"session_state": 1}


def test_a_statement_that_is_parsed_behind_a_set_is_not_known_well_enough(talk: Talk) -> None:
    talk.forwards(m.query("SET datestyle = 'DMY'") + m.parse(WRITE, "s") + m.SYNC)
    talk.done(2)
    talk.forwards(bound())
    assert talk.excluded() == {"session_state": 1}


def test_what_would_be_forwarded_anyway_is_not_settled(talk: Talk) -> None:
    prepare(talk)
    talk.forwards(m.query("begin"))
    talk.done(status=OPEN)
    talk.forwards(bound())
    assert talk.excluded() == {"transaction": 1}


def test_what_is_forwarded_after_all_once_it_is_settled(talk: Talk) -> None:
    """The configuration has changed meanwhile."""
    prepare(talk)
    step = talk.read(bound())
    assert step is not None
    talk.session._book.rules = Rules(batching=False)
    assert talk.settles(step) == Step(forward=bound())
    assert (talk.excluded(), talk.session.sent) == ({"disabled": 1}, 2)


def test_reads_are_told_apart_by_what_their_clients_were_told_of_the_columns(talk: Talk) -> None:
    prepare(talk, "/* ttl:60 */ select a from t where a = $1")
    other, alike = Talk(), Talk()
    for one in (other, alike):
        one.session._reads, one.session._texts = talk.session._reads, talk.session._texts
        one.session.history = talk.session.history
        prepare(one, "/* ttl:60 */ select a from t where a = $1")
    old, new = (m.BIND_COMPLETE + m.data_row(*row) + m.complete("SELECT 1") + m.ready() for row in ("a", "ab"))
    assert [answer(talk, "a"), answer(talk, "a"), answer(talk, "a")] == [b"", old, old]
    assert [answer(other, "a", "b"), answer(other, "a", "b"), answer(other, "a", "b")] == [b"", new, new]
    assert [answer(alike, "a"), answer(talk, "a"), answer(other, "a", "b")] == [old, old, new]


def answer(talk: Talk, *columns: str) -> bytes:
    """What a read is told from memory; if its own server is asked, that answers with its columns."""
    step = talk.read(bound())
    assert step is not None
    if step.settle:
        step = talk.settles(step, Described(DESCRIBED.types, m.row_description(*columns)))
    if step.sink is not None:
        step.sink.answered(Answer(b"", m.data_row(*columns), m.complete("SELECT 1")), 100)
        talk.done()
    return step.local


@pytest.mark.parametrize("data", [m.query("select 1"), m.unit("select 1"), m.TERMINATE], ids=m.kinds)
def test_nothing_is_repaired_that_is_replaced_anyway(talk: Talk, data: bytes) -> None:
    talk.batches(UNNAMED)
    talk.forwards(data)
    assert talk.asked == []


def test_a_huge_parse_replaces_the_unnamed_statement_too(talk: Talk) -> None:
    talk.batches(UNNAMED)
    huge = m.unit("select '" + "x" * INSPECTED + "', $1", b"1")
    talk.forwards(huge)
    talk.done()
    talk.forwards(bound(""))
    assert talk.asked == []


def test_a_batched_query_leaves_no_unnamed_statement(talk: Talk) -> None:
    talk.forwards(m.unit("select $1", b"1"))
    talk.done()
    talk.batches(m.query(SIMPLE))
    step = talk.read(bound(""))
    assert step == Step(forward=m.close_statement(), rest=bound(""))


def test_an_unnamed_statement_that_was_forwarded_is_known_when_it_has_succeeded() -> None:
    for failed in (False, True):
        talk = Talk(status=OPEN)
        talk.forwards(UNNAMED)
        talk.done(status=IDLE, failed=failed)
        step = talk.read(bound(""))
        assert (step is not None and step.unit is not None) is not failed


# The view


def test_the_view_is_answered_here(talk: Talk) -> None:
    for data, kinds in ((m.query(VIEW), "TDDDDDDCZ"), (m.unit(VIEW, describe=True), "12TDDDDDDCZ")):
        step = talk.read(data + m.SYNC)
        assert step is not None
        assert (m.kinds(step.local), step.rest, step.forward) == (kinds, m.SYNC, b"")


@pytest.mark.parametrize("data", [m.query(VIEW), m.unit(VIEW)], ids=m.kinds)
def test_the_view_is_held_until_all_before_it_is_answered(talk: Talk, data: bytes) -> None:
    talk.forwards(m.query("select 1"))
    assert talk.read(data) == Step(rest=data, hold=True)
    talk.done()
    step = talk.read(data)
    assert step is not None
    assert step.local.endswith(m.ready())


@pytest.mark.parametrize("data", [m.query(VIEW), m.unit(VIEW)], ids=m.kinds)
@pytest.mark.parametrize("before", [m.query("select 1"), m.unit("select 1") * 2, m.query(SIMPLE), m.SYNC])
def test_the_view_in_one_piece_with_what_comes_before_it(talk: Talk, before: bytes, data: bytes) -> None:
    step = talk.read(before + data)
    assert step is not None
    assert (step.forward, step.rest) == (before, data)
    assert talk.read(data) == Step(rest=data, hold=True)


def test_a_prepared_view_in_a_pipeline(talk: Talk) -> None:
    talk.read(m.parse(VIEW, "v") + m.SYNC)
    asks = m.bind(statement="v") + m.execute() + m.SYNC
    step = talk.read(m.query("select 1") + asks)
    assert step == Step(forward=m.query("select 1"), rest=asks)


def test_in_a_failed_transaction_the_view_is_the_servers_matter() -> None:
    Talk(status=BROKEN).forwards(m.query(VIEW))


def test_in_the_middle_of_a_unit_the_view_is_the_servers_matter(talk: Talk) -> None:
    talk.forwards(m.parse("select 1"), m.FLUSH)
    talk.forwards(m.parse(VIEW, "v"), m.SYNC)


def test_an_unnamed_view_is_replaced_by_a_write_that_is_batched(talk: Talk) -> None:
    talk.read(m.unit(VIEW))
    talk.batches(UNNAMED)
    assert talk.batches(bound("")).local == b""
    talk.read(m.unit(VIEW))
    step = talk.read(m.bind() + m.execute() + m.SYNC)
    assert step is not None
    assert m.kinds(step.local) == "2DDDDDDCZ"


def test_after_a_copy_in_the_extended_protocol_nobody_waits_for_ever(talk: Talk) -> None:
    talk.forwards(m.unit("copy t from stdin"))
    talk.session.copy_began()
    talk.forwards(m.COPY_DONE, m.SYNC)
    talk.done()
    for data in (m.query(VIEW), m.unit(VIEW)):
        step = talk.read(data)
        assert step is not None
        assert step.local.endswith(m.ready())


def test_what_the_view_says(talk: Talk) -> None:
    assert (talk.view()["Backend"], talk.view()["Shard"]) == ("none", "main")
    talk.forwards(m.query("select 1"))
    talk.done()
    assert talk.view()["Backend"] == "primary"
    talk.batches(m.query(SIMPLE))
    assert (talk.view()["Backend"], talk.view()["LastBatchSize"]) == ("write-batch", "2")
    talk.forwards(m.unit("select 1"))
    assert (talk.view()["Backend"], talk.view()["LastBatchSize"]) == ("primary", "")


# Statements that change their session

SET = "set a.b = 1"


def is_known(talk: Talk) -> bool:
    return talk.session.history.identity is not None


@pytest.mark.parametrize(
    "units",
    [
        [(m.parse(SET, "s") + m.parse("selekt", "t") + m.SYNC, IDLE, True)],
        [
            (m.parse(SET, "s") + m.SYNC, IDLE, False),
            (m.unit("select 1/0")[:-5] + m.close_statement("s") + m.SYNC, IDLE, True),
        ],
        [(m.parse(SET, "s") + m.SYNC, IDLE, False), (m.query("deallocate s"), BROKEN, True)],
        [(m.parse(SET, "s") + m.SYNC, IDLE, False), (m.query("discard all"), BROKEN, True)],
        [(m.parse(SET, "s") + m.SYNC, IDLE, False), (m.parse("select 1", "s") + m.SYNC, IDLE, True)],
        [(m.parse(SET, "s") + m.SYNC, IDLE, False), (m.parse("deallocate s") + m.bind() + m.SYNC, IDLE, False)],
    ],
    ids=["behind an error", "skipped close", "deallocate", "discard all", "same name", "not executed"],
)
def test_a_set_that_may_still_be_there(talk: Talk, units: list[tuple[bytes, int, bool]]) -> None:
    for said, status, failed in units:
        talk.forwards(said)
        talk.done(status=status, failed=failed)
        if status == BROKEN:
            talk.forwards(m.query("rollback"))
            talk.done()
    assert is_known(talk)
    talk.forwards(bound())
    talk.done()
    assert not is_known(talk)


@pytest.mark.parametrize("said", [m.close_statement("s") + m.SYNC, m.query("deallocate s"), m.query("deallocate all")])
def test_a_set_that_is_gone(talk: Talk, said: bytes) -> None:
    talk.forwards(m.parse(SET, "s"), m.SYNC)
    talk.done()
    talk.forwards(said)
    talk.done()
    talk.forwards(bound())
    talk.done(failed=True)
    assert is_known(talk)


def test_of_several_only_what_is_named_is_deallocated(talk: Talk) -> None:
    prepare(talk, SET)
    prepare(talk, SET, "t")
    talk.forwards(m.query("deallocate t; select 1"))
    talk.done()
    before = talk.session.history.identity
    talk.forwards(bound())
    talk.done()
    assert talk.session.history.identity is not before


@pytest.mark.parametrize("ends", ["discard all", "reset all"])
@pytest.mark.parametrize("then", ["set role x", "set a.b = 1"])
def test_what_is_said_behind_the_end_of_all_settings(talk: Talk, ends: str, then: str) -> None:
    """In a pipeline, before the answer."""
    talk.forwards(m.query(ends))
    talk.forwards(m.query(then))
    talk.done()
    talk.done()
    assert not is_known(talk)
    talk.forwards(m.query("discard all"))
    talk.done()
    assert is_known(talk)


SET_CONFIG = "select set_config('a.b', $1, false)"
HUGE = b"x" * INSPECTED


def streams(talk: Talk, message: bytes, *others: bytes) -> None:
    """Of a huge message its beginning comes first; what is before it keeps it out of the other lanes."""
    talk.forwards(m.describe_statement("n"), message[:200])
    talk.forwards(message[200:], *others)
    talk.done()


@pytest.mark.parametrize(("name", "known"), [("s", False), ("t", True), ("u", True)])
def test_a_huge_bind(talk: Talk, name: str, known: bool) -> None:
    prepare(talk, SET_CONFIG)
    prepare(talk, "select $1", "t")
    prepare(talk, WRITE, "u")
    streams(talk, m.bind(HUGE, statement=name), m.execute(), m.SYNC)
    assert is_known(talk) == known


@pytest.mark.parametrize("name", ["s", "s" * 62])
def test_the_names_of_a_huge_message_are_waited_for(name: str) -> None:
    for message in (m.bind(HUGE, statement=name, portal="p"), m.parse(b"set a.b = '" + HUGE + b"'", name)):
        for size in range(1, 6 + len(name) + (2 if message[:1] == b"B" else 0)):
            talk = Talk()
            prepare(talk, SET_CONFIG, name)
            talk.forwards(m.describe_statement(name))
            step = talk.read(message[:size])
            assert step is not None
            assert (step.forward, step.rest) == (b"", message[:size])
            streams(talk, message, m.execute("p"), m.SYNC)
            assert not is_known(talk)


def test_a_name_without_an_end(talk: Talk) -> None:
    """It isn't waited for any longer than another message would be."""
    prepare(talk, SET_CONFIG)
    message = m.bind(statement="x" * 2 * INSPECTED)
    talk.forwards(m.describe_statement("n"))
    step = talk.read(message[: INSPECTED - 1])
    assert step is not None
    assert step.forward == b""
    talk.forwards(message[:INSPECTED])
    talk.forwards(message[INSPECTED:], m.SYNC)
    talk.done()
    assert not is_known(talk)


@pytest.mark.parametrize("name", ["", "s"])
def test_a_huge_statement_may_change_its_session_whenever_it_is_executed(talk: Talk, name: str) -> None:
    prepare(talk, "discard all", "d")
    streams(talk, m.parse(b"set a.b = '" + HUGE + b"'", name), m.SYNC)
    assert not is_known(talk)
    talk.forwards(m.bind(statement="d"), m.execute(), m.SYNC)
    talk.done()
    assert is_known(talk)
    talk.forwards(bound(name))
    talk.done(failed=bool(name))
    assert is_known(talk) == bool(name)


# Function calls


@pytest.mark.parametrize("size", [0, INSPECTED])
@pytest.mark.parametrize(("function", "known"), [(2078, False), (955, True)], ids=["set_config", "lowrite"])
def test_a_function_call(talk: Talk, function: int, known: bool, size: int) -> None:
    call = m.function_call(function, bytes(size))
    talk.forwards(call)
    assert (talk.session.sent, is_known(talk)) == (1, known)
    for cut in range(1, 9):
        talk.forwards(m.parse("select 1", "n") + m.SYNC)
        step = talk.read(call[:cut])
        assert step is not None
        assert step.rest == call[:cut]


# Memory


def test_an_answer_is_counted_with_what_its_session_has_set(talk: Talk) -> None:
    def kept() -> int:
        step = talk.read(m.query("/* ttl:60 */ select 1"))
        assert step is not None
        assert step.sink is not None
        entry = step.sink.answered(Answer(b"", b"", m.complete("SELECT 1")), 100)
        talk.done()
        assert isinstance(entry, Entry)
        return entry.size

    before = kept()
    talk.forwards(m.query(f"set a.b = '{'x' * 5000}'"))
    talk.done()
    assert kept() == before + len("a.b''") + 5000
