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


def until_begun(them: Crowd, proxy: RunningProxy, n: int, text: str = INSERT) -> int:
    """Let them write, from the round ``n`` on, until the server has begun with a batch of theirs; the next round."""
    growth = Growth(proxy)
    for number in range(n, n + 100):
        assert {reply.sqlstate for reply in them.send(fresh(number, text))} == {""}
        if growth("write_batch_begun_total"):
            return number + 1
    raise AssertionError("nothing was begun")


@pytest.fixture
def writers(plain: Place, eager: RunningProxy) -> Iterator[Crowd]:
    with crowd(eager.port, plain.database, MANY, search_path=plain.here) as them:
        for n in range(2):  # now they are known, and their statements are prepared
            assert them.send(fresh(n)) == [INSERTED] * MANY
        yield them


@pytest.fixture
def few(plain: Place, eager: RunningProxy) -> Iterator[Crowd]:
    """Few enough to be all there within a millisecond, however slow the machine is."""
    with crowd(eager.port, plain.database, FEW, search_path=plain.here) as them:
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
    for n in range(2, 22):
        assert writers.send(fresh(n)) == [INSERTED] * MANY
    assert growth("write_batch_begun_total") > 0
    assert growth("write_batch_retries_total") == 0
    assert count(plain) == (22 * MANY, 22 * MANY)


def test_texts_with_constants(plain: Place, eager: RunningProxy, writers: Crowd) -> None:
    growth = Growth(eager)
    for n in range(2, 22):
        values = range(n * MANY, (n + 1) * MANY)
        texts = [query(f"/* batch:300 */ INSERT INTO t (a, b) VALUES ({value}, 'x')") for value in values]
        assert writers.send(texts.__getitem__) == [INSERTED] * MANY
    assert growth("write_batch_begun_total") > 0
    assert count(plain) == (22 * MANY, 22 * MANY)


@pytest.mark.parametrize("bad", [0, MANY // 2, MANY - 1])
def test_one_that_fails(plain: Place, eager: RunningProxy, writers: Crowd, bad: int) -> None:
    """It may be among the first or among the rest; only it hears of it, and nobody's row is there twice."""
    growth = Growth(eager)
    for n in range(2, 12):
        said = writers.send([write(7 if who == bad else n * MANY + who) for who in range(MANY)].__getitem__)
        assert [reply.sqlstate for reply in said] == ["23505" if who == bad else "" for who in range(MANY)]
    assert growth("write_batch_begun_total") > 0
    assert count(plain) == (12 * MANY - 10, 12 * MANY - 10)


def test_a_rest_that_does_not_fit(plain: Place, eager: RunningProxy, few: Crowd) -> None:
    """What was begun is taken back, and all is executed in another way."""
    n = until_begun(few, eager, 0)
    growth = Growth(eager)
    apart = INSERT.replace("batch:300", "batch:300 merge:off")
    while not growth("write_batch_begun_total"):
        assert n < 200, "nothing was begun"
        said = [write(n * MANY + who, apart if who == FEW - 1 else INSERT) for who in range(FEW)]
        assert few.send(said.__getitem__) == [INSERTED] * FEW
        n += 1
    assert count(plain) == (n * FEW, n * FEW)


def test_tables_that_change_meanwhile(plain: Place, eager: RunningProxy, writers: Crowd) -> None:
    growth = Growth(eager)
    n = 2
    for ddl in CHANGES * 3:
        change = threading.Thread(target=plain.directly, args=(plain.here, ddl))
        for rounds in range(6):
            if rounds == 3:
                change.start()
            said = writers.send(fresh(n))
            assert {reply.sqlstate for reply in said} == {""}
            n += 1
        change.join()
    assert growth("write_batch_begun_total") > 1
    assert count(plain) == (n * MANY, n * MANY)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_that_is_committed_while_the_first_ones_wait_for_it(
    plain: Place, eager: RunningProxy, few: Crowd, rule: str
) -> None:
    """It holds for all of them, and so none of them is merged."""
    ddl, said = RULES[rule]
    plain.make("CREATE TABLE log (said text)", COUNTS)
    growth, n = Growth(eager), 0
    while not growth("write_batch_begun_total"):
        assert n < 1000, "nothing was begun"
        text = INSERT.replace("(a, b)", f"AS t{n} (a, b)")  # as if it had never been refused
        n = until_begun(few, eager, n, text)
        growth = Growth(eager)
        with behind(plain, "TRUNCATE log", ddl):
            assert few.send(fresh(n, text)) == [INSERTED] * FEW
        n += 1
        assert plain.rows("SELECT said, count(*) FROM log GROUP BY said") == ((said.encode(), b"%d" % FEW),)
        plain.directly(plain.here, "DROP TRIGGER x ON t" if "TRIGGER" in ddl else "DROP RULE r ON t")
    assert count(plain) == (n * FEW, n * FEW)
