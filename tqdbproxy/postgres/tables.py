"""Which tables a text names, as SQL identifiers that mean the same wherever they are looked up.

The law of this module: rather a name too many (a CTE's) than one too few; where one can't be spelt, none at all.
"""

from __future__ import annotations

from collections.abc import Callable

from tqdbproxy.postgres.effects import Node, nodes

ParseTree = Callable[[bytes], tuple[list[Node], str]]
Tables = tuple[bytes, ...]

UNKNOWN: Tables = ()

_PARTS = ("catalogname", "schemaname", "relname")


def tables(sql: bytes, parse: ParseTree) -> Tables:
    """The tables and views that ``sql`` names, each once; `UNKNOWN` if that can't be told. ``parse`` may raise."""
    try:
        tree, encoding = parse(sql)
        found = sorted({quoted(node, encoding) for node in nodes(tree) if "relname" in node})
    except Exception:
        # Not understood, whatever the parser's reason; or an escape names a character that the text's bytes can't.
        return UNKNOWN
    return UNKNOWN if any(b"\\" in name for name in found) else tuple(found)


def quoted(relation: Node, encoding: str) -> bytes:
    """A relation's name as the text says it, with its schema or without. A backslash in it: no literal can hold it."""
    names = [relation[part] for part in _PARTS if part in relation]
    return ".".join('"' + name.replace('"', '""') + '"' for name in names).encode(encoding)


def literal(table: bytes) -> bytes:
    """The name as a string constant."""
    return b"'%b'" % table.replace(b"'", b"''")
