"""What a server says of a statement that it has prepared.

The law of this module: a record of raw bytes, which are compared and sent again, and never read.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Described:
    """The answer to a Describe.

    :param types: count and OIDs of the parameters as the server has resolved them: laid out as in a Parse.
    :param columns: the RowDescription or NoData frame.
    """

    types: bytes
    columns: bytes
