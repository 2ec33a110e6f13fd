"""What is known of one SQL text: the records.

The law of this module: nothing here decides, and a record is never altered.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from tqdbproxy.core.hints import Hints
from tqdbproxy.core.statement import Kind, Reason
from tqdbproxy.postgres.effects import HIDDEN, NONE, Effect
from tqdbproxy.postgres.lifting import Lifted


class Purging(Enum):
    """Which texts are judged for the tables that they change, though no hint asks for anything.

    OFF: none, and what is judged tells no tables either: only ``purge`` hints purge. PARSED: those given to
    ``Texts.look_parsed``. ALL: all.
    """

    OFF = "off"
    PARSED = "parsed"
    ALL = "all"


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """What is known of one SQL text; compared by identity. Texts of which nothing but ``purges`` matters share one.

    ``kind``: of the single statement; without a hint that asks for something it is only guessed from the first word.
    ``is_write``, ``reason``, ``returning``: judged only where a hint asks for something. ``reason``: why a batch hint
    can't be followed, as far as the text tells. ``view``: the status view is asked. ``stripped``: the text without its
    hints; of a write that may be batched, in its one `spelling`. ``deallocates``: the SQL-level prepared statement that
    goes; ``b""``: all of them; `SOME`: nobody knows which. ``prepares``: those that come, which the protocol's messages
    can name as well, and what is to be purged when they are executed. ``lifted``: a write as a template with its
    constants as parameters; None: keep ``stripped`` whole. ``like``: matches texts that differ in the lifted values
    only, and gives these as its groups.

    ``is_read``: one plain SELECT whose answer may be kept; ``read_reason``: why not. Both only where a ``ttl`` hint
    asks. ``tags``: what such an answer depends on. ``purges``: what is to be purged when it has committed.
    """

    kind: Kind = Kind.OTHER
    hints: Hints | None = None
    effect: Effect = NONE
    view: bool = False
    is_write: bool = False
    reason: Reason | None = None
    returning: bool = False
    stripped: bytes = b""
    deallocates: bytes | None = None
    lifted: Lifted | None = None
    like: re.Pattern[bytes] | None = None
    is_read: bool = False
    read_reason: Reason | None = None
    tags: tuple[str, ...] = ()
    purges: tuple[str, ...] = ()
    prepares: tuple[tuple[bytes, tuple[str, ...]], ...] = ()

    @property
    def interesting(self) -> bool:
        """Whether a session has to note that it was sent, hints and purges aside."""
        return self.view or self.effect is not NONE or self.deallocates is not None

    @property
    def stays(self) -> bool:
        """Whether it has no reason to leave the forward lane: nothing about it matters but what it purges."""
        return self.hints is None and not self.is_write and not self.interesting


class Case(NamedTuple):
    """A text that is looked at. ``places``: its hints' among the ``parts``. ``doubt``: where its literals end.

    ``asks``: for a batch or the cache. ``eager``: what it changes matters anyway.
    """

    text: bytes
    parts: list[bytes]
    places: list[int]
    hints: Hints | None
    asks: bool
    eager: bool
    doubt: bool


#: What all uninteresting texts are.
PLAIN = Text()
#: Texts of which nobody knows where their literals end.
UNKNOWABLE = Text(effect=HIDDEN)
