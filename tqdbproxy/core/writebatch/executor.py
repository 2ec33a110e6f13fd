"""What a wire must be able to do for the batches of the core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from tqdbproxy.core.writebatch.types import Outcome, Write


class Beginning(Protocol):
    """The first writes of a batch, on their way while others of it are still waited for."""

    @property
    def count(self) -> int:
        """How many they are."""


class Executor(Protocol):
    """Executes a group on one server connection."""

    def begin(self, writes: Sequence[Write]) -> Beginning | None:
        """Let the server begin with ``writes``, if that pays; None: it doesn't.

        The whole batch, these first, has to be executed soon: what they touch stays locked until then.
        """

    def execute(self, writes: Sequence[Write], beginning: Any = None) -> Deferred[Outcome]:
        """Execute all of ``writes`` in one transaction, or none. ``beginning``: what `begin` returned for the first.

        The result never is a failure. Cancelling it gives the connection up: the outcome is `Lost`.
        """
