"""What a server says of a statement that it has prepared.

The law of this module: a record of raw bytes, which are compared and sent again, and never read.
"""

from __future__ import annotations

from dataclasses import dataclass

from tqdbproxy.postgres.framing import HEADER_SIZE, frames
from tqdbproxy.postgres.messages import NO_DATA, PARAMETER_DESCRIPTION, ROW_DESCRIPTION


@dataclass(frozen=True, slots=True)
class Described:
    """The answer to a Describe.

    :param types: count and OIDs of the parameters as the server has resolved them: laid out as in a Parse.
    :param columns: the RowDescription or NoData frame.
    """

    types: bytes
    columns: bytes


def described(answer: bytes) -> Described | None:
    """The last description of a statement among the messages of ``answer``; None if there is none, or half of one."""
    types = columns = b""
    for kind, begin, end in frames(answer):
        if kind == PARAMETER_DESCRIPTION:
            types = answer[begin + HEADER_SIZE : end]
        elif kind in (ROW_DESCRIPTION, NO_DATA):
            columns = answer[begin:end]
    return Described(types, columns) if types and columns else None
