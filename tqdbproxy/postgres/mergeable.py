"""Which prepared INSERT may become a many-row INSERT, as far as its text tells.

Whether its table allows that is asked from the server with every batch (`servers.merging`). The law of this module: the
parser confirms that the text with two rows is the text with one row, and nothing in a row may see the rows before it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from tqdbproxy.postgres.effects import Node
from tqdbproxy.postgres.tables import ParseTree, quoted

_VALUES = re.compile(rb"\bvalues\s*\(", re.IGNORECASE)
_PARAMETER = re.compile(rb"\$([0-9]+)")

_PLAIN_NODES = frozenset(
    ("A_Const", "ParamRef", "SetToDefault", "TypeCast", "TypeName", "List", "String", "Integer", "SQLValueFunction",
     "FuncCall", "A_ArrayExpr")
)  # fmt: skip
"""What a row may be made of."""

_PLAIN_FUNCTIONS = frozenset(
    ("now", "clock_timestamp", "statement_timestamp", "transaction_timestamp", "gen_random_uuid", "uuidv4", "uuidv7",
     "random", "nextval", "md5", "lower", "upper", "to_timestamp", "decode")
)  # fmt: skip
"""Functions of ``pg_catalog`` that look at no table; a function of the user's might."""

_PLACES = frozenset(("location", "stmt_location", "stmt_len", "list_start", "list_end"))


@dataclass(frozen=True, slots=True)
class Mergeable:
    """A single-row INSERT, taken apart: ``head`` up to the row, the row's text around its parameters, their numbers.

    ``table``: the table's name as a quoted SQL identifier.
    """

    table: bytes
    head: bytes
    row: tuple[bytes, ...]
    numbers: tuple[int, ...]

    @property
    def parameters(self) -> int:
        """How many parameters a row has."""
        return max(self.numbers)

    def rows(self, count: int) -> bytes:
        """The INSERT with so many rows; row r's parameter i is number ``r * parameters + i``."""
        return self.head + b", ".join(self._row(number * self.parameters) for number in range(count))

    def _row(self, offset: int) -> bytes:
        parts = [self.row[0]]
        for number, after in zip(self.numbers, self.row[1:], strict=True):
            parts.append(b"$%d" % (number + offset))
            parts.append(after)
        return b"".join(parts)


def mergeable(sql: bytes, parse: ParseTree) -> Mergeable | None:
    """Take an INSERT apart; None if it isn't a plain one with parameters. ``parse`` may raise."""
    places = [match.end() - 1 for match in _VALUES.finditer(sql)]
    if not places:
        return None
    try:
        tree, encoding = parse(sql)
        insert = tree[0]["stmt"]["InsertStmt"]
        if not _is_plain(insert):
            return None
        for place in reversed(places):
            found = _apart(sql, place, quoted(insert["relation"], encoding))
            if found is not None and _same(parse(found.rows(2))[0], tree, found.parameters):
                return found
    except Exception:
        # Not an INSERT, or nothing that the parser knows: not merged.
        return None
    return None


def _is_plain(insert: Node) -> bool:
    """One row of constants, parameters and harmless functions; no RETURNING, ON CONFLICT, WITH or OVERRIDING."""
    select = insert.get("selectStmt", {}).get("SelectStmt", {})
    rows = select.get("valuesLists", [])
    clauses = {"returningList", "onConflictClause", "withClause"} & insert.keys()
    relation = insert["relation"]
    return (
        len(rows) == 1
        and not clauses
        and insert.get("override", "OVERRIDING_NOT_SET") == "OVERRIDING_NOT_SET"
        and select.keys() <= {"valuesLists", "limitOption", "op"}
        and "catalogname" not in relation
        and "\\" not in relation["relname"] + relation.get("schemaname", "")
        and _is_harmless(rows[0])
    )


def _is_harmless(tree: Any) -> bool:
    if isinstance(tree, list):
        return all(_is_harmless(item) for item in tree)
    if not isinstance(tree, dict):
        return True
    for name, node in tree.items():
        if name[:1].isupper() and name not in _PLAIN_NODES:
            return False
        if name == "FuncCall" and not _is_plain_call(node):
            return False
        if not _is_harmless(node):
            return False
    return True


def _is_plain_call(call: Node) -> bool:
    names = [part["String"]["sval"] for part in call["funcname"]]
    return names[-1] in _PLAIN_FUNCTIONS and names[:-1] in ([], ["pg_catalog"])


def _apart(sql: bytes, place: int, table: bytes) -> Mergeable | None:
    pieces = _PARAMETER.split(sql[place:])
    numbers = tuple(int(number) for number in pieces[1::2])
    if not numbers or set(numbers) != set(range(1, max(numbers) + 1)) or _PARAMETER.search(sql[:place]):
        return None
    return Mergeable(table, sql[:place], tuple(pieces[::2]), numbers)


def _same(merged: list[Node], single: list[Node], parameters: int) -> bool:
    """Whether ``merged`` is ``single`` with its row twice, the second time with parameters that are numbered on."""
    rows = merged[0]["stmt"]["InsertStmt"]["selectStmt"]["SelectStmt"]["valuesLists"]
    if len(merged) != 1 or len(rows) != 2:
        return False
    first, second = _bare(rows[0], 0), _bare(rows[1], parameters)
    del rows[1]
    return bool(first == second and _bare(merged, 0) == _bare(single, 0))


def _bare(tree: Any, offset: int) -> Any:
    """A tree without places, its parameters numbered down by ``offset``."""
    if isinstance(tree, list):
        return [_bare(item, offset) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if "ParamRef" in tree:
        return {"ParamRef": tree["ParamRef"].get("number", 0) - offset}
    return {key: _bare(value, offset) for key, value in tree.items() if key not in _PLACES}
