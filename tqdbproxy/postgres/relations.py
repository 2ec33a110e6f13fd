"""Which tables a statement reads and which it changes, as tags of cached answers.

A read of a bare ``b`` may mean ``b`` in any schema, a write to ``s.b`` may be what such a read meant. So:

=========  =============================  =============================
of         a read's answer carries        a change purges
=========  =============================  =============================
``b``      ``table:b``, ``table:?.b``     ``table:b``
``s.b``    ``table:s.b``, ``table:b``     ``table:s.b``, ``table:?.b``
=========  =============================  =============================

What reads the catalogue, or calls a function that does, carries ``table:?pg`` besides, and what changes the catalogue
by a statement of its own (CREATE, ALTER, COMMENT ...) purges that.

What a view, a function, a trigger, a rule, a foreign key or a partition does behind the name isn't seen.

The law of this module: it reads trees of libpg_query; in doubt it gives more tags, never fewer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from tqdbproxy.core.caching import EVERY_TAG, EVERYWHERE_TAG
from tqdbproxy.postgres.effects import Node, nodes, strings
from tqdbproxy.postgres.suspicion import may_administer

EVERYTHING = (EVERY_TAG,)
"""The tags of a change that may concern any answer of its database."""
EVERYWHERE = (EVERY_TAG, EVERYWHERE_TAG)
"""The same, of all databases of its server."""

_TABLE = "table:"
# One tag for all names that aren't ASCII: how such a name is spelt, folded and cut depends on the encodings of client
# and server, which nobody has told.
_FOREIGN = "table:?"
_CATALOGUE = "table:?pg"
# A schema's name isn't longer than this: 63 bytes, if PostgreSQL was built as usual. (What people say may be long.)
_MAX_SCHEMA = 256


def _kinds(names: str) -> frozenset[str]:
    return frozenset(names.split())


_DATA = _kinds("InsertStmt UpdateStmt DeleteStmt MergeStmt")
# Of these only the data-modifying parts matter.
_QUERIES = _DATA | {"SelectStmt", "DeclareCursorStmt"}
# Statements that leave every answer as it was. (A prepared one changes something when it is executed.)
_HARMLESS = _kinds(
    """VariableSetStmt VariableShowStmt DeallocateStmt PrepareStmt ListenStmt UnlistenStmt NotifyStmt LockStmt
    DiscardStmt ClosePortalStmt FetchStmt CheckPointStmt VacuumStmt CommentStmt ConstraintsSetStmt LoadStmt IndexStmt
    ReindexStmt ClusterStmt CreateStatsStmt AlterStatsStmt"""
)
# Statements that change the tables that they name, but for those that their query only reads.
_NAMING = _kinds(
    """TruncateStmt AlterTableStmt CreateStmt CreateForeignTableStmt CreateTableAsStmt ViewStmt RefreshMatViewStmt
    CreateSeqStmt AlterSeqStmt RuleStmt CreateTrigStmt"""
)
# Statements that leave tables as they were, and change what the catalogue says of them.
_DESCRIBING = _kinds("CommentStmt IndexStmt CreateStatsStmt AlterStatsStmt DropStmt RenameStmt AlterObjectSchemaStmt")
_SYSTEM = ("pg_catalog", "information_schema")
# How the names begin of PostgreSQL's own functions that look things up in the catalogue, and of the types that do.
_LOOKED_UP = ("regc", "regd", "regn", "rego", "regp", "regro", "regt")
_LOOKING_UP = (
    *_LOOKED_UP,
    *(
        "pg_",
        "has_",
        "to_reg",
        "obj_description",
        "col_description",
        "shobj_description",
        "format_type",
        "row_security",
    ),
)
_TABLES = _kinds("OBJECT_TABLE OBJECT_VIEW OBJECT_MATVIEW OBJECT_FOREIGN_TABLE OBJECT_SEQUENCE OBJECT_INDEX")
# What all databases of a server share: who there is, what he may do, which databases there are, how they begin.
_SHARED = _kinds(
    """CreatedbStmt DropdbStmt AlterDatabaseStmt AlterDatabaseSetStmt AlterDatabaseRefreshCollStmt CreateRoleStmt
    AlterRoleStmt AlterRoleSetStmt DropRoleStmt GrantRoleStmt ReassignOwnedStmt DropOwnedStmt AlterSystemStmt
    CreateTableSpaceStmt DropTableSpaceStmt AlterTableSpaceOptionsStmt CreateSubscriptionStmt AlterSubscriptionStmt
    DropSubscriptionStmt"""
)
_SHARED_OBJECTS = _kinds("OBJECT_DATABASE OBJECT_ROLE OBJECT_TABLESPACE OBJECT_SUBSCRIPTION OBJECT_PARAMETER_ACL")
_SHARED_TABLES = _kinds(
    """pg_authid pg_roles pg_user pg_shadow pg_group pg_auth_members pg_database pg_db_role_setting pg_tablespace
    pg_parameter_acl pg_replication_origin pg_shdepend pg_shdescription pg_shseclabel pg_subscription"""
)
_BEGINS = _kinds("TRANS_STMT_BEGIN TRANS_STMT_START")
# Who may see a table's rows: views of it show others, too.
_SIGHT = _kinds("AT_EnableRowSecurity AT_DisableRowSecurity AT_ForceRowSecurity AT_NoForceRowSecurity AT_ChangeOwner")

Name = tuple[str, ...]
"""Of a table: its schema, if said, and its name, as the parser folds them. A catalog is left out."""


def read_by(select: Node) -> tuple[str, ...]:
    """The tags of an answer to this statement: all tables in it, but for the names that a WITH gives."""
    names = set(_tables(select))
    looks_up = any(map(_is_system, names)) or any(map(_looks_up, nodes(select)))
    return _united([*map(_read, sorted(names)), (_CATALOGUE,) * looks_up])


def changed_by(statements: list[Node]) -> tuple[str, ...]:
    """The tags that these statements purge when they have committed; `EVERYTHING` if it can't be told."""
    if any(map(_is_shared, statements)):
        return EVERYWHERE
    if _goes_on(statements):
        return EVERYTHING
    names: set[Name] = set()
    for statement in statements:
        found = _changed(statement)
        if found is None:
            return EVERYTHING
        names.update(found)
    if any(name[-1] in _SHARED_TABLES for name in names):
        return EVERYWHERE
    describes = any(map(_is_system, names)) or any(map(_describes, statements))
    return _united([*map(_purged, sorted(names)), (_CATALOGUE,) * describes])


def depended_on(tag: str) -> tuple[str, ...]:
    """What an answer carries of which somebody says that it depends on this tag."""
    return _united([(tag,), *map(_read, _said(tag))])


def purged_by(tag: str) -> tuple[str, ...]:
    """What is purged where somebody says this tag."""
    return _united([(tag,), *map(_purged, _said(tag))])


def unite(tags: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """What all of these purge."""
    united = _united(tags)
    if EVERYWHERE_TAG in united:
        return EVERYWHERE
    return EVERYTHING if EVERY_TAG in united else united


def _united(tags: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(chain.from_iterable(tags)))


def _read(name: Name) -> tuple[str, ...]:
    other = name[-1] if len(name) > 1 else "?." + name[0]
    return (_TABLE + ".".join(name), _TABLE + other, *_foreign(name))


def _purged(name: Name) -> tuple[str, ...]:
    others = (_TABLE + "?." + name[-1],) if len(name) > 1 else ()
    return (_TABLE + ".".join(name), *others, *_foreign(name))


def _foreign(name: Name) -> tuple[str, ...]:
    return () if all(map(str.isascii, name)) else (_FOREIGN,)


def _said(tag: str) -> Iterator[Name]:
    """The tables that a tag may mean: names may have dots of their own."""
    if tag.startswith(_TABLE):
        name = tag[len(_TABLE) :]
        yield (name,)
        for index, letter in enumerate(name[:_MAX_SCHEMA]):
            if letter == ".":
                yield name[:index], name[index + 1 :]


def _name(relation: Node) -> Name:
    """Of a RangeVar."""
    schema = relation.get("schemaname")
    return (schema, relation["relname"]) if schema else (relation["relname"],)


def _tables(tree: Node) -> Iterator[Name]:
    """The tables under a node; not what a WITH names, where its name is to be seen. Without recursion: see `nodes`."""
    nothing: frozenset[str] = frozenset()
    waiting: list[tuple[object, frozenset[str]]] = [(tree, nothing)]
    while waiting:
        item, hidden = waiting.pop()
        if isinstance(item, list):
            waiting.extend((one, hidden) for one in item)
        elif isinstance(item, dict):
            if "relname" in item and (item.get("schemaname") or item["relname"] not in hidden):
                yield _name(item)
            clause = item.get("withClause")
            if clause is not None:
                item = {key: value for key, value in item.items() if key != "withClause"}
                recursive = clause.get("recursive", False)
                known = hidden.union(_named(clause)) if recursive else hidden
                for cte in clause["ctes"]:
                    waiting.append((cte, known))
                    known |= {cte["CommonTableExpr"]["ctename"]}
                hidden = known
            waiting.extend((one, hidden) for one in item.values())


def _named(clause: Node) -> Iterator[str]:
    for cte in clause["ctes"]:
        yield cte["CommonTableExpr"]["ctename"]


def _changed(statement: Node) -> set[Name] | None:
    """The tables that a statement changes; None: perhaps any."""
    kind, node = next(iter(statement.items()))
    if kind == "ExplainStmt":
        # "ANALYZE off" isn't looked for.
        return _changed(node["query"]) if _analyzes(node) else set()
    if kind in _HARMLESS or (kind == "TransactionStmt" and node.get("kind") != "TRANS_STMT_COMMIT_PREPARED"):
        return set()
    every = list(nodes(statement))
    if any(_is_boundless(one) for one in every):
        return None
    names = {_name(target) for one in every for target in _targets(one)}
    if kind in _QUERIES or (kind == "CopyStmt" and not node.get("is_from")):
        return names
    if kind == "CopyStmt":
        return {_name(node["relation"])}
    if kind == "DropStmt":
        return _dropped(node)
    if kind in ("RenameStmt", "AlterObjectSchemaStmt"):
        return _moved(node)
    if kind not in _NAMING:
        return None
    read = {id(one) for one in nodes(node.get("query"))}
    return names | {_name(one) for one in every if "relname" in one and id(one) not in read}


def _is_shared(statement: Node) -> bool:
    """Whether a statement changes what all databases of its server share."""
    kind, node = next(iter(statement.items()))
    if kind == "DoStmt":
        bodies = (option["DefElem"].get("arg", {}).get("String", {}).get("sval", "") for option in node["args"])
        return any(may_administer(body.lower().encode()) for body in bodies)
    objects = {node.get("renameType"), node.get("objectType"), node.get("objtype")}
    return kind in _SHARED or (kind not in _HARMLESS and not _SHARED_OBJECTS.isdisjoint(objects))


def _goes_on(statements: list[Node]) -> bool:
    """Whether these may commit a transaction, and what was changed in it before, and then begin another one."""
    committed = False
    for statement in statements:
        node = statement.get("TransactionStmt", {})
        if committed and node.get("kind") in _BEGINS:
            return True
        if node.get("kind") == "TRANS_STMT_COMMIT":
            committed = True
            if node.get("chain"):
                return True
    return False


def _is_system(name: Name) -> bool:
    return name[0] in _SYSTEM or name[-1].startswith("pg_")


def _looks_up(node: Node) -> bool:
    """Whether a node calls a function that may read the catalogue, or makes a name an object of the catalogue."""
    function, kind = strings(node.get("funcname"))[-1:], strings(node.get("names"))[-1:]
    return any(name.startswith(_LOOKING_UP) and name != "pg_sleep" for name in function) or any(
        name.startswith("reg") for name in kind
    )


def _describes(statement: Node) -> bool:
    """Whether a statement changes the catalogue, not only what tables hold."""
    kind, node = next(iter(statement.items()))
    if kind == "ExplainStmt":
        return _analyzes(node) and _describes(node["query"])
    return kind in (_NAMING | _DESCRIBING) - {"TruncateStmt"} or (kind == "SelectStmt" and "intoClause" in node)


def _analyzes(explain: Node) -> bool:
    return any(option["DefElem"]["defname"] == "analyze" for option in explain.get("options", ()))


def _is_boundless(node: Node) -> bool:
    return node.get("behavior") == "DROP_CASCADE" or "ExecuteStmt" in node or node.get("subtype") in _SIGHT


def _targets(node: Node) -> Iterator[Node]:
    """The tables that a data-modifying statement or an INTO names as their target."""
    for kind in _DATA.intersection(node):
        yield node[kind]["relation"]
    if "intoClause" in node:
        yield node["intoClause"]["rel"]


def _dropped(node: Node) -> set[Name] | None:
    if node.get("removeType") not in _TABLES:
        return None
    return {tuple(strings(one["List"]["items"])[-2:]) for one in node["objects"]}


def _moved(node: Node) -> set[Name] | None:
    """A table's old name and its new one: who said that may have meant another until now."""
    if "relation" not in node:
        return None
    old = _name(node["relation"])
    return {old, (*old[:-1], node["newname"])} if node.get("renameType") in _TABLES else {old}
