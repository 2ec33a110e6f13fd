"""The documentation says what is: its examples work, its names exist, and what there is to know is in it.

Links between the pages are checked by ``make docs``, where warnings are errors.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
import sys
import textwrap
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docutils.core
import psycopg
import pytest

from tests.proxies import RunningProxy
from tqdbproxy import config
from tqdbproxy.core.hints import CALLERS, Hints
from tqdbproxy.core.routing import Batched, Rules, choose
from tqdbproxy.core.statement import Reason, Strategy
from tqdbproxy.core.writebatch.writer import BatchWriter, WriterMetrics
from tqdbproxy.postgres.clients.status import Status
from tqdbproxy.postgres.servers.statements import PREFIX
from tqdbproxy.postgres.sql import Text, Texts

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.rst"), ROOT / "README.rst", ROOT / "CONTRIBUTING.rst"])
TEXTS = [path.read_text() for path in PAGES]
KEYS = config.keys()
BLOCK = re.compile(
    r"^(?P<indent> *)\.\. code-block:: (?P<language>\w+)\n\n(?P<body>(?:(?P=indent)    .*\n|\s*\n)+)", re.M
)
#: Files that an example names needn't exist here.
FILES = re.compile(r"^ *(?:tls_cert|tls_key|sslrootcert) *=.*$", re.M)


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """The code blocks in a language, with the name of their page."""
    for path, text in zip(PAGES, TEXTS, strict=True):
        for match in BLOCK.finditer(text + "\n"):
            if match["language"] == language:
                yield path.stem, textwrap.dedent(match["body"]).strip()


def page(name: str) -> str:
    return (DOCS / name).read_text()


def everywhere(pattern: str) -> set[str]:
    """All that a pattern finds in the documentation, in the configuration's comments and in the news."""
    others = [*(ROOT / "etc").glob("*.ini"), *(ROOT / "newsfragments").glob("*.rst")]
    texts = [*TEXTS, *(path.read_text() for path in others)]
    return {found for text in texts for found in re.findall(pattern, text)}


@pytest.fixture(scope="session")
def reference() -> Iterator[Any]:
    """The Sphinx extension that makes the tables."""
    pytest.importorskip("sphinx")
    sys.path.insert(0, str(DOCS / "_extensions"))
    yield importlib.import_module("reference")
    sys.path.remove(str(DOCS / "_extensions"))


# -- examples


def test_there_are_examples() -> None:
    found = {language: len(list(blocks(language))) for language in ("ini", "sql", "python")}
    assert all(count > 0 for count in found.values()), found


@pytest.mark.parametrize(("name", "text"), [*blocks("ini")])
def test_configurations_can_be_used(tmp_path: Path, name: str, text: str) -> None:
    text = FILES.sub("", text)
    if re.search(r"^ *tls *= *(?:allow|require)", text, re.M):
        text = re.sub(r"^ *tls *=.*$", "", text, flags=re.M)
    if not re.search(r"^\[postgres\.", text, re.M):
        text += "\n[postgres.main]\nprimary = 127.0.0.1:5432\n"
    file = tmp_path / "x.ini"
    file.write_text(text)
    config.load(str(file), {})


@pytest.mark.parametrize(("name", "text"), [*blocks("python")])
def test_python_can_be_compiled(name: str, text: str) -> None:
    compile(text, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


CLAIMS = [
    (name, line.partition("-- ")[0].strip(), line.partition("-- ")[2].strip())
    for name, text in blocks("sql")
    for line in text.splitlines()
    if "-- " in line
]


#: A session on which nothing is in a statement's way.
ELSE = {"in_transaction": False, "alone": True, "known": True}


def told(text: Text) -> str:
    """What the pages say behind the ``--`` of a statement with a comment."""
    hints = text.hints
    if hints is None:
        return "no hint"
    if hints.errors:
        return f"can't be read: {', '.join(hints.errors)}"
    route = choose(hints, text.is_write, text.reason, 0, Rules(), **ELSE, not_kept=text.read_reason)
    if text.reason is not None and not isinstance(route, Batched):
        return text.reason.value
    said = [f"batch {hints.batch_ms:g}"] if hints.batch_ms is not None else []
    said += [f"{name} {getattr(hints, name)}" for name in ("key", "file", "line") if getattr(hints, name)]
    return ", ".join(said + ["merge off"] * (not hints.merge))


@pytest.mark.parametrize(("name", "sql", "claim"), [claim for claim in CLAIMS if "/*" in claim[1]])
def test_hints_are_read_as_the_pages_say(name: str, sql: str, claim: str) -> None:
    if not re.match(r"may |waits? ", claim):  # plain words
        assert told(Texts().look(sql.encode())) == claim


@pytest.mark.parametrize(("name", "sql", "claim"), [claim for claim in CLAIMS if "/*" not in claim[1]])
def test_constants_are_lifted_as_the_pages_say(name: str, sql: str, claim: str) -> None:
    lifted = Texts().look(f"/* batch:1 */ {sql}".encode()).lifted
    assert lifted is not None
    assert lifted.template.decode() == claim


def test_claims_are_found() -> None:
    assert len(CLAIMS) > 20


def test_the_library_does_as_its_page_says() -> None:
    failed, tried = doctest.testfile(str(DOCS / "batchwriter.rst"), module_relative=False)
    assert tried > 10
    assert failed == 0


# -- names


def test_metrics_exist(reference: Any) -> None:
    known = {metric.name for metric in reference.metrics()}
    # A histogram's own lines, the benchmark's table, our package's folders, a channel of NOTIFY.
    mentioned = {re.sub(r"_(?:bucket|sum|count)$", "", name) for name in everywhere(r"\btqdbproxy_[a-z_]+")}
    assert mentioned - known <= {"tqdbproxy_bench", "tqdbproxy_plugin", "tqdbproxy_purge"}


def test_the_reference_has_what_a_running_proxy_shows(reference: Any, proxy: RunningProxy) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{proxy.metrics_port}/metrics", timeout=60) as reply:
        lines = reply.read().decode().splitlines()
    shown = {tuple(line.split()[2:4]) for line in lines if line.startswith("# TYPE ")}
    assert {(metric.name, metric.kind) for metric in reference.metrics()} == shown


def test_keys_of_the_configuration_exist() -> None:
    known = {(key.section, key.name) for key in KEYS}
    mentioned = {tuple(found) for found in everywhere(r"``\[([\w.]+)\] (\w+)(?: = \w+)?``")}
    assert mentioned <= known
    assert mentioned


def test_sqlstates_exist() -> None:
    mentioned = {code for text in TEXTS for code in re.findall(r"(?<![-\w])(?:[0-9][0-9A-Z]|XX)[0-9A-Z]{3}\b", text)}
    for code in mentioned:
        assert psycopg.errors.lookup(code), code
    assert mentioned >= {"08007", "57P01"}


def test_modules_exist() -> None:
    for found in everywhere(r"``((?:tqdbproxy|core|postgres|clients|servers|tests|benchmarks)/[\w/.]+)``"):
        places = [ROOT, ROOT / "tqdbproxy", ROOT / "tqdbproxy" / "postgres"]
        assert any((place / found).exists() or (place / f"{found}.py").exists() for place in places), found


def test_decisions_that_the_code_names_exist() -> None:
    sources = [path.read_text() for path in (ROOT / "tqdbproxy").rglob("*.py")]
    for name in {name for source in sources for name in re.findall(r"docs/(decisions/\w+\.rst)", source)}:
        assert (DOCS / name).exists(), name


# -- what must be in it


def test_every_reason_has_its_remedy() -> None:
    writes = set(re.findall(r"^``(\w+)``$", page("batching.rst"), re.M))
    reads = {
        name
        for terms in re.findall(r"^(``\w+``(?:, ``\w+``)*)$", page("caching.rst"), re.M)
        for name in re.findall(r"\w+", terms)
    }
    assert writes == {reason.value for reason in Reason} - {"not_a_read"}
    assert reads == {reason.value for reason in Reason} - {"not_a_write", "no_capacity", "no_connection"}


def test_every_hint_is_explained() -> None:
    table = page("hints.rst").partition("The rules:")[0]
    fields = {*Hints.__dataclass_fields__, *CALLERS} - {"errors", "batch_ms", "ttl_s"} | {"batch", "ttl"}
    assert {name for name in fields if f"``{name}``" not in table} == set()


def test_every_line_of_the_view_is_explained() -> None:
    text = page("status_view.rst")
    assert all(f"``{name}``" in text for name, _value in Status("main").rows())
    assert all(f"``{strategy.value}``" in text for strategy in Strategy)


def test_the_library_is_described() -> None:
    text = page("batchwriter.rst")
    names = {name for name in vars(BatchWriter) if not name.startswith("_")}
    fields = {*WriterMetrics.__dataclass_fields__, "average_flush_time"}
    assert {name for name in names | fields if f"``{name}" not in text} == set()
    signature = [*inspect.signature(BatchWriter).parameters]
    assert re.findall(r"^``BatchWriter\((.*)\)``$", text, re.M)[0].replace("=100_000", "").split(", ") == signature


def test_the_prefix_of_our_statements_is_told() -> None:
    assert all(PREFIX.decode() in page(name) for name in ("how_it_works.rst", "protocol.rst"))


def test_the_tables_are_made_of_something(reference: Any) -> None:
    assert len(reference.metrics()) > 15
    assert {"tqdbproxy_clients", "tqdbproxy_query_total"} <= {metric.name for metric in reference.metrics()}
    assert "08007" in {code for code, _meaning in reference.sqlstates()}
    assert "[postgres] listen" in reference.restart_keys()
    for folder, found in reference.modules().items():
        assert found, folder
        assert all(purpose for _name, purpose in found), folder


OTHER_PAGES = ("README.rst", "CONTRIBUTING.rst", "benchmarks/README.rst", "tests/external/README.rst")


@pytest.mark.parametrize("name", OTHER_PAGES)
def test_what_sphinx_does_not_read_is_well_formed(name: str) -> None:
    """Warnings are errors."""
    docutils.core.publish_doctree((ROOT / name).read_text(), settings_overrides={"halt_level": 2})
