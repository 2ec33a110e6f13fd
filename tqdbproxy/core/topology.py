"""Which group serves a database, and which of a group's servers are tried for a new session, in which order.

The law of this module: pure; it decides from what it is given and remembers nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from tqdbproxy.core.health import Reach, State


class Topology:
    """The databases of every group. ``default`` serves what nobody claims; None: nobody does."""

    def __init__(self, claims: Mapping[str, Iterable[str]], default: str | None) -> None:
        self._groups = {database: group for group, databases in claims.items() for database in databases}
        self._default = default

    def group_of(self, database: str) -> str | None:
        """The name of the group that serves ``database``; None if there is none."""
        return self._groups.get(database, self._default)


def claimed_twice(claims: Mapping[str, Iterable[str]]) -> Iterator[tuple[str, str, str]]:
    """Databases that more than one group claims: the database, the first group, another one."""
    owners: dict[str, str] = {}
    for group, databases in claims.items():
        for database in databases:
            owner = owners.setdefault(database, group)
            if owner != group:
                yield database, owner, group


def in_order(states: Sequence[State]) -> list[int]:
    """The positions of the servers that are worth trying for a session that wants to write, the best first.

    First who is known to take writes (of several, who has done so longer: an old primary that comes back by mistake
    gets no sessions while the new one lives), then who may, in the order of the configuration; then those where trying
    costs nothing, since they say no at once; at last those that did not take writes when they were looked at, because
    one of them may have been promoted since. Left out is who is known to keep us waiting for nothing.
    """
    worth = [position for position, state in enumerate(states) if not state.hopeless]
    return sorted(worth, key=lambda position: (_rank(states[position]), states[position].since))


def _rank(state: State) -> int:
    if state.reach in (Reach.REJECTING, Reach.DOWN):
        return 2
    return {True: 0, None: 1, False: 3}[state.writable]
