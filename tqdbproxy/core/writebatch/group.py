"""The writes of one batch key: those that wait, and whether a batch of theirs is running.

The law of this module: book-keeping without time; the manager decides and holds the timers.
"""

from __future__ import annotations

from tqdbproxy.core.statement import BatchKey
from tqdbproxy.core.writebatch.deadlines import Deadline
from tqdbproxy.core.writebatch.executor import Beginning
from tqdbproxy.core.writebatch.policy import Patience, RecentWriters
from tqdbproxy.core.writebatch.types import Limits, Write


class Group:
    """Waiting writes in the order of their arrival."""

    __slots__ = (
        "beginning",
        "begins_at",
        "due",
        "forgotten",
        "grace",
        "key",
        "look_at",
        "patience",
        "recent",
        "running",
        "size",
        "until",
        "used",
        "waiting",
        "window",
    )

    def __init__(self, key: BatchKey, now: float) -> None:
        self.key = key
        self.waiting: list[Write] = []
        self.size = 0
        self.running = False
        self.due = ""
        """Why the window has closed while a batch of this key is still running; empty: it has not."""
        self.window: Deadline | None = None
        """When the window ends at the latest; None: it is not open, or has closed."""
        self.grace: Deadline | None = None
        """Until when those are waited for who are missing though a quorum is there; None: they aren't."""
        self.begins_at: int | None = None
        """How many must wait for the server to begin while the rest are waited for; None: it doesn't."""
        self.beginning: Beginning | None = None
        """With these of the waiting ones, the first, the server has begun."""
        self.look_at = 0
        """So many must wait for anything to come of another one, if its window doesn't end before ``until``; 0: look.

        It is 0 while nothing waits, and after all that could make less be enough.
        """
        self.until = 0.0
        self.patience = Patience()
        self.recent = RecentWriters(now)
        self.used = now
        self.forgotten = False
        """Nobody has used it for long; another one has taken its place, or will."""

    def is_full(self, limits: Limits) -> bool:
        """Whether no further write fits into the next batch."""
        return len(self.waiting) >= limits.max_batch_size or self.size >= limits.max_batch_bytes

    def take(self, limits: Limits) -> list[Write]:
        """Remove and return the next batch: the oldest writes, as many as fit, one at least.

        Those that the server has begun with are among them, whatever the limits are by now.
        """
        if not self.is_full(limits):
            taken, self.waiting, self.size = self.waiting, [], 0
            return taken
        count = self.beginning.count if self.beginning is not None else 1
        size = sum(write.size for write in self.waiting[:count])
        for write in self.waiting[count : limits.max_batch_size]:
            if size + write.size > limits.max_batch_bytes:
                break
            count += 1
            size += write.size
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        self.size -= size
        return taken

    def remove(self, write: Write) -> bool:
        """Take ``write`` out again; False if it doesn't wait here any more, or the server has begun with it."""
        try:
            at = self.waiting.index(write, self.beginning.count if self.beginning is not None else 0)
        except ValueError:
            return False
        del self.waiting[at]
        self.size -= write.size
        return True

    @property
    def is_complete(self) -> bool:
        """Whether all who wrote lately wait already."""
        return len(self.waiting) >= self.recent.count

    def close_window(self) -> None:
        """Nothing has to end the window any more, nor is anybody waited for who is missing."""
        if self.window is not None:
            self.window.cancel()
            self.window = None
        if self.grace is not None:
            self.grace.cancel()
            self.grace = self.begins_at = None
            if self.is_complete:
                self.patience.rewarded()
            else:
                self.patience.disappointed()
