"""One expression for all texts that differ in their constants only: it may miss some, but never takes in others."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tqdbproxy.postgres.constants import cut
from tqdbproxy.postgres.likeness import MAX_LENGTH, likeness
from tqdbproxy.postgres.sqltext import pieces


def marked(text: bytes) -> tuple[bytes, list[bytes]]:
    """A text with marks for its constants, hints and all, and their values."""
    parts = pieces(text)
    assert parts is not None
    values = cut(parts).values
    return b"".join(parts), values


def values(text: str, other: str) -> list[bytes] | None:
    """The constants of ``other`` if it is like ``text``."""
    like = likeness(marked(text.encode())[0])
    found = like.fullmatch(other.encode()) if like is not None else None
    return list(found.groups()) if found is not None else None


TEXT = "/* batch:5 */ INSERT INTO t VALUES (1, 'a', 2.5, -7)"


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (TEXT, [b"1", b"a", b"2.5", b"-7"]),
        ("/* batch:5 */ INSERT INTO t VALUES (999999999, '', 0.0, -0)", [b"999999999", b"", b"0.0", b"-0"]),
        ("/* batch:5 */ INSERT INTO t VALUES (1, 'é\n--/*', 2.5, -7)", [b"1", "é\n--/*".encode(), b"2.5", b"-7"]),
        ("/* batch:6 */ INSERT INTO t VALUES (1, 'a', 2.5, -7)", None),
        ("/* batch:5 */ INSERT INTO u VALUES (1, 'a', 2.5, -7)", None),
        ("/* batch:5 */ INSERT INTO t VALUES (1, 'a', 2.5, 7)", None),
        ("/* batch:5 */ INSERT INTO t VALUES (1, 'a', 2, -7)", None),
        ("/* batch:5 */ INSERT INTO t VALUES (1.5, 'a', 2.5, -7)", None),
        ("/* batch:5 */ INSERT INTO t VALUES (1234567890, 'a', 2.5, -7)", None),  # it may be an int8
        ("/* batch:5 */ INSERT INTO t VALUES (1, 'it''s', 2.5, -7)", None),
        ("/* batch:5 */ INSERT INTO t VALUES (1, 'a\\', 2.5, -7)", None),
        ("/* batch:5 */ INSERT INTO t VALUES (1, 'a\0', 2.5, -7)", None),
        ("/* batch:5 */ INSERT INTO t VALUES (1, 'a', 2.5, -7) ", None),
        ("/* batch:5 */ INSERT INTO t VALUES (1, 'a', 2.5e1, -7)", None),
        ("/* batch:5 */ INSERT INTO t VALUES (1_0, 'a', 2.5, -7)", None),
        ("/* batch:5 */ INSERT INTO t VALUES (0x1, 'a', 2.5, -7)", None),
        ("/* batch:5 */ INSERT INTO t VALUES (NULL, 'a', 2.5, -7)", None),
        ("/* batch:5 */ INSERT INTO t VALUES (1, E'a', 2.5, -7)", None),
    ],
)
def test_what_is_like_a_text(other: str, found: list[bytes] | None) -> None:
    assert values(TEXT, other) == found


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO t DEFAULT VALUES",
        "INSERT INTO t VALUES (1e5)",
        "INSERT INTO t VALUES (3000000000)",
        "SELECT 1 AS a UNION SELECT 2e0",
        "INSERT INTO t VALUES (1)" + " " * MAX_LENGTH,
    ],
)
def test_what_has_no_likeness(text: str) -> None:
    assert likeness(marked(text.encode())[0]) is None


def test_a_number_beside_a_letter_could_become_part_of_a_word() -> None:
    assert likeness(b"SELECT 0 AS a\0i") is None
    assert likeness(b"SELECT \0ix") is None
    assert likeness(b"SELECT \0i AS \xc3\xa9, \0i\xc3\xa9") is None
    assert likeness(b"SELECT \0i+\0i") is not None


GAPS = st.sampled_from([", ", ",", " + ", "=", "('", "'", "x", " E", "- ", "/* ' */", "\n--", "$1", "$", '"', "."])
CONSTANTS = st.sampled_from(
    ["1", "-5", "1.5", "'a'", "''", "'b", "999999999", "0", "-1.25", "'--'", "'/*'", "1_0", "0x1"]
)


@given(st.lists(GAPS, min_size=2, max_size=5), st.data())
def test_what_matches_has_the_lexers_constants(gaps: list[str], data: st.DataObject) -> None:
    """Whatever the gaps are: a match has the constants that the lexer finds in that text."""

    def text() -> bytes:
        constants = data.draw(st.lists(CONSTANTS, min_size=len(gaps) - 1, max_size=len(gaps) - 1))
        return "".join([gaps[0], *(c + g for c, g in zip(constants, gaps[1:], strict=True))]).encode()

    first, second = text(), text()
    assume(pieces(first) is not None)
    like = likeness(marked(first)[0])
    found = like.fullmatch(second) if like is not None else None
    if found is not None:
        assert marked(second) == (marked(first)[0], list(found.groups()))
