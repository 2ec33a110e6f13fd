"""Which strategy a group gets, and what happens when it fails. The server is a script of answers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import pytest
from twisted.internet.defer import Deferred, succeed

from tests import builders as m
from tqdbproxy.core.statement import BatchKey, Identity, Strategy
from tqdbproxy.core.writebatch.types import Done, Failed, Lost, Outcome
from tqdbproxy.postgres.clients.prepared import Prepared
from tqdbproxy.postgres.clients.units import extended, query
from tqdbproxy.postgres.messages import Bind
from tqdbproxy.postgres.servers import merging
from tqdbproxy.postgres.servers.batches import Exchange
from tqdbproxy.postgres.servers.beginnings import Opening
from tqdbproxy.postgres.servers.executor import INTERVAL, MAX_STALE, REFUSED_S, SMALLEST_MERGE, BatchExecutor, Begun
from tqdbproxy.postgres.servers.merging import parameters_of
from tqdbproxy.postgres.servers.statements import Statements
from tqdbproxy.postgres.sql import Text, Texts
from tqdbproxy.postgres.unit import Unit

HERE, THERE = Identity("main", b"here", b"u", ()), Identity("main", b"there", b"u", ())
INSERT = "insert into t values ($1)"
GUARD = b"pg_stat_get_xact_tuples_inserted"
Answer = Callable[[bytes], bytes]


class Connection:
    """A server connection on which each request gets the next answer; ``requests`` as words of message types."""

    lendable = alive = True

    def __init__(self) -> None:
        self.statements = Statements()
        self.answers: list[bytes] = []
        self.requests: list[bytes] = []
        self.transport = self
        self.aborted = False

    def abortConnection(self) -> None:
        self.aborted = True

    def begin(self, opening: Opening) -> None:
        self.requests.append(opening.request)

    def run(self, exchange: Exchange) -> Deferred[Outcome]:
        self.requests.append(exchange.request)
        outcome = exchange.receive(self.answers.pop(0))
        assert outcome is not None
        return succeed(outcome)

    @property
    def said(self) -> list[str]:
        """The requests since the last time."""
        requests, self.requests = self.requests, []
        return [m.kinds(request) for request in requests]


def settled(unit: Unit) -> Unit:
    unit.columns = m.NO_DATA
    unit.template = (unit.sql, unit.types, unit.columns)
    return unit


class Bench:
    def __init__(self, *, merge: bool = True) -> None:
        self.now = 0.0
        self.texts = Texts()
        self.kept: list[Text] = []
        self.executor = BatchExecutor(lambda: self.now, self._keep, merge=merge)
        self.connection = Connection()

    def _keep(self, text: Text) -> None:
        self.kept.append(text)
        self.texts.keep_strings(text)

    def unit(
        self, value: str, sql: str = INSERT, hint: str = "batch:5", *, describe: bytes = b"", guarded: bool = False
    ) -> Unit:
        """Bound to a statement that its client has prepared, unless it is ``guarded``."""
        data = m.parse(f"/* {hint} */ {sql}") + m.bind(value.encode()) + describe + m.execute() + m.SYNC
        found = extended(data, self.texts, Prepared())
        assert isinstance(found, Unit)
        return found if guarded else settled(found)

    def units(self, count: int, sql: str = INSERT, hint: str = "batch:5") -> list[Unit]:
        return [self.unit(str(n), sql, hint) for n in range(count)]

    def simple(self, *texts: str) -> list[Unit]:
        hinted = [f"/* batch:5 */ {text}" for text in texts]
        return [query(m.query(text), self.texts.look(text.encode())) for text in hinted]

    def group(self, units: Sequence[Unit], identity: Identity = HERE, key: Hashable = None) -> Sequence[Unit]:
        """Writes of one group. ``key``: of their group, if that isn't the template that they all have."""
        for unit in units:
            assert key is not None or unit.template == units[0].template
            unit.server = self.connection
            unit.key = BatchKey(identity, key or units[0].template)
        return units

    def run(
        self,
        units: Sequence[Unit],
        *answers: bytes,
        identity: Identity = HERE,
        key: Hashable = None,
        begun: Begun | None = None,
    ) -> Outcome:
        """The outcome; all answers have to be used up."""
        self.connection.answers += answers
        outcomes: list[Outcome] = []
        self.executor.execute(self.group(units, identity, key), begun).addCallback(outcomes.append)
        assert not self.connection.answers
        (outcome,) = outcomes
        return outcome


def parsed(count: int) -> bytes:
    return m.PARSE_COMPLETE * count


def done(count: int, tag: str = "INSERT 0 1") -> bytes:
    return (m.BIND_COMPLETE + m.complete(tag)) * count


FINGERPRINT = b"\0\0\0\7fingerprint"
LEARNED = m.BIND_COMPLETE + m.data_row(FINGERPRINT, b"0") + m.complete("SELECT 1")
NOTHING_LEARNED = m.BIND_COMPLETE + m.data_row(None, None) + m.complete("SELECT 1")
SAME = LEARNED
OTHER = m.error("2201F")
"""What the server says to a fingerprint: that is asked for, that is compared."""

GUARDED = m.BIND_COMPLETE + m.data_row("1") + m.complete("SELECT 1") + m.ready()
MERGED_4 = done(1, "INSERT 0 4") + GUARDED
REFUSED_4 = done(1, "INSERT 0 4") + m.BIND_COMPLETE + m.error("22012") + m.ready()
PREPARED_4 = done(4) + m.ready()


def strategy(outcome: Outcome) -> Strategy:
    assert isinstance(outcome, Done)
    return outcome.strategy


def test_nobody_has_a_connection() -> None:
    bench = Bench()
    bench.connection.lendable = False
    assert bench.run(bench.units(2)) == Lost(sent=False)
    assert bench.connection.requests == []


@pytest.mark.parametrize("count", [2, SMALLEST_MERGE - 1])
def test_few_are_not_merged(count: int) -> None:
    bench = Bench()
    assert strategy(bench.run(bench.units(count), parsed(1) + done(count) + m.ready())) is Strategy.PREPARED
    assert bench.connection.said == ["P" + "BE" * count + "S"]


def test_many_are_merged_in_pieces_each_of_which_is_parsed_once() -> None:
    bench = Bench()
    six = done(1, "INSERT 0 4") + done(1, "INSERT 0 2") + GUARDED
    outcome = bench.run(bench.units(6), parsed(3) + six)
    assert outcome == Done([m.PARSE_COMPLETE + done(1) + m.ready()] * 6, Strategy.MERGED)
    assert GUARD in bench.connection.requests[0]
    assert strategy(bench.run(bench.units(6), six)) is Strategy.MERGED
    assert strategy(bench.run(bench.units(4), MERGED_4)) is Strategy.MERGED
    assert bench.connection.said == ["PPPBEBEBES", "BEBEBES", "BEBES"]


def test_a_size_that_comes_often_is_one_piece() -> None:
    bench = Bench()
    pieces = done(1, "INSERT 0 4") + done(1, "INSERT 0 2") + GUARDED
    whole = done(1, "INSERT 0 6") + GUARDED
    for answer in (parsed(3) + pieces, pieces, parsed(1) + whole, whole):
        assert strategy(bench.run(bench.units(6), answer)) is Strategy.MERGED
    assert bench.connection.said == ["PPPBEBEBES", "BEBEBES", "PBEBES", "BEBES"]


def test_more_than_one_piece_can_hold_stay_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "LARGEST_PIECE", 4)
    bench = Bench()
    pieces = done(1, "INSERT 0 4") + done(1, "INSERT 0 2") + GUARDED
    for answer in (parsed(3) + pieces, pieces, pieces, pieces):
        assert strategy(bench.run(bench.units(6), answer)) is Strategy.MERGED
    assert bench.connection.said == ["PPPBEBEBES", *["BEBEBES"] * 3]


NOT_MERGED = {
    "merge:off": (INSERT, "batch:5 merge:off"),
    "an update": ("update t set a = $1", "batch:5"),
}


@pytest.mark.parametrize("name", NOT_MERGED)
def test_what_is_not_merged(name: str) -> None:
    bench = Bench()
    assert strategy(bench.run(bench.units(4, *NOT_MERGED[name]), parsed(1) + PREPARED_4)) is Strategy.PREPARED
    assert bench.connection.said == ["PBEBEBEBES"]


def test_merging_can_be_switched_off_and_on() -> None:
    bench = Bench(merge=False)
    assert strategy(bench.run(bench.units(4), parsed(1) + PREPARED_4)) is Strategy.PREPARED
    bench.executor.merge = True
    assert strategy(bench.run(bench.units(4), parsed(2) + MERGED_4)) is Strategy.MERGED


def test_one_who_wants_a_description_of_the_statement_keeps_all_apart() -> None:
    bench = Bench()
    units = [*bench.units(3), bench.unit("3", describe=m.describe_statement())]
    answer = parsed(1) + done(3) + m.BIND_COMPLETE + m.parameter_description(23) + m.NO_DATA
    answer += m.complete("INSERT 0 1") + m.ready()
    assert strategy(bench.run(units, answer)) is Strategy.PREPARED
    assert bench.connection.said == ["PBEBEBEBDES"]


def test_what_the_guard_refuses_is_left_alone_for_a_while() -> None:
    bench = Bench()
    assert strategy(bench.run(bench.units(4), parsed(2) + REFUSED_4, parsed(1) + PREPARED_4)) is Strategy.PREPARED
    bench.now += REFUSED_S - 1
    parsed_anew = m.CLOSE_COMPLETE * 3 + parsed(1)  # these are older than a statement may be
    assert strategy(bench.run(bench.units(4), parsed_anew + PREPARED_4)) is Strategy.PREPARED
    bench.now += 1
    assert strategy(bench.run(bench.units(4), parsed(2) + MERGED_4)) is Strategy.MERGED
    assert bench.connection.said == ["PPBEBES", "PBEBEBEBES", "CCCPBEBEBEBES", "PPBEBES"]


def test_what_is_refused_in_one_place_is_not_in_another() -> None:
    bench = Bench()
    bench.run(bench.units(4), parsed(2) + REFUSED_4, parsed(1) + PREPARED_4)
    bench.connection = Connection()
    assert strategy(bench.run(bench.units(4), parsed(2) + MERGED_4, identity=THERE)) is Strategy.MERGED


@pytest.mark.parametrize("code", ["42P01", "42804", "42601"])
def test_what_the_server_does_not_like_in_many_rows_is_not_tried_again(code: str) -> None:
    bench = Bench()
    broken = m.error(code) + m.ready()
    assert strategy(bench.run(bench.units(4), broken, parsed(1) + PREPARED_4)) is Strategy.PREPARED
    assert strategy(bench.run(bench.units(4), PREPARED_4)) is Strategy.PREPARED


@pytest.mark.parametrize("code", ["23505", "22012"])
def test_a_row_that_fails_is_found_among_single_ones(code: str) -> None:
    """A division by zero in a row is no refusal."""
    bench = Bench()
    failing = m.BIND_COMPLETE + m.error(code) + m.ready()
    outcome = bench.run(bench.units(4), parsed(2) + failing, parsed(1) + done(2) + failing)
    assert outcome == Failed(2)
    assert strategy(bench.run(bench.units(4), MERGED_4)) is Strategy.MERGED
    assert bench.connection.said == ["PPBEBES", "PBEBEBEBES", "BEBES"]


@pytest.mark.parametrize("code", ["26000", "0A000", "42804"])
def test_a_statement_that_went_stale_is_parsed_again(code: str) -> None:
    bench = Bench()
    bench.run(bench.units(2), parsed(1) + done(2) + m.ready())
    stale = m.error(code) + m.ready()
    assert strategy(bench.run(bench.units(2), stale, parsed(1) + done(2) + m.ready())) is Strategy.PREPARED
    assert bench.connection.said == ["PBEBES", "BEBES", "CPBEBES"]  # the old one is closed


def test_an_error_of_the_same_code_that_is_real() -> None:
    bench = Bench()
    real = m.BIND_COMPLETE + m.error("0A000") + m.ready()
    assert bench.run(bench.units(2), parsed(1) + real) == Failed(0)
    assert bench.run(bench.units(2), real, parsed(1) + real) == Failed(0)


def test_a_real_error_among_statements_of_which_some_are_old() -> None:
    """Seen to go on for ever: in turn, one of the others was old."""
    bench = Bench()
    one, other, bad = (bench.unit("1", f"insert into {name} values ($1)") for name in ("one", "other", "bad"))
    real = m.error("42804") + m.ready()
    bench.run([one, one], parsed(1) + done(2) + m.ready())
    assert bench.run([one, other, bad], done(1) + parsed(1) + done(1) + real, key="k") == Failed(2)
    assert bench.connection.said == ["PBEBES", "BEPBEPBES"]


def test_what_goes_stale_again_and_again_is_let_be() -> None:
    bench = Bench()
    one, other = (bench.unit("1", f"insert into {name} values ($1)") for name in ("one", "other"))
    bench.run([one, other], (parsed(1) + done(1)) * 2 + m.ready(), key="k")
    stale = m.error("26000") + m.ready()
    lost = [stale, parsed(1) + done(1) + parsed(1) + stale]
    assert bench.run([one, other], *lost, key="k") == Failed(1)
    assert MAX_STALE > 1


# Strings that may be intervals


TEXT = 25


def types(*oids: int, first: bytes = LEARNED) -> bytes:
    answers = parsed(1) + first + parsed(1) if first else parsed(1)
    return answers + m.parameter_description(*oids) + m.NO_DATA + m.ready()


def test_lifted_strings_are_described_once() -> None:
    bench = Bench()
    two = bench.simple("insert into t values ('a')", "insert into t values ('b')")
    assert strategy(bench.run(two, types(TEXT), done(2) + SAME + m.ready())) is Strategy.PREPARED
    assert strategy(bench.run(two, done(2) + SAME + m.ready())) is Strategy.PREPARED
    assert bench.connection.said == ["PBEPDS", "BEBEBES", "BEBEBES"]
    assert bench.kept == []


def test_numbers_need_no_description() -> None:
    bench = Bench()
    two = bench.simple("insert into t values (1)", "insert into t values (2)")
    bench.run(two, parsed(1) + LEARNED + parsed(1) + done(2) + m.ready())
    assert bench.connection.said == ["PBEPBEBES"]


def test_what_is_known_of_one_connection_is_not_of_another() -> None:
    bench = Bench()
    two = bench.simple("insert into t values ('a')", "insert into t values ('b')")
    bench.run(two, types(TEXT), done(2) + SAME + m.ready())
    bench.connection = Connection()
    assert bench.run(two, types(INTERVAL)) == Failed(None)
    assert len(bench.kept) == 1
    assert bench.run(two) == Failed(None), "it is known by now"


def test_strings_for_intervals_stay() -> None:
    bench = Bench()
    texts = "insert into t values ('1', 5)", "insert into t values ('2', 6)"
    two = bench.simple(*texts)
    assert two[0].template == two[1].template
    assert bench.run(two, types(INTERVAL, 23)) == Failed(None)
    assert [text.stripped for text in bench.kept] == [b"insert into t values ('1', 5)"]
    again = bench.simple(*texts)
    assert [unit.sql for unit in again] == [b"insert into t values ('1', $1)", b"insert into t values ('2', $1)"]


def test_every_template_of_a_group_is_described() -> None:
    """Groups by name may have many."""
    bench = Bench()
    units = bench.simple("insert into t values ('a')", "insert into u values ('b')", "insert into u values ('c')")
    learn_both = (parsed(1) + LEARNED) * 2 + parsed(1) + m.parameter_description(TEXT) + m.NO_DATA + m.ready()
    assert bench.run(units, learn_both, types(INTERVAL, first=b""), key=("key", "mine")) == Failed(1)
    assert bench.connection.said == ["PBEPBEPDS", "PDS"]
    assert [text.lifted and text.lifted.template for text in bench.kept] == [b"insert into u values ($1)"]


# What became of tables


def guarded(bench: Bench, count: int, sql: str = INSERT) -> list[Unit]:
    return [bench.unit(str(n), sql, guarded=True) for n in range(count)]


FIRST = parsed(1) + LEARNED + parsed(1) + done(2) + m.ready()
NEXT = done(2) + SAME + m.ready()


def fingerprint_asked(request: bytes) -> list[bytes | None]:
    """The parameters of those Binds that ask for one, in binary format."""
    binds = [Bind.parse(raw, 0, len(raw)) for raw in m.split(request) if raw[:1] == b"B"]
    found = [parameters_of(bind.tail, 1) for bind in binds if bind.tail[:4] == b"\0\1\0\1"]
    return [None if one == b"\xff\xff\xff\xff" else one[4:] for _formats, one in filter(None, found)]


def test_the_fingerprint_is_learned_before_the_text_is_parsed_and_compared_behind_all_later_batches() -> None:
    bench = Bench()
    assert strategy(bench.run(guarded(bench, 2), FIRST)) is Strategy.PREPARED
    assert strategy(bench.run(guarded(bench, 2), NEXT)) is Strategy.PREPARED
    assert [fingerprint_asked(request) for request in bench.connection.requests] == [[None], [FINGERPRINT]]
    assert bench.connection.said == ["PBEPBEBES", "BEBEBES"]


def test_a_table_that_was_changed() -> None:
    """All has been rolled back: it is learned and parsed again, and each member gets its own."""
    bench = Bench()
    bench.run(guarded(bench, 2), FIRST)
    changed = done(2) + m.BIND_COMPLETE + OTHER + m.ready()
    again = m.CLOSE_COMPLETE + LEARNED + parsed(1) + done(2) + m.ready()
    assert strategy(bench.run(guarded(bench, 2), changed, again)) is Strategy.PREPARED
    assert strategy(bench.run(guarded(bench, 2), NEXT)) is Strategy.PREPARED
    assert bench.connection.said == ["PBEPBEBES", "BEBEBES", "CBEPBEBES", "BEBEBES"]


def test_a_commit_that_fails_like_a_fingerprint() -> None:
    """A deferred trigger may raise anything."""
    bench = Bench()
    failing = done(2) + SAME + OTHER + m.ready()
    bench.run(guarded(bench, 2), FIRST)
    assert bench.run(guarded(bench, 2), failing) == Failed(None)


def test_merged_inserts_are_compared_too() -> None:
    bench = Bench()
    merged = done(1, "INSERT 0 4") + m.BIND_COMPLETE + m.data_row("1") + m.complete("SELECT 1")
    first = parsed(1) + LEARNED + parsed(2) + merged + m.ready()
    assert strategy(bench.run(guarded(bench, 4), first)) is Strategy.MERGED
    assert strategy(bench.run(guarded(bench, 4), merged + SAME + m.ready())) is Strategy.MERGED
    changed = merged + m.BIND_COMPLETE + OTHER + m.ready()
    again = m.CLOSE_COMPLETE * 2 + LEARNED + parsed(2) + merged + m.ready()
    assert strategy(bench.run(guarded(bench, 4), changed, again)) is Strategy.MERGED
    assert bench.connection.said == ["PBEPPBEBES", "BEBEBES", "BEBEBES", "CCBEPPBEBES"]


@pytest.mark.parametrize("isolation", ["repeatable read"])
def test_where_a_transaction_has_one_snapshot_all_is_parsed_each_time(isolation: str) -> None:
    bench = Bench()
    first = parsed(1) + NOTHING_LEARNED + parsed(1) + done(2) + m.ready()
    later = m.CLOSE_COMPLETE + NOTHING_LEARNED + parsed(1) + done(2) + m.ready()
    assert strategy(bench.run(guarded(bench, 2), first)) is Strategy.PREPARED
    assert strategy(bench.run(guarded(bench, 2), later)) is Strategy.PREPARED
    assert bench.connection.said == ["PBEPBEBES", "CBEPBEBES"], isolation


def test_a_server_that_knows_no_fingerprints() -> None:
    """Not quite PostgreSQL: nothing is asked any more, and all is parsed each time."""
    bench = Bench()
    answers = m.error("42883") + m.ready(), parsed(1) + done(2) + m.ready()
    assert strategy(bench.run(guarded(bench, 2), *answers)) is Strategy.PREPARED
    later = m.CLOSE_COMPLETE + parsed(1) + done(2) + m.ready()
    assert strategy(bench.run(guarded(bench, 2), later)) is Strategy.PREPARED
    assert bench.connection.said == ["PBEPBEBES", "PBEBES", "CPBEBES"]


def test_a_user_who_may_not_look_into_a_schema() -> None:
    """His text says so itself; what others have is kept."""
    bench = Bench()
    bench.run(guarded(bench, 2), FIRST)
    denied = guarded(bench, 2, "insert into secret.t values ($1)")
    assert bench.run(denied, parsed(1) + m.BIND_COMPLETE + m.error("42501") + m.ready()) == Failed(None)
    assert strategy(bench.run(guarded(bench, 2), NEXT)) is Strategy.PREPARED
    assert bench.connection.said == ["PBEPBEBES", "PBEPBEBES", "BEBEBES"]


def test_a_value_that_is_none_of_its_type_may_be_one_of_the_type_that_the_column_has_now() -> None:
    bench = Bench()
    bench.run(guarded(bench, 2), FIRST)
    assert bench.run(guarded(bench, 2), m.BIND_COMPLETE + m.error("22003") + m.ready()) == Failed(0)
    again = m.CLOSE_COMPLETE + LEARNED + parsed(1) + done(2) + m.ready()
    assert strategy(bench.run(guarded(bench, 2), again)) is Strategy.PREPARED


def test_what_a_client_has_prepared_is_not_compared() -> None:
    """It means what it meant then, to the server, too."""
    bench = Bench()
    assert strategy(bench.run(bench.units(2), parsed(1) + done(2) + m.ready())) is Strategy.PREPARED
    assert strategy(bench.run(bench.units(2), done(2) + m.ready())) is Strategy.PREPARED
    bench.run(guarded(bench, 2), FIRST)
    assert bench.connection.said == ["PBEBES", "BEBES", "PBEPBEBES"], "nor is its statement used by others"


COLUMNS = m.row_description("a")


@pytest.mark.parametrize("told", [COLUMNS, m.row_description("b")])
def test_a_client_was_told_which_columns_its_statement_returns(told: bytes) -> None:
    bench = Bench()
    returning = INSERT + " returning a"
    units = [bench.unit(str(n), returning) for n in range(2)]
    for unit in units:
        unit.columns = told
        unit.template = (unit.sql, unit.types, told)
    described = parsed(1) + m.parameter_description(23) + COLUMNS + m.ready()
    rows = (m.BIND_COMPLETE + m.data_row("1") + m.complete("INSERT 0 1")) * 2
    answers = [rows + m.ready()] if told == COLUMNS else []
    outcome = bench.run(units, described, *answers)
    assert isinstance(outcome, Done if told == COLUMNS else Failed)
    assert isinstance(bench.run(units, *answers), Done if told == COLUMNS else Failed), "asked once"


def test_a_text_that_differs_in_its_constants_only_is_whole_in_the_extended_protocol() -> None:
    """There nothing is lifted, whatever is known of its like."""
    bench = Bench()
    bench.simple("insert into t values ('a')")
    text = bench.texts.look(b"/* batch:5 */ insert into t values ('b')")
    assert text.stripped == b"insert into t values ('b')"
    assert text.lifted is not None
    assert text.lifted.values == (b"b",)


def test_what_is_not_sent_is_closed_by_another_one() -> None:
    """Members with different formats can't be merged: then the statements that are too many are closed all the same."""
    bench = Bench()
    statements = bench.connection.statements
    for number in range(70):
        statements.add(number, statements.new_name())
    units = bench.units(4)
    text = units[0].text
    mixed = m.parse("/* batch:5 */ " + INSERT) + m.bind(b"\0\0\0\1", formats=[1]) + m.execute() + m.SYNC
    binary = extended(mixed, bench.texts, Prepared())
    assert isinstance(binary, Unit)
    settled(binary)
    assert binary.text is text
    answer = m.CLOSE_COMPLETE * 6 + parsed(1) + PREPARED_4
    assert strategy(bench.run([*units[:3], binary], answer)) is Strategy.PREPARED
    assert bench.connection.said == ["CCCCCCPBEBEBEBES"]
