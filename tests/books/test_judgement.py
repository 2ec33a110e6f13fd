"""The judge and the auditor themselves: every way to be wrong is found, and nothing that is right."""

from __future__ import annotations

import pytest

from tests.books.audit import collisions, compare, tallies
from tests.books.judge import judge
from tests.books.ledger import Entry, Outcome, Row, Write
from tests.books.wire import Reply

INSERT = Write("plain", 7, "INSERT ... RETURNING w, v", (7,), row=("7", ""), may_fail=frozenset({"23505"}), words="(7)")
DOOMED = Write("checked", 8, "INSERT ...", (8,), fails="23514", words="(8, -5)")
SKIPPED = Write("timed", 9, "INSERT ...", (9,), tag="INSERT 0 0", effect=0)
NOTICED = Write("timed", 10, "INSERT ...", (10,), notice=True, words="timed 10")


def reply(
    *tags: str, rows: tuple[Row, ...] = (), error: dict[str, str] | None = None, notice: str = "", lost: bool = False
) -> Reply:
    notices = [{"C": "00000", "M": notice}] if notice else []
    errors = [{"V": "ERROR", **error}] if error else []
    return Reply(list(tags), list(rows), errors, notices, "" if lost else "I", lost=lost)


RIGHT = {
    "a row": (INSERT, reply("INSERT 0 1", rows=(("7", "x"),)), Outcome.SUCCESS),
    "an error of its own": (INSERT, reply(error={"C": "23505", "D": "(7)"}), Outcome.FAILURE),
    "at the commit": (INSERT, reply("INSERT 0 1", error={"C": "23505", "D": "(7)"}), Outcome.FAILURE),
    "it had to fail": (DOOMED, reply(error={"C": "23514", "D": "(8, -5)"}), Outcome.FAILURE),
    "a trigger skips it": (SKIPPED, reply("INSERT 0 0"), Outcome.SUCCESS),
    "a notice": (NOTICED, reply("INSERT 0 1", notice="timed 10"), Outcome.SUCCESS),
    "nobody knows": (INSERT, reply(error={"C": "08007"}), Outcome.UNKNOWN),
    "the server ends": (INSERT, reply(error={"C": "57P01", "V": "FATAL"}), Outcome.UNKNOWN),
    "lost": (INSERT, reply(lost=True), Outcome.UNKNOWN),
    "lost after the tag": (INSERT, reply("INSERT 0 1", lost=True), Outcome.UNKNOWN),
    "cancelled": (INSERT, reply(error={"C": "57014"}), Outcome.FAILURE),
}

WRONG = {
    "another's row": (INSERT, reply("INSERT 0 1", rows=(("8", "x"),))),
    "no row": (INSERT, reply("INSERT 0 1")),
    "two rows": (INSERT, reply("INSERT 0 1", rows=(("7", "x"), ("7", "x")))),
    "the batch's tag": (INSERT, reply("INSERT 0 2", rows=(("7", "x"),))),
    "two answers": (INSERT, reply("INSERT 0 1", "INSERT 0 1", rows=(("7", "x"),))),
    "no answer": (INSERT, reply()),
    "another's error": (INSERT, reply(error={"C": "23505", "D": "(6)"})),
    "an error for nothing": (INSERT, reply(error={"C": "40P01"})),
    "a success that can't be": (DOOMED, reply("INSERT 0 1")),
    "not skipped": (SKIPPED, reply("INSERT 0 1")),
    "another's notice": (NOTICED, reply("INSERT 0 1", notice="timed 11")),
    "no notice": (NOTICED, reply("INSERT 0 1")),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_a_server_would_say(name: str) -> None:
    write, said, outcome = RIGHT[name]
    verdict = judge(write, said, {"57014"})
    assert (verdict.entry.outcome, verdict.problem) == (outcome, "")


@pytest.mark.parametrize("name", WRONG)
def test_what_no_server_would_say(name: str) -> None:
    assert judge(*WRONG[name]).problem


SUCCESS, FAILURE, UNKNOWN = (
    Entry(INSERT, Outcome.SUCCESS, returned=("7", "x")),
    Entry(INSERT, Outcome.FAILURE),
    Entry(INSERT, Outcome.UNKNOWN),
)


@pytest.mark.parametrize(
    ("entry", "found", "right"),
    [
        (SUCCESS, ["x"], True),
        (SUCCESS, ["y"], False),
        (SUCCESS, [], False),
        (SUCCESS, ["x", "x"], False),
        (FAILURE, [], True),
        (FAILURE, ["x"], False),
        (UNKNOWN, [], True),
        (UNKNOWN, ["x"], True),
        (UNKNOWN, ["x", "x"], False),
        (Entry(SKIPPED, Outcome.SUCCESS), [], True),
        (Entry(SKIPPED, Outcome.SUCCESS), [None], False),
    ],
)
def test_the_books_and_a_table(entry: Entry, found: list[str], right: bool) -> None:
    marks: dict[int, list[str]] = {entry.write.mark: found} if found else {}
    assert (list(compare([entry], marks)) == []) is right


def test_a_row_that_nobody_wrote() -> None:
    assert list(compare([], {3: [None]})) == ["nobody wrote 3"]


def test_a_value_that_was_taken() -> None:
    refused = Entry(Write("paired", 1, "", (), holds=5), Outcome.FAILURE, "23505")
    assert list(collisions([refused], {5})) == []
    assert list(collisions([refused], {6})) != []


@pytest.mark.parametrize(
    ("outcomes", "counted", "right"),
    [
        ("ss", 2, True),
        ("ss", 3, False),
        ("ss", 1, False),
        ("su", 1, True),
        ("su", 2, True),
        ("su", 3, False),
        ("sf", 1, True),
    ],
)
def test_a_tally(outcomes: str, counted: int, right: bool) -> None:
    kinds = {"s": Outcome.SUCCESS, "u": Outcome.UNKNOWN, "f": Outcome.FAILURE}
    write = Write("tallies", 4, "", ())
    entries = [
        Entry(write, kinds[letter], returned=("1", str(number)) if letter == "s" else None)
        for number, letter in enumerate(outcomes, 1)
    ]
    assert (list(tallies(entries, {4: counted})) == []) is right


def test_a_tally_that_its_client_was_told_wrongly() -> None:
    entry = Entry(Write("tallies", 4, "", ()), Outcome.SUCCESS, returned=("1", "2"))
    assert list(tallies([entry], {4: 1})) != []
