"""The constants of a SQL text as parameters would carry them: lexed, typed, their values decoded.

The law of this module: bytes only; it says what a constant is (manual, "Constants"), not whether it may be replaced.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from tqdbproxy.postgres.sqltext import BLANKS, escapes

INT4, INT8, NUMERIC, UNKNOWN = 23, 20, 1700, 705

# A constant's place in a key: a byte that no text holds, and its kind; upper case: with its minus.
# An exponent makes a kind of its own, since liftable tells it from other numbers.
TYPES = {b"s": UNKNOWN, b"i": INT4, b"l": INT8, b"n": NUMERIC, b"e": NUMERIC}
TYPES |= {b"I": INT4, b"L": INT8, b"N": NUMERIC, b"E": NUMERIC}
MARK = re.compile(rb"\0([a-zA-Z])")
_INT4, _INT8, _NUMERIC, _EXPONENT, _STRING = b"\0i", b"\0l", b"\0n", b"\0e", b"\0s"
#: Longer numbers stay: such a numeric needn't fit a float, which is found out by a computation (see liftable).
_MAX_DIGITS = 30

_DECIMAL = re.compile(rb"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
# Whose backslashes mean the same whatever backslash_quote says, and can't be the second byte of a character.
_SIMPLE_ESCAPES = re.compile(rb"(?!.*[\x80-\xff]\\)'(?:[^'\\]++|''|\\[\\nrtbf])*+'", re.DOTALL)
_ESCAPE = re.compile(rb"\\(.)")
_ESCAPED = {b"\\": b"\\", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}
# A letter before the quote is a prefix (or, in "LIKE'x'", isn't); "&" may be that of U&''.
_PREFIXED = frozenset(b"_$&" + bytes(range(0x30, 0x3A)) + bytes(range(0x41, 0x5B)) + bytes(range(0x61, 0x7B)))
# After one of these a minus belongs to the number: PostgreSQL's lexer ends an operator of +-*/<>= before it.
_OPERANDS = b"(,=<>+-*/"


class Constants(NamedTuple):
    """A text with a mark for each constant that a parameter could carry, and those constants.

    ``raws``: as they stood in the text (with a minus, if it is in the value); ``values``: in a parameter's text format.
    """

    key: bytes
    raws: list[bytes]
    values: list[bytes]


def cut(parts: list[bytes]) -> Constants:
    """Take the constants out of ``pieces`` of a text, which are altered by it.

    What stays in the key: bit strings, national and Unicode-escaped strings, strings whose backslashes depend on a
    setting, dollar quotes, numbers in other than decimal notation.
    """
    raws: list[bytes] = []
    values: list[bytes] = []
    for index in range(1, len(parts), 2):
        atom = parts[index]
        first = atom[0]
        if first == 0x27:
            gap = parts[index - 1]
            last = gap[-1] if gap else 0
            if last in _PREFIXED or last > 0x7F:
                if not escapes(gap) or _SIMPLE_ESCAPES.fullmatch(atom) is None:
                    continue
                parts[index - 1] = gap[:-1]
                raws.append(b"E" + atom)
                value = _ESCAPE.sub(_unescape, atom[1:-1])
            elif b"\\" in atom:
                continue
            else:
                raws.append(atom)
                value = atom[1:-1]
            values.append(value.replace(b"''", b"'"))
            parts[index] = _STRING
        elif 0x30 <= first <= 0x39 or first == 0x2E:
            _cut_number(parts, index, raws, values)
    return Constants(b"".join(parts).strip(BLANKS).rstrip(BLANKS + b";"), raws, values)


def _cut_number(parts: list[bytes], index: int, raws: list[bytes], values: list[bytes]) -> None:
    number = parts[index]
    gap = parts[index - 1]
    negative = gap[-1:] == b"-" and gap[:-1].rstrip(BLANKS)[-1:] in _SIGN_FOLLOWS
    size = len(number)
    if size > _MAX_DIGITS:
        return
    if number.isdigit():
        # The most negative integers are what they are: the grammar negates before it asks for the type.
        value = 0 if size < 10 else int(number) - negative
        mark = _INT4 if value < 1 << 31 else _INT8 if value < 1 << 63 else _NUMERIC
    elif match := _DECIMAL.fullmatch(number):
        mark = _EXPONENT if match[1] else _NUMERIC
    else:
        return
    if negative:
        parts[index - 1] = gap[:-1]
        number = b"-" + number
        mark = mark.upper()
    parts[index] = mark
    raws.append(number)
    values.append(number)


_SIGN_FOLLOWS = frozenset(_OPERANDS[i : i + 1] for i in range(len(_OPERANDS)))


def _unescape(match: re.Match[bytes]) -> bytes:
    return _ESCAPED[match[1]]
