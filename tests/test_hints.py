"""Hints: what the inside of a comment says."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tqdbproxy.core.hints import MAX_LABEL, Hints, collect, pairs


def read(*comments: str, max_batch_ms: float = 1000.0) -> Hints | None:
    return collect([pair for comment in comments for pair in pairs(comment)], max_batch_ms)


@pytest.mark.parametrize(
    ("comment", "hints"),
    [
        (" batch:10 ", Hints(batch_ms=10.0)),
        ("batch:10", Hints(batch_ms=10.0)),
        ("batch=10", Hints(batch_ms=10.0)),
        ("batch='10'", Hints(batch_ms=10.0)),
        ("batch: 10", Hints(batch_ms=10.0)),
        ("BATCH:10", Hints(batch_ms=10.0)),
        ("batch:0", Hints(batch_ms=0.0)),
        ("batch:2.5", Hints(batch_ms=2.5)),
        (" batch:10 file:x line:1 ", Hints(batch_ms=10.0, file="x", line="1")),
        ("line:1,file:x,batch:10", Hints(batch_ms=10.0, file="x", line="1")),
        ("file:x.rb:12:in line:1", Hints(file="x.rb:12:in", line="1")),
        ("file: line:3", Hints(line="3")),
        ("key:orders merge:off batch:5", Hints(batch_ms=5.0, key="orders", merge=False)),
        ("merge:on", Hints()),
        ("ttl:1.5 tags:a+b", Hints(ttl_s=1.5, tags=("a", "b"))),
        ("purge:a+b++c", Hints(purge=("a", "b", "c"))),
        ("tags='a%2Bb'", Hints(tags=("a", "b"))),
        ("key='it%27s%20mine'", Hints(key="it's mine")),
        (r"key='it\'s'", Hints(key="it's")),
        ("please batch:10 this", Hints(batch_ms=10.0)),
        # sqlcommenter, marginalia
        ("action='%2Fpolls',controller='index',framework='django%3A4',route='%5Epolls%2F'", Hints(file="^polls/")),
        ("application:Shop,controller:orders,action:create", Hints(file="orders")),
        ("application:Shop,controller:orders,line:/app/x.rb:12:in `y'", Hints(file="orders", line="/app/x.rb:12:in")),
        ("route='x',file='y'", Hints(file="y")),
        # unreadable values
        ("batch:-1", Hints(errors=("batch",))),
        ("batch:", Hints(errors=("batch",))),
        ("batch:10ms file:x", Hints(file="x", errors=("batch",))),
        ("batch:nan ttl:inf", Hints(errors=("batch", "ttl"))),
        ("batch:1e3", Hints(errors=("batch",))),
        ("batch:\u0661", Hints(errors=("batch",))),
        ("key:", Hints(errors=("key",))),
        ("tags:+ merge:maybe", Hints(errors=("tags", "merge"))),
        ("batch:x batch:7", Hints(batch_ms=7.0, errors=("batch",))),
    ],
)
def test_a_comment_is_read(comment: str, hints: Hints) -> None:
    assert read(comment) == hints


@pytest.mark.parametrize(
    "comment", ["", " ", "hello", "batch", "rebatch:10", "batch 10", "a:b,c:d", "traceparent='00-x'"]
)
def test_a_comment_without_a_known_key_is_no_hint(comment: str) -> None:
    assert read(comment) is None


def test_the_first_readable_value_counts() -> None:
    assert read("batch:1 key:a", "batch:2 key:b line:3") == Hints(batch_ms=1.0, key="a", line="3")


def test_long_windows_are_cut() -> None:
    assert read("batch:5000", max_batch_ms=250.0) == Hints(batch_ms=250.0)
    assert read("batch:" + "9" * 400) == Hints(batch_ms=1000.0)


def test_labels_are_cut() -> None:
    hints = read("file:" + "x" * 1000)
    assert hints is not None
    assert len(hints.file) == MAX_LABEL


def test_what_asks() -> None:
    assert [read(comment).asks for comment in ("batch:0", "ttl:1", "purge:a")] == [True] * 3  # type: ignore[union-attr]
    assert not [c for c in ("file:x", "key:a", "tags:a", "batch:x") if read(c).asks]  # type: ignore[union-attr]


names = st.text(min_size=1, max_size=30).filter(lambda name: not name.isspace())


@given(
    batch=st.integers(0, 1000),
    key=names,
    tags=st.lists(names.map(lambda name: name.replace("+", "-")), min_size=1, max_size=4),
    order=st.permutations(["batch", "key", "tags"]),
    separator=st.sampled_from([" ", ",", ", ", "\n"]),
)
def test_round_trip(batch: int, key: str, tags: list[str], order: list[str], separator: str) -> None:
    values = {"batch": f"batch:{batch}", "key": f"key='{quote(key)}'", "tags": f"tags='{quote('+'.join(tags))}'"}
    assert read(separator.join(values[name] for name in order)) == Hints(
        batch_ms=float(batch), key=key, tags=tuple(tags)
    )


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("batchkeyttlfile:='\\,+% 0123456789"))))
def test_nothing_raises(comment: str) -> None:
    hints = read(comment)
    assert hints is None or hints.batch_ms is None or 0 <= hints.batch_ms <= 1000
