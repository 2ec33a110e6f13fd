"""The same conversation directly and through the proxy: all that a client can see has to be the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg
from psycopg import pq
from psycopg.pq.abc import PGresult

Connection = psycopg.Connection[Any]


class Seen(NamedTuple):
    """All that libpq tells of one result."""

    status: str
    tag: bytes | None
    columns: tuple[tuple[Any, ...], ...]
    rows: tuple[tuple[bytes | None, ...], ...]
    error: tuple[tuple[str, bytes], ...]


def seen(result: PGresult) -> Seen:
    """The record of ``result``."""
    described = tuple(
        (result.fname(c), result.ftype(c), result.fmod(c), result.ftable(c), result.ftablecol(c), result.fformat(c))
        for c in range(result.nfields)
    )
    rows = tuple(tuple(result.get_value(r, c) for c in range(result.nfields)) for r in range(result.ntuples))
    fields = ((field.name, result.error_field(field)) for field in pq.DiagnosticField)
    error = tuple((name, value) for name, value in fields if value is not None)
    return Seen(pq.ExecStatus(result.status).name, result.command_status, described, rows, error)


def fields(diagnosis: psycopg.errors.Diagnostic) -> dict[str, str]:
    """All fields of an error or a notice."""
    found = ((field.name, getattr(diagnosis, field.name.lower())) for field in pq.DiagnosticField)
    return {name: value for name, value in found if value is not None}


@dataclass(frozen=True, slots=True)
class Ends:
    """Where the same database is reached: directly, and through a proxy."""

    database: str
    direct: str
    proxied: str
    direct_port: int
    proxied_port: int

    def same(self, talk: Callable[[Connection], Any]) -> Any:
        """What ``talk`` returns for a connection in autocommit mode; the same both ways."""
        answers = []
        for dsn in (self.direct, self.proxied):
            with psycopg.connect(dsn, autocommit=True) as connection:
                answers.append(talk(connection))
        assert answers[1] == answers[0]
        return answers[1]

    def prepare(self, *statements: str) -> None:
        """Execute directly."""
        with psycopg.connect(self.direct, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def ask(self, question: str) -> list[tuple[Any, ...]]:
        """The rows of a query, asked directly."""
        with psycopg.connect(self.direct, autocommit=True) as connection:
            return connection.execute(question.encode()).fetchall()
