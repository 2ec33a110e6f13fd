"""Thousands of writes, once directly and once in batches: the same rows, tags, SQLSTATEs and contents.

What is in one batch touches other tables or other rows than its companions, so that their order can't matter; what
fails directly is known, and spread so that most batches have no more than a few who fail.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from select import select

import psycopg
import pytest
from psycopg import pq

from tests.differential import ANYWHERE, EXPRESSIONS, LITERALS, Outcome, contents, outcome, schema, writes
from tests.integration.metrics import Growth
from tests.proxies import RunningProxy
from tqdbproxy.embedded import EmbeddedServer

WRITES = 2600
"""Of each of the two kinds, in each of the two tests."""
MEMBERS = 12
FAILURES = 2
"""More of them in one batch, and all of its members end up alone."""
PATIENCE_S = 20.0
OPTIONS = {"auto": "-c plan_cache_mode=auto", "generic": "-c plan_cache_mode=force_generic_plan"}


@dataclass(frozen=True, slots=True)
class Done:
    """A write and what came of it directly; ``apart``: what it may not share with others of its batch."""

    text: str
    apart: object
    outcome: Outcome

    @property
    def failed(self) -> bool:
        return self.outcome.sqlstate is not None


def groups(done: Sequence[Done]) -> list[list[Done]]:
    """Batches of writes that have nothing to do with each other; those that have, in the order that they had."""
    found: list[list[Done]] = []
    first: dict[object, int] = {}
    for one in done:
        number = first.get(one.apart, 0)
        while number < len(found) and not _has_room(found[number], one):
            number += 1
        if number == len(found):
            found.append([])
        found[number].append(one)
        first[one.apart] = number + 1
    return found


def _has_room(group: list[Done], one: Done) -> bool:
    """Whether it isn't full and not too many of it fail; or all of it."""
    failed = sum(other.failed for other in (*group, one))
    return len(group) < MEMBERS and (failed <= FAILURES or failed == len(group) + 1)


class Client:
    """A session that says one thing at a time, and needn't wait for the answer before another one speaks."""

    def __init__(self, dsn: str, name: str, plans: str) -> None:
        options = f"{OPTIONS[plans]} -c search_path={name}"
        self._connection = pq.PGconn.connect(f"{dsn} options='{options}'".encode())
        assert self._connection.status == pq.ConnStatus.OK, self._connection.error_message
        self._connection.notice_handler = lambda _result: None

    def send(self, text: str, *, extended: bool) -> None:
        if extended:
            self._connection.send_query_params(text.encode(), None)
        else:
            self._connection.send_query(text.encode())

    def receive(self) -> Outcome:
        outcomes = []
        while (result := self._result()) is not None:
            outcomes.append(outcome(result))
        (one,) = outcomes
        return one

    def _result(self) -> pq.abc.PGresult | None:
        # get_result would wait, too, but without letting pytest-timeout in.
        while self._connection.is_busy():
            assert select([self._connection.socket], [], [], PATIENCE_S)[0], "no answer"
            self._connection.consume_input()
        return self._connection.get_result()

    def close(self) -> None:
        self._connection.finish()


@dataclass
class Sides:
    """A client of the server, and those of the proxy; each side has its schema."""

    direct: Client
    proxied: list[Client]
    proxy: RunningProxy
    growth: Growth

    def compare(self, texts: Iterator[tuple[str, object]], hint: str) -> int:
        """Do these both ways; how many they were."""
        done = []
        for text, apart in texts:
            self.direct.send(text, extended=False)
            done.append(Done(text, apart, self.direct.receive()))
        number = 0
        for number, group in enumerate(groups(done)):
            self._compare(group, hint.format(number), extended=number % 4 == 3)
        return len(done)

    def _compare(self, group: list[Done], hint: str, *, extended: bool) -> None:
        clients = self.proxied[: len(group)]
        with self.proxy.held():  # so that they meet, however slow the machine is
            for client, one in zip(clients, group, strict=True):
                client.send(hint + one.text, extended=extended)
        for client, one in zip(clients, group, strict=True):
            assert client.receive() == one.outcome, one.text


@pytest.fixture
def sides(postgres: EmbeddedServer, database: str, differing: RunningProxy, plans: str) -> Iterator[Sides]:
    with psycopg.connect(postgres.dsn(database), autocommit=True) as connection:
        for name in ("there", "here"):
            for statement in schema(name):
                connection.execute(statement.encode())
    direct = Client(postgres.dsn(database), "there", plans)
    proxied = [Client(differing.dsn(database), "here", plans) for _ in range(MEMBERS)]
    yield Sides(direct, proxied, differing, Growth(differing))
    for client in [direct, *proxied]:
        client.close()


def in_one_table(seed: int) -> Iterator[tuple[str, object]]:
    """Writes that differ in their constants only, if these can be lifted, to different rows of a table."""
    chance = random.Random(seed)
    everything = [literal for literals in LITERALS.values() for literal in literals] + ANYWHERE + EXPRESSIONS
    number = 0
    while True:
        table = chance.randrange(len(LITERALS))
        form = chance.choice(FORMS)
        own = list(LITERALS.values())[table]
        alike = [literal for literal in own if literal[0] == chance.choice(own)[0]] or own
        for _ in range(MEMBERS):
            number += 1
            literal = chance.choice(chance.choices([alike, own, everything], [16, 2, 1])[0])
            w = chance.choice(["'x'", "'it''s'", "'y'", "'bad'"] if chance.random() < 0.1 else ["'x'", "'it''s'"])
            # An UPDATE or DELETE finds the row of an INSERT before it, or none.
            row = number if "INSERT" in form else number - chance.choice([MEMBERS, 3 * MEMBERS])
            yield form.format(table=f"t{table}", id=1000 + row, v=literal, w=w, n=chance.randrange(9)), row


FORMS = [
    "INSERT INTO {table} (id, v) VALUES ({id}, {v})",
    "INSERT INTO {table} (id, v) VALUES ({id}, {v})",
    "INSERT INTO {table} VALUES ({id}, {v}, {w})",
    "INSERT INTO {table} VALUES ({id}, {v}, {w})",
    "INSERT INTO {table} (w, v, id) VALUES ({w}, {v}, {id})",
    "INSERT INTO {table} VALUES ({id}, {v}, {w}) RETURNING *",
    "INSERT INTO {table} VALUES ({id}, {v}, {w}) ON CONFLICT (id) DO UPDATE SET v = {v}",
    "UPDATE {table} SET v = {v} WHERE id = {id}",
    "UPDATE {table} SET v = {v}, w = {w} WHERE id = {id} RETURNING id, v, w",
    "UPDATE {table} SET w = {w} WHERE id = {id} AND v = {v}",
    "UPDATE {table} SET v = v + {n} WHERE id = {id} RETURNING v",
    "INSERT INTO {table} VALUES ({id}, {v}, repeat('ab', {n}))",
    "DELETE FROM {table} WHERE id = {id} AND v <> {v}",
    "DELETE FROM {table} WHERE id = {id} RETURNING v",
]


def in_many_tables(seed: int, count: int) -> Iterator[tuple[str, object]]:
    """Writes of all kinds, each of a batch to another table."""
    for text in writes(seed, count):
        words = text.split()
        yield text, next(word for word in words if word[0] == "t" and word[1:].isdigit())


@pytest.mark.parametrize("plans", OPTIONS)
def test_batched_writes_do_what_direct_ones_do(sides: Sides, postgres: EmbeddedServer, database: str) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    count = sides.compare(islice(in_one_table(seed), WRITES), "/* batch:6 */ ")
    assert sides.growth("write_batch_method_total", method="merged") > 20
    assert sides.growth("write_batch_method_total", method="prepared") > 20
    count += sides.compare(in_many_tables(seed, WRITES), "/* batch:6 key:k{} */ ")
    assert sides.growth("write_batch_method_total", method="transaction") > 40
    assert count == 2 * WRITES
    assert sides.growth("write_batched_total") > 0.2 * count
    with psycopg.connect(postgres.dsn(database), autocommit=True) as connection:
        found = []
        for name in ("there", "here"):
            connection.execute(f"SET search_path = {name}".encode())
            found.append(connection.execute(contents().encode()).fetchall())
    assert found[0] == found[1]
    assert len(found[0]) > 200
