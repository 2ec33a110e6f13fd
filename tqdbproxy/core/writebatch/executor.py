"""What a wire must be able to do for the batches of the core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from twisted.internet.defer import Deferred

from tqdbproxy.core.writebatch.types import Outcome, Write


class Executor(Protocol):
    """Executes a group on one server connection."""

    def execute(self, writes: Sequence[Write]) -> Deferred[Outcome]:
        """Execute all of ``writes`` in one transaction, or none.

        The result never is a failure. Cancelling it gives the connection up: the outcome is `Lost`.
        """
