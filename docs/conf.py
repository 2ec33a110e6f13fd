"""Sphinx's configuration."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "tqdbproxy"
author = "the tqdbproxy authors"
project_copyright = "2026, the tqdbproxy authors"
version = release = installed_version("tqdbproxy")

extensions = ["configspec", "reference"]
exclude_patterns = ["_build"]
nitpicky = True
smartquotes = False  # commands and values in plain text are there to be copied

html_theme = "alabaster"
html_theme_options = {"description": "A PostgreSQL proxy that batches writes", "fixed_sidebar": True}
html_show_sourcelink = False
