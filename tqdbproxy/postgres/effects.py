"""What a statement leaves behind in its session: parse tree -> Effect.

The law of this module: it reads trees of libpg_query and decides nothing. What a function of the user's own does inside
is not seen: of functions only those named here count.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

Node = dict[str, Any]

# set_config counts too, unless its third argument is a plain true.
_LASTING_FUNCTIONS = frozenset(
    ("pg_advisory_lock", "pg_advisory_lock_shared", "pg_try_advisory_lock", "pg_try_advisory_lock_shared", "setseed")
)
_LASTING_STATEMENTS = frozenset(("PrepareStmt", "ExecuteStmt", "DoStmt", "CallStmt", "LoadStmt"))
# What these do to settings isn't seen. (LOAD: what is loaded brings settings with it.)
_HIDING_STATEMENTS = frozenset(("ExecuteStmt", "DoStmt", "CallStmt", "LoadStmt"))
# A SELECT that has no more than these gives one row, always.
_PLAINEST = frozenset(("targetList", "limitOption", "op"))
# Who one is has its own rules (RESET ALL leaves it alone); a seed is used up by what follows.
_UNKNOWABLE_SETTINGS = frozenset(("role", "session_authorization", "seed"))
_TRANSACTION_SETTINGS = frozenset(("transaction_isolation", "transaction_read_only", "transaction_deferrable"))


class Change(Enum):
    """What a text may do to its session's state."""

    NONE = "none"
    SET = "set"
    RESET = "reset"
    RESET_ALL = "reset_all"
    DISCARD_ALL = "discard_all"
    TOUCH = "touch"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Effect:
    """A change; for SET and RESET the setting's name in lower case, for SET its value in a canonical spelling.

    TOUCH: a setting of the user's own (``app.tenant``) was set for a transaction; from then on it is empty, where it
    wasn't there before. ``name`` has all that were, with blanks between them.
    UNKNOWN: the names of those that may have been set. ``?.`` stands for any: it isn't known which.
    ``perhaps``: that the statement succeeds doesn't tell whether these were set.
    Two SETs with equal name and value do the same; values that mean the same may differ (``1`` and ``'1'``).
    """

    change: Change
    name: bytes = b""
    value: bytes = b""
    perhaps: bool = False

    @property
    def own(self) -> list[bytes]:
        """The settings of the user's own that are there afterwards."""
        return [name for name in self.name.split(b" ") if b"." in name]


ANY = "?."
NONE = Effect(Change.NONE)
UNKNOWN = Effect(Change.UNKNOWN)
HIDDEN = Effect(Change.UNKNOWN, ANY.encode())
"""Of what can't be looked into."""
RESET_ALL = Effect(Change.RESET_ALL)


def effect(statements: list[Node], encoding: str) -> Effect:
    """The effect of a text with these statements. Several, of which one has an effect: UNKNOWN, but for RESET ALL.

    Pools say RESET ALL with other statements that tidy up (asyncpg: after a ROLLBACK, perhaps). Either all of them
    succeed or none does, as long as no other one begins or ends a transaction.

    ``encoding`` is how the text became the parser's str; names and values are given back in it.
    """
    effects = [_effect(statement, encoding) for statement in statements]
    if len(effects) == 1:
        return effects[0]
    lasting = [one for one in effects if one is not NONE]
    if lasting and all(one.change is Change.TOUCH for one in lasting):
        return _of_all(Change.TOUCH, lasting)
    if lasting == [RESET_ALL] and not any("TransactionStmt" in one for one in statements[_rollbacks(statements) :]):
        return RESET_ALL
    return _of_all(Change.UNKNOWN, lasting) if lasting else NONE


def _rollbacks(statements: list[Node]) -> int:
    return int(statements[0].get("TransactionStmt", {}).get("kind") == "TRANS_STMT_ROLLBACK")


def nodes(tree: object) -> Iterator[Node]:
    """Every dict in a tree, in no special order. Without recursion: trees may be deep."""
    waiting = [tree]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield item
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def strings(names: object) -> list[str]:
    """The parts of a qualified name, as the parser lists them."""
    if not isinstance(names, list):
        return []
    return [node["String"].get("sval", "") for node in names if isinstance(node, dict) and "String" in node]


def is_temporary(node: Node) -> bool:
    """Whether a node names something in the session's own schema, or makes such a thing."""
    if node.get("relpersistence") == "t":
        return True
    schema = node.get("schemaname") or (node.get("String") or {}).get("sval")
    return isinstance(schema, str) and (schema == "pg_temp" or schema.startswith("pg_temp_"))


def _effect(statement: Node, encoding: str) -> Effect:
    kind, node = next(iter(statement.items()))
    if kind == "VariableSetStmt":
        return _setting(node, encoding)
    if kind == "DiscardStmt":
        return Effect(Change.DISCARD_ALL) if node.get("target") == "DISCARD_ALL" else NONE
    if kind == "SelectStmt" and (said := _said_by_function(node)) is not None:
        return _set(*said, encoding)
    every = list(nodes(statement))
    names = [name for inner in every for name in _set_by_function(inner)]
    perhaps = bool(names) and not _calls_them_all(node, len(names))
    if any(_is_lasting(inner) for inner in every):
        if any(_hides_much(inner) for inner in every):
            return HIDDEN
        return Effect(Change.UNKNOWN, _joined(names), perhaps=perhaps) if names else UNKNOWN
    return Effect(Change.TOUCH, own, perhaps=perhaps) if (own := _joined(names)) else NONE


def _of_all(change: Change, effects: list[Effect]) -> Effect:
    """Of several statements: that they succeed tells that all were executed."""
    names = [name.decode() for one in effects for name in one.own]
    return Effect(change, _joined(names), perhaps=any(one.perhaps for one in effects))


def _joined(names: list[str]) -> bytes:
    """Those that are settings of the user's own."""
    return " ".join(sorted({name for name in names if "." in name})).encode()


def _named(name: str) -> str:
    """As PostgreSQL folds it (ASCII alone), or `ANY`: who knows what its encoding makes of the rest."""
    return name.lower() if name.isascii() and " " not in name else ANY


def _set_by_function(node: Node) -> Iterator[str]:
    """The name that a set_config sets."""
    if strings(node.get("funcname"))[-1:] == ["set_config"]:
        constant = node.get("args", [{}])[0].get("A_Const", {})
        yield _named(str(constant.get("sval", {}).get("sval", ""))) if "sval" in constant else ANY


def _calls_them_all(select: Node, calls: int) -> bool:
    """Whether a statement that succeeds has called so many set_config: one in a WHERE, or for each row, perhaps not."""
    if not select.keys() <= _PLAINEST:
        return False
    values = [target.get("ResTarget", {}).get("val", {}) for target in select.get("targetList", [])]
    values = [value.get("TypeCast", {}).get("arg", value) for value in values]
    called = [strings(value.get("FuncCall", {}).get("funcname"))[-1:] for value in values]
    return called.count(["set_config"]) == calls


def _hides_much(node: Node) -> bool:
    return not _HIDING_STATEMENTS.isdisjoint(node) or _is_settings_update(node)


def _is_settings_update(node: Node) -> bool:
    """An UPDATE of this view is a set_config by a rule."""
    update = node.get("UpdateStmt")
    return update is not None and update["relation"].get("relname") == "pg_settings"


def _is_lasting(node: Node) -> bool:
    if not _LASTING_STATEMENTS.isdisjoint(node) or is_temporary(node):
        return True
    function = strings(node.get("funcname"))[-1:]
    if function == ["set_config"]:
        return not _is_true(node.get("args", [])[2:3])
    if function and function[0] in _LASTING_FUNCTIONS:
        return True
    return _is_settings_update(node)


def _is_true(argument: list[Node]) -> bool:
    return bool(argument) and argument[0].get("A_Const", {}).get("boolval") == {"boolval": True}


def _said_by_function(select: Node) -> tuple[str, str] | None:
    """Name and value of ``SELECT set_config('name', 'value', false)``, which is a SET (Django says it so)."""
    targets = select.get("targetList", [])
    if len(targets) != 1 or not select.keys() <= _PLAINEST:
        return None
    call = targets[0].get("ResTarget", {}).get("val", {}).get("FuncCall", {})
    args = call.get("args", [])
    if strings(call.get("funcname")) not in (["set_config"], ["pg_catalog", "set_config"]) or len(args) != 3:
        return None
    name, value, local = (arg.get("A_Const", {}) for arg in args)
    # The parser leaves out what is false.
    if "sval" not in name or "sval" not in value or local.get("boolval") != {}:
        return None
    # A list in one string isn't what SET makes of that string ("search_path"): another value.
    return _named(str(name["sval"].get("sval", ""))), "set_config " + _value(args[1])


def _setting(node: Node, encoding: str) -> Effect:
    kind, name, args = node.get("kind"), _named(node.get("name", "")), node.get("args", [])
    if node.get("is_local"):
        return Effect(Change.TOUCH, name.encode()) if "." in name else NONE
    if kind == "VAR_SET_MULTI":
        # "session characteristics" is another spelling of default_transaction_...; the others end with the transaction.
        if node["name"].lower() != "session characteristics":
            return NONE
        if len(args) != 1:
            return UNKNOWN
        option = args[0]["DefElem"]
        name, args = "default_" + option["defname"], [option["arg"]]
    if name in _TRANSACTION_SETTINGS:
        return NONE
    if kind == "VAR_RESET_ALL":
        return RESET_ALL
    if name in _UNKNOWABLE_SETTINGS:
        return UNKNOWN
    if name == ANY:
        return HIDDEN
    if kind in ("VAR_RESET", "VAR_SET_DEFAULT"):
        return Effect(Change.RESET, name.encode())
    if kind == "VAR_SET_CURRENT":
        # To what it is in this transaction: after a SET LOCAL, or whatever came of those before it.
        return Effect(Change.UNKNOWN, _joined([name]))
    return _set(name, ", ".join(_value(arg) for arg in args), encoding)


def _set(name: str, value: str, encoding: str) -> Effect:
    if name in _TRANSACTION_SETTINGS | _UNKNOWABLE_SETTINGS:
        return UNKNOWN
    # With the session's own schema in the path, what a name means depends on the session's temporary tables.
    if "pg_temp" in value or name == ANY:
        return Effect(Change.UNKNOWN, _joined([name]))
    return Effect(Change.SET, name.encode(), value.encode(encoding))


def _value(arg: Node) -> str:
    constant = arg.get("A_Const", {})
    if "sval" in constant:
        return "'" + str(constant["sval"].get("sval", "")).replace("'", "''") + "'"
    if "ival" in constant:
        return str(constant["ival"].get("ival", 0))
    if "fval" in constant:
        return str(constant["fval"].get("fval", ""))
    return json.dumps(_placeless(arg), sort_keys=True)


def _placeless(tree: object) -> object:
    if isinstance(tree, dict):
        return {key: _placeless(value) for key, value in tree.items() if key != "location"}
    return [_placeless(item) for item in tree] if isinstance(tree, list) else tree
