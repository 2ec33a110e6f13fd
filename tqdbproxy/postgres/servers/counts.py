"""What is counted for one server, over all connections to it."""

from __future__ import annotations


class Counts:
    """``units``: statements and other units of the forward lane that were answered; ``batches``: batches sent."""

    __slots__ = ("batches", "connections", "units")

    def __init__(self) -> None:
        self.units = 0
        self.batches = 0
        self.connections = 0
