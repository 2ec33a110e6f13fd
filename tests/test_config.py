"""The configuration: what is read, what is refused, and in which words."""

from __future__ import annotations

import subprocess
from dataclasses import fields, replace
from pathlib import Path

import pytest
from configobj import ConfigObj
from hypothesis import given
from hypothesis import strategies as st

from tqdbproxy import config, settings
from tqdbproxy.addresses import EndpointDescription, TcpAddress, UnixAddress, parse_listen, parse_server
from tqdbproxy.errors import ConfigError

ROOT = Path(__file__).parent.parent
MAIN = "[postgres.main]\nprimary = db:5432\n"
DEFAULTS = config.load(None, {})
KEYS = config.keys()


def load(folder: Path, text: str, **environ: str) -> settings.Settings:
    file = folder / "x.ini"
    file.write_text(text)
    return config.load(str(file), environ)


def refusal(folder: Path, text: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, **environ)
    return str(caught.value).replace(f"{folder}/", "")


# -- files that come with the package


def test_the_full_file_is_the_defaults() -> None:
    assert config.load(str(ROOT / "etc" / "tqdbproxy.ini"), {}) == DEFAULTS


def test_the_full_file_explains_every_key_as_the_configspec_does() -> None:
    file = ConfigObj(str(ROOT / "etc" / "tqdbproxy.ini"), interpolation=False)
    told = {
        (section, key): tuple(line.removeprefix("#").strip() for line in file[section].comments[key] if line)
        for section in file.sections
        for key in file[section].scalars
    }
    specified = {(key.section.replace("NAME", "main"), key.name): key.comment for key in KEYS}
    assert told == specified
    assert all(specified.values())


def test_the_minimal_file_needs_six_lines() -> None:
    file = ROOT / "etc" / "tqdbproxy-minimal.ini"
    assert len(file.read_text().splitlines()) == 6
    assert config.load(str(file), {}) == DEFAULTS


def test_every_key_of_the_configspec_is_a_field() -> None:
    records = {
        "postgres": settings.PostgresSettings,
        "postgres.NAME": settings.GroupSettings,
        "write_batch": settings.WriteBatchSettings,
        "cache": settings.CacheSettings,
        "metrics": settings.MetricsSettings,
        "log": settings.LogSettings,
        "admin": settings.AdminSettings,
        "limits": settings.LimitsSettings,
    }
    in_records = {(section, field.name) for section, record in records.items() for field in fields(record)}
    assert in_records - {("postgres.NAME", "name")} == {(key.section, key.name) for key in KEYS}


# -- what is read


def test_without_a_file_it_stands_in_front_of_what_libpq_would_use() -> None:
    assert DEFAULTS.groups["main"].primary == (TcpAddress("127.0.0.1", 5432),)
    named = config.load(None, {"PGHOST": "db.example.org", "PGPORT": "6000"})
    assert named.groups["main"].primary == (TcpAddress("db.example.org", 6000),)
    local = config.load(None, {"PGHOST": "/run/postgresql", "PGPORT": "6000"})
    assert local.groups["main"].primary == (UnixAddress("/run/postgresql", 6000),)
    assert config.load(None, {"PGHOST": "::1"}).groups["main"].primary == (TcpAddress("::1", 5432),)


def test_values_have_their_types(tmp_path: Path) -> None:
    read = load(
        tmp_path,
        f"{MAIN}sslmode = require\n"
        "[postgres]\nlisten = :5433, [::1]:0  # two\nsocket = /tmp\n"
        "[write_batch]\nenabled = off\nearly_quorum = off\ntimeout_s = 2.5\n"
        "[metrics]\nlisten =\n[limits]\nmax_clients = 7\n",
    )
    assert read.postgres.listen == (TcpAddress("", 5433), TcpAddress("::1", 0))
    assert read.postgres.socket == "/tmp"
    group = settings.GroupSettings("main", (TcpAddress("db", 5432),), (), "require", "", 10.0, "", 2.0)
    assert read.groups == {"main": group}
    batch = replace(DEFAULTS.write_batch, enabled=False, early_quorum=None, timeout_s=2.5)
    assert read.write_batch == batch
    assert read.metrics.listen == ()
    assert read.limits.max_clients == 7


def test_several_servers_and_databases(tmp_path: Path) -> None:
    read = load(
        tmp_path,
        "[postgres]\ndefault = none\n"
        "[postgres.a]\nprimary = one, two:1 , [::1], unix:/tmp:5\ndatabases = x\n"
        "[postgres.b]\nprimary = 'three,four'\ndatabases = y, \"with space\", y,\nprobe = 'user=me password=a,b'\n",
        TQDBPROXY_POSTGRES_B_PROBE_INTERVAL_S="0",
    )
    a, b = read.groups["a"], read.groups["b"]
    assert read.postgres.default is None
    assert list(map(str, a.primary)) == ["one:5432", "two:1", "[::1]:5432", "unix:/tmp:5"]
    assert (a.databases, a.probe_interval_s) == (("x",), 2)
    assert list(map(str, b.primary)) == ["three:5432", "four:5432"]
    assert (b.databases, b.probe, b.probe_interval_s) == (("y", "with space"), "user=me password=a,b", 0)
    assert load(tmp_path, f"[postgres]\ndefault =\n{MAIN}databases = a\n").postgres.default is None


def test_what_goes_together_after_all(tmp_path: Path) -> None:
    texts = (
        "[postgres]\nlisten = :0, :0, 127.0.0.1:5433, [::1]:5433\n[metrics]\nlisten = :0\n",
        "[admin]\ndatabase =\n[postgres.other]\nprimary = db\ndatabases = tqdb\n",
        "databases = a\n[postgres]\ndefault = none\n[admin]\ndatabase =\nusers = me\n",
        f"[postgres]\nsocket = {tmp_path}/new\n",
    )
    for text in texts:
        load(tmp_path, MAIN + text)


def test_a_path_may_begin_at_home(tmp_path: Path, certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(certificates))
    text = "[postgres]\nsocket = ~\ntls = allow\ntls_cert = ~/a.pem\ntls_key = ~/a.key\n"
    read = load(tmp_path, f"{MAIN}sslrootcert = ~/b.pem\n{text}")
    ours = read.postgres
    assert (ours.socket, ours.tls_cert, ours.tls_key) == tuple(
        f"{certificates}{name}" for name in ("", "/a.pem", "/a.key")
    )
    assert read.groups["main"].sslrootcert == f"{certificates}/b.pem"


def test_a_byte_order_mark_and_carriage_returns_are_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "x.ini").write_bytes(b"\xef\xbb\xbf" + MAIN.replace("\n", "\r\n").encode())
    assert config.load(str(tmp_path / "x.ini"), {}).groups["main"].primary == (TcpAddress("db", 5432),)


# -- the environment


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    read = load(
        tmp_path,
        MAIN + "[postgres.Two-b]\nprimary = two\n",
        TQDBPROXY_POSTGRES_LISTEN="127.0.0.1:1, 127.0.0.1:2",
        TQDBPROXY_POSTGRES_TLS_CERT="/unused",
        TQDBPROXY_POSTGRES_TWO_B_PRIMARY="unix:/tmp:77",
        TQDBPROXY_POSTGRES_NEW_ONE_CONNECT_TIMEOUT_S="3",
        TQDBPROXY_POSTGRES_NEW_ONE_PRIMARY="new",
        TQDBPROXY_WRITE_BATCH_MAX_PENDING="12",
    )
    assert read.postgres.listen == (TcpAddress("127.0.0.1", 1), TcpAddress("127.0.0.1", 2))
    assert read.postgres.tls_cert == "/unused"
    assert {name: group.primary for name, group in read.groups.items()} == {
        "main": (TcpAddress("db", 5432),),
        "Two-b": (UnixAddress("/tmp", 77),),
        "new_one": (TcpAddress("new", 5432),),
    }
    assert read.groups["new_one"].connect_timeout_s == 3
    assert read.write_batch.max_pending == 12


def test_variables_of_others_are_ignored(tmp_path: Path) -> None:
    others = {
        "TQDBPROXY_TEST_SEED": "1",
        "TQDBPROXY_SERVICE_HOST": "10.0.0.1",
        "TQDBPROXY_METRICS_SERVICE_HOST": "10.0.0.1",
        "TQDBPROXY_METRICS_SERVICE_PORT_HTTP": "9090",
        "TQDBPROXY_METRICS_PORT": "tcp://10.0.0.1:9090",
        "TQDBPROXY_METRICS_PORT_9090_TCP_ADDR": "10.0.0.1",
        "HOME": "/",
    }
    assert load(tmp_path, MAIN, **others) == load(tmp_path, MAIN)


def test_variables_that_nobody_takes_can_be_told() -> None:
    environ = {"TQDBPROXY_WRITEBATCH_ENABLED": "off", "TQDBPROXY_LOG_LEVEL": "info", "HOME": "/"}
    environ |= {
        "TQDBPROXY_SERVICE_HOST": "10.0.0.1",
        "TQDBPROXY_TEST_SEED": "1",
        "TQDBPROXY_POSTGRES_NEW_PRIMARY": "db",
    }
    assert config.ignored(environ) == ["TQDBPROXY_WRITEBATCH_ENABLED"]


def test_wrong_variables_are_named(tmp_path: Path) -> None:
    assert refusal(tmp_path, MAIN, TQDBPROXY_WRITE_BATCH_MAX_PENDNG="1") == (
        "environment variable TQDBPROXY_WRITE_BATCH_MAX_PENDNG: there is no such key in the configuration"
    )
    assert refusal(tmp_path, MAIN, TQDBPROXY_WRITE_BATCH_MAX_PENDING="many") == (
        'environment variable TQDBPROXY_WRITE_BATCH_MAX_PENDING: the value "many" is of the wrong type '
        "(integer, 1 to 10000000)"
    )


# -- what is refused

REFUSALS = {
    "groups that the environment can't tell apart": (
        MAIN + "[postgres.a-b]\nprimary = one\n[postgres.a_b]\nprimary = other\n",
        "x.ini, line 5: [postgres.a_b]: the environment can't tell it from [postgres.a-b]: "
        "both begin with TQDBPROXY_POSTGRES_A_B_ there",
    ),
    "groups whose names differ in their case": (
        MAIN + "[postgres.Main]\nprimary = other\n",
        "x.ini, line 3: [postgres.Main]: the environment can't tell it from [postgres.main]: "
        "both begin with TQDBPROXY_POSTGRES_MAIN_ there",
    ),
    "misspelt key": (
        MAIN + "[write_batch]\nmax_pendng = 1\n",
        "x.ini, line 4: [write_batch] max_pendng: there is no such key; did you mean max_pending?",
    ),
    "misspelt key that had to be given": (
        "[postgres.main]\nprimry = db\n",
        "x.ini, line 2: [postgres.main] primry: there is no such key; did you mean primary?",
    ),
    "misspelt section": (
        MAIN + "[writebatch]\n",
        "x.ini, line 3: [writebatch]: there is no such section; did you mean write_batch?",
    ),
    "section in a section": (
        MAIN + "[log]\n[[more]]\na = 1\n",
        "x.ini, line 3: [log] more: there is no such key",
    ),
    "before the first section": ("a = 1\n" + MAIN, "x.ini, line 1: a: stands before the first section"),
    "no INI at all": (
        "listen to me\n",
        "x.ini, line 1: invalid line ('listen to me') (matched as neither section nor keyword)",
    ),
    "key twice": (MAIN + "primary = other\n", "x.ini, line 3: duplicate keyword name: primary = other"),
    "open quote": (MAIN + "sslmode = 'off\n", "x.ini, line 3: parse error in value: sslmode = 'off"),
    "too small": (
        MAIN + "\n# c\n[write_batch]\nenabled = true\nmax_pending = 0\n",
        'x.ini, line 7: [write_batch] max_pending: the value "0" is too small (integer, 1 to 10000000)',
    ),
    "no number": (
        MAIN + "[limits]\nlogin_timeout_s = nan\n",
        'x.ini, line 4: [limits] login_timeout_s: the value "nan" is of the wrong type (number, 0.1 to 86400)',
    ),
    "no choice": (
        MAIN + "[postgres]\ntls = on\n",
        'x.ini, line 4: [postgres] tls: the value "on" is unacceptable (one of off, allow, require)',
    ),
    "quorum": (
        MAIN + "[write_batch]\nearly_quorum = 1.1\n",
        'x.ini, line 4: [write_batch] early_quorum: the value "1.1" is unacceptable (0 to 1, or off)',
    ),
    "no boolean": (
        MAIN + "[write_batch]\nenabled = maybe\n",
        'x.ini, line 4: [write_batch] enabled: the value "maybe" is of the wrong type (true or false)',
    ),
    "port without colon": (
        MAIN + "[postgres]\nlisten = 5433\n",
        "x.ini, line 4: [postgres] listen: '5433' has no port: host:port, :port or [IPv6]:port is needed",
    ),
    "a URI": (
        "[postgres.main]\nprimary = postgresql://me:hunter2@localhost/\n",
        "x.ini, line 2: [postgres.main] primary: postgresql://... is a URI: "
        "host:port or unix:/directory:port is needed",
    ),
    "a path with a comma": (
        MAIN + "[postgres]\nsocket = /a,b\n",
        "x.ini, line 4: [postgres] socket: contains a comma: it must be written in quotes",
    ),
    "a database with a comma": (
        MAIN + "[admin]\ndatabase = a, b\n",
        "x.ini, line 4: [admin] database: contains a comma: it must be written in quotes",
    ),
    "no primary": (
        "[postgres.main]\nprimary = ,\n",
        "x.ini, line 2: [postgres.main] primary: '' has no host: host:port or unix:/directory:port is needed",
    ),
    "a server twice": (
        "[postgres.main]\nprimary = a, b:1, a:5432\n",
        "x.ini, line 2: [postgres.main] primary: names a:5432 twice",
    ),
    "a database twice": (
        MAIN + "databases = a\n[postgres.two]\nprimary = db\ndatabases = b, a\n",
        "x.ini, line 6: [postgres.two] databases: a is claimed by [postgres.main] already",
    ),
    "a probe that is none": (
        MAIN + "probe = me\n",
        "x.ini, line 3: [postgres.main] probe: is no connection string: "
        'missing "=" after (not shown) in connection info string',
    ),
    "a probe with a comma": (
        MAIN + "probe = user=m password=hunter2,x dbname=postgres\n",
        "x.ini, line 3: [postgres.main] probe: contains a comma: it must be written in quotes",
    ),
    "a probe with a comment's sign": (
        MAIN + "probe = user=m password=hunter2#x dbname=postgres\n",
        "x.ini, line 3: [postgres.main] probe: contains a #, where a comment begins: it must be written in quotes",
    ),
    "a probe with an open quote": (
        MAIN + 'probe = "user=m password=hunter2\n',
        "x.ini, line 3: parse error in value: probe = (not shown; a connection string is written in quotes)",
    ),
    "a probe over several lines with an open quote": (
        MAIN + 'probe = """user=m\npassword=hunter2\n',
        "x.ini, line 3: parse error in multiline value: probe = (not shown; a connection string is written in quotes)",
    ),
    "a probe of which the quotes end too early": (
        MAIN + "probe = 'user=m password='hunter2\n",
        "x.ini, line 3: parse error in value: probe = (not shown; a connection string is written in quotes)",
    ),
    "a probe with a blank in its password": (
        MAIN + "probe = user=m password=hunter 2\n",
        "x.ini, line 3: [postgres.main] probe: is no connection string: "
        'missing "=" after (not shown) in connection info string',
    ),
    "a probe with = behind a blank in its password": (
        MAIN + "probe = user=m password=hunter 2=3\n",
        "x.ini, line 3: [postgres.main] probe: is no connection string: invalid connection option (not shown)",
    ),
    "two probes": (
        MAIN + "probe = user=m\nprobe = user=m password=hunter2\n",
        "x.ini, line 4: duplicate keyword name: probe = (not shown; a connection string is written in quotes)",
    ),
    "a misspelt probe with an open quote": (
        MAIN + "prob = 'user=m password=hunter2\n",
        "x.ini, line 3: parse error in value: prob = (not shown; a connection string is written in quotes)",
    ),
    "purge_listen with an open quote": (
        MAIN + "[cache]\npurge_listen = 'password=hunter2\n",
        "x.ini, line 4: parse error in value: purge_listen = (not shown; a connection string is written in quotes)",
    ),
    "no key at all": (
        MAIN + "= hunter2\n",
        "x.ini, line 3: invalid line:  = (not shown; a connection string is written in quotes)",
    ),
    "a probe of another server": (
        MAIN + "probe = user=me host=elsewhere\n",
        "x.ini, line 3: [postgres.main] probe: host must not be given: the addresses of primary are used",
    ),
    "nowhere to listen": (
        MAIN + "[postgres]\nlisten =\n",
        "x.ini, line 4: [postgres] listen: is empty and so is socket: there is nowhere to listen",
    ),
    "no server": (
        "[log]\nlevel = debug\n",
        "x.ini: [postgres]: no server is named: a section [postgres.main] with primary is needed",
    ),
    "group without server": ("[postgres.main]\n", "x.ini, line 1: [postgres.main] primary: must be given"),
    "an address twice": (
        MAIN + "[postgres]\nlisten = 127.0.0.1:5433, 127.0.0.1:0, 127.0.0.1:0, 127.0.0.1:5433\n",
        "x.ini, line 4: [postgres] listen: names 127.0.0.1:5433 twice",
    ),
    "an address in another": (
        MAIN + "[metrics]\nlisten = 127.0.0.1:9090, :9090\n",
        "x.ini, line 4: [metrics] listen: 127.0.0.1:9090 and :9090 overlap",
    ),
    "an address of both sides": (
        MAIN + "[metrics]\nlisten = 127.0.0.1:5433\n",
        "x.ini, line 4: [metrics] listen: 127.0.0.1:5433 is taken by [postgres] listen already",
    ),
    "a description twice": (
        MAIN + "[postgres]\nlisten = systemd:domain=INET:index=0, systemd:domain=INET:index=0\n",
        "x.ini, line 4: [postgres] listen: names systemd:domain=INET:index=0 twice",
    ),
    "TLS of Twisted's": (
        MAIN + "[postgres]\nlisten = ssl:5433:privateKey=key.pem\n",
        "x.ini, line 4: [postgres] listen: an ssl endpoint can't be used, since clients ask for TLS themselves: see"
        " tls, tls_cert and tls_key",
    ),
    "TLS of Twisted's for the metrics": (
        MAIN + "[metrics]\nlisten = ssl:9090:privateKey=key.pem\n",
        "x.ini, line 4: [metrics] listen: an ssl endpoint can't be used; a web server in front can bring TLS",
    ),
    "a socket in a directory that isn't there": (
        MAIN + "[postgres]\nsocket = /nowhere/at/all\n",
        "x.ini, line 4: [postgres] socket: there is no directory /nowhere/at",
    ),
    "a directory for the socket that isn't there": (
        MAIN + "[postgres]\nsocket = /nowhere/\n",
        "x.ini, line 4: [postgres] socket: there is no directory /nowhere",
    ),
    "the console's name": (
        MAIN + "databases = a, tqdb\n",
        "x.ini, line 3: [postgres.main] databases: tqdb leads to the console: name one of them otherwise "
        "([admin] database)",
    ),
    "nobody to check a password": (
        MAIN + "databases = a\n[postgres]\ndefault = none\n[admin]\nusers = me\n",
        "x.ini, line 7: [admin] users: the default group's server checks their passwords, and there is none: "
        "default = none",
    ),
    "a group that nobody can reach": (
        MAIN + "[postgres]\ndefault = none\n",
        "x.ini, line 1: [postgres.main] databases: must be given for default = none",
    ),
    "a group called none": (
        "[postgres]\ndefault = none\n[postgres.none]\nprimary = db\n",
        "x.ini, line 3: [postgres.none]: needs another name: default = none means no group at all",
    ),
    "no default group": (
        "[postgres.one]\nprimary = db\n",
        "x.ini: [postgres] default: there is no section [postgres.main]",
    ),
    "delays": (
        MAIN + "[write_batch]\nmin_delay_ms = 5\n",
        "x.ini, line 3: [write_batch] initial_delay_ms: must lie between min_delay_ms and max_delay_ms",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, name: str) -> None:
    text, message = REFUSALS[name]
    assert refusal(tmp_path, text) == message


def test_a_comment_may_stand_behind_a_connection_string(tmp_path: Path) -> None:
    for probe in ("user=m  # and no more", "'user=m'#", '"user=m password=a#b"'):
        read = load(tmp_path, f"{MAIN}probe = {probe}\n")
        assert read.groups["main"].probe == ("user=m password=a#b" if "a#b" in probe else "user=m")
    assert load(tmp_path, f"{MAIN}probe =#\n").groups["main"].probe == ""
    secret = load(tmp_path, f"{MAIN}probe = x=y#z\n", TQDBPROXY_POSTGRES_MAIN_PROBE="user=m password=a#b,c")
    assert secret.groups["main"].probe == "user=m password=a#b,c"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.ini: can't be read: No such file or directory"):
        config.load(str(tmp_path / "nowhere.ini"), {})
    with pytest.raises(ConfigError, match=r"can't be read: Is a directory"):
        config.load(str(tmp_path), {})
    (tmp_path / "x.ini").write_bytes(b"[postgres]\n\xff")
    with pytest.raises(ConfigError, match=r"x\.ini: is not UTF-8 text: invalid start byte at byte 11"):
        config.load(str(tmp_path / "x.ini"), {})


# -- certificates


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a.pem, a.key and b.pem, b.key: two certificates and their keys."""
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("a", "b"):
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
        command += ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")]
        subprocess.run(command, check=True, capture_output=True)
    return folder


def test_tls_needs_a_certificate_and_its_key(tmp_path: Path, certificates: Path) -> None:
    def tls(certificate: str, key: str) -> str:
        return f"{MAIN}[postgres]\ntls = allow\ntls_cert = {certificate}\ntls_key = {key}\n"

    a = certificates / "a.pem"
    read = load(tmp_path, tls(f"{a}", f"{certificates}/a.key"))
    assert (read.postgres.tls, read.postgres.tls_cert) == ("allow", str(a))
    assert refusal(tmp_path, tls("", "")) == "x.ini, line 5: [postgres] tls_cert: must be given for tls = allow"
    assert refusal(tmp_path, tls(f"{a}", "/nowhere")) == (
        "x.ini, line 6: [postgres] tls_key: /nowhere can't be read: No such file or directory"
    )
    together = "x.ini, line 5: [postgres] tls_cert: certificate and key can't be used together"
    assert refusal(tmp_path, tls(f"{a}", f"{certificates}/b.key")).startswith(together)
    assert refusal(tmp_path, tls(f"{certificates}/a.key", f"{certificates}/a.key")).startswith(together)


def test_verifying_a_server_needs_certificates(tmp_path: Path, certificates: Path) -> None:
    root = certificates / "a.pem"
    read = load(tmp_path, f"{MAIN}sslmode = verify-full\nsslrootcert = {root}\n")
    assert read.groups["main"].sslrootcert == str(root)
    assert refusal(tmp_path, f"{MAIN}sslmode = verify-ca\n") == (
        "x.ini, line 1: [postgres.main] sslrootcert: must be given for sslmode = verify-ca"
    )
    assert "sslrootcert: is not a file with PEM certificates" in refusal(tmp_path, f"{MAIN}sslrootcert = {__file__}\n")


# -- addresses


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("", ()),
        ("127.0.0.1:5433", (TcpAddress("127.0.0.1", 5433),)),
        (":0", (TcpAddress("", 0),)),
        ("[::]:5433, db:1", (TcpAddress("::", 5433), TcpAddress("db", 1))),
        ("tcp:5433:interface=127.0.0.1", (EndpointDescription("tcp:5433:interface=127.0.0.1"),)),
        ("systemd:domain=INET:index=0", (EndpointDescription("systemd:domain=INET:index=0"),)),
        ("unix:/tmp/x", (EndpointDescription("unix:/tmp/x"),)),
    ],
)
def test_where_to_listen(text: str, addresses: tuple[object, ...]) -> None:
    assert parse_listen(text) == addresses


@pytest.mark.parametrize("text", ["5433", "db", "::1:5433", "[::1", "[::1]5433", "db:", "db:65536", "db:-1", "db:٣"])
def test_where_nobody_can_listen(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not|has no|has several"):
        parse_listen(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("db", TcpAddress("db", 5432)),
        ("db:6000", TcpAddress("db", 6000)),
        ("[::1]", TcpAddress("::1", 5432)),
        ("[::1]:6000", TcpAddress("::1", 6000)),
        ("unix:/tmp", UnixAddress("/tmp", 5432)),
        ("unix:/tmp/:6000", UnixAddress("/tmp/", 6000)),
    ],
)
def test_where_a_server_is(text: str, address: object) -> None:
    assert parse_server(text) == address


@pytest.mark.parametrize("text", ["", ":5432", "db:0", "unix:tmp", "unix:/tmp:x", "::1"])
def test_where_no_server_can_be(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not|has no|has several"):
        parse_server(text)


def test_a_unix_socket_has_libpq_s_name() -> None:
    assert UnixAddress("/tmp/", 5432).path == "/tmp/.s.PGSQL.5432"


@given(st.text())
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    for parse in (parse_listen, parse_server):
        try:
            parse(text)
        except ValueError as error:
            assert str(error)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_an_address_reads_back_what_it_writes(host: object, port: int) -> None:
    address = TcpAddress(str(host), port)
    assert parse_server(str(address)) == address
    assert parse_listen(str(address)) == (address,)


PIECES = [
    "[postgres]",
    "[postgres.main]",
    "[[",
    "]",
    "listen",
    "primary",
    "=",
    "\n",
    " ",
    "'",
    '"""',
    ",",
    "#",
    "a",
    ":1",
    "\x85",
]


@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join)))
def test_any_file_is_read_or_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any.ini"
    file.write_text(text)
    try:
        config.load(str(file), {})
    except ConfigError as error:
        assert "\n" not in str(error)
