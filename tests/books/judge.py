"""One reply against one write.

The law of this module: pure; a reply that couldn't have come from PostgreSQL to this write alone is a problem.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from tests.books.ledger import Entry, Outcome, Row, Write
from tests.books.wire import Reply

UNKNOWN_TO_US = "08007"
SEVERE = frozenset({"FATAL", "PANIC"})
LAST_WORDS = frozenset({"57P01", "57P02"})
"""Of the warning with which a server process ends because all of them have to; it may come at any time."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """``problem`` is empty if the reply may be as it is."""

    entry: Entry
    problem: str = ""


def judge(write: Write, reply: Reply, excused: Set[str] = frozenset()) -> Verdict:
    """What to enter, and what is wrong. ``excused``: SQLSTATEs that the client has brought on itself."""
    if reply.lost or reply.silent or ends(reply):
        states = [error["C"] for error in reply.errors]
        problem = "no answer in time" if reply.silent else ""
        return Verdict(Entry(write, Outcome.UNKNOWN, states[0] if states else ""), problem)
    # Only the commit fails after a tag: a deferred constraint.
    too_many = len(reply.errors) > 1 or len(reply.tags) > 1
    if too_many or not (reply.errors or reply.tags) or reply.status != "I":
        return Verdict(Entry(write, Outcome.UNKNOWN), f"not one answer: {reply}")
    if reply.errors:
        return _failed(write, reply.errors[0], excused)
    returned = reply.rows[0] if reply.rows else None
    return Verdict(Entry(write, Outcome.SUCCESS, returned=returned), _wrong_success(write, reply))


def ends(reply: Reply) -> bool:
    """Whether the server said that it ends the session."""
    return any(error.get("V") in SEVERE for error in reply.errors)


def _failed(write: Write, error: dict[str, str], excused: Set[str]) -> Verdict:
    state = error["C"]
    if state == UNKNOWN_TO_US:
        return Verdict(Entry(write, Outcome.UNKNOWN, state))
    problem = ""
    if state in {write.fails, *write.may_fail}:
        told = " ".join(error.get(field, "") for field in "MD")
        if write.words not in told:
            problem = f"another's error: {error}"
    elif state not in excused:
        problem = f"an error for no reason: {error}"
    return Verdict(Entry(write, Outcome.FAILURE, state), problem)


def _wrong_success(write: Write, reply: Reply) -> str:
    if write.fails:
        return f"it succeeded and should have failed with {write.fails}"
    if reply.tags != [write.tag]:
        return f"its tag is {reply.tags}"
    if not _fits(reply.rows, write.row):
        return f"its rows are {reply.rows}"
    told = [notice["M"] for notice in reply.notices if notice["C"] not in LAST_WORDS]
    if told != ([write.words] if write.notice else []):
        return f"its notices are {told}"
    return ""


def _fits(rows: list[Row], expected: Row | None) -> bool:
    if expected is None or len(rows) != 1:
        return expected is None and not rows
    return len(rows[0]) == len(expected) and all(
        value is not None if wanted == "" else value == wanted for value, wanted in zip(rows[0], expected, strict=True)
    )
