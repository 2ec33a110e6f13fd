"""What happens to servers and proxies while clients write.

The law of this module: a fault happens when so many writes are done, not at a time; so a run has all of its faults,
however quick the machine is.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from random import Random

from tests.books.ledger import Ledger
from tests.books.site import Site

LOOK_S = 0.005
STALL_S = 2.5
DEAF_S = 0.03

FAULTS: dict[str, Callable[[Site, Random], None]] = {
    "terminate": lambda site, chance: site.terminate_some(chance, 5),
    "kill": lambda site, chance: site.kill_one(chance),
    "fast": lambda site, _chance: site.server.restart("fast"),
    "immediate": lambda site, _chance: site.server.restart("immediate"),
    "crash": lambda site, _chance: site.crash(),
    "proxy": lambda site, _chance: site.replace_proxy(signal.SIGKILL),
    "cut": lambda site, _chance: site.cut(DEAF_S),
    "stall": lambda site, _chance: site.stall(STALL_S),
    "stop": lambda site, _chance: site.replace_proxy(signal.SIGTERM),
}


async def happen(names: Sequence[str], site: Site, ledger: Ledger, chance: Random) -> None:
    """All of the named faults, one after another, spread over the writes."""
    for number, name in enumerate(names, 1):
        due = ledger.target * number // (len(names) + 1)
        while len(ledger.entries) < due:
            await asyncio.sleep(LOOK_S)
        await asyncio.to_thread(FAULTS[name], site, chance)
