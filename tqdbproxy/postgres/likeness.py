"""Recognizes a text that differs from one seen before in its constants only, with one regular expression.

Lexing a text and looking its shape up costs 6 us, matching it 1 us; most sessions say the same thing again and again.
The law of this module: it matches only what the lexer would cut in the same way; what it doesn't match is slower.
"""

from __future__ import annotations

import re

from tqdbproxy.postgres.constants import MARK

_CONSTANTS = {
    b"i": rb"([0-9]{1,9})",  # surely an int4
    b"I": rb"(-[0-9]{1,9})",
    b"n": rb"([0-9]{1,12}\.[0-9]{1,12})",
    b"N": rb"(-[0-9]{1,12}\.[0-9]{1,12})",
    b"s": rb"'([^'\\\0]*+)'",
}
_WORD = re.compile(rb"[A-Za-z0-9_.$\x80-\xff]")
MAX_LENGTH = 2048


def likeness(marked: bytes) -> re.Pattern[bytes] | None:
    """The expression for a whole text with marks for its constants, with a group for each value.

    None: it is too long, or has constants that have to be looked at more closely.
    """
    pieces = MARK.split(marked)
    between, marks = pieces[::2], pieces[1::2]
    if len(marked) > MAX_LENGTH or not marks or any(mark not in _CONSTANTS for mark in marks):
        return None
    for before, mark, after in zip(between, marks, between[1:], strict=False):
        # Next to a word's letter a number could become part of something else: 0 and x1F.
        if mark != b"s" and (_WORD.match(before[-1:]) or _WORD.match(after[:1])):
            return None
    parts = [re.escape(between[0])]
    for mark, after in zip(marks, between[1:], strict=True):
        parts.append(_CONSTANTS[mark])
        parts.append(re.escape(after))
    return re.compile(b"".join(parts), re.DOTALL)
