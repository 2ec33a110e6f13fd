"""Who writes, cancels and vanishes.

The law of this module: a client enters every write that it began to send, once, and asks for nothing before it has done
so. What it can't know is unknown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Set
from dataclasses import dataclass
from random import Random

from tests.books.judge import ends, judge
from tests.books.ledger import Entry, Ledger, Outcome, Write
from tests.books.phrasing import phrase
from tests.books.program import Program
from tests.books.wire import Conversation, Reply, cancel, connect

CANCELED = "57014"
SERIALIZATION = "40001"
RECONNECT_S = 0.02
LONGEST_PATIENCE_S = 0.006
"""How long a client waits before it cancels or vanishes."""

BROUGHT_ON = {"hasty": frozenset({CANCELED}), "picky": frozenset({SERIALIZATION})}
"""By user: SQLSTATEs that its settings bring about."""


@dataclass(frozen=True, slots=True)
class Habits:
    """Shares of the writes that are cancelled, whose client vanishes after or in the middle of sending them.

    ``excused``: SQLSTATEs that any write may fail with, as it is done to the server.
    """

    cancels: float = 0.0
    vanishes: float = 0.0
    is_cut: float = 0.0
    excused: frozenset[str] = frozenset()


class Client:
    """One client, again and again connected until the ledger is full. ``port`` tells where to."""

    def __init__(
        self,
        number: int,
        user: str,
        database: str,
        port: Callable[[], int],
        ledger: Ledger,
        program: Program,
        habits: Habits,
        chance: Random,
    ) -> None:
        self.user = user
        self.talk: Conversation | None = None
        self._number = number
        self._database = database
        self._port = port
        self._ledger = ledger
        self._program = program
        self._habits = habits
        self._chance = chance

    async def run(self) -> None:
        """Write until there is enough."""
        while not self._ledger.full:
            self.talk = talk = await connect(self._port(), self._database, self.user)
            if talk is None:
                await asyncio.sleep(RECONNECT_S)
                continue
            while not (talk.lost or talk.transport.is_closing() or self._ledger.full):
                await self._write(talk)
            talk.abort()
            if talk.stray:
                self._ledger.problems.append(f"client {self._number}: {talk.stray} replies that nobody had asked for")

    async def _write(self, talk: Conversation) -> None:
        write, manner = self._program.next(self._number)
        binary = manner.binary and self._number % 2 == 0
        said = phrase(write, manner.hint, manner.way, talk.prepared, binary=binary, behind=manner.behind)
        if said.prepare:
            prepared = await talk.ask(said.prepare)
            if prepared.lost or prepared.errors:
                self._prepare_failed(talk, prepared)
                return
        fate = self._chance.random()
        habits = self._habits
        if fate < habits.is_cut:
            talk.send(said.raw[: self._chance.randrange(len(said.raw))])
            talk.abort()
            self._ledger.enter(Entry(write, Outcome.FAILURE))
        elif fate < habits.is_cut + habits.vanishes:
            await self._vanish(talk, write, said.raw)
        elif fate < habits.is_cut + habits.vanishes + habits.cancels:
            await self._cancel(talk, write, said.raw)
        else:
            await self._ask(talk, write, said.raw)

    def _prepare_failed(self, talk: Conversation, reply: Reply) -> None:
        """The session is over; or nearly: a statement timeout may hit a Parse as well."""
        talk.abort()
        states = {error["C"] for error in reply.errors}
        if not (reply.lost or ends(reply) or states <= BROUGHT_ON.get(self.user, frozenset())):
            self._ledger.problems.append(f"preparing failed: {states}")

    async def _ask(self, talk: Conversation, write: Write, raw: bytes, excused: Set[str] = frozenset()) -> None:
        reply = await talk.ask(raw)
        verdict = judge(write, reply, excused | self._habits.excused | BROUGHT_ON.get(self.user, frozenset()))
        self._ledger.enter(verdict.entry)
        if verdict.problem:
            self._ledger.problems.append(f"{verdict.problem}; {self.user}, {raw!r}: {write}")
        if reply.silent:
            talk.abort()

    async def _cancel(self, talk: Conversation, write: Write, raw: bytes) -> None:
        """The request is heard before the next write begins, as every client has to see to it."""
        asking = asyncio.ensure_future(self._ask(talk, write, raw, frozenset({CANCELED})))
        await asyncio.sleep(self._chance.random() * LONGEST_PATIENCE_S)
        await cancel(self._port(), talk.key)
        await asking

    async def _vanish(self, talk: Conversation, write: Write, raw: bytes) -> None:
        talk.ask(raw)  # and forget it
        if self._chance.random() < 0.7:
            await asyncio.sleep(self._chance.random() * LONGEST_PATIENCE_S)
        talk.abort()
        self._ledger.enter(Entry(write, Outcome.UNKNOWN))
