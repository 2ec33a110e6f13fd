"""What a parse tree tells about a text: its kind, whether it is one write, whether another session may run it.

The law of this module: it reads trees of libpg_query, and where it doubts it says unsafe.
"""

from __future__ import annotations

from dataclasses import dataclass

from tqdbproxy.core.statement import Kind
from tqdbproxy.postgres.effects import NONE, Effect, Node, effect, is_temporary, nodes, strings

_KINDS = {
    "SelectStmt": Kind.SELECT,
    "InsertStmt": Kind.INSERT,
    "UpdateStmt": Kind.UPDATE,
    "DeleteStmt": Kind.DELETE,
    "MergeStmt": Kind.MERGE,
}

# Functions whose result or effect belongs to the session that calls them, by why a write with one isn't batched.
# Left out on purpose, and documented for users: now() and the transaction id (shared by a batch), nextval (its value is
# nobody's), pg_notify (the sender is the session that ran the batch, as with a trigger's NOTIFY).
_WHAT_IT_DID = "currval lastval pg_my_temp_schema pg_is_other_temp_schema pg_listening_channels"
_WHO_IT_IS = "pg_backend_pid inet_client_addr inet_client_port inet_server_addr inet_server_port current_query"
_WHAT_STAYS = """set_config setseed pg_advisory_lock pg_advisory_lock_shared pg_try_advisory_lock
    pg_try_advisory_lock_shared pg_advisory_unlock pg_advisory_unlock_shared pg_advisory_unlock_all
    dblink_connect dblink_connect_u dblink_disconnect dblink_open dblink_close dblink_fetch"""
_WHAT_OTHERS_SUFFER = "pg_sleep pg_sleep_for pg_sleep_until pg_cancel_backend pg_terminate_backend"
UNSAFE_FUNCTIONS = frozenset(" ".join((_WHAT_IT_DID, _WHO_IT_IS, _WHAT_STAYS, _WHAT_OTHERS_SUFFER)).split())

_UNSAFE_RELATIONS = frozenset(("pg_settings", "pg_cursors", "pg_prepared_statements"))
_BEGINS = frozenset(("TRANS_STMT_BEGIN", "TRANS_STMT_START"))


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a text from its tree.

    ``begins``: where its first BEGIN stands, in the parser's UTF-8. ``by_literal``: a literal decided about ``safe``.
    """

    kind: Kind
    is_write: bool
    several: bool
    begins: int | None
    safe: bool
    returning: bool
    effect: Effect
    deallocates: bytes | None
    by_literal: bool


UNREADABLE = Facts(Kind.OTHER, False, False, None, False, False, NONE, None, True)


def judge(tree: list[Node], encoding: str) -> Facts:
    """The facts of a text. ``encoding``: how the text became the parser's str."""
    statements = [raw["stmt"] for raw in tree]
    single = statements[0] if len(statements) == 1 else {}
    kind = _KINDS.get(next(iter(single), ""), Kind.OTHER)
    every = list(nodes(statements))
    return Facts(
        kind=kind,
        is_write=kind.is_write,
        several=len(statements) > 1,
        begins=next((raw.get("stmt_location", 0) for raw in tree if _begins(raw["stmt"])), None),
        safe=not any(_is_unsafe(node) for node in every),
        returning=kind.is_write and "returningList" in single[next(iter(single))],
        effect=effect(statements, encoding),
        deallocates=_deallocates(statements, encoding),
        by_literal=any(strings(node.get("funcname"))[-1:] == ["current_setting"] for node in every),
    )


def _begins(statement: Node) -> bool:
    return statement.get("TransactionStmt", {}).get("kind") in _BEGINS


def _is_unsafe(node: Node) -> bool:
    if "CurrentOfExpr" in node or is_temporary(node) or node.get("relname") in _UNSAFE_RELATIONS:
        return True
    function = strings(node.get("funcname"))[-1:]
    if function == ["current_setting"]:
        # A session's settings are part of its identity, but for its application_name.
        return _literal(node.get("args", [])[:1]).lower() in ("", "application_name")
    return bool(function) and function[0] in UNSAFE_FUNCTIONS


def _literal(argument: list[Node]) -> str:
    constant = argument[0].get("A_Const", {}) if argument else {}
    return str(constant.get("sval", {}).get("sval", ""))


def _deallocates(statements: list[Node], encoding: str) -> bytes | None:
    """The name of a prepared statement that goes; ``b""``: all of them, or several of a text of many statements."""
    for statement in statements:
        node = statement.get("DeallocateStmt")
        if node is not None:
            return node.get("name", "").encode(encoding) if len(statements) == 1 else b""
        if statement.get("DiscardStmt", {}).get("target") == "DISCARD_ALL":
            return b""
    return None
