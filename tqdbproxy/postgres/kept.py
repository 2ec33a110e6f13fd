"""What was found out about texts, by their exact bytes, in bounded memory.

The law of this module: a text that was forgotten is judged again; nobody may depend on its being here.
"""

from __future__ import annotations

from tqdbproxy.postgres.text import Text

#: Longer texts are not remembered, and all remembered ones together are not longer than the second.
MAX_KEPT = 65536
MAX_KEPT_TOTAL = 16 << 20


class Kept(dict[bytes, Text]):
    """At most ``limit`` texts; the older half goes when it is full."""

    __slots__ = ("_bytes", "_limit")

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self._bytes = 0

    def keep(self, text: bytes, found: Text) -> None:
        """Remember it, unless it is too long."""
        if len(text) > MAX_KEPT:
            return
        if len(self) >= self._limit or self._bytes > MAX_KEPT_TOTAL:
            for old in list(self)[: max(1, len(self) // 2)]:
                del self[old]
            self._bytes = sum(map(len, self))
        self[text] = found
        self._bytes += len(text)

    def forget(self, template: bytes | None) -> None:
        """Forget the texts that were lifted to this template."""
        for old in [old for old, found in self.items() if found.lifted and found.lifted.template == template]:
            del self[old]
