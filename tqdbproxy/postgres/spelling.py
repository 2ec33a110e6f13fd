"""White space that means nothing: the one spelling of all texts that differ in it only.

Blanks between tokens become one, or none inside parentheses and before a comma; after a comma, before an opening
parenthesis and after a closing one is always one, where a word or a constant is on the other side. The law of this
module: bytes only; no token is altered, parted or joined to another. What it leaves as it is: blanks beside operators,
in literals, names and comments, the vertical tab, which is white space only since PostgreSQL 16, and all of a text in
which a bracket may be the second byte of a character.
"""

from __future__ import annotations

import re

# PostgreSQL's scan.l: "space" and "newline".
_SPACES = b" \t\n\r\f"
_RUN = re.compile(rb"[ \t\n\r\f]+")
_COMMA = re.compile(rb" ?, ?")
_INSIDE = re.compile(rb"(?<=[(\[]) | (?=[)\]\[])")
# Perhaps half a character, in SJIS, BIG5, GBK, UHC and JOHAB; the parser wouldn't notice, since it is told of LATIN1.
_BRACKET_BYTE = re.compile(rb"[\x80-\xff][\[\]]")
# A zero byte stands for a literal, a quoted name, a number or a comment.
_OUTSIDE = re.compile(rb"(?<=[A-Za-z0-9_$\x80-\xff\0)\]])(?=\()|(?<=[)\]])(?=[A-Za-z0-9_$\x80-\xff\0])")


def spelt(parts: list[bytes]) -> bytes:
    """The text of which these are the ``pieces``, in its one spelling."""
    gaps, atoms = [parts[0]], [b""]
    for atom, gap in zip(parts[1::2], parts[2::2], strict=True):
        if atom.startswith(b"--") and gap:
            # What ends the comment belongs to it.
            atom, gap = atom + b"\n", gap.lstrip(_SPACES)
        if atoms[-1][:1] == atom[:1] == b"'" and _continues(gaps[-1]):
            atoms[-1] += (gaps[-1] if b"\v" in gaps[-1] else b"\n") + atom
            gaps[-1] = gap
        else:
            atoms.append(atom)
            gaps.append(gap)
    if _BRACKET_BYTE.search(b"\0".join(gaps)):
        return b"".join(parts)
    text = _RUN.sub(b" ", b"\0".join(gaps))
    text = _OUTSIDE.sub(b" ", _INSIDE.sub(b"", _COMMA.sub(b", ", text)))
    spelt_gaps = text.split(b"\0")
    return b"".join([atom + gap for atom, gap in zip(atoms, spelt_gaps, strict=True)])


def _continues(gap: bytes) -> bool:
    """Whether two literals with this between them are one: only white space, and a line break in it."""
    return not gap.strip(_SPACES + b"\v") and (b"\n" in gap or b"\r" in gap)
