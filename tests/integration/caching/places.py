"""Where a test reads and writes: a schema of its own behind a proxy, and sessions there.

The schema is a start-up option, so no two tests share an answer. The law of this module: it knows where, not what.
"""

from __future__ import annotations

from contextlib import ExitStack

from tests.integration.batching.crowd import Reply, reply
from tests.integration.wire import Wire, query
from tests.proxies import RunningProxy

LONG = 600
"""A ttl that no test outlives."""


class Place:
    """A schema, reached directly and through ``proxy``; its sessions are closed with it."""

    def __init__(self, proxy: RunningProxy, direct_port: int, database: str, schema: str) -> None:
        self.proxy = proxy
        self.direct_port = direct_port
        self.database = database
        self.schema = schema
        self._open = ExitStack()

    def close(self) -> None:
        """End all sessions."""
        self._open.close()

    def wire(self, port: int, user: str = "postgres", **options: str) -> Wire:
        """A session in the schema."""
        wire = self._open.enter_context(Wire(port))
        return wire.start(self.database, user, **{"search_path": self.schema, **options})

    def session(self, user: str = "postgres", **options: str) -> Wire:
        """One through the proxy."""
        return self.wire(self.proxy.port, user, **options)

    def direct(self, user: str = "postgres", **options: str) -> Wire:
        """One with the server."""
        return self.wire(self.direct_port, user, **options)

    def do(self, *texts: str) -> list[Reply]:
        """Execute directly, each for itself; all must succeed."""
        with Wire(self.direct_port).start(self.database, search_path=self.schema) as wire:
            return [told(wire, text) for text in texts]


class Gate:
    """Statements with ``held()`` in them take until the gate is open. It waits while they are executed, with their
    snapshots taken."""

    def __init__(self, place: Place) -> None:
        place.do(
            "CREATE TABLE gate ()",
            "CREATE FUNCTION held() RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM FROM gate; END'",
        )
        self._holder = place.direct()

    def shut(self) -> None:
        """They wait from now on."""
        told(self._holder, "BEGIN", "LOCK TABLE gate")

    def open(self) -> None:
        """They go on."""
        told(self._holder, "COMMIT")


def told(wire: Wire, *texts: str) -> Reply:
    """The reply to the last of these Queries; all must succeed."""
    for text in texts:
        said = reply(wire.ask(query(text)))
        assert not said.sqlstate, (text, said)
    return said


def cell(said: Reply) -> str:
    """The one value of a reply."""
    ((value,),) = said.rows
    assert value is not None
    return value.decode()


def backend(wire: Wire) -> str:
    """Where the last answer of this session came from."""
    return status(wire)["Backend"]


def status(wire: Wire) -> dict[str, str]:
    """The status view."""
    return {(a or b"").decode(): (b or b"").decode() for a, b in told(wire, "SELECT * FROM pg_tqdb_status").rows}


def cached(text: str, hints: str = "", ttl: float = LONG) -> str:
    """The text with a hint."""
    return f"/* ttl:{ttl:g} {hints} */ {text}"
