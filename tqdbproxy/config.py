"""The INI file and the environment -> settings.

The law of this module: the only one that knows ConfigObj. Names, types, ranges and defaults stand in configspec.ini and
nowhere else; what gets out of here has been checked, and what is wrong is said in one line that names its place.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from configobj import ConfigObj, ConfigObjError, Section, flatten_errors, get_extra_values
from configobj.validate import ValidateError, Validator, VdtTypeError, VdtValueError, is_float

from tqdbproxy.addresses import (
    POSTGRES_PORT,
    ListenAddress,
    ServerAddress,
    UnixAddress,
    parse_listen,
    parse_server,
)
from tqdbproxy.checks import GROUP_PREFIX, NO_GROUP, problems
from tqdbproxy.errors import ConfigError
from tqdbproxy.settings import (
    AdminSettings,
    CacheSettings,
    GroupSettings,
    LimitsSettings,
    LogSettings,
    MetricsSettings,
    PostgresSettings,
    Settings,
    WriteBatchSettings,
)

ENVIRONMENT_PREFIX = "TQDBPROXY_"
#: The section of the configspec that describes every server group.
GROUP_SPEC = "postgres.NAME"
#: What Kubernetes puts into the environment for a service called, for instance, tqdbproxy-metrics.
SERVICE_LINK = re.compile(r"_(SERVICE_HOST|SERVICE_PORT\w*|PORT|PORT_\d+_(TCP|UDP)\w*)$")


@dataclass(frozen=True, slots=True)
class Key:
    """What the configspec says of one key. ``default`` None: it must be given."""

    section: str
    name: str
    check: str
    default: str | None
    comment: tuple[str, ...]


class _Source:
    """Where each value came from: lines of the file, variables of the environment."""

    def __init__(self, path: str | None, lines: list[str]) -> None:
        self._path = path
        self._lines = lines
        self._variables: dict[tuple[str, str], str] = {}

    def overridden(self, section: str, key: str, variable: str) -> None:
        self._variables[section, key] = variable

    def at_line(self, number: int | None) -> str:
        file = self._path or "default configuration"
        return f"{file}, line {number}" if number else file

    def error(self, section: str, key: str | None, problem: str) -> ConfigError:
        """The one line that the user reads: place, section, key, what is wrong there."""
        if key is not None and (variable := self._variables.get((section, key))):
            return ConfigError(f"environment variable {variable}: {problem}")
        name = " ".join(part for part in (f"[{section}]" if section else "", key) if part)
        return ConfigError(f"{self.at_line(self._find(section, key))}: {name}: {problem}")

    def is_cut(self, section: str, key: str) -> bool:
        """Whether a value without quotes ends at a # that touches it, where nobody meant a comment to begin."""
        number = None if (section, key) in self._variables else self._find(section, key)
        line = self._lines[number - 1] if number else ""
        return re.match(r"[^=]*=\s*(?!\s|['\"])[^#]*[^\s#]#", line) is not None

    def _find(self, section: str, key: str | None) -> int | None:
        """Line of the key, else of its section, else None; ConfigObj doesn't remember lines."""
        here, found = "", None
        for number, line in enumerate(self._lines, 1):
            if header := re.match(r"\s*\[+\s*['\"]?(.*?)['\"]?\s*\]+", line):
                here = header[1]
                found = number if here == section else found
            elif key and here == section and re.match(rf"\s*['\"]?{re.escape(key)}['\"]?\s*=", line):
                return number
        return found


def load(path: str | None, environ: Mapping[str, str]) -> Settings:
    """Read the file (None: defaults, in front of PGHOST and PGPORT) and the TQDBPROXY_ variables of the environment.

    Raises ConfigError, whose text is one line for the user.
    """
    text = "" if path is None else _read(path)
    source = _Source(path, text.splitlines())
    tree = _parse(source, text.splitlines())
    if path is None:
        tree["postgres.main"] = {"primary": _primary_of(environ)}
    _override(tree, source, environ)
    _validate(tree, source)
    settings = _build(tree)
    for problem in problems(settings):
        raise source.error(*problem)
    return settings


def keys() -> tuple[Key, ...]:
    """Every key there is, in the order of the configspec, for the documentation and the tests."""
    return tuple(_keys(_read_spec()))


# -- text


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}") from error


def _parse(source: _Source, lines: list[str]) -> ConfigObj:
    try:
        return ConfigObj(lines, configspec=_read_spec(), interpolation=False, raise_errors=True)
    except ConfigObjError as error:
        problem = re.sub(r",? at line \"?\d+\"?\.?$", "", str(error)).rstrip(".")
        shown = _shown(error.line.strip()) if error.line else ""
        if "Invalid line" in problem:
            problem, shown = ("invalid line", shown) if "=" in shown else (problem, "")
        shown = shown and f": {shown}"
        # Not with ``from error``, which holds the line.
        raise ConfigError(f"{source.at_line(error.line_number)}: {problem[0].lower()}{problem[1:]}{shown}") from None


def _shown(line: str) -> str:
    """A line that can't be read, without its value if that may be a secret: it may end in a log."""
    name, equals, _value = line.partition("=")
    harmless = {key.name for key in keys() if not _is_conninfo(key.check)}
    if not equals or name.strip(" \t'\"") in harmless:
        return line
    return f"{name.strip()} = (not shown; a connection string is written in quotes)"


def _is_conninfo(check: str) -> bool:
    return check.startswith("conninfo(")


def _read_spec() -> ConfigObj:
    lines = files("tqdbproxy").joinpath("configspec.ini").read_text(encoding="utf-8").splitlines()
    return ConfigObj(lines, interpolation=False, list_values=False, _inspec=True)


def _keys(spec: Section) -> Iterator[Key]:
    for section in spec.sections:
        for name in spec[section].scalars:
            check = str(spec[section][name])
            default = re.search(r"default='?(.*?)'?\)$", check)
            comment = (line.strip() for line in spec[section].comments[name])
            explanation = tuple(line.removeprefix("#").strip() for line in comment if not line.startswith("##"))
            yield Key(section, name, check, default[1] if default else None, tuple(filter(None, explanation)))


# -- the environment


def _primary_of(environ: Mapping[str, str]) -> str:
    """libpq's variables as the address of the one server."""
    host, port = environ.get("PGHOST") or "127.0.0.1", environ.get("PGPORT") or str(POSTGRES_PORT)
    if host.startswith("/"):
        return str(UnixAddress(host, int(port) if port.isdigit() else POSTGRES_PORT))
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _override(tree: ConfigObj, source: _Source, environ: Mapping[str, str]) -> None:
    """Put TQDBPROXY_<SECTION>_<KEY> into the tree.

    A variable that begins with one of our sections must name one of its keys, so that a misspelt one is not ignored
    silently; other variables with the prefix (TQDBPROXY_TEST_..., Kubernetes' service links) are somebody else's.
    """
    names = [(key.section, key.name) for key in keys()]
    for variable, value in sorted(environ.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX) or SERVICE_LINK.search(variable):
            continue
        wanted = variable.removeprefix(ENVIRONMENT_PREFIX)
        place = _place_of(wanted, names, tree)
        if place is not None:
            tree.setdefault(place[0], {})[place[1]] = value
            source.overridden(*place, variable)
        elif any(wanted.startswith(f"{_variable(section)}_") for section, _ in names):
            raise ConfigError(f"environment variable {variable}: there is no such key in the configuration")


def ignored(environ: Mapping[str, str]) -> list[str]:
    """The variables with our prefix that are of no section: somebody else's, or misspelt."""
    sections = {_variable(key.section.replace("NAME", "")).rstrip("_") for key in keys()}
    ours = (name for name in sorted(environ) if name.startswith(ENVIRONMENT_PREFIX) and not SERVICE_LINK.search(name))
    beginnings = tuple(f"{ENVIRONMENT_PREFIX}{section}_" for section in (*sections, "TEST"))  # of the tests, too
    return [name for name in ours if not name.startswith(beginnings)]


def _place_of(wanted: str, names: list[tuple[str, str]], tree: ConfigObj) -> tuple[str, str] | None:
    for section, key in names:
        if wanted == f"{_variable(section)}_{_variable(key)}":
            return section, key
    for section, key in names:
        if section == GROUP_SPEC and (found := re.fullmatch(rf"POSTGRES_(\w+)_{_variable(key)}", wanted)):
            known = (name for name in tree.sections if _variable(name) == f"POSTGRES_{found[1]}")
            return next(known, GROUP_PREFIX + found[1].lower()), key
    return None


def _variable(name: str) -> str:
    return re.sub(r"\W", "_", name).upper()


# -- checks of single values


def _validate(tree: ConfigObj, source: _Source) -> None:
    _check_sections(tree, source)
    tree.configspec.rename(GROUP_SPEC, "__many__")
    lists = {"addresses": _addresses, "servers": _servers, "names": _names}
    checks = {**lists, "quorum": _quorum, "float": _number, "string": _string, "path": _path, "conninfo": _string}
    result = tree.validate(Validator(checks), preserve_errors=True)
    # Unknown keys first: a misspelt one is often why another is missing.
    for sections, name in get_extra_values(tree):
        known = list(tree[sections[0]].configspec.scalars) if sections else []
        raise source.error(sections[0], name, f"there is no such key{_suggestion(name, known)}")
    for sections, name, error in flatten_errors(tree, result):
        raise source.error(sections[0], name, _problem(tree, sections[0], name, error))
    for section in tree.sections:
        for name in tree[section].scalars:
            if _is_conninfo(tree[section].configspec[name]) and tree[section][name] and source.is_cut(section, name):
                raise source.error(section, name, "contains a #, where a comment begins: it must be written in quotes")


def _check_sections(tree: ConfigObj, source: _Source) -> None:
    known = [name for name in tree.configspec.sections if name != GROUP_SPEC]
    for name in tree.scalars:
        raise source.error("", name, "stands before the first section")
    variables: dict[str, str] = {}
    for name in tree.sections:
        if name not in known and not (name.startswith(GROUP_PREFIX) and name != GROUP_PREFIX):
            raise source.error(name, None, f"there is no such section{_suggestion(name, [*known, GROUP_SPEC])}")
        other = variables.setdefault(_variable(name), name)
        if other != name:
            both = f"{ENVIRONMENT_PREFIX}{_variable(name)}_"
            raise source.error(
                name, None, f"the environment can't tell it from [{other}]: both begin with {both} there"
            )


def _suggestion(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _problem(tree: ConfigObj, section: str, name: str, error: ValidateError | Literal[False]) -> str:
    if error is False:
        return "must be given"
    check = str(tree[section].configspec[name])
    problem = str(error).rstrip(".")
    allowed = describe(check)
    return f"{problem} ({allowed})" if allowed else problem


def describe(check: str) -> str:
    """What a check of the configspec lets pass, in words; empty if its own message says enough."""
    kind, _, arguments = check.partition("(")
    if kind == "option":
        return "one of " + ", ".join(re.findall(r"(?<!default=)'([^']*)'", arguments))
    words = {"integer": "integer", "float": "number", "boolean": "true or false", "quorum": "0 to 1, or off"}
    bounds = dict(re.findall(r"(min|max)=([\d.]+)", arguments))
    between = f", {bounds['min']} to {bounds['max']}" if bounds else ""
    return words.get(kind, "") + between


def _addresses(value: str | list[str]) -> tuple[ListenAddress, ...]:
    try:
        return parse_listen(value if isinstance(value, str) else ",".join(value))
    except ValueError as error:
        raise _Unreadable(str(error)) from error


def _servers(value: str | list[str]) -> tuple[ServerAddress, ...]:
    try:
        servers = tuple(parse_server(text) for text in _names(value) or [""])
    except ValueError as error:
        raise _Unreadable(str(error)) from error
    for number, server in enumerate(servers):
        if server in servers[:number]:
            raise _Unreadable(f"names {server} twice")
    return servers


def _names(value: str | list[str]) -> tuple[str, ...]:
    """What stands between commas."""
    texts = value.split(",") if isinstance(value, str) else value
    return tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))


def _quorum(value: str) -> float | None:
    if value == "off":
        return None
    number = _number(value)
    if not 0 <= number <= 1:
        raise VdtValueError(value)
    return number


def _number(value: Any, min: str | None = None, max: str | None = None) -> float:  # noqa: A002 (the configspec's words)
    number: float = is_float(value, min, max)
    if not math.isfinite(number):
        raise VdtTypeError(value)
    return number


def _string(value: str | list[str]) -> str:
    if not isinstance(value, str):
        raise _Unreadable("contains a comma: it must be written in quotes")  # the value isn't shown: it may be secret
    return value


def _path(value: str | list[str]) -> str:
    return os.path.expanduser(_string(value))


class _Unreadable(ValidateError):  # type: ignore[misc]
    """A value that can't be read; its text says how it should look."""


# -- values -> settings


def _build(tree: ConfigObj) -> Settings:
    groups = {
        name.removeprefix(GROUP_PREFIX): GroupSettings(name=name.removeprefix(GROUP_PREFIX), **tree[name])
        for name in tree.sections
        if name.startswith(GROUP_PREFIX)
    }
    ours = tree["postgres"]
    default = None if ours["default"] in ("", NO_GROUP) else ours["default"]
    postgres = {**ours, "socket": ours["socket"] or None, "default": default}
    return Settings(
        postgres=PostgresSettings(**postgres),
        groups=groups,
        write_batch=WriteBatchSettings(**tree["write_batch"]),
        cache=CacheSettings(**tree["cache"]),
        metrics=MetricsSettings(**tree["metrics"]),
        log=LogSettings(**tree["log"]),
        admin=AdminSettings(**tree["admin"]),
        limits=LimitsSettings(**tree["limits"]),
    )
