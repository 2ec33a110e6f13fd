"""Texts that differ in meaningless white space are one template; white space that means something stays."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tqdbproxy.embedded import EmbeddedServer
from tqdbproxy.postgres.lifting import MAX_KEY, Lifter
from tqdbproxy.postgres.spelling import spelt
from tqdbproxy.postgres.sql import Texts, parse
from tqdbproxy.postgres.sqltext import pieces

HINT = b"/* batch:10 */ "


def spell(text: str | bytes) -> bytes:
    """In its one spelling, whatever the parser says of it."""
    parts = pieces(text if isinstance(text, bytes) else text.encode())
    assert parts is not None
    return spelt(parts)


def template(text: str, *, extended: bool = False, texts: Texts | None = None) -> bytes:
    """What the statement is executed as in a batch."""
    found = (texts or Texts()).look(HINT + text.encode())
    assert (found.is_write, found.reason) == (True, None), text
    return found.stripped if extended or found.lifted is None else found.lifted.template


ALIKE = [
    ("INSERT INTO t VALUES (1)", "INSERT INTO t  VALUES (1)"),
    ("INSERT INTO t VALUES (1)", "\n\tINSERT INTO\n\tt\r\n\fVALUES (1) ; \n;"),
    ("INSERT INTO t (a, b) VALUES (1, 'x')", "INSERT INTO t(a,b)VALUES(1,'x')"),
    ("INSERT INTO t (a, b) VALUES (1, 'x')", "INSERT INTO t (\n  a,\n  b\n) VALUES (\n  1\n, 'x'\n)"),
    ("INSERT INTO t (a, b) VALUES ($1, $2)", "INSERT INTO t( a , b )VALUES( $1 , $2 );"),
    ("INSERT INTO t VALUES (1), (-2)", "INSERT INTO t VALUES(1),\n ( -2 )"),
    ('INSERT INTO "t" ("a") VALUES (1)', 'INSERT INTO\n"t"("a")VALUES (1)'),
    ("INSERT INTO t VALUES ('a'\n'b')", "INSERT INTO t VALUES ('a' \n\t 'b')"),
    ("INSERT INTO t VALUES ('a'\n'b')", "INSERT INTO t VALUES ( 'a'\r\n\r\n'b' )"),
    ("INSERT INTO t VALUES (1, 'a')", "INSERT INTO t VALUES (1,\n'a'\n)"),
    ("INSERT INTO t VALUES (now (), f ('a', 1))", "INSERT INTO t VALUES (now(), f( 'a', 1 ))"),
    ("INSERT INTO t VALUES (ARRAY[1, 2], (b)[1])", "INSERT INTO t VALUES (ARRAY [ 1,2 ], (b) [1 ])"),
    ("INSERT INTO t VALUES (U&'d!0061' UESCAPE '!')", "INSERT INTO t VALUES (U&'d!0061'  UESCAPE\n'!')"),
    ("INSERT INTO t VALUES (date '2020-01-01')", "INSERT INTO t VALUES (date\n'2020-01-01')"),
    ("INSERT INTO t VALUES ($$a  b$$, 1)", "INSERT INTO t VALUES ( $$a  b$$,1 )"),
    ("INSERT INTO t VALUES (1) RETURNING a, b AS c", "INSERT INTO t VALUES (1)\nRETURNING\n  a,\n  b AS c"),
    ("INSERT INTO t SELECT 1, 'x' FROM u", "INSERT INTO t\nSELECT 1,\n'x'\nFROM u"),
    ("INSERT INTO t /* why */ VALUES (1)", "INSERT INTO t\n/* why */\nVALUES (1)"),
    ("INSERT INTO t -- why\nVALUES (1)", "INSERT INTO t   -- why\r\n    VALUES (1)"),
    ("INSERT INTO t VALUES (current_setting('a.b'), 1)", "INSERT INTO t\nVALUES (current_setting ('a.b'),1)"),
    ("UPDATE t SET a = a - -1 WHERE b = 'x  y'", "UPDATE t\nSET a = a  -  -1\nWHERE b\t=\t'x  y'"),
    ("UPDATE t SET a = a + 1, b = b::varchar(3)", "UPDATE t SET\n a = a + 1,\n b = b::varchar (3)"),
    ("DELETE FROM t WHERE a IN (1, 2) AND (b) IS NULL", "DELETE FROM t WHERE a IN(1,2)AND(b)IS NULL"),
    ("DELETE FROM é WHERE ü = 'ö'", "DELETE\nFROM é  WHERE ü = 'ö'"),
    ("WITH x AS (SELECT 1) DELETE FROM t", "WITH x AS(SELECT 1)DELETE FROM t"),
]


@pytest.mark.parametrize(("text", "other"), ALIKE)
def test_one_template(text: str, other: str) -> None:
    assert template(text) == template(other)
    assert template(text, extended=True) == template(other, extended=True)


DIFFERENT = [
    # Literals and names keep their blanks.
    ("INSERT INTO t VALUES ('a b' || 'c')", "INSERT INTO t VALUES ('a  b' || 'c')"),
    ("INSERT INTO t VALUES (E'a\\x41 b')", "INSERT INTO t VALUES (E'a\\x41  b')"),
    ("INSERT INTO t VALUES ($$a b$$)", "INSERT INTO t VALUES ($$a  b$$)"),
    ("INSERT INTO t VALUES ($q$( a$q$)", "INSERT INTO t VALUES ($q$(a$q$)"),
    ("INSERT INTO t VALUES (U&'a b')", "INSERT INTO t VALUES (U&'a  b')"),
    ("INSERT INTO t VALUES (B'1')", "INSERT INTO t VALUES (B '1')"),
    ('INSERT INTO "a b" VALUES (1)', 'INSERT INTO "a  b" VALUES (1)'),
    ('INSERT INTO "a(b" VALUES (1)', 'INSERT INTO "a (b" VALUES (1)'),
    # One literal is not two.
    ("INSERT INTO t VALUES ('a'\n'b')", "INSERT INTO t VALUES ('a''b')"),
    ("INSERT INTO t VALUES ('a' || 'b')", "INSERT INTO t VALUES ('a'\n'b')"),
    # Comments that are no hints belong to the text.
    ("INSERT INTO t /* a b */ VALUES (1)", "INSERT INTO t /* a  b */ VALUES (1)"),
    ("INSERT INTO t /* a */ VALUES (1)", "INSERT INTO t VALUES (1)"),
    ("INSERT INTO t VALUES (1) -- a\nRETURNING a", "INSERT INTO t VALUES (1) -- a RETURNING a"),
    # A prefix is one only beside its literal; a digit may belong to a name.
    ("UPDATE t SET a = e'x'", "UPDATE t SET a = e 'x'"),
    ("UPDATE t SET a = 1 RETURNING 1 a", "UPDATE t SET a = 1 RETURNING a1"),
    ("DELETE FROM t1", "DELETE FROM t 1"),
    # Operators.
    ("UPDATE t SET a = b - -c", "UPDATE t SET a = b --c"),
    ("UPDATE t SET a = b < -c", "UPDATE t SET a = b <-c"),
    ("UPDATE t SET a = b @ -c", "UPDATE t SET a = b @- c"),
    ("UPDATE t SET a = b / *c", "UPDATE t SET a = b /*c*/"),
    # White space only since PostgreSQL 16.
    ("INSERT INTO t VALUES (1)", "INSERT INTO t\vVALUES (1)"),
]


@pytest.mark.parametrize(("text", "other"), DIFFERENT)
def test_two_templates(text: str, other: str) -> None:
    texts = Texts()
    first, second = (texts.look(HINT + one.encode()) for one in (text, other))
    assert (first.lifted and first.lifted.template, first.stripped) != (
        second.lifted and second.lifted.template,
        second.stripped,
    )
    assert spell(text) != spell(other)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ""),
        ("  ", " "),
        ("a  b", "a b"),
        ("a--1", "a--1"),
        ("a - -1", "a - -1"),
        ("a  -  - 1", "a - - 1"),
        ("1 .5", "1 .5"),
        ("1.  5", "1. 5"),
        ("1  e5", "1 e5"),
        ("e  'x'", "e 'x'"),
        ("'a'  'b'", "'a' 'b'"),
        ("'a'  \n  'b'  \n'c'", "'a'\n'b'\n'c'"),
        ("'a'\n$$b$$", "'a' $$b$$"),
        ("'a'\n\"b\"", "'a' \"b\""),
        ("'a'\nE'b'", "'a' E'b'"),
        ("'a'\n/* c */\n'b'", "'a' /* c */ 'b'"),
        ("'a'\v\n'b'", "'a'\v\n'b'"),
        ("E'a'\n  '\\''  x", "E'a'\n  '\\'' x"),
        ("'a'\n-- c\n\n  'b'", "'a' -- c\n'b'"),
        ("a -- b", "a -- b"),
        ("a -- b  \n\n  (c", "a -- b  \n (c"),
        ("a -- b\r\n\r\n-- c\r\n d", "a -- b\n-- c\nd"),
        ("( -- b\n 1 )", "(-- b\n1)"),
        ("f( ( ( a ) ) )", "f (((a)))"),
        ("a=(b)=c", "a=(b)=c"),
        ("a . b", "a . b"),
        ("(a) . b :: c", "(a) . b :: c"),
        ("a,b , c,\n\nd", "a, b, c, d"),
        ("a [ 1 : 2 ] [ 3 ]", "a[1 : 2][3]"),
        ("a\v b", "a\v b"),
        ("$1(", "$1 ("),
        ("\xa0  é", "\xa0 é"),
    ],
)
def test_the_one_spelling(text: str, found: str) -> None:
    assert spell(text) == found.encode()
    assert spell(found) == found.encode()


def test_all_spellings_share_what_is_found_out_later() -> None:
    """As that a string is an interval."""
    texts = Texts()
    spellings = ["INSERT INTO t VALUES (1, 'a')", "INSERT INTO t  VALUES(1,'a')", "INSERT INTO t\nVALUES (1, 'a')"]
    for number, text in enumerate(spellings):
        for constant in ("'a'", "'b'"):
            assert template(text.replace("'a'", constant), texts=texts) == b"INSERT INTO t VALUES ($1, $2)"
        texts.keep_strings(texts.look(HINT + text.encode()))
        for other in spellings:
            assert template(other, texts=texts) == b"INSERT INTO t VALUES ($1, 'a')", number
        texts = Texts()
    texts.keep_strings(texts.look(HINT + spellings[1].encode()))
    assert template(spellings[2], texts=texts) == b"INSERT INTO t VALUES ($1, 'a')", "one that is seen first only now"


def test_shapes_stay_bounded() -> None:
    lifter = Lifter(parse, limit=4)
    for number in range(20):
        lifter.lift(b"INSERT INTO t%d  VALUES(1)" % number)
        assert len(lifter._shapes) <= 4


def test_what_the_parser_sees_differently_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tqdbproxy.postgres.lifting.spelt", lambda _parts: b"INSERT INTO u VALUES (1001)")
    assert template("INSERT INTO t  VALUES (7)") == b"INSERT INTO t  VALUES ($1)"
    monkeypatch.setattr("tqdbproxy.postgres.lifting.spelt", lambda _parts: b"INSERT INTO")
    assert template("INSERT INTO t  VALUES (7)") == b"INSERT INTO t  VALUES ($1)"
    assert template("INSERT INTO t  VALUES (current_setting('a.b'))") == (
        b"INSERT INTO t  VALUES (current_setting('a.b'))"
    )


def test_long_texts_keep_their_white_space() -> None:
    text = b"INSERT INTO t  VALUES ('" + b"a" * MAX_KEY + b"')"
    assert Lifter(parse).spell(text) == text


def test_answers_from_the_cache_belong_to_exact_texts() -> None:
    found = Texts().look(b"/* ttl:5 */ SELECT  a FROM t WHERE b IN(1,2)")
    assert (found.is_read, found.stripped) == (True, b"SELECT  a FROM t WHERE b IN(1,2)")


# Generated white space

BLANK = st.sampled_from([" ", "  ", "\n", "\t", "\r\n", "\f", " \n ", "\n\n\t"])
TOKENS = [
    "INSERT INTO t ( a , b ) VALUES ( 1 , 'x' ) , ( - 2 , 'y''z' ) RETURNING a , f ( b ) AS c",
    'INSERT INTO "a b" ( a ) VALUES ( $$x  y$$ ) ON CONFLICT ( a ) DO UPDATE SET a = EXCLUDED . a WHERE t . b < -1',
    "INSERT INTO t VALUES ( ARRAY [ 1 , 2 ] , ( SELECT x [ 1 ] FROM u ) , CAST ( '5' AS numeric ( 3 ) ) , E'\\n' )",
    "UPDATE t SET a = a - -1 , b = b :: varchar ( 3 ) , c = NOT ( d ) WHERE a IN ( 1 , 2.5 , .5 , 1e5 ) AND b = 'x'",
    "DELETE FROM t USING u WHERE ( t . a , t . b ) = ( u . a , 'x' ) AND NOT EXISTS ( SELECT 1 ) OR a = ANY ( '{1}' )",
    "WITH x AS ( SELECT U&'d!0061' UESCAPE '!' ) UPDATE t SET a = $1 WHERE b @> $2 AND c = interval '1 day'",
    "MERGE INTO t USING u ON ( t . a = u . a ) WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES ( 1 , 2 )",
]


def tree(text: str | bytes) -> Any:
    return _bare(parse(text if isinstance(text, bytes) else text.encode())[0])


def _bare(found: Any) -> Any:
    if isinstance(found, list):
        return [_bare(item) for item in found]
    if not isinstance(found, dict):
        return found
    return {key: _bare(value) for key, value in found.items() if key not in ("location", "stmt_location", "stmt_len")}


def is_free(before: str, after: str) -> bool:
    """Whether there may be no blank between two tokens; beside operators all stays as it is."""
    if before in ("(", "[", ",") or after in (")", "]", ",", "["):
        return True
    if after == "(":
        return before[-1].isalnum() or before[-1] in "\"'$)]/"
    return before in (")", "]") and (after[0].isalnum() or after[0] in "\"'$/")


def join(tokens: Sequence[str], draw: st.DrawFn) -> str:
    """The tokens with white space between them, or none where there need be none."""
    text = tokens[0]
    for before, after in itertools.pairwise(tokens):
        if not is_free(before, after) or draw(st.booleans()):
            text += draw(BLANK)
        text += after
    return text


def is_open(token: str) -> bool:
    """Whether a literal or a quoted name goes on behind the blank."""
    if token.startswith("'"):
        return len(token) == 1 or not token.endswith("'")
    return token.count("$$") == 1 or token.count('"') == 1


@st.composite
def two_spellings(draw: st.DrawFn) -> tuple[str, str]:
    tokens: list[str] = []
    for word in draw(st.sampled_from(TOKENS)).split(" "):
        if tokens and is_open(tokens[-1]):
            tokens[-1] += " " + word
        else:
            tokens.append(word)
    if "UESCAPE" not in tokens and draw(st.booleans()):  # in front of it, a comment is refused
        tokens.insert(draw(st.integers(1, len(tokens) - 1)), "/* ( a ,  b ) */")
    return join(tokens, draw), join(tokens, draw)


@pytest.mark.parametrize("name", ["ゼaゾ", "ゼ aゾ", "a ゾ", "ー ["])
def test_a_bracket_that_may_be_half_a_character(name: str) -> None:
    """In SJIS, where ゼ ends with the byte of a bracket."""
    text = f"INSERT  INTO t VALUES ( 1 ) RETURNING {name}".encode("sjis")
    assert spell(text) == text


@given(two_spellings())
def test_generated_white_space_means_nothing(spellings: tuple[str, str]) -> None:
    one, other = spellings
    assert spell(one) == spell(other)
    assert template(one) == template(other)
    assert tree(spell(one)) == tree(one) == tree(other)
    assert tree(template(one, extended=True)) == tree(one)


NOISE = [
    "INSERT", "INTO", "t", "VALUES", "(", ")", "[", "]", ",", "'a'", "'b'", "E'c'", "e", "U&'a'", "$$x$$", "$1",
    "1", ".5", "-", "--", "-- c\n", "/* c */", "\n", " ", "  ", "\r\n", "\f", "\v", "+", "<", "::", ".",
    ";", '"q"', "\\", "é",
]  # fmt: skip


@given(st.lists(st.sampled_from(NOISE), max_size=14).map("".join))
def test_any_text_keeps_its_tree(noise: str) -> None:
    """What can't be parsed stays so: whoever says it gets the error."""
    for text in (noise, f"SELECT {noise}", f"INSERT INTO t VALUES ({noise})"):
        parts = pieces(text.encode())
        if parts is None:
            continue
        found = spelt(parts)
        again = pieces(found)
        assert again is not None
        assert [part for part in again[1::2] if part[:1] != b"-"] == spelt_atoms(parts)
        assert tree_or_none(found) == tree_or_none(text)


def tree_or_none(text: str | bytes) -> Any:
    try:
        return tree(text)
    except Exception:
        return None


def spelt_atoms(parts: list[bytes]) -> list[bytes]:
    return [part for part in parts[1::2] if part[:1] != b"-"]


@pytest.mark.parametrize("text", [text for pair in ALIKE + DIFFERENT for text in pair])
def test_the_server_agrees(postgres: EmbeddedServer, text: str) -> None:
    """What the server says of a spelling of the text is what it says of the text."""
    with psycopg.connect(postgres.dsn()) as connection:
        said = []
        for one in (text.encode(), spell(text)):
            result = connection.pgconn.prepare(b"", one)
            said.append((result.status, result.error_field(psycopg.pq.DiagnosticField.MESSAGE_PRIMARY)))
            connection.rollback()
        assert said[0] == said[1]


@pytest.mark.parametrize("inside", ["a/", "* ", "/", "x" * 300, "a/ *" * 200])
@pytest.mark.parametrize("times", [1, 255, 256, 257, 5000])
def test_a_comment_with_many_stars_and_slashes_is_one_piece(inside: str, times: int) -> None:
    """However many there are, and whether they are walked over at once or step by step."""
    comment = f"/* {inside * times} */".encode()
    assert pieces(b"SELECT 'a' " + comment + b" , 2") == [b"SELECT ", b"'a'", b" ", comment, b" , ", b"2", b""]
