"""Certificates of an authority of our own, made with the ``openssl`` command when the tests run.

The law of this module: files in one folder; who uses them is others' business.
"""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HOSTS = "DNS:localhost,IP:127.0.0.1"
EC_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
AUTHORITY_EXTENSIONS = "basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign\n"


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files: a certificate, followed by those that it depends on, and its key."""

    chain: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        """For a server with this certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain, self.key)
        return context


class Authority:
    """Signs certificates. ``root`` is the PEM file that those need who shall trust it."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._own = self._make_root(name)
        self.root = self._own.chain

    def _make_root(self, name: str) -> Certificate:
        made = Certificate(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        extensions = ("-addext", "keyUsage=critical,keyCertSign")
        _openssl(
            *("req", "-x509", *EC_KEY, "-days", "2", "-subj", f"/CN={name}", *extensions),
            *("-keyout", str(made.key), "-out", str(made.chain)),
        )
        return made

    def sign(self, name: str, *, alternative: str = HOSTS, common: str = "localhost", days: int = 2) -> Certificate:
        """A server's certificate. No ``alternative``: it has only a common name. Negative ``days``: it has expired."""
        extensions = f"subjectAltName={alternative}\n" if alternative else "basicConstraints=CA:false\n"
        return self._sign(name, common, extensions, days)

    def intermediate(self, name: str) -> Authority:
        """An authority below this one: what it signs carries its own certificate in the chain."""
        below = object.__new__(Authority)
        below._folder = self._folder
        below._own = self._sign(name, name, AUTHORITY_EXTENSIONS, 2)
        below.root = self.root
        return below

    def _sign(self, name: str, common: str, extensions: str, days: int) -> Certificate:
        made = Certificate(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        request, wanted = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        wanted.write_text(extensions)
        _openssl("req", *EC_KEY, "-subj", f"/CN={common}", "-keyout", str(made.key), "-out", str(request))
        _openssl(
            *("x509", "-req", "-in", str(request), "-extfile", str(wanted), "-days", str(days)),
            *("-CA", str(self._own.chain), "-CAkey", str(self._own.key), "-CAcreateserial", "-out", str(made.chain)),
        )
        if self._own.chain != self.root:
            made.chain.write_text(made.chain.read_text() + self._own.chain.read_text())
        return made


@cache
def openssl_missing() -> str:
    """Why no certificates can be made here; empty if they can."""
    try:
        _openssl("version")
    except (OSError, subprocess.CalledProcessError) as problem:
        return f"the openssl command can't be used: {problem}"
    return ""


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)
