"""Cheap tests on the bytes of a text: may it change its session or a table, does it ask the proxy itself?

The law of this module: a wrong yes costs a run of the parser, a wrong no is a fault.
"""

from __future__ import annotations

import re

# Statements that begin otherwise than these (or with a parenthesis) can't change a session's settings ...
_HARMLESS_START = re.compile(
    rb"[ \t\n\r\f\v]*(?!(?:set|reset|discard|create|prepare|execute|deallocate|do|call|load|explain)"
    rb"(?![a-z0-9_$\x80-\xff]))(?:[a-z(]|\Z)"
)
# ... unless they do it by one of these: set_config, advisory locks, an UPDATE of pg_settings, setseed, something
# temporary, a name with Unicode escapes (which may be any of these), a second statement. One walk: "in" for each costs
# twice as much. It finds the status view, too. (Possessive repeats: no text may cost more than its length. But none in
# which something can fail behind another repetition: see `sqltext`. Those have a bound.)
_TOUCHES = re.compile(
    rb"[_;&(](?:(?<=set_)config|(?<=advisory_)lock|(?<=tqdb_)status|(?<=pg_)(?:settings|temp)|(?<=;)\s*+[^\s;]"
    rb'|(?<=u&)"|(?<=setseed\()|(?<=setseed \())'
)
_INTO_TEMPORARY = re.compile(rb"\binto(?:\s|--[^\n\r]*+)++(?:(?:local|global)(?:\s|--[^\n\r]*+)++)?temp")
_CHANGES = re.compile(rb"\b(?:set|reset|discard|create|prepare|execute|do|call|load)\b")
_WRITES = re.compile(rb"[ \t\n\r\f\v]*(?:insert|update|delete|merge|with)\b")
# What can be nothing but a statement that changes no table. ("Commit -- prepared" would be a fault, and so would
# "commit and chain", which leaves a transaction open.)
_KEEPS_TABLES = re.compile(
    rb"(?:(?:begin|rollback|set|show|savepoint|release|start|values|table|fetch|close|move|declare|prepare|"
    rb"deallocate|reset|discard|listen|unlisten|notify|lock|vacuum|analyze|checkpoint|abort)(?![a-z0-9_$\x80-\xff])|"
    rb"(?:(?:commit|end)(?:\s++(?:work|transaction))?)?[\s;]*+\Z)"
)
# Words of the statements that change what all databases of a server share.
_ADMINISTERS = re.compile(
    rb"\b(?:(?:create|alter|drop)\s+(?:role|user|group|database|tablespace|system|subscription)|grant|revoke|owned)\b"
)
_NAME = rb'(?:"(?:[^"]|"")++"|[a-z_\x80-\xff][a-z0-9_$\x80-\xff]*+)'
_PREPARES = re.compile(rb'\bprepare\s+(?:"((?:[^"]|"")+)"|([a-z_\x80-\xff][a-z0-9_$\x80-\xff]*))', re.IGNORECASE)
# How a statement begins that changes the one table that it names here: behind such a beginning no WITH can change
# another. No comment may stand in it, nor something among the columns' names that looks like their end.
_HEAD = re.compile(
    rb"\s*+(?:(?:update|delete\s++from)(?:\s++only)?\s++(?!only\b)(NAME)(?=\s*+(?:[a-z_\x80-\xff*\"(;]|\Z))|"
    rb"insert\s++into\s++(NAME)(?:\s++as\s++NAME)?(?:\s*+\((?:[^()\"'/-]++|\"[^\"]*+\"){0,4000}\))?"
    rb"\s*+(?:values|select|default)(?![a-z0-9_$\x80-\xff]))".replace(
        b"NAME", _NAME + rb"(?:\s*+\.\s*+" + _NAME + rb"){0,3}"
    ),
    re.IGNORECASE,
)
_VIEW = re.compile(rb"\s*select\s*\*\s*from(?:\s+pg_tqdb_status|\s*\"(?-i:pg_tqdb_status)\")[\s;]*", re.IGNORECASE)


def is_suspicious(lower: bytes) -> bool:
    """Whether a text in lower case, without comments, may change its session or ask the proxy."""
    return (
        _HARMLESS_START.match(lower) is None
        or _TOUCHES.search(lower) is not None
        or (lower.find(b"temp") >= 0 and _INTO_TEMPORARY.search(lower) is not None)
    )


def may_hide_a_change(text: bytes) -> bool:
    """The same for a text of which it isn't known where its literals end."""
    return text.find(b";") >= 0 and _CHANGES.search(text.lower()) is not None


def begins_as_write(lower: bytes) -> bool:
    """Whether a text in lower case, without comments, may be one write."""
    return _WRITES.match(lower) is not None


def begins_as_change(lower: bytes) -> bool:
    """Whether the first statement of a text in lower case, without comments, may change a table or who may see it.

    What the functions in a SELECT do isn't asked.
    """
    lower = lower.lstrip()
    return b"into" in lower if lower.startswith(b"select") else _KEEPS_TABLES.match(lower) is None


def may_change_tables(lower: bytes) -> bool:
    """The same for all statements of the text."""
    return begins_as_change(lower) or lower.find(b";", 0, len(lower.rstrip(b"; \t\n\r\f\v"))) >= 0


def may_administer(lower: bytes) -> bool:
    """Whether in a text in lower case, which nobody can read, somebody may change what all databases share.

    Comments between its words, and words that are put together while it runs, aren't seen.
    """
    return _ADMINISTERS.search(lower) is not None


def may_prepare(bare: bytes) -> list[bytes]:
    """The names of the statements that a text without comments, which nobody can read, may prepare."""
    names = (quoted.replace(b'""', b'"') or plain.lower() for quoted, plain in _PREPARES.findall(bare))
    return [name[:63] for name in names]


def head(statement: bytes) -> tuple[bytes, bytes] | None:
    """The beginning of a statement that changes one table, and that table as it is spelt there.

    None: another kind of statement, or one that has to be looked at more closely.
    """
    match = _HEAD.match(statement)
    return (match[0], match[1] or match[2]) if match is not None else None


def is_view(bare: bytes) -> bool:
    """Whether a text without comments asks for the status view."""
    return _VIEW.fullmatch(bare) is not None
