"""What the console asks of the proxy's parts, in the records that it shows.

The law of this module: it looks and translates; it changes nothing. Secrets are not shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from tqdbproxy.core.overview import ClientView, GroupView
from tqdbproxy.core.writebatch.manager import Manager
from tqdbproxy.postgres.clients.hub import Hub
from tqdbproxy.settings import GroupSettings, Settings

SECRET = frozenset({"probe", "purge_listen"})
"""Connection strings, which may hold a password."""


def client_views(hub: Hub) -> list[ClientView]:
    """Every client, the oldest connection first."""
    return sorted((client.view() for client in hub.clients), key=lambda view: -view.connected_s)


def group_views(batches: Manager, now: float) -> Iterator[GroupView]:
    """Groups of writes that are in use; those that wait longest first."""
    busy = [group for group in batches.groups() if group.waiting or group.running]
    for group in sorted(busy, key=lambda group: group.waiting[0].arrived if group.waiting else now):
        identity = group.key.identity
        waited_s = now - group.waiting[0].arrived if group.waiting else 0.0
        yield GroupView(
            identity.group,
            _text(identity.database),
            _text(identity.user),
            _text(group.key.template),
            len(group.waiting),
            group.size,
            group.running,
            group.recent.count,
            waited_s,
        )


def setting_rows(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Section, key and value of every setting."""
    for section in fields(settings):
        record = getattr(settings, section.name)
        if isinstance(record, Mapping):
            for name, group in record.items():
                yield from _rows(f"postgres.{name}", group)
        else:
            yield from _rows(section.name, record)


def _rows(section: str, record: Any) -> Iterator[tuple[str, str, str]]:
    for key in fields(record):
        value = getattr(record, key.name)
        if not (key.name == "name" and isinstance(record, GroupSettings)):
            yield section, key.name, "(not shown)" if value and key.name in SECRET else _written(value)


def _written(value: object) -> str:
    """As in the file."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _text(value: object) -> str:
    """A name or a template as a person reads it; a template may be a text with what its constants are."""
    if isinstance(value, tuple) and value:
        value = value[0]
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
