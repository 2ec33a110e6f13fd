"""The first packets of a client: what it wants, cut at every byte, and what is refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import builders as m
from tqdbproxy.errors import ProtocolViolation, UnsupportedProtocol
from tqdbproxy.postgres.clients.startup import Begins, Cancels, Event, Startup, WantsGssEncryption, WantsTls
from tqdbproxy.postgres.framing import FramingError
from tqdbproxy.postgres.messages import MAX_STARTUP_LENGTH, StartupMessage

HELLO = m.startup(user="me", database="d")
BEGINS = Begins(StartupMessage.parse(HELLO))

PACKETS: list[tuple[bytes, Event]] = [
    (m.SSL_REQUEST, WantsTls(None)),
    (m.GSSENC_REQUEST, WantsGssEncryption()),
    (m.cancel_request(b"\0\0\0\1key"), Cancels(b"\0\0\0\1key")),
    (m.cancel_request(b"\0\0\0\1" + b"k" * 256), Cancels(b"\0\0\0\1" + b"k" * 256)),
    (HELLO, BEGINS),
]


@pytest.mark.parametrize(("packet", "event"), PACKETS)
def test_what_a_client_wants_cut_at_every_byte(packet: bytes, event: Event) -> None:
    for cut in range(len(packet)):
        startup = Startup()
        assert cut == 0 or startup.feed(packet[:cut]) is None
        assert startup.feed(packet[cut:]) == event
        assert startup.rest == b""


@pytest.mark.parametrize(("packet", "event"), PACKETS)
def test_what_comes_after_it_is_kept(packet: bytes, event: Event) -> None:
    startup = Startup()
    assert startup.feed(packet + b"rest") == event
    assert startup.rest == b"rest"


def test_one_after_another_in_one_piece() -> None:
    startup = Startup()
    events = [startup.feed(m.SSL_REQUEST + m.GSSENC_REQUEST + HELLO), startup.feed(b""), startup.feed(b"")]
    assert events == [WantsTls(None), WantsGssEncryption(), BEGINS]


def test_direct_tls_is_known_by_its_first_byte() -> None:
    startup = Startup()
    assert startup.feed(b"\x16") == WantsTls(b"\x16")
    assert startup.rest == b""


def test_after_tls_a_handshake_is_no_packet() -> None:
    startup = Startup()
    startup.encrypted = True
    with pytest.raises(FramingError):
        startup.feed(b"\x16\3\1\2\0\1\0\1\xfc")


def test_after_tls_there_is_no_second_one() -> None:
    startup = Startup()
    startup.encrypted = True
    with pytest.raises(UnsupportedProtocol):
        startup.feed(m.SSL_REQUEST)


@pytest.mark.parametrize("length", [0, 3, 7, -1, 2**31 - 1, MAX_STARTUP_LENGTH + 1])
def test_lengths_that_lie(length: int) -> None:
    with pytest.raises(FramingError, match="invalid length of startup packet"):
        Startup().feed(struct.pack("!II", length % 2**32, 0x30000))


def test_the_longest_packet() -> None:
    hello = m.startup(user="u" * (MAX_STARTUP_LENGTH - 15))
    assert len(hello) == MAX_STARTUP_LENGTH
    assert isinstance(Startup().feed(hello), Begins)


@pytest.mark.parametrize("version", [0x00020000, 0x00040000, 0, 1234 << 16, 80877105])
def test_other_protocols(version: int) -> None:
    with pytest.raises(UnsupportedProtocol, match=f"unsupported frontend protocol {version >> 16}.{version & 0xFFFF}"):
        Startup().feed(m.startup(version, user="me"))


@pytest.mark.parametrize("version", [0x00030000, 0x00030002, 0x0003FFFF])
def test_every_version_3_is_the_servers_matter(version: int) -> None:
    event = Startup().feed(m.startup(version, user="me", **{"_pq_.x": "1"}))
    assert isinstance(event, Begins)
    assert (event.message.version, event.message.option(b"_pq_.x")) == (version, b"1")


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_random_bytes(pieces: list[bytes]) -> None:
    startup = Startup()
    try:
        for piece in pieces:
            startup.feed(piece)
    except ProtocolViolation:
        pass
