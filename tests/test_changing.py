"""What prepared statements may change: never less than what the one that a Bind means does change."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tqdbproxy.postgres.clients.changing import MAX_TAGS, Changing

NAMES = [b"", b"a", b"b"]
TAGS = [(), ("table:x",), ("table:y",), ("table:y", "table:?.y"), ("*",)]

parses = st.tuples(st.just("parse"), st.sampled_from(NAMES), st.sampled_from(TAGS))
closes = st.tuples(st.just("close"), st.sampled_from([*NAMES, None]), st.just(()))
binds = st.tuples(st.just("bind"), st.sampled_from(NAMES), st.just(()))
queries = st.tuples(st.just("query"), st.just(b""), st.just(()))
units = st.lists(st.one_of(parses, parses, closes, binds, queries), min_size=1, max_size=5)
fails_at = st.one_of(st.none(), st.integers(0, 5))


@given(st.lists(st.tuples(units, fails_at, st.integers(0, 3)), max_size=12))
def test_a_bind_purges_what_it_changes(
    session: list[tuple[list[tuple[str, bytes | None, tuple[str, ...]]], int | None, int]],
) -> None:
    """The model is a server: what comes after an error is skipped, and what came before it stays."""
    changing = Changing()
    there: dict[bytes, tuple[str, ...]] = {}
    over: list[tuple[int, bool]] = []
    for number, (unit, failing, lag) in enumerate(session, 1):
        failed = False
        for place, (what, name, tags) in enumerate(unit):
            if what == "parse":
                assert name is not None
                changing.parsed(number, name, tags)
            elif what == "close":
                changing.closed(number, name)
            elif what == "query":
                changing.unnamed_gone()
                there.pop(b"", None)
                continue
            failed = failed or place == failing
            if failed:
                continue
            if what == "parse" and name is not None:
                if name and name in there:
                    failed = True  # it exists already
                else:
                    there[name] = tags
            elif what == "close" and name is not None:
                there.pop(name, None)
            elif what == "close":
                there.clear()
            elif what == "bind" and name in there:
                assert name is not None
                known = changing.tags(name)
                assert "*" in known or set(there[name]) <= set(known)
        over.append((number, failed))
        while len(over) > lag:
            changing.unit_done(*over.pop(0))


def test_a_closed_one_changes_nothing() -> None:
    changing = Changing()
    changing.parsed(1, b"a", ("x",))
    changing.unit_done(1, failed=False)
    changing.closed(2, b"a")
    assert changing.tags(b"a") == ("x",), "that isn't sure yet"
    changing.unit_done(2, failed=False)
    assert (changing.tags(b"a"), changing.known, changing.plans) == ((), {}, [])


def test_the_same_again_costs_nothing() -> None:
    changing = Changing()
    for number in range(3):
        changing.parsed(number, b"", ("x",))
        assert not changing.plans


def test_names_that_may_mean_anything() -> None:
    changing = Changing()
    for number in range(MAX_TAGS + 1):
        changing.parsed(number, b"", (f"table:{number}",))
        changing.unit_done(number, failed=True)
    assert changing.tags(b"") == ("*",)
