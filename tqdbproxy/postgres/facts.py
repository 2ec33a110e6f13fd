"""What a parse tree tells about a text: its kind, whether another session may run it, whether its answer may be kept.

The law of this module: it reads trees of libpg_query, and where it doubts it says unsafe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tqdbproxy.core.statement import Kind, Reason
from tqdbproxy.postgres.effects import NONE, Effect, Node, effect, is_temporary, nodes, strings
from tqdbproxy.postgres.functions import UNSAFE_FUNCTIONS, spoils_answer
from tqdbproxy.postgres.relations import EVERYTHING, changed_by, read_by

_KINDS = {
    "SelectStmt": Kind.SELECT,
    "InsertStmt": Kind.INSERT,
    "UpdateStmt": Kind.UPDATE,
    "DeleteStmt": Kind.DELETE,
    "MergeStmt": Kind.MERGE,
}

_UNSAFE_RELATIONS = frozenset(("pg_settings", "pg_cursors", "pg_prepared_statements", "pg_backend_memory_contexts"))
_COUNTED_SO_FAR = "pg_stat_xact_"
# What makes a SELECT more than one.
_NOT_PLAIN = frozenset(("InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "intoClause", "lockingClause"))
# Functions of whose first argument it matters which it is.
_BY_LITERAL = (["current_setting"], ["set_config"])
#: Instead of a name: some of the prepared statements, which aren't told. (No name has a zero byte.)
SOME = b"\0"
_BEGINS = frozenset(("TRANS_STMT_BEGIN", "TRANS_STMT_START"))


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a text from its tree.

    ``begins``: where its first BEGIN stands, in the parser's UTF-8. ``by_literal``: a literal decided about ``safe`` or
    about the effect. ``unread``: why the answer to a single statement may not be kept; ``tags``: what it depends on if
    it may. ``purges``: the tags of what it changes. ``prepares``: see `Text`.
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
    unread: Reason | None
    tags: tuple[str, ...]
    purges: tuple[str, ...]
    prepares: tuple[tuple[bytes, tuple[str, ...]], ...] = ()


UNREADABLE = Facts(Kind.OTHER, False, False, None, False, False, NONE, None, True, Reason.UNSAFE, (), EVERYTHING)


def judge(tree: list[Node], encoding: str) -> Facts:
    """The facts of a text. ``encoding``: how the text became the parser's str."""
    statements = [raw["stmt"] for raw in tree]
    single = statements[0] if len(statements) == 1 else {}
    kind = _KINDS.get(next(iter(single), ""), Kind.OTHER)
    every = list(nodes(statements))
    unread = _unread(every) if kind is Kind.SELECT else Reason.NOT_A_READ
    return Facts(
        kind=kind,
        is_write=kind.is_write,
        several=len(statements) > 1,
        begins=next((raw.get("stmt_location", 0) for raw in tree if _begins(raw["stmt"])), None),
        safe=not any(_is_unsafe(node, UNSAFE_FUNCTIONS.__contains__) for node in every),
        returning=kind.is_write and "returningList" in single[next(iter(single))],
        effect=effect(statements, encoding),
        deallocates=_deallocates(statements, encoding),
        by_literal=any(strings(node.get("funcname"))[-1:] in _BY_LITERAL for node in every),
        unread=unread,
        tags=read_by(single) if unread is None else (),
        purges=changed_by(statements),
        prepares=tuple(_prepared(statements, encoding)),
    )


def _begins(statement: Node) -> bool:
    return statement.get("TransactionStmt", {}).get("kind") in _BEGINS


def _unread(every: list[Node]) -> Reason | None:
    """Why the answer to a SELECT with these nodes may not be kept."""
    if any(not _NOT_PLAIN.isdisjoint(node) for node in every):
        return Reason.NOT_A_READ
    return Reason.UNSAFE if any(_is_unsafe(node, spoils_answer) for node in every) else None


def _is_unsafe(node: Node, function_is: Callable[[str], bool]) -> bool:
    relation = node.get("relname", "")
    if "CurrentOfExpr" in node or is_temporary(node) or relation in _UNSAFE_RELATIONS:
        return True
    if relation.startswith(_COUNTED_SO_FAR):
        return True
    function = strings(node.get("funcname"))[-1:]
    if function == ["current_setting"]:
        # A session's settings are part of its identity, but for its application_name.
        return _literal(node.get("args", [])[:1]).lower() in ("", "application_name")
    return bool(function) and function_is(function[0])


def _literal(argument: list[Node]) -> str:
    constant = argument[0].get("A_Const", {}) if argument else {}
    return str(constant.get("sval", {}).get("sval", ""))


def _deallocates(statements: list[Node], encoding: str) -> bytes | None:
    """The name of a prepared statement that goes; ``b""``: all of them; `SOME`: those that a longer text says."""
    for statement in statements:
        node = statement.get("DeallocateStmt")
        if node is not None:
            return node.get("name", "").encode(encoding) if len(statements) == 1 else SOME
        if statement.get("DiscardStmt", {}).get("target") == "DISCARD_ALL":
            return b"" if len(statements) == 1 else SOME
    return None


def _prepared(statements: list[Node], encoding: str) -> Iterator[tuple[bytes, tuple[str, ...]]]:
    """What is prepared by SQL, and what each of it changes when it is executed."""
    for statement in statements:
        node = statement.get("PrepareStmt")
        if node is not None:
            yield node["name"].encode(encoding), changed_by([node["query"]])
