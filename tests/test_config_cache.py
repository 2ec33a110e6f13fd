"""The section [cache]: what is read and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_config import DEFAULTS, MAIN, load, refusal
from tqdbproxy import settings

CACHE = f"{MAIN}[cache]\n"


def test_defaults() -> None:
    assert DEFAULTS.cache == settings.CacheSettings(True, 268435456, 1048576, 5000, True, 0.0, "")


def test_values_have_their_types(tmp_path: Path) -> None:
    read = load(
        tmp_path,
        CACHE + "enabled = off\nmax_bytes = 1000\nmax_entry_bytes = 1000\nmax_wait_ms = 0.5\npurge_on_write = no\n"
        "verify_fraction = 0.25\npurge_listen = 'postgresql://me:a,b@one,two:1/app'\n",
    )
    assert read.cache == settings.CacheSettings(
        False, 1000, 1000, 0.5, False, 0.25, "postgresql://me:a,b@one,two:1/app"
    )
    named = load(tmp_path, MAIN, TQDBPROXY_CACHE_PURGE_LISTEN="user=me password='a b' dbname=app")
    assert named.cache.purge_listen == "user=me password='a b' dbname=app"


REFUSALS = {
    "an entry larger than all": (
        "max_bytes = 1000\nmax_entry_bytes = 1001\n",
        "x.ini, line 5: [cache] max_entry_bytes: 1001 is more than max_bytes, 1000",
    ),
    "all smaller than the default of one": (
        "max_bytes = 1000\n",
        "x.ini, line 3: [cache] max_entry_bytes: 1048576 is more than max_bytes, 1000",
    ),
    "more than every hit": (
        "verify_fraction = 1.5\n",
        'x.ini, line 4: [cache] verify_fraction: the value "1.5" is too big (number, 0 to 1)',
    ),
    "back in time": (
        "max_wait_ms = -1\n",
        'x.ini, line 4: [cache] max_wait_ms: the value "-1.0" is too small (number, 0 to 86400000)',
    ),
    "no bytes": (
        "max_bytes = 0\n",
        'x.ini, line 4: [cache] max_bytes: the value "0" is too small (integer, 1 to 1099511627776)',
    ),
    "misspelt": ("purge_on_wite = true\n", "x.ini, line 4: [cache] purge_on_wite: there is no such key; did you mean"),
    "no connection string": (
        "enabled = true\npurge_listen = me\n",
        'x.ini, line 5: [cache] purge_listen: is no connection string: missing "=" after (not shown)',
    ),
    "no option of libpq": (
        "purge_listen = user=me dbnam=app\n",
        "x.ini, line 4: [cache] purge_listen: is no connection string: invalid connection option (not shown)",
    ),
    "a port of no host": (
        "purge_listen = user=me port=5433\n",
        "x.ini, line 4: [cache] purge_listen: port is given without host: the addresses of each group's primary are",
    ),
    "ports that don't fit": (
        "purge_listen = 'host=a,b,c port=1,2'\n",
        "x.ini, line 4: [cache] purge_listen: port has 2 entries for 3 servers",
    ),
    "a comma without quotes": (
        "purge_listen = host=a,b password=secret\n",
        "x.ini, line 4: [cache] purge_listen: contains a comma: it must be written in quotes",
    ),
    "a timeout that is none": (
        "purge_listen = connect_timeout=soon\n",
        "x.ini, line 4: [cache] purge_listen: connect_timeout is not a whole number of seconds",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, name: str) -> None:
    text, message = REFUSALS[name]
    said = refusal(tmp_path, CACHE + text)
    assert said.startswith(message)
    assert "\n" not in said
    assert "secret" not in said


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path, MAIN, TQDBPROXY_CACHE_PURGE_LISTEN="me").startswith(
        "environment variable TQDBPROXY_CACHE_PURGE_LISTEN: is no connection string"
    )
