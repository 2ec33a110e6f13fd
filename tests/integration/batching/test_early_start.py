"""The server begins with a batch before all its members are there: nobody can tell, and nothing of it stays."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from tests.integration.batching.conftest import Place
from tests.integration.batching.crowd import Crowd, Reply, crowd
from tests.integration.batching.test_merging import CHANGES as RULES
from tests.integration.batching.test_merging import COUNTS, behind
from tests.integration.metrics import Growth
from tests.integration.test_limits import StartWith
from tests.integration.wire import SYNC, bind, execute, parse, query
from tests.proxies import RunningProxy

MANY, FEW = 40, 6
INSERTED = Reply(tag="INSERT 0 1")
EAGER = "[write_batch]\nearly_start = 2\n"
CHANGES = (
    "ALTER TABLE t ADD c int DEFAULT 5",
    "ALTER TABLE t DROP c",
    "ALTER TABLE t ALTER a TYPE bigint, ALTER b TYPE varchar(50)",
    "ALTER TABLE t ALTER a TYPE int, ALTER b TYPE text",
    "BEGIN; ALTER TABLE t RENAME TO u; CREATE TABLE t (LIKE u); INSERT INTO t SELECT * FROM u; DROP TABLE u; COMMIT",
)
INSERT = "/* batch:300 */ INSERT INTO t (a, b) VALUES ($1, $2)"


@pytest.fixture
def plain(place: Place) -> Place:
    place.make("CREATE TABLE t (a int UNIQUE, b text)")
    return place


@pytest.fixture
def eager(start_with: StartWith) -> RunningProxy:
    return start_with(EAGER)[0]


def rounds(proxy: RunningProxy, first: int, least: int = 1) -> Iterator[int]:
    """The numbers of rounds: so many at least, and then until the server has begun with a batch in one of them."""
    growth = Growth(proxy)
    for number in range(first, first + 500):
        if number >= first + least and growth("write_batch_begun_total"):
            return
        yield number
    raise AssertionError("nothing was begun")


@pytest.fixture
def writers(plain: Place, eager: RunningProxy) -> Iterator[Crowd]:
    with crowd(eager, plain.database, MANY, search_path=plain.here) as them:
        for n in range(2):  # now they are known, and their statements are prepared
            assert them.send(fresh(n)) == [INSERTED] * MANY
        yield them


@pytest.fixture
def few(plain: Place, eager: RunningProxy) -> Iterator[Crowd]:
    with crowd(eager, plain.database, FEW, search_path=plain.here) as them:
        yield them


def write(value: object, text: str = INSERT) -> bytes:
    return parse(text) + bind(str(value), "x") + execute() + SYNC


def fresh(n: int, text: str = INSERT) -> Callable[[int], bytes]:
    """In the round ``n``, a value of its own for everyone."""
    return lambda who: write(n * MANY + who, text)


def count(place: Place) -> tuple[int, int]:
    ((rows, values),) = place.rows(f"SELECT count(*), count(DISTINCT a) FROM {place.here}.t")
    return int(rows or 0), int(values or 0)


def test_nobody_can_tell(plain: Place, eager: RunningProxy, writers: Crowd) -> None:
    growth = Growth(eager)
    for n in rounds(eager, 2, 20):
        assert writers.send(fresh(n)) == [INSERTED] * MANY
    assert growth("write_batch_retries_total") == 0
    assert count(plain) == ((n + 1) * MANY, (n + 1) * MANY)


def test_texts_with_constants(plain: Place, eager: RunningProxy, writers: Crowd) -> None:
    for n in rounds(eager, 2, 20):
        values = range(n * MANY, (n + 1) * MANY)
        texts = [query(f"/* batch:300 */ INSERT INTO t (a, b) VALUES ({value}, 'x')") for value in values]
        assert writers.send(texts.__getitem__) == [INSERTED] * MANY
    assert count(plain) == ((n + 1) * MANY, (n + 1) * MANY)


@pytest.mark.parametrize("bad", [0, MANY // 2, MANY - 1])
def test_one_that_fails(plain: Place, eager: RunningProxy, writers: Crowd, bad: int) -> None:
    """It may be among the first or among the rest; only it hears of it, and nobody's row is there twice."""
    for n in rounds(eager, 2, 10):
        said = writers.send([write(7 if who == bad else n * MANY + who) for who in range(MANY)].__getitem__)
        assert [reply.sqlstate for reply in said] == ["23505" if who == bad else "" for who in range(MANY)]
    written = 2 * MANY + (n - 1) * (MANY - 1)
    assert count(plain) == (written, written)


def test_a_rest_that_does_not_fit(plain: Place, eager: RunningProxy, few: Crowd) -> None:
    """What was begun is taken back, and all is executed in another way."""
    for known in rounds(eager, 0):
        assert few.send(fresh(known)) == [INSERTED] * FEW
    apart = INSERT.replace("batch:300", "batch:300 merge:off")
    for n in rounds(eager, known + 1):
        said = [write(n * MANY + who, apart if who == FEW - 1 else INSERT) for who in range(FEW)]
        assert few.send(said.__getitem__) == [INSERTED] * FEW
    assert count(plain) == ((n + 1) * FEW, (n + 1) * FEW)


def test_tables_that_change_meanwhile(plain: Place, eager: RunningProxy, writers: Crowd) -> None:
    growth = Growth(eager)
    changes, n = 0, 2
    while changes < 3 or growth("write_batch_begun_total") < 2:
        assert changes < 50, "nothing was begun"
        changes += 1
        for ddl in CHANGES:
            n = change_meanwhile(plain, writers, ddl, n)
    assert count(plain) == (n * MANY, n * MANY)


def change_meanwhile(plain: Place, writers: Crowd, ddl: str, n: int) -> int:
    """Change the table while they write in the round ``n`` and some more; the next round."""
    change = threading.Thread(target=plain.directly, args=(plain.here, ddl))
    for number in range(6):
        if number == 3:
            change.start()
        assert {reply.sqlstate for reply in writers.send(fresh(n + number))} == {""}
    change.join()
    return n + 6


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_that_is_committed_while_the_first_ones_wait_for_it(
    plain: Place, eager: RunningProxy, few: Crowd, rule: str
) -> None:
    """It holds for all of them, and so none of them is merged."""
    ddl, said = RULES[rule]
    plain.make("CREATE TABLE log (said text)", COUNTS)
    growth, n = Growth(eager), 0
    while not growth("write_batch_begun_total"):
        assert n < 500, "nothing was begun"
        text = INSERT.replace("(a, b)", f"AS t{n} (a, b)")  # as if it had never been refused
        for known in rounds(eager, n):
            assert few.send(fresh(known, text)) == [INSERTED] * FEW
        n = known + 1
        growth = Growth(eager)
        with behind(plain, "TRUNCATE log", ddl):
            assert few.send(fresh(n, text)) == [INSERTED] * FEW
        n += 1
        assert plain.rows("SELECT said, count(*) FROM log GROUP BY said") == ((said.encode(), b"%d" % FEW),)
        plain.directly(plain.here, "DROP TRIGGER x ON t" if "TRIGGER" in ddl else "DROP RULE r ON t")
    assert count(plain) == (n * FEW, n * FEW)
