"""The directive ``configspec``: every key of the configuration, from the configspec itself: it can't go stale."""

from collections.abc import Iterator
from itertools import groupby

from docutils.nodes import Node
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

from tqdbproxy import config


class ConfigSpec(SphinxDirective):
    """A section for each section, a definition for each key."""

    def run(self) -> list[Node]:
        return self.parse_text_to_nodes("\n".join(_reference()), allow_section_headings=True)


def _reference() -> Iterator[str]:
    for section, keys in groupby(config.keys(), lambda key: key.section):
        yield from (f"[{section}]", "-" * (len(section) + 2), "")
        for key in keys:
            default = "must be given" if key.default is None else f"default: ``{key.default}``" if key.default else ""
            allowed = config.describe(key.check)
            yield f"``{key.name}``"
            yield f"    {' '.join(key.comment)}"
            if facts := "; ".join(filter(None, (allowed, default))):
                yield from ("", f"    ({facts})")
            yield ""


def setup(app: Sphinx) -> ExtensionMetadata:
    app.add_directive("configspec", ConfigSpec)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
