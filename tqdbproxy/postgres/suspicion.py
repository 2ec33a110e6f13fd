"""Cheap tests on the bytes of a text: may it change its session, does it ask the proxy itself?

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
# twice as much. It finds the status view, too. (Possessive repeats: no text may cost more than its length.)
_TOUCHES = re.compile(
    rb"[_;&(](?:(?<=set_)config|(?<=advisory_)lock|(?<=tqdb_)status|(?<=pg_)(?:settings|temp)|(?<=;)\s*+[^\s;]"
    rb'|(?<=u&)"|(?<=setseed\()|(?<=setseed \())'
)
_INTO_TEMPORARY = re.compile(rb"\binto(?:\s|--[^\n\r]*+)++(?:(?:local|global)(?:\s|--[^\n\r]*+)++)?temp")
_CHANGES = re.compile(rb"\b(?:set|reset|discard|create|prepare|execute|do|call|load)\b")
_WRITES = re.compile(rb"[ \t\n\r\f\v]*(?:insert|update|delete|merge|with)\b")
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


def is_view(bare: bytes) -> bool:
    """Whether a text without comments asks for the status view."""
    return _VIEW.fullmatch(bare) is not None
