"""What to do with bytes of a client: the result of `Session.read`."""

from __future__ import annotations

from dataclasses import dataclass

from tqdbproxy.core.caching import Fetch
from tqdbproxy.core.statement import BatchKey
from tqdbproxy.postgres.capture import Sink
from tqdbproxy.postgres.unit import Unit


@dataclass(slots=True)
class Step:
    """What to do, in this order.

    ``forward`` goes to the server, and the answer to it to ``sink``, too; ``local`` goes to the client. ``unit`` leaves
    the forward lane for a batch of ``key``, or waits for what another session's ``fetch`` brings, or until it is known
    what its statement, called ``settle``, takes and returns (then it has no ``key``).
    ``rest`` is to be given again: with what comes after it, or, if ``hold`` or if there is a unit, when that is
    answered and nothing is outstanding. ``refuse``: the client broke the protocol.
    """

    forward: bytes = b""
    local: bytes = b""
    unit: Unit | None = None
    key: BatchKey | None = None
    window_s: float = 0.0
    rest: bytes = b""
    hold: bool = False
    refuse: str = ""
    sink: Sink | None = None
    fetch: Fetch | None = None
    settle: bytes = b""


PASS_ON = Step()
"""For the forward lane."""
