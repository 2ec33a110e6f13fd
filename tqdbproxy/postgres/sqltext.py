"""The lexical surface of SQL: where literals, quoted names and comments begin and end in a text.

The law of this module: bytes only. It knows PostgreSQL's lexer (manual, "Lexical Structure") and no grammar, and it is
right for every client encoding, because the bytes that it looks for are never the second byte of a character; the one
exception, the backslash, is what ``doubtful`` tells. (A bracket can be one, too, in SJIS and its like: see `spelling`.)
"""

from __future__ import annotations

import re
from collections.abc import Callable

BLANKS = b" \t\n\r\f\v"

# What may stand inside a name: a digit or dollar after one of these begins no number and no dollar quote.
_W = rb"A-Za-z0-9_$\x80-\xff"
_NUMBER = rb"(?:[eE][+-][0-9]|[." + _W + rb"])*+"
# (What is repeated possessively has nothing in it that can fail behind another repetition or a look-ahead. Before
# CPython 3.11.5, and Debian 12 has 3.11.2, the text over which such an attempt has walked is gone: gh-106052.)
_PLAIN = rb"(?:[^']++|'')*+'"
_QUOTED = rb'(?:[^"]++|"")*+"'
# Adjacent literals, with a line break between them, are one; the second has no E of its own and still knows escapes.
_ESCAPED = rb"(?:[^'\\]++|\\.|'')*+'(?:[ \t\f\v]*+[\n\r]\s*+'(?:[^'\\]++|\\.|'')*+')*"

# One group and a first-character class, so that re.split does the walk in C: gap, atom, gap, atom, ..., gap.
# An atom that is only "'", '"', "/*" or "$" is trouble: unterminated, a nested comment (or one with very many stars and
# slashes: what isn't repeated possessively costs memory each time) or a dollar quote.
_ATOM = re.compile(
    rb"""(['"/$.0-9-](?:"""
    rb"(?<=')(?:(?<=[eE]')(?<![" + _W + rb"][eE]')(?:" + _ESCAPED + rb"|)"
    rb"|(?:(?<![eE]')|(?<=[" + _W + rb"][eE]'))(?:" + _PLAIN + rb"|))"
    rb"|(?<=[0-9])(?<![" + _W + rb"][0-9])" + _NUMBER + rb"""|(?<=")(?:""" + _QUOTED + rb"|)"
    rb"|(?<=-)-[^\n\r]*+"
    rb"|(?<=/)\*(?:(?:[^*/]++|\*(?!/)|/(?!\*)){0,256}\*/|)"
    rb"|(?<=\$)(?<![" + _W + rb"]\$)(?=(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*+)?\$)"
    rb"|(?<=\.)(?<![" + _W + rb"]\.)[0-9]" + _NUMBER + rb"))",
    re.DOTALL,
)
_TROUBLE = frozenset((b"'", b'"', b"/*", b"$"))
_COMMENT_ENDS = re.compile(rb"/\*|\*/")
_DOLLAR_TAG = re.compile(rb"\$[^$]*\$")
# A backslash before the closing or a doubled quote: ends the literal, or doesn't, by standard_conforming_strings.
_BACKSLASH_QUOTE = re.compile(rb"(?<!\\)(?:\\\\)*\\'")
_HIGH_BACKSLASH = re.compile(rb"[\x80-\xff]\\")


def pieces(text: bytes) -> list[bytes] | None:
    """Cut a text into gap, atom, gap, ..., gap: ``b"".join`` of it is the text.

    Atoms are string literals (without a prefix letter, which is the end of the gap before), quoted names, dollar
    quotes, numbers and comments. None: something has no end, PostgreSQL would call it a syntax error.
    """
    parts = _ATOM.split(text)
    return parts if _TROUBLE.isdisjoint(parts[1::2]) else _stepwise(text)


def is_comment(atom: bytes) -> bool:
    """Whether an atom is a comment of either kind."""
    return atom.startswith((b"/*", b"--"))


def escapes(gap: bytes) -> bool:
    """Whether the literal after this gap is an ``E'...'``, by the gap's end."""
    return _ESCAPE_PREFIX.search(gap) is not None


_ESCAPE_PREFIX = re.compile(rb"(?<![" + _W + rb"])[eE]\Z")


def doubtful(parts: list[bytes]) -> bool:
    """Whether the cut depends on what the bytes don't say.

    That is: on standard_conforming_strings (a backslash before a quote in a plain literal), or on an encoding whose
    characters may end in a byte that looks like a backslash (SJIS, BIG5, GBK ...; in E'' literals).
    """
    for index in range(1, len(parts), 2):
        atom = parts[index]
        if atom[0] == 0x27 and b"\\" in atom:
            doubt = _HIGH_BACKSLASH if escapes(parts[index - 1]) else _BACKSLASH_QUOTE
            if doubt.search(atom):
                return True
    return False


def outer_comments(parts: list[bytes]) -> list[int]:
    """Where the block comments are that stand before the first or after the last token of a statement.

    A semicolon ends a statement, so the comments around it count. pg_hint_plan's ``/*+ */`` are not given.
    """
    last = len(parts) - 1
    if last and not parts[0].strip(BLANKS) and b"/*" not in b"".join(parts[2:]):
        # One leading comment at most: nearly always so, and 1 us is saved.
        return [1] if parts[1].startswith(b"/*") and not parts[1].startswith(b"/*+") else []
    several = b";" in b"".join(parts[:last:2])
    leading = _at_edge(parts, range(last + 1), bytes.endswith, several)
    return sorted(leading | _at_edge(parts, range(last, -1, -1), bytes.startswith, several))


def _at_edge(parts: list[bytes], order: range, has_end: Callable[[bytes, bytes], bool], several: bool) -> set[int]:
    """One way through the parts; with a single statement it ends at the first token."""
    found: set[int] = set()
    at_edge = True
    for index in order:
        part = parts[index]
        if not index & 1:
            part = part.strip(BLANKS)
            if part:
                at_edge = has_end(part, b";")
        elif not is_comment(part):
            at_edge = False
        elif at_edge and part.startswith(b"/*") and not part.startswith(b"/*+"):
            found.add(index)
        if not at_edge and not several:
            break
    return found


def uncommented(parts: list[bytes]) -> bytes:
    """The text with a blank for each comment, which is what PostgreSQL's grammar sees."""
    return b"".join([b" " if index & 1 and is_comment(part) else part for index, part in enumerate(parts)])


def statements(parts: list[bytes]) -> list[bytes]:
    """The statements of a text without their comments; empty ones are left out.

    A semicolon inside parentheses or a SQL function's body cuts, too: whoever asks must want to know only how the
    statements begin.
    """
    found: list[bytes] = []
    current: list[bytes] = []
    for index, part in enumerate(parts):
        if index & 1:
            current.append(b" " if is_comment(part) else part)
        elif b";" in part:
            first, *others = part.split(b";")
            found.append(b"".join([*current, first]))
            found.extend(others[:-1])
            current = [others[-1]]
        else:
            current.append(part)
    found.append(b"".join(current))
    return [statement for statement in found if statement.strip(BLANKS)]


def _stepwise(text: bytes) -> list[bytes] | None:
    """As ``pieces``, for texts with dollar quotes or nested comments, which no regular expression can end."""
    parts: list[bytes] = []
    done = 0
    while match := _ATOM.search(text, done):
        start, end = match.span()
        if match[0] in _TROUBLE:
            end = _end(text, start)
            if end < 0:
                return None
        parts += (text[done:start], text[start:end])
        done = end
    parts.append(text[done:])
    return parts


def _end(text: bytes, start: int) -> int:
    """Where the nested comment or dollar quote that begins at ``start`` ends; -1 if nowhere."""
    if text[start] == 0x24:
        tag = _DOLLAR_TAG.match(text, start)
        assert tag is not None
        close = text.find(tag[0], tag.end())
        return close if close < 0 else close + len(tag[0])
    if text[start] != 0x2F:
        return -1
    depth = 0
    for match in _COMMENT_ENDS.finditer(text, start):
        depth += 1 if match[0] == b"/*" else -1
        if not depth:
            return match.end()
    return -1
