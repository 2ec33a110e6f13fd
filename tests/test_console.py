"""The console: its language, its wire, who gets in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail

from tests import builders as m
from tests.peers import Client, Script, World, login
from tqdbproxy.errors import ConfigError, ProtocolViolation, ServerUnreachable, UnknownCommand
from tqdbproxy.postgres.clients.console import KEPT, Console
from tqdbproxy.postgres.clients.console_commands import Action, Commands, ListAction, Row, Table
from tqdbproxy.postgres.clients.console_entry import ConsoleEntry, login_message
from tqdbproxy.postgres.framing import FramingError
from tqdbproxy.postgres.messages import StartupMessage

ROWS = m.data_row("x", "1") + m.data_row("y", "2") + m.complete("SHOW")
SHOWN = m.row_description("name", "value") + ROWS


class Desk:
    """Commands that remember what was done."""

    def __init__(self) -> None:
        self.done: list[str] = []

        def pairs() -> Iterable[Row]:
            return [("x", "1"), ("y", "2")]

        def no() -> None:
            raise ConfigError("x.ini, line 3: nonsense")

        tables = {"PAIRS": Table(("name", "value"), pairs, "pairs")}

        def drop(tags: tuple[str, ...]) -> int:
            self.done += tags
            return len(tags)

        actions: dict[str, Action | ListAction] = {
            "DO": Action(lambda: self.done.append("do"), "does"),
            "FAIL": Action(no, "fails"),
            "WARN": Action(lambda: ["a takes a restart", "b too"], "warns"),
            "DROP": ListAction(drop, "thing", "drops"),
        }
        self.commands = Commands(tables, actions)
        self.console = Console(self.commands)

    def ask(self, *messages: bytes) -> bytes:
        return self.console.receive(b"".join(messages))


# The language


@pytest.mark.parametrize(
    "text",
    ["SHOW PAIRS", " show\n\tPairs ; ", "/* who */ SHOW PAIRS -- it\n", ";;SHOW /* a */ PAIRS;"],
)
def test_spellings(text: str) -> None:
    (command,) = Desk().commands.read(text)
    assert (command.run().tag, command.columns) == ("SHOW", ("name", "value"))


def test_nothing_is_said() -> None:
    assert Desk().commands.read(" ; -- nothing\n/* at all */") == []


UNKNOWN = [
    "SELECT 1",
    "SHOW",
    "SHOW NOTHING",
    "DO IT",
    "SHOW PAIRS x",
    "PURGE a",
    "\udcff",
    "'DO'",
    "SHOW 'pairs'",
    ",",
]


@pytest.mark.parametrize("text", UNKNOWN)
def test_unknown(text: str) -> None:
    with pytest.raises(UnknownCommand, match="unknown command"):
        Desk().commands.read(text)


@pytest.mark.parametrize(
    ("text", "things"),
    [
        ("drop a", ["a"]),
        ("DROP *;", ["*"]),
        ("DROP table:public.T,b , c", ["table:public.T", "b", "c"]),
        ("DROP 'a  ''b''; --c', \"d\"/* e */", ["a  'b'; --c", '"d"']),
        ("DROP a-b/c*d:e -- f", ["a-b/c*d:e"]),
        ("DROP ','", [","]),
        ("DROP é", ["é"]),
    ],
)
def test_a_list(text: str, things: list[str]) -> None:
    desk = Desk()
    (command,) = desk.commands.read(text)
    assert desk.done == []  # read is not done
    assert (command.columns, command.run().tag) == (None, f"DROP {len(things)}")
    assert desk.done == things


@pytest.mark.parametrize("text", ["DROP", "DROP ,", "DROP a,", "DROP ,a", "DROP a b", "DROP a,,b", "DROP 'a''b' c"])
def test_what_is_no_list(text: str) -> None:
    with pytest.raises(UnknownCommand, match="DROP takes a thing, or several"):
        Desk().commands.read(text)


@pytest.mark.parametrize("text", ["DROP 'a", "DO; DROP 'a''", "SHOW /* PAIRS", "'"])
def test_what_has_no_end(text: str) -> None:
    with pytest.raises(UnknownCommand, match="has no end"):
        Desk().commands.read(text)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_any_name_can_be_quoted(names: list[str]) -> None:
    desk = Desk()
    quoted = ("'" + name.replace("'", "''") + "'" for name in names)
    (command,) = desk.commands.read("drop" + ",".join(quoted) + ";")
    command.run()
    assert desk.done == names


def test_help_names_all() -> None:
    (command,) = Desk().commands.read("SHOW HELP")
    assert list(command.run().rows) == [
        ("SHOW PAIRS", "pairs"),
        ("SHOW HELP", "this list"),
        ("DO", "does"),
        ("FAIL", "fails"),
        ("WARN", "warns"),
        ("DROP thing[, ...]", "drops"),
    ]


# The simple protocol


def test_a_table() -> None:
    assert Desk().ask(m.query("SHOW PAIRS")) == SHOWN + m.ready()


def test_several_at_once_until_one_fails() -> None:
    desk = Desk()
    reply = desk.ask(m.query("SHOW PAIRS; DO; FAIL; DO"))
    assert reply.startswith(SHOWN + m.complete("DO"))
    assert m.kinds(reply) == "TDDCCEZ"
    assert (m.error_of(reply)["C"], m.error_of(reply)["M"]) == ("F0000", "x.ini, line 3: nonsense")
    assert desk.done == ["do"]


def test_what_is_to_be_known_besides() -> None:
    reply = Desk().ask(m.query("WARN; DO"))
    first, second, *rest = m.split(reply)
    assert [m.error_of(b"E" + notice[1:])["M"] for notice in (first, second)] == ["a takes a restart", "b too"]
    assert (first[:1], m.error_of(b"E" + first[1:])["C"]) == (b"N", "01000")
    assert b"".join(rest) == m.complete("WARN") + m.complete("DO") + m.ready()


def test_how_many_it_was() -> None:
    desk = Desk()
    assert desk.ask(m.query("DROP a, 'b c'; DROP d")) == m.complete("DROP 2") + m.complete("DROP 1") + m.ready()
    assert desk.done == ["a", "b c", "d"]
    reply = desk.ask(m.parse("DROP e"), m.bind(), m.describe_portal(), m.execute(), m.message(b"S"))
    assert (m.kinds(reply), desk.done[3:]) == ("12nCZ", ["e"])
    assert m.complete("DROP 1") in reply


def test_a_wrong_word_does_nothing_of_its_text() -> None:
    desk = Desk()
    reply = desk.ask(m.query("DO; EXPLODE"))
    assert m.kinds(reply) == "EZ"
    assert (m.error_of(reply)["S"], m.error_of(reply)["C"]) == ("ERROR", "42601")
    assert desk.done == []


def test_an_empty_text() -> None:
    assert m.kinds(Desk().ask(m.query(" ; "))) == "IZ"


# The extended protocol


def test_a_unit_as_drivers_say_it() -> None:
    reply = Desk().ask(m.parse("SHOW PAIRS"), m.bind(), m.describe_portal(), m.execute(), m.message(b"S"))
    assert m.kinds(reply) == "12TDDCZ"
    assert ROWS in reply


def test_a_named_statement_again_and_again_in_binary() -> None:
    desk = Desk()
    assert m.kinds(desk.ask(m.parse("SHOW PAIRS", "s"), m.describe_statement("s"), m.message(b"S"))) == "1tTZ"
    for _ in range(2):
        reply = desk.ask(m.bind(statement="s", results=[1]), m.describe_portal(), m.execute(), m.message(b"S"))
        assert m.row_description("name", "value", formats=(1, 1)) + ROWS in reply
    assert m.kinds(desk.ask(m.close_statement("s"), m.message(b"S"))) == "3Z"
    assert m.kinds(desk.ask(m.bind(statement="s"), m.execute(), m.message(b"S"))) == "EZ"


def test_what_shows_nothing() -> None:
    desk = Desk()
    reply = desk.ask(m.parse("DO"), m.bind(), m.describe_portal(), m.execute(), m.message(b"S"))
    assert (m.kinds(reply), desk.done) == ("12nCZ", ["do"])
    assert m.kinds(desk.ask(m.parse(""), m.bind(), m.describe_portal(), m.execute(), m.message(b"S"))) == "12nIZ"


@pytest.mark.parametrize(
    "said",
    [
        m.parse("EXPLODE"),
        m.parse("DO; DO"),
        m.bind(statement="unknown"),
        m.execute("unknown"),
        m.describe_portal("unknown"),
        m.describe_statement("unknown"),
        m.parse("SHOW PAIRS") + m.bind(results=[0, 0, 0]),
    ],
)
def test_after_an_error_all_is_skipped_up_to_sync(said: bytes) -> None:
    desk = Desk()
    reply = desk.ask(said, m.parse("DO"), m.bind(), m.execute(), m.message(b"H"), m.message(b"S"))
    assert m.kinds(reply).removeprefix("1") == "EZ"
    assert m.error_of(reply)["C"] == "42601"
    assert desk.done == []
    assert desk.ask(m.query("SHOW PAIRS")) == SHOWN + m.ready()


def test_what_it_does_not_do() -> None:
    desk = Desk()
    assert m.kinds(desk.ask(m.function_call(1))) == "EZ"
    assert desk.ask(m.copy_data(b"x"), m.copy_fail("x")) == b""
    for wrong in (m.message(b"?"), m.message(b"p", b"secret\0")):
        with pytest.raises(ProtocolViolation):
            desk.ask(wrong)
    with pytest.raises(ProtocolViolation):
        Desk().ask(m.lying(b"Q", 1_000_000))
    with pytest.raises(FramingError):
        Desk().ask(m.lying(b"Q", 2))


def test_statements_are_bounded() -> None:
    desk = Desk()
    for number in range(KEPT):
        desk.ask(m.parse("DO", f"s{number}"))
    assert m.kinds(desk.ask(m.parse("DO", "s1"))) == "1"
    assert m.kinds(desk.ask(m.parse("DO", "one too many"), m.message(b"S"))) == "EZ"


def test_goodbye() -> None:
    desk = Desk()
    desk.ask(m.message(b"X"), m.query("DO"))
    assert (desk.console.over, desk.done) == (True, [])


@given(st.lists(st.integers(1, 40), max_size=8))
def test_any_pieces(sizes: list[int]) -> None:
    said = m.query("SHOW PAIRS") + m.parse("SHOW PAIRS") + m.bind() + m.execute() + m.message(b"S") + m.query("x")
    console = Desk().console
    assert b"".join(map(console.receive, m.chunks(said, sizes))) == Desk().ask(said)


# Who gets in


def world(**settings: Any) -> World:
    """With a console for the user ``boss``; the server asks for a password."""
    it = World(make_server=lambda: Script(m.authentication(3)))
    entry = ConsoleEntry("tqdb", frozenset({"boss"}), lambda: 77, it.hub.connect, Desk().commands)
    for name, value in settings.items():
        setattr(entry, name, value)
    it.hub.console = entry
    return it


def in_console(client: Client) -> bool:
    return client.says(m.query("SHOW PAIRS")) == SHOWN + m.ready()


def test_the_password_is_checked_by_the_server() -> None:
    it = world()
    client = it.accept()
    hello = m.startup(user="boss", database="tqdb", replication="true", options="-c x=y", application_name="psql")
    assert client.says(hello) == m.authentication(3)
    client.says(m.password("secret"))
    assert client.server.hears() == m.password("secret")
    assert client.answers(login()) == login()
    assert client.wire is not None
    assert client.server.hears() == m.message(b"X")
    assert client.wire.lost
    assert in_console(client)
    assert client.protocol.view().state == "console"
    assert it.hub.states()["console",] == 1
    client.closes()
    assert (it.hub.clients, it.clock.getDelayedCalls()) == (set(), [])


def test_what_the_server_is_told() -> None:
    hello = m.startup(user="boss", database="tqdb", replication="true", application_name="psql", **{"_pq_.x": "1"})
    told = login_message(StartupMessage.parse(hello))
    assert told == StartupMessage.parse(told.raw)
    assert dict(told.options) == {
        b"user": b"boss",
        b"application_name": b"psql",
        b"_pq_.x": b"1",
        b"database": b"postgres",
    }


def test_a_wrong_password() -> None:
    client = world().accept()
    client.says(m.startup(user="boss", database="tqdb"))
    refusal = m.error("28P01", severity="FATAL")
    assert client.answers(refusal) == refusal
    assert client.wire is not None
    client.wire.lose()
    assert (client.says(m.query("SHOW PAIRS")), client.transport.lost) == (b"", True)


def test_what_was_sent_before_the_login_was_over() -> None:
    client = world().accept()
    client.says(m.startup(user="boss", database="tqdb"))
    client.says(m.password("secret"))
    client.sends(m.query("SHOW PAIRS"))
    assert client.answers(login()).endswith(SHOWN + m.ready())


def test_users_that_are_not_named_are_not_even_asked_for_a_password() -> None:
    client = world().accept()
    reply = client.says(m.startup(user="u", database="tqdb"))
    assert (m.error_of(reply)["C"], client.transport.lost, client.wire) == ("28000", True, None)


def test_the_proxys_own_user_on_the_unix_socket() -> None:
    for user, trusted in ((77, True), (78, False), (None, False)):
        client = world().accept()
        client.transport.user = user
        reply = client.says(m.startup(user="anybody", database="tqdb"))
        assert (m.kinds(reply)[0] == "R", client.transport.lost) == (trusted, not trusted)
        if trusted:
            assert reply.endswith(m.ready())
            assert in_console(client)
            assert client.wire is None


def test_the_proxys_user_is_who_it_is_at_the_login() -> None:
    user = 0
    it = world(own_uid=lambda: user)
    user = 78  # as twistd --uid changes it
    for uid, trusted in ((78, True), (0, False)):
        client = it.accept()
        client.transport.user = uid
        client.says(m.startup(user="anybody", database="tqdb"))
        assert client.transport.lost is not trusted


def test_the_proxys_own_user_gets_in_where_no_session_does() -> None:
    it = world()
    it.hub.limits.max_clients = 0
    assert in_console(console(it))
    client = it.accept()
    assert m.error_of(client.says(m.startup(user="boss", database="tqdb")))["C"] == "53300"
    client = it.accept()
    client.transport.user = 77
    assert m.error_of(client.says(m.startup(user="boss", database="other")))["C"] == "53300"


def test_a_newer_protocol_is_negotiated_down() -> None:
    client = world(own_uid=lambda: 0).accept()
    client.transport.user = 0
    reply = client.says(m.startup(0x00030002, user="u", database="tqdb", **{"_pq_.a": "1"}))
    assert m.kinds(reply).startswith("vR")


def test_without_a_name_there_is_no_console() -> None:
    client = world(database="").accept()
    assert client.says(m.startup(user="boss", database="tqdb")) == m.authentication(3)
    client.answers(login())
    client.says(m.query("SHOW PAIRS"))
    assert client.server.hears() == m.query("SHOW PAIRS")


def test_no_server_can_be_reached() -> None:
    def unreachable(_message: StartupMessage) -> Deferred[Any]:
        return fail(ServerUnreachable("nobody is there"))

    client = world(connect=unreachable).accept()
    assert m.error_of(client.says(m.startup(user="boss", database="tqdb")))["M"].endswith(": nobody is there")


def console(it: World) -> Client:
    client = it.accept()
    client.transport.user = 77
    client.says(m.startup(user="u", database="tqdb"))
    return client


def test_a_console_ends_with_the_proxy() -> None:
    it = world()
    client = console(it)
    closed = it.hub.close()
    it.settle()
    assert m.error_of(client.hears())["C"] == "57P01"
    assert closed.called


def test_nonsense_ends_it() -> None:
    client = console(world())
    reply = client.says(m.message(b"?"))
    assert (m.error_of(reply)["S"], m.error_of(reply)["C"], client.transport.lost) == ("FATAL", "08P01", True)


def test_who_does_not_read_is_not_read_from() -> None:
    client = console(world())
    assert client.transport.producer is client.transport


def test_goodbye_closes() -> None:
    client = console(world())
    client.says(m.message(b"X"))
    assert client.transport.lost
