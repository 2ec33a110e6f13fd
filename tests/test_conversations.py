"""Whole conversations, made up by hypothesis, are held with a server directly and through the proxy.

Whatever is said, in whatever pieces it arrives, and whoever else writes at the same time: each client hears the same
bytes as it would have heard alone, and the same is committed.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from tests import builders as m
from tests.peers import World
from tests.tinyserver import TinyServer
from tqdbproxy.core.routing import Rules
from tqdbproxy.core.writebatch.types import Limits

TOKEN = "_token_"
"""Stands for something that makes each write another one, of the same length."""

HINT = "/* batch:20 file:a.py */ "


def _insert(name: str, *, returning: str, describe: str, limit: int, close: bool, fate: str) -> bytes:
    """A hinted write in the extended protocol, prepared in the same unit if it is unnamed."""
    returns = f" returning {returning}" if returning else ""
    sql = f"{HINT}insert into t values ($1){returns}"
    parts = [] if name else [m.parse(sql)]
    parts.append(m.bind((TOKEN + fate).encode(), statement=name, results=[1] if limit else []))
    parts += [m.describe_portal()] if describe == "portal" else []
    parts += [m.describe_statement(name)] if describe == "statement" else []
    parts += [m.execute(limit=limit)] + ([m.close_portal()] if close else [])
    return b"".join([*parts, m.SYNC])


simple = st.sampled_from(
    [
        f"select {TOKEN}",
        "",
        f"oops {TOKEN}",
        f"insert into t values ('{TOKEN}')",
        f"{HINT}insert into t values ('{TOKEN}')",
        f"{HINT}insert into t values ('{TOKEN}') returning x",
        f"{HINT}insert into t values ('{TOKEN}bad')",
        f"{HINT}insert into t values ('{TOKEN}note')",
        f"{HINT}insert into t values ('{TOKEN}'); insert into t values ('second {TOKEN}')",
        f"{HINT}select {TOKEN}",
        "begin",
        "commit",
        "rollback",
        "set timezone = utc",
        "set search_path = a",
        "discard all",
        "deallocate all",
        "deallocate s1",
        "copy t to stdout",
    ]
).map(m.query)

inserts = st.builds(
    _insert,
    st.sampled_from(["", "", "s1", "s2"]),
    returning=st.sampled_from(["", "x", "y"]),
    describe=st.sampled_from(["", "portal", "statement"]),
    limit=st.sampled_from([0, 0, 1, 2]),
    close=st.booleans(),
    fate=st.sampled_from(["", "", "", "bad", "note"]),
)

BIND_AGAIN = m.bind(TOKEN.encode()) + m.execute()
fragments = st.sampled_from(
    [
        m.SYNC,
        m.FLUSH,
        m.function_call(1),
        m.parse(f"{HINT}insert into t values ($1)", "s1") + m.SYNC,
        m.parse(f"{HINT}insert into t values ($1) returning x", "s2") + m.describe_statement("s2") + m.SYNC,
        m.parse("select $1", "s1") + m.FLUSH,
        m.parse("select many $1", "s2") + m.SYNC,
        m.parse("select $1"),
        m.parse(f"{HINT}insert into t values ($1)") + m.SYNC,
        m.parse("oops") + m.SYNC,
        BIND_AGAIN + m.SYNC,
        BIND_AGAIN,
        m.SYNC + BIND_AGAIN + m.SYNC,
        m.FLUSH + BIND_AGAIN + m.SYNC,
        m.bind(TOKEN.encode(), statement="s1") + m.execute() + m.SYNC + BIND_AGAIN + m.SYNC,
        m.bind(statement="s1") + m.execute() + m.SYNC,
        m.bind(TOKEN.encode(), statement="s2", portal="p") + m.execute("p", 2) + m.FLUSH + m.execute("p", 2) + m.SYNC,
        m.unit("set timezone = utc"),
        m.unit("begin") + m.unit("select 1") + m.unit("commit"),
        m.unit("set search_path = b", describe=True) + m.unit("select $1", b"x", describe=True),
        m.close_statement() + m.SYNC,
        m.close_statement("s1") + m.SYNC,
        m.query("copy t from stdin") + m.copy_data(b"1\n") + m.copy_data(b"2\n") + m.COPY_DONE,
        m.query("copy t from stdin") + m.copy_data(b"1\n") + m.copy_fail("no"),
        m.unit("copy t from stdin") + m.copy_data(b"1\n") + m.SYNC + m.COPY_DONE + m.SYNC,
        m.unit("copy t from stdin") + m.copy_fail("no") + m.SYNC,
        m.unit("copy t to stdout"),
        m.copy_data(b"stray") + m.COPY_DONE,
    ]
)


@dataclass
class Turn:
    """Something said, and whether the client then waits for the answer."""

    message: bytes
    waits: bool

    def says(self, token: str) -> bytes:
        return self.message.replace(TOKEN.encode(), token.encode())


END = Turn(m.SYNC, True)
"""A server says nothing about an unfinished unit, so the last one is finished."""

turns = st.builds(Turn, simple | inserts | fragments, st.booleans())
conversations = st.lists(turns, max_size=12).map(lambda conversation: [*conversation, END])
pieces = st.lists(st.integers(1, 60), max_size=4)


def said(conversation: list[Turn], who: int) -> list[bytes]:
    return [turn.says(f"c{who:02}n{number:02} ") for number, turn in enumerate(conversation)]


def direct(messages: list[bytes]) -> tuple[bytes, list[bytes]]:
    """What the client hears, and what is committed, without a proxy."""
    server = TinyServer()
    server.receive(m.startup(user="u"))
    heard = b"".join(map(server.receive, messages))
    return heard, server.books


@given(conversations, pieces)
def test_the_forward_lane_changes_nothing(conversation: list[Turn], sizes: list[int]) -> None:
    world = World(rules=Rules(batching=False), sizes=sizes)
    client = world.client()
    client.hears()
    heard: list[bytes] = []
    receive = client.server.receive

    def listen(data: bytes) -> bytes:
        heard.append(data)
        return bytes(receive(data))

    client.server.receive = listen
    messages = said(conversation, 0)
    for message, turn in zip(messages, conversation, strict=True):
        client.sends(message)
        if turn.waits:
            world.settle()
    world.settle()
    assert m.split(b"".join(heard)) == m.split(b"".join(messages))
    assert (m.split(client.hears()), world.books) == (m.split(direct(messages)[0]), direct(messages)[1])


@given(st.lists(conversations, min_size=1, max_size=3), pieces, st.sampled_from([1, 2, 1000]))
def test_nobody_can_tell_that_writes_were_batched(talks: list[list[Turn]], sizes: list[int], most: int) -> None:
    world = World(Limits(max_batch_size=most, quorum=None), sizes=sizes)
    clients = [world.client() for _ in talks]
    for client in clients:
        client.hears()
    messages = [said(talk, who) for who, talk in enumerate(talks)]
    for number in range(max(map(len, talks))):
        for client, talk, all_of_it in zip(clients, talks, messages, strict=True):
            if number < len(talk):
                client.sends(all_of_it[number])
        if any(talk[number].waits for talk in talks if number < len(talk)):
            world.pass_time(0.05, 0.01)
    world.pass_time(2, 0.01)
    alone = [direct(all_of_it) for all_of_it in messages]
    for client, (heard, books) in zip(clients, alone, strict=True):
        assert m.split(client.hears()) == m.split(heard)
        assert [entry for entry in world.books if entry in books] == books
    assert sorted(world.books) == sorted(entry for _heard, books in alone for entry in books)
    assert world.batches.pending == 0
