"""Directives for what the code knows best, so that it can't go stale: metrics, SQLSTATEs, modules and their like.

The law of this module: it reads registries, tables and docstrings, and imports nothing that starts something (the
reactor); what ``service.py`` shows is read from its source.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from docutils.nodes import Node
from prometheus_client import CollectorRegistry
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

import tqdbproxy
from tqdbproxy import errors
from tqdbproxy.core.caching import Counts
from tqdbproxy.core.metrics import Metrics
from tqdbproxy.core.metrics.families import FamilyMetric
from tqdbproxy.core.statement import Kind, Reason
from tqdbproxy.postgres.clients.replies import SQLSTATES

PACKAGE = Path(tqdbproxy.__file__).parent


class MetricFacts(NamedTuple):
    """One metric as the reference shows it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    documentation: str


def metrics() -> list[MetricFacts]:
    """All metrics of a running proxy, by name."""
    return sorted([*_counted(), *_shown_by_the_service()])


def _counted() -> Iterator[MetricFacts]:
    registry = CollectorRegistry()
    Metrics(registry)
    for metric in registry.collect():
        assert isinstance(metric, FamilyMetric)
        family = metric.family
        yield MetricFacts(family.name, family.type, family.labels, family.documentation)


def _shown_by_the_service() -> Iterator[MetricFacts]:
    """What is passed to ``Metrics.gauge`` and ``Metrics.counter`` anywhere in the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and len(node.args) >= 3:
                name, documentation = _text(node.args[0]), _text(node.args[1])
                if node.func.attr in ("gauge", "counter") and name.startswith(("tqdbproxy_", "process_")):
                    yield MetricFacts(name, node.func.attr, _labels(node, tree), documentation)


def _text(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _labels(call: ast.Call, module: ast.Module) -> tuple[str, ...]:
    """The labels that a metric is shown with: written in the call, or assigned to a name in the same module."""
    given = [keyword.value for keyword in call.keywords if keyword.arg == "labels"] or call.args[3:4]
    if given and isinstance(given[0], ast.Name):
        name = given[0].id
        given = [
            node.value
            for node in ast.walk(module)
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets)
        ]
    return tuple(ast.literal_eval(given[0])) if given else ()


def label_values() -> dict[str, tuple[str, ...]]:
    """The values of labels that are known beforehand, by label or, where a label means several things, by metric."""
    book = Metrics(CollectorRegistry())
    return {
        "query_type": tuple(kind.value for kind in Kind),
        "cached": ("false", "true"),
        "reason of tqdbproxy_write_excluded_total": tuple(reason.value for reason in Reason),
        "reason of tqdbproxy_write_batch_closed_total": tuple(book.batch_closed),
        "method": tuple(book.batch_methods),
        "way": tuple(book.batch_retries),
        "direction": tuple(book.delay_adjustments),
        "result": tuple(Counts().verified),
    }


def sqlstates() -> list[tuple[str, str]]:
    """SQLSTATE and meaning of each error of the proxy's own."""
    return sorted((code, _meaning(cls)) for cls, code in SQLSTATES.items())


def _meaning(cls: type[errors.ProxyError]) -> str:
    return " ".join((cls.__doc__ or "").split())


def restart_keys() -> list[str]:
    """What of the configuration takes a restart, as the log names it."""
    tree = ast.parse((PACKAGE / "plans.py").read_text(encoding="utf-8"))
    (function,) = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "not_reloadable")
    (pairs,) = (node for node in ast.walk(function) if isinstance(node, ast.Dict))
    return [_text(key) for key in pairs.keys if key is not None]


def modules() -> dict[str, list[tuple[str, str]]]:
    """By folder: the modules and the first sentence of their docstrings."""
    folders: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        first = " ".join(docstring.partition("\n\n")[0].split())
        if path.name != "__init__.py":
            folder = path.parent.relative_to(PACKAGE.parent).as_posix()
            folders.setdefault(folder, []).append((path.name, first.partition(". ")[0].rstrip(".")))
    return folders


def _metric_lines() -> Iterator[str]:
    for metric in metrics():
        labels = f" by {', '.join(f'``{label}``' for label in metric.labels)}" if metric.labels else ""
        yield from (f"``{metric.name}``", f"    {metric.documentation} ({metric.kind}{labels}).", "")


def _label_lines() -> Iterator[str]:
    for label, values in label_values().items():
        name, _of, metric = label.partition(" of ")
        yield f"``{name}``" + (f" of ``{metric}``" if metric else "")
        yield from (f"    {', '.join(f'``{value}``' for value in values)}", "")


def _sqlstate_lines() -> Iterator[str]:
    yield from (".. list-table::", "   :widths: 10 90", "")
    for code, meaning in sqlstates():
        yield from (f"   * - {code}", f"     - {_plain(meaning)}")


def _restart_lines() -> Iterator[str]:
    return (f"* ``{key}``" for key in restart_keys())


def _house_lines() -> Iterator[str]:
    for folder, found in modules().items():
        yield from (f"``{folder}/``", "", ".. list-table::", "   :widths: 25 75", "")
        for name, purpose in found:
            yield from (f"   * - ``{name}``", f"     - {_plain(purpose)}")
        yield ""


def _plain(sentence: str) -> str:
    """A sentence of a docstring, whose words in single backticks are names in the code."""
    single = sentence.replace("``", "\0").replace("`", "``").replace("\0", "``")
    return single.replace("*", r"\*")


def _directive(lines: Callable[[], Iterator[str]]) -> type[SphinxDirective]:
    class Generated(SphinxDirective):
        """Parses generated reStructuredText."""

        def run(self) -> list[Node]:
            # Made from the code, so made again whenever the documentation is.
            self.env.note_reread()
            return self.parse_text_to_nodes("\n".join(lines()))

    return Generated


def setup(app: Sphinx) -> ExtensionMetadata:
    app.add_directive("metrics", _directive(_metric_lines))
    app.add_directive("label-values", _directive(_label_lines))
    app.add_directive("sqlstates", _directive(_sqlstate_lines))
    app.add_directive("restart-keys", _directive(_restart_lines))
    app.add_directive("house", _directive(_house_lines))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
