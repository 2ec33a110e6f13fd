"""What a session's prepared statements may change, by their names.

The law of this module: a statement counts from the moment in which its Parse is sent, and until it is known to be gone;
where that can't be known (its unit failed), a name stands for all that it may mean. In doubt there are more tags,
never fewer.
"""

from __future__ import annotations

from tqdbproxy.postgres.relations import EVERYTHING, unite

Tags = tuple[str, ...]

MAX_TAGS = 100
"""What a name that may mean many things changes is not told apart further."""


class Changing:
    """``known``: what each name may change, read where a call would cost too much.

    ``plans``: what becomes of a name (None: of all) if the unit with this number succeeds, in the order sent.
    """

    __slots__ = ("known", "plans")

    def __init__(self) -> None:
        self.known: dict[bytes, Tags] = {}
        self.plans: list[tuple[int, bytes | None, Tags]] = []

    def tags(self, name: bytes) -> Tags:
        """What the statement ``name`` may change."""
        return self.known.get(name, ())

    def parsed(self, unit: int, name: bytes, tags: Tags) -> None:
        """A Parse of a statement that changes these is on its way in the unit with this number."""
        old = self.known.get(name)
        if old is None and not tags:
            return
        if self.plans or (old is not None and old != tags):
            self.plans.append((unit, name, tags))
        if old != tags:
            self._may_be(name, old or (), tags)

    def closed(self, unit: int, name: bytes | None) -> None:
        """What closes ``name`` (None: all) is on its way in the unit with this number."""
        if self.known:
            self.plans.append((unit, name, ()))

    def unnamed_gone(self) -> None:
        """A Query is on its way: whatever comes of it, it ends the unnamed statement."""
        self.known.pop(b"", None)

    def unit_done(self, unit: int, failed: bool) -> None:
        """The unit with this number is over."""
        while self.plans and self.plans[0][0] <= unit:
            _unit, name, tags = self.plans.pop(0)
            if not failed:
                for one in tuple(self.known) if name is None else (name,):
                    self._becomes(one, tags)

    def _becomes(self, name: bytes, tags: Tags) -> None:
        later = [tags for _unit, other, tags in self.plans if other == name]
        if tags or any(later):
            self._may_be(name, tags, *later)
        else:
            self.known.pop(name, None)

    def _may_be(self, name: bytes, *tags: Tags) -> None:
        united = unite(tags)
        self.known[name] = united if len(united) <= MAX_TAGS else EVERYTHING
