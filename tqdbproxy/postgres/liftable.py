"""Which constants of a write may become parameters: those for which PostgreSQL does the same with a parameter.

A parameter declared as int4, int8 or numeric is typed like the constant that it replaces. One declared as unknown gets
its type from where it stands, like an unknown literal, if it stands where such a literal is coerced at once to a type
that is known: as a column's new value, beside a column in a comparison, under a cast, in an array. (PostgreSQL's
parse_coerce.c, ``coerce_type``; parse_param.c, ``variable_coerce_param_hook``.) Everywhere else strings stay.

What is computed from constants alone is computed by the planner, even if no row ever needs it; with parameters, perhaps
never. So ``1/0`` stays, but in a VALUES list, whose rows are always needed. What PostgreSQL wants to see as a constant
(LIMIT, ORDER BY 1, type modifiers, the predicate of ON CONFLICT ...) is not looked for, so it stays.

Two differences are left, which depend on what a column's type is. A value that doesn't fit its column fails an UPDATE
even if that finds no row, but not always a lifted one: ``UPDATE 0`` of a lifted statement may hide an error. And a
string without units is read by the fields of an ``interval year`` column as a literal, but as seconds if it is a
parameter: whoever sees that a parameter of a template is an interval calls ``Texts.keep_strings``.

The law of this module: it reads trees of libpg_query; what isn't known to be equal is not given.
"""

from __future__ import annotations

from collections.abc import Iterator

from tqdbproxy.postgres.effects import Node, strings

_ARITHMETIC = frozenset("+-*/")
_COMPARISONS = frozenset(("=", "<>", "<", ">", "<=", ">="))
_LISTS = frozenset(("AEXPR_IN", "AEXPR_BETWEEN", "AEXPR_NOT_BETWEEN"))
# A bare VALUES has these and nothing else (no ORDER BY, no WITH, no UNION).
_BARE_VALUES = frozenset(("valuesLists", "limitOption", "op"))
# Casts to others are left alone: a domain's or an extension's input function is not known to be the same for both ways.
_NUMBERS_AND_TEXT = frozenset(
    ("bool", "int2", "int4", "int8", "numeric", "float4", "float8", "text", "varchar", "bytea")
)
_TYPES = _NUMBERS_AND_TEXT | {"date", "time", "timestamp", "timestamptz", "interval", "json", "jsonb", "uuid", "inet"}


def places(statement: Node) -> Iterator[int]:
    """Where the constants begin (UTF-8) that may become parameters."""
    kind, node = next(iter(statement.items()))
    if kind == "InsertStmt":
        yield from _inserted(node)
    elif kind == "UpdateStmt":
        for target in node["targetList"]:
            if "indirection" not in target["ResTarget"]:
                yield from _new(target["ResTarget"].get("val", {}))
    if kind in ("UpdateStmt", "DeleteStmt"):
        yield from _condition(node.get("whereClause", {}))


def _inserted(node: Node) -> Iterator[int]:
    select = node.get("selectStmt", {}).get("SelectStmt", {})
    if not _BARE_VALUES.issuperset(select) or any(
        "indirection" in column["ResTarget"] for column in node.get("cols", ())
    ):
        return
    for row in select.get("valuesLists", ()):
        for value in row["List"]["items"]:
            yield from _input(value)
            yield from _numbers(value)


def _condition(node: Node) -> Iterator[int]:
    if "BoolExpr" in node:
        for part in node["BoolExpr"]["args"]:
            yield from _condition(part)
        return
    expression = node.get("A_Expr", {})
    left, right = expression.get("lexpr", {}), expression.get("rexpr", {})
    if _is_operator(expression, _COMPARISONS):
        if "ColumnRef" in left:
            yield from _compared(right)
        elif "ColumnRef" in right:
            yield from _compared(left)
    elif expression.get("kind") in _LISTS and "ColumnRef" in left:
        for value in right.get("List", {}).get("items", ()):
            yield from _compared(value)


def _compared(node: Node) -> Iterator[int]:
    # 1e400 beside a double precision column is such a computation, too.
    if "e" not in node.get("A_Const", {}).get("fval", {}).get("fval", ""):
        yield from _input(node)


def _new(node: Node) -> Iterator[int]:
    """The constants of a column's new value in an UPDATE."""
    yield from _input(node)
    if _varies(node) and "A_Expr" in node:
        for side in (node["A_Expr"].get("lexpr", {}), node["A_Expr"]["rexpr"]):
            if "A_Const" in side:
                yield from _constant(side["A_Const"], "ival", "fval")
            else:
                yield from _new(side)


def _varies(node: Node) -> bool:
    """Whether it is a column, or arithmetic with one."""
    if "ColumnRef" in node:
        return True
    expression = node.get("A_Expr", {})
    return _is_operator(expression, _ARITHMETIC) and (
        _varies(expression.get("lexpr", {})) or _varies(expression["rexpr"])
    )


def _input(node: Node) -> Iterator[int]:
    """The constants whose type is known from where they stand, and which nothing is computed from."""
    if "A_Const" in node:
        yield from _constant(node["A_Const"], "sval", "ival", "fval")
    elif "TypeCast" in node:
        yield from _cast(node["TypeCast"])
    elif "A_ArrayExpr" in node:
        for element in node["A_ArrayExpr"].get("elements", ()):
            yield from _input(element)


def _cast(node: Node) -> Iterator[int]:
    argument, name = node["arg"], node["typeName"]
    inner = argument.get("A_Const") or argument.get("A_ArrayExpr")
    # In "date '2020-01-01'" the type comes first, and only a literal may follow. (Not so for libpg_query, which is
    # made to read pg_stat_statements, too.)
    if inner is None or inner.get("location", 0) > name.get("location", 0) or not _is_known(name):
        return
    if "A_Const" in argument:
        yield from _constant(inner, "sval")
    else:
        yield from _input(argument)


def _numbers(node: Node) -> Iterator[int]:
    """The numbers in arithmetic and in functions' arguments; not a number that is all of the expression."""
    sides: list[Node] = []
    if _is_operator(node.get("A_Expr", {}), _ARITHMETIC):
        sides = [node["A_Expr"].get("lexpr", {}), node["A_Expr"]["rexpr"]]
    elif "FuncCall" in node:
        sides = node["FuncCall"].get("args", [])
    elif "TypeCast" in node and _is_known(node["TypeCast"]["typeName"]):
        sides = [node["TypeCast"]["arg"]]
    for side in sides:
        if "A_Const" in side:
            yield from _constant(side["A_Const"], "ival", "fval")
        else:
            yield from _numbers(side)


def _constant(node: Node, *kinds: str) -> Iterator[int]:
    if any(kind in node for kind in kinds):
        yield node.get("location", 0)


def _is_operator(expression: Node, names: frozenset[str]) -> bool:
    return expression.get("kind") == "AEXPR_OP" and names.issuperset(strings(expression["name"]))


def _is_known(name: Node) -> bool:
    """A type of PostgreSQL's own, without a modifier; arrays of it, too."""
    names = strings(name.get("names"))
    schema_known = len(names) == 1 or names[:-1] == ["pg_catalog"]
    return schema_known and names[-1] in _TYPES and "typmods" not in name and not name.get("setof")
