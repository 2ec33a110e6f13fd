"""What a session has changed about itself: who is alike, and who can't be known."""

from __future__ import annotations

import pytest

from tests import builders as m
from tqdbproxy.postgres.clients.history import History, Identities
from tqdbproxy.postgres.messages import StartupMessage
from tqdbproxy.postgres.sql import Effect, Texts


class Sessions:
    """Histories that share their identities, as all sessions of a proxy do."""

    def __init__(self) -> None:
        self.identities = Identities()
        self._texts = Texts()

    def new(self, group: str = "main", /, **options: str) -> History:
        return History(self.identities, group, StartupMessage.parse(m.startup(**{"user": "u", **options})))

    def look(self, text: str) -> Effect:
        return self._texts.look(text.encode()).effect

    def says(self, history: History, *texts: str, idle: bool = True, fails: bool = False) -> History:
        for text in texts:
            effect = history.sent(self.look(text), alone_and_idle=idle)
            if effect is not None:
                (history.failed if fails else history.took)(effect)
        return history


@pytest.fixture
def sessions() -> Sessions:
    return Sessions()


def test_equal_sessions_have_one_identity(sessions: Sessions) -> None:
    assert sessions.new(database="d", a="1", b="2").identity is sessions.new(b="2", a="1", database="d").identity
    assert sessions.new().identity is sessions.new(database="u").identity
    assert sessions.new(application_name="x").identity is sessions.new().identity


@pytest.mark.parametrize(
    "options", [{"user": "v", "database": "u"}, {"database": "d"}, {"options": "-c a=b"}, {"client_encoding": "latin1"}]
)
def test_other_users_databases_and_options_are_others(sessions: Sessions, options: dict[str, str]) -> None:
    assert sessions.new(**options).identity is not sessions.new().identity


def test_other_server_groups_are_others(sessions: Sessions) -> None:
    assert sessions.new("other").identity is not sessions.new().identity


def test_what_the_server_reports_counts(sessions: Sessions) -> None:
    one, other = sessions.new(), sessions.new()
    one.reported(b"TimeZone", b"UTC")
    assert one.identity is not other.identity
    other.reported(b"TimeZone", b"UTC")
    one.reported(b"application_name", b"x")
    assert one.identity is other.identity
    one.reported(b"TimeZone", b"CET")
    assert one.identity is not other.identity


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["SET a.b = 1"], ["set A.B to 1"]),
        (["SET a.b = 1", "SET c.d = 2"], ["SET c.d = 2", "SET a.b = 1"]),
        (["SET a.b = 1", "SET a.b = 2"], ["SET a.b = 2"]),
        (["SET a = 1", "RESET a"], []),
        (["SET a = 1", "SET a TO DEFAULT"], []),
        (["SET a = 1", "SET c = 2", "RESET ALL"], []),
        (["SET a = 1", "DISCARD ALL"], []),
        (["SELECT set_config('a', 'c', false)", "DISCARD ALL"], []),
        (["SELECT set_config('a.b', 'c', false), 1", "DISCARD ALL"], ["SET LOCAL a.b = 1"]),
        (["SET a.b = 1; SELECT 1", "DISCARD ALL"], ["RESET a.b"]),
        (["DO 'x'", "DISCARD ALL"], ["CALL x()", "DISCARD ALL"]),
        (["SELECT set_config($1, $2, true)"], ["DO 'x'", "DISCARD ALL"]),
        (["SET a.b = 1", "RESET a.b"], ["SET a.b = 2", "SET a.b TO DEFAULT"]),
        (["SET a.b = 1", "RESET ALL"], ["SET LOCAL a.b = 2"]),
        (["SET a.b = 1", "DISCARD ALL"], ["SELECT set_config('a.b', 'c', true)"]),
        (["BEGIN; SET LOCAL a.b = 1; COMMIT"], ["RESET a.b"]),
        (["SET application_name = x"], []),
        (["SELECT 1", "LISTEN x"], []),
    ],
)
def test_the_same_sets_make_alike(sessions: Sessions, one: list[str], other: list[str]) -> None:
    assert sessions.says(sessions.new(), *one).identity is sessions.says(sessions.new(), *other).identity is not None


@pytest.mark.parametrize("says", [["SET a.b = 1", "RESET ALL"], ["SET a.b = 1", "RESET a.b"], ["SET LOCAL a.b = 1"]])
def test_a_setting_of_the_users_own_stays(sessions: Sessions, says: list[str]) -> None:
    """Empty, where it wasn't there: ``current_setting('a.b', true)`` isn't NULL any more."""
    history = sessions.says(sessions.new(), *says)
    assert history.identity not in (None, sessions.new().identity)
    other = sessions.says(sessions.new(), "SET c.d = 1", "RESET ALL")
    assert history.identity is not other.identity


@pytest.mark.parametrize("text", ["SET a.b = 1", "SET a.b = 2"])
def test_another_set_makes_unlike(sessions: Sessions, text: str) -> None:
    other = sessions.says(sessions.new(), "SET a.b = 3")
    assert sessions.says(sessions.new(), text).identity not in (other.identity, sessions.new().identity)


def test_a_set_counts_when_it_has_succeeded(sessions: Sessions) -> None:
    assert sessions.says(sessions.new(), "SET a.b = 1", fails=True).identity is sessions.new().identity


@pytest.mark.parametrize("text", ["SET a = 1", "RESET a", "RESET ALL"])
def test_in_a_transaction_or_a_pipeline_it_can_not_be_known(sessions: Sessions, text: str) -> None:
    history = sessions.says(sessions.new(), text, idle=False)
    assert history.identity is None
    assert sessions.says(history, "RESET a").identity is None
    assert sessions.says(history, "RESET ALL").identity is sessions.new().identity


@pytest.mark.parametrize(
    "text", ["SET ROLE x", "CREATE TEMP TABLE x (a int)", "SELECT pg_advisory_lock(1)", "PREPARE x AS SELECT 1"]
)
@pytest.mark.parametrize("idle", [True, False])
def test_what_can_not_be_known_ends_with_discard_all(sessions: Sessions, text: str, idle: bool) -> None:
    history = sessions.says(sessions.new(), text, idle=idle)
    assert sessions.says(history, "RESET ALL").identity is None
    assert sessions.says(history, "DISCARD ALL", fails=True).identity is None
    assert sessions.says(history, "DISCARD ALL").identity is sessions.new().identity


@pytest.mark.parametrize("text", ["DO 'x'", "SET what is this", "EXECUTE x", "UPDATE pg_settings SET setting = 1"])
def test_what_is_hidden_may_have_left_any_setting_behind(sessions: Sessions, text: str) -> None:
    history = sessions.says(sessions.new(), text, "DISCARD ALL")
    assert history.identity not in (None, sessions.new().identity)
    history = sessions.new()
    history.unknowable()
    assert history.identity is None
    assert sessions.says(history, "DISCARD ALL").identity not in (None, sessions.new().identity)


@pytest.mark.parametrize(
    "text",
    [
        "SET LOCAL a.b = 1",
        "SELECT 1/0; SET LOCAL a.b = 1",
        "SELECT set_config('a.b', 'c', true)",
        "SET a.b = 1; SELECT 1/0",
    ],
)
def test_it_is_not_known_what_of_a_unit_that_failed_was_executed(sessions: Sessions, text: str) -> None:
    one, other = (sessions.says(sessions.new(), text, fails=True) for _ in range(2))
    for history in (one, other):
        sessions.says(history, "DISCARD ALL")
    certain = sessions.says(sessions.new(), "SET LOCAL a.b = 2")
    assert one.identity is other.identity
    assert one.identity not in (None, sessions.new().identity, certain.identity)


@pytest.mark.parametrize(
    "text",
    ["SELECT set_config('a.b', 'c', true) WHERE false", "EXPLAIN SELECT set_config('a.b', 'c', false)"],
)
def test_success_does_not_tell_what_was_called(sessions: Sessions, text: str) -> None:
    one, other = (sessions.says(sessions.new(), text, "DISCARD ALL") for _ in range(2))
    certain = sessions.says(sessions.new(), "SET LOCAL a.b = 1")
    assert one.identity is other.identity
    assert one.identity not in (None, sessions.new().identity, certain.identity)


def test_what_was_set_before_can_not_be_touched(sessions: Sessions) -> None:
    history = sessions.says(sessions.new(), "SET a.b = 1")
    before = history.identity
    assert sessions.says(history, "SELECT set_config('a.b', 'c', true) FROM t", fails=True).identity is before


@pytest.mark.parametrize("fails", [False, True])
def test_while_a_setting_is_on_its_way_there_is_a_prospect(sessions: Sessions, fails: bool) -> None:
    history, effects = sessions.new(), []
    for text in ("SET LOCAL a.b = 1", "SET LOCAL a.b = 2", "SET LOCAL c.d = 1"):
        effects.append(history.sent(sessions.look(text), alone_and_idle=False))
        history.settings_known = True  # as after the transaction's RESET ALL
        assert history.identity is None
    certain = sessions.says(sessions.new(), "SELECT set_config('a.b', '', true), set_config('c.d', '', true)")
    prospect = history.prospect
    assert prospect is certain.identity
    for effect in effects:
        assert effect is not None
        (history.failed if fails else history.took)(effect)
    assert history.identity is history.prospect
    assert (history.identity is prospect) is not fails


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([("a.b", "1"), ("a.b", "2")], [("a.b", "2"), ("a.b", "1")], False),
        ([("A.b", "1"), ("a.B", "2")], [("a.b", "2"), ("A.B", "1")], False),
        ([("a.b", "1"), ("A.B", "2")], [("a.b", "2")], True),
        ([("options", "-c a=1"), ("options", "-c a=2")], [("options", "-c a=2")], True),
        ([("a.\u212a", "1")], [("a.k", "1")], False),
    ],
)
def test_the_last_of_equal_options_counts(
    sessions: Sessions, one: list[tuple[str, str]], other: list[tuple[str, str]], same: bool
) -> None:
    identities = []
    for pairs in (one, other):
        options = ((b"user", b"u"), *((name.encode(), value.encode()) for name, value in pairs))
        identities.append(History(sessions.identities, "main", StartupMessage(0, options, b"")).identity)
    assert (identities[0] is identities[1]) == same


def test_an_identity_lasts_as_long_as_somebody_has_it(sessions: Sessions) -> None:
    history = sessions.new()
    kept = history.identity
    for number in range(5):
        sessions.says(history, f"SET a.b = {number}")
        assert history.identity not in (None, kept)
    assert len(sessions.identities._known) == 2
    sessions.says(history, "SET a.b = 0")
    other = sessions.says(sessions.new(), "SET a.b = 0")
    assert other.identity is history.identity
    assert sessions.new().identity is kept
    del kept
    assert len(sessions.identities._known) == 1
