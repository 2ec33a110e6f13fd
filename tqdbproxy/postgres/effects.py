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
    Two SETs with equal name and value do the same; values that mean the same may differ (``1`` and ``'1'``).
    """

    change: Change
    name: bytes = b""
    value: bytes = b""


NONE = Effect(Change.NONE)
UNKNOWN = Effect(Change.UNKNOWN)
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
        return _touch(*(one.name for one in lasting))
    if lasting == [RESET_ALL] and not any("TransactionStmt" in one for one in statements[_rollbacks(statements) :]):
        return RESET_ALL
    return UNKNOWN if lasting else NONE


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
    if any(_is_lasting(inner) for inner in every):
        return UNKNOWN
    return _touch(*(name for inner in every for name in _set_for_transaction(inner, encoding)))


def _touch(*names: bytes) -> Effect:
    return Effect(Change.TOUCH, b" ".join(sorted({*names}))) if names else NONE


def _set_for_transaction(node: Node, encoding: str) -> Iterator[bytes]:
    """Names of a user's own settings; ``?`` for one that can't be known."""
    if strings(node.get("funcname"))[-1:] == ["set_config"]:
        constant = node.get("args", [{}])[0].get("A_Const", {})
        name = str(constant.get("sval", {}).get("sval", "")).lower() if "sval" in constant else "?."
        if "." in name:
            yield name.encode(encoding)


def _is_lasting(node: Node) -> bool:
    if not _LASTING_STATEMENTS.isdisjoint(node) or is_temporary(node):
        return True
    function = strings(node.get("funcname"))[-1:]
    if function == ["set_config"]:
        return not _is_true(node.get("args", [])[2:3])
    if function and function[0] in _LASTING_FUNCTIONS:
        return True
    # An UPDATE of this view is a set_config by a rule.
    update = node.get("UpdateStmt")
    return update is not None and update["relation"].get("relname") == "pg_settings"


def _is_true(argument: list[Node]) -> bool:
    return bool(argument) and argument[0].get("A_Const", {}).get("boolval") == {"boolval": True}


def _said_by_function(select: Node) -> tuple[str, str] | None:
    """Name and value of ``SELECT set_config('name', 'value', false)``, which is a SET (Django says it so)."""
    targets = select.get("targetList", [])
    if len(targets) != 1 or not select.keys() <= {"targetList", "limitOption", "op"}:
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
    return str(name["sval"].get("sval", "")).lower(), "set_config " + _value(args[1])


def _setting(node: Node, encoding: str) -> Effect:
    kind, name, args = node.get("kind"), node.get("name", "").lower(), node.get("args", [])
    if node.get("is_local"):
        return _touch(name.encode(encoding)) if "." in name else NONE
    if kind == "VAR_SET_MULTI":
        # "session characteristics" is another spelling of default_transaction_...; the others end with the transaction.
        if name != "session characteristics":
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
    if kind in ("VAR_RESET", "VAR_SET_DEFAULT"):
        return Effect(Change.RESET, name.encode(encoding))
    if kind == "VAR_SET_CURRENT":
        # To what it is in this transaction: after a SET LOCAL, or whatever came of those before it.
        return UNKNOWN
    return _set(name, ", ".join(_value(arg) for arg in args), encoding)


def _set(name: str, value: str, encoding: str) -> Effect:
    if name in _TRANSACTION_SETTINGS | _UNKNOWABLE_SETTINGS:
        return UNKNOWN
    # With the session's own schema in the path, what a name means depends on the session's temporary tables.
    return UNKNOWN if "pg_temp" in value else Effect(Change.SET, name.encode(encoding), value.encode(encoding))


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
