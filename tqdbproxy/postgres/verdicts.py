"""What the facts of a text mean for its hints: whether they can be followed, and if not, why.

The law of this module: facts in, verdicts out; where two reasons hold, the one that tells the user more comes first.
"""

from __future__ import annotations

from typing import NamedTuple

from tqdbproxy.core.hints import Hints
from tqdbproxy.core.statement import Reason
from tqdbproxy.postgres.facts import UNREADABLE, Facts
from tqdbproxy.postgres.relations import depended_on, unite


class Answer(NamedTuple):
    """Whether the answer to a text may be kept, why not, and what it depends on."""

    is_read: bool
    reason: Reason | None
    tags: tuple[str, ...]


_NOT_ASKED = Answer(False, None, ())


def batch_reason(facts: Facts, unsafe: bool, hinted_at: int) -> Reason | None:
    """Why a text can't be batched. ``hinted_at``: where its hint stands, in the parser's UTF-8."""
    if facts.several:
        return _among_several(facts, hinted_at)
    if facts is UNREADABLE:
        return Reason.UNSAFE
    if not facts.is_write:
        return Reason.NOT_A_WRITE
    return Reason.UNSAFE if unsafe or not facts.safe else None


def answer(facts: Facts, hints: Hints | None, unsafe: bool, hinted_at: int) -> Answer:
    """What a ``ttl`` hint comes to; literals that are read by the clock are the user's affair."""
    if hints is None or hints.ttl_s is None:
        return _NOT_ASKED
    if facts.several:
        return Answer(False, _among_several(facts, hinted_at), ())
    if facts.unread is not None or unsafe:
        return Answer(False, facts.unread or Reason.UNSAFE, ())
    return Answer(True, None, unite(map(depended_on, hints.tags)) if hints.tags else facts.tags)


def parsers_place(text: bytes, place: int) -> int:
    """Where in the parser's UTF-8 this place of a text is."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return len(text[:place].decode("latin-1").encode())
    return place


def _among_several(facts: Facts, hinted_at: int) -> Reason:
    begun = facts.begins is not None and facts.begins < hinted_at
    return Reason.TRANSACTION if begun else Reason.MULTI_STATEMENT
