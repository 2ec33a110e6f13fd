"""The proxy's own queries behind a batch: texts that the parser takes, parameters as the server reads them."""

from __future__ import annotations

import pytest

from tests import builders as m
from tqdbproxy.postgres.messages import Bind
from tqdbproxy.postgres.servers import guards
from tqdbproxy.postgres.sql import parse
from tqdbproxy.postgres.tables import UNKNOWN, tables


def test_merging() -> None:
    text = guards.merging_query(b'"o\'clock"."t"')
    parse(text)
    assert text.endswith(b"'\"o''clock\".\"t\"'::pg_catalog.regclass")
    bind, execute = m.split(guards.merging_execution(b"name", 300))
    assert Bind.parse(bind, 0, len(bind)).statement == b"name"
    assert Bind.parse(bind, 0, len(bind)).tail == (
        b"\0\1\0\1" + b"\0\1" + b"\0\0\0\x08" + (300).to_bytes(8, "big") + b"\0\1\0\1"
    )
    assert execute == m.execute()


@pytest.mark.parametrize("known", [None, b"", b"1234"])
def test_a_fingerprint(known: bytes | None) -> None:
    text = guards.fingerprint_query((b'"a"', b'"o\'clock"."b"'))
    parse(text)
    assert b"IN (pg_catalog.to_regclass('\"a\"'), pg_catalog.to_regclass('\"o''clock\".\"b\"'))" in text
    bind, execute = m.split(guards.fingerprint_execution(b"name", known))
    value = b"\xff\xff\xff\xff" if known is None else len(known).to_bytes(4, "big") + known
    assert Bind.parse(bind, 0, len(bind)).tail == b"\0\1\0\1" + b"\0\1" + value + b"\0\1\0\1"
    assert execute == m.execute()


@pytest.mark.parametrize("value", [None, b"", b"1234"])
def test_what_it_says(value: bytes | None) -> None:
    assert guards.fingerprint_of(m.data_row(value, "0")) == value


TABLES = {
    "insert into t values ($1)": (b'"t"',),
    "insert into S.T select * from other o join u using (k)": (b'"other"', b'"s"."t"', b'"u"'),
    'insert into "o\'clock"."a""b" values (1)': (b'"o\'clock"."a""b"',),
    "update t set a = (select max(x) from u) from v where v.k = t.k": (b'"t"', b'"u"', b'"v"'),
    "delete from only t using u": (b'"t"', b'"u"'),
    "merge into t using u on t.k = u.k when matched then delete": (b'"t"', b'"u"'),
    "with c as (select * from u) insert into t select * from c": (b'"c"', b'"t"', b'"u"'),
    "insert into \u00e4 values (1)": ('"\u00e4"'.encode(),),
    'insert into "a\\b" values (1)': UNKNOWN,
    "insert into values": UNKNOWN,
}


@pytest.mark.parametrize("text", TABLES)
def test_the_tables_of_a_text(text: str) -> None:
    """Rather a name too many (a WITH's) than one too few; where one can't be spelt as a literal, none."""
    assert tables(text.encode(), parse) == TABLES[text]


def test_a_text_that_is_no_utf_8() -> None:
    assert tables(b"insert into \xe4 values (1)", parse) == (b'"\xe4"',)


def test_a_character_that_the_bytes_of_the_text_can_not_hold() -> None:
    """In LATIN9, say: the parser reads LATIN1, which has no euro sign."""
    assert tables(b"insert into U&\"\\20ac\" values ('\xff')", parse) == UNKNOWN
