"""The server's answer to a batch, cut apart again: to each member what it would have got alone.

The law of this module: no I/O, and no byte of a member's rows, notices or tag is changed or decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tqdbproxy.postgres.framing import frames
from tqdbproxy.postgres.messages import (
    COMMAND_COMPLETE,
    DATA_ROW,
    ERROR_RESPONSE,
    NO_DATA,
    NOTICE_RESPONSE,
    NOTIFICATION_RESPONSE,
    PARAMETER_DESCRIPTION,
    PARAMETER_STATUS,
    PARSE_COMPLETE,
    PORTAL_SUSPENDED,
    ROW_DESCRIPTION,
    error_fields,
)
from tqdbproxy.postgres.servers.guards import fingerprint_of
from tqdbproxy.postgres.unit import PORTAL, Asked, Unit

COMPLETIONS = frozenset({COMMAND_COMPLETE, PORTAL_SUSPENDED})
MEMBER_ROWS = frozenset({DATA_ROW, NOTICE_RESPONSE})
DESCRIPTIONS = frozenset({ROW_DESCRIPTION, NO_DATA, PARAMETER_DESCRIPTION})
CONNECTION_ONLY = frozenset({NOTIFICATION_RESPONSE, PARAMETER_STATUS})


@dataclass(slots=True)
class Answer:
    """What came back.

    ``learned`` has one entry for each fingerprint that was asked first, ``replies`` one for each member whose statement
    was completed, ``checked`` counts the guards behind them. If ``sqlstate`` is set, what comes next failed, or the
    commit did if nothing comes next (``detail``: what the error says of the values). ``parsed`` counts confirmed Parse
    messages; ``aside`` holds frames that concern the connection's own session.
    """

    learned: list[bytes | None] = field(default_factory=list)
    replies: list[bytes] = field(default_factory=list)
    checked: int = 0
    sqlstate: str = ""
    detail: str = ""
    parsed: int = 0
    aside: list[bytes] = field(default_factory=list)

    @property
    def completed(self) -> int:
        """How many statements were."""
        return len(self.learned) + len(self.replies) + self.checked


class SameReplies:
    """Replies without rows: most members of a batch get the same bytes, which are put together once."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, bytes], bytes] = {}

    def of(self, unit: Unit, complete: bytes) -> bytes:
        """What ``unit`` gets, given its CommandComplete."""
        shape = (unit.shape, complete)
        reply = self._known.get(shape)
        if reply is None:
            reply = self._known[shape] = unit.reply(b"", b"", complete)
        return reply


class Cutter:
    """Walks over the whole answer once."""

    def __init__(self, units: Sequence[Unit], asked: Sequence[Asked], learning: int = 0) -> None:
        """``asked``: what the batch wanted described, in the order of the Describe messages; ``learning``: how many
        fingerprints it asked for first."""
        self._units = units
        self._asked = list(asked)
        self._learning = learning
        self._described: dict[Asked, bytes] = {}
        self._same = SameReplies()

    def cut(self, data: bytes) -> Answer:
        """``data`` is the whole answer, from the first message to ReadyForQuery."""
        answer = Answer()
        rows: list[bytes] = []
        descriptions = 0
        for kind, begin, end in frames(data):
            if kind in COMPLETIONS:
                if len(answer.replies) < len(self._units) and len(answer.learned) == self._learning:
                    unit = self._units[len(answer.replies)]
                    answer.replies.append(self._reply(unit, rows, data[begin:end]))
                else:
                    self._guarded(answer, rows)
                rows = []
            elif kind in MEMBER_ROWS:
                rows.append(data[begin:end])
            elif kind in DESCRIPTIONS:
                descriptions += self._describe(self._asked[descriptions], kind, data[begin:end])
            else:
                self._note(answer, kind, data, begin, end)
        if rows and not answer.sqlstate:
            answer.aside.extend(rows)  # notices of the commit: whose they are can't be told
        return answer

    def cut_tags(self, data: bytes) -> Answer:
        """The same where no member's reply can be told apart: ``replies`` has the CommandComplete frames."""
        answer = Answer()
        rows: list[bytes] = []
        for kind, begin, end in frames(data):
            if kind == COMMAND_COMPLETE:
                if len(answer.learned) == self._learning:
                    answer.replies.append(data[begin:end])
                else:
                    self._guarded(answer, rows)
                rows = []
            elif kind == DATA_ROW:
                rows.append(data[begin:end])
            else:
                self._note(answer, kind, data, begin, end)
        return answer

    def _guarded(self, answer: Answer, rows: list[bytes]) -> None:
        """A query of the proxy's own was completed; ``rows``: what it said."""
        if len(answer.learned) < self._learning:
            answer.learned.append(next((fingerprint_of(row) for row in rows if row[0] == DATA_ROW), None))
        else:
            answer.checked += 1
        answer.aside.extend(row for row in rows if row[0] != DATA_ROW)

    def _note(self, answer: Answer, kind: int, data: bytes, begin: int, end: int) -> None:
        """What belongs to no member."""
        if kind == PARSE_COMPLETE:
            answer.parsed += 1
        elif kind in CONNECTION_ONLY:
            answer.aside.append(data[begin:end])
        elif kind == ERROR_RESPONSE:
            fields = error_fields(data, begin, end)
            answer.sqlstate = fields.get("C", "XX000")
            answer.detail = fields.get("D", "")

    def _describe(self, asked: Asked, kind: int, description: bytes) -> int:
        """Keep a description; 1 if it was the last frame of it."""
        if asked.what == PORTAL and kind == NO_DATA:
            description = b""
        self._described[asked] = self._described.get(asked, b"") + description
        return int(kind != PARAMETER_DESCRIPTION)

    def _reply(self, unit: Unit, rows: list[bytes], complete: bytes) -> bytes:
        asked = unit.asks()
        if asked is not None or rows:
            return unit.reply(self._described[asked] if asked else b"", b"".join(rows), complete)
        return self._same.of(unit, complete)
