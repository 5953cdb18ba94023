"""Calls addresses that users gave: public ones alone, without redirects, for a bounded time.

The name is looked up once and the connection goes to the address that was checked, so that a name
which answers differently the second time leads nowhere else.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
from contextlib import suppress
from datetime import UTC, datetime
from urllib.parse import urlsplit

from standardwebhooks import Webhook as Signer

from app.services.outbox import Attempt
from app.settings import get_settings

CONNECT_S, CALL_S = 5.0, 10.0
NAT64 = ipaddress.ip_network("64:ff9b::/96")
HTTP_OK, HTTP_REDIRECT = 200, 300

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class RefusedAddressError(OSError):
    """The host is not one that may be called."""


def is_public(address: Address) -> bool:
    """Whether an address is reached over the internet alone, also through a tunnel in it."""
    inner: Address | None = None
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if address.teredo is not None:
            inner = address.teredo[1]
    if inner is not None:
        return is_public(inner)
    return address.is_global and not address.is_multicast


def refused_literal(host: str) -> str | None:
    """Why a host that is written as an address may not be called; None for names and others."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return None if is_public(address) else f"{host} is no public address"


def _checked(host: str, port: int) -> str:
    """An address of a host; all of them must be public.

    Raises:
        RefusedAddressError: if one is not.
    """
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(info[4][0]) for info in infos]
    if not get_settings().webhook_private:
        for each in addresses:
            if not is_public(ipaddress.ip_address(each.partition("%")[0])):
                raise RefusedAddressError(f"{host} has the address {each}, which is not public")
    return addresses[0]


class _Connection(http.client.HTTPConnection):
    """A connection to a checked address; the name stands in ``Host`` and in the certificate."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext | None) -> None:
        super().__init__(host, port, timeout=CONNECT_S)
        self._context = context

    def connect(self) -> None:
        """Connect, and agree on TLS where the address asks for it."""
        checked = _checked(self.host, self.port)
        self.sock = socket.create_connection((checked, self.port), self.timeout)
        if self._context is not None:
            self.sock = self._context.wrap_socket(self.sock, server_hostname=self.host)


def call(url: str, secret: str, message_id: str, body: str) -> Attempt:
    """POST a signed message (Standard Webhooks); only a status of 200 to 299 is a success.

    Of the answer only status and headers are read; a redirect is not followed.
    """
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    context = ssl.create_default_context() if secure else None
    connection = _Connection(str(parts.hostname), port, context)
    timer = threading.Timer(CALL_S, _break_off, [connection])  # a timeout holds for each read alone
    timer.start()
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", target, body.encode(), _headers(secret, message_id, body))
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        return Attempt(None, f"{type(error).__name__}: {error}"[:500])
    finally:
        timer.cancel()
        connection.close()
    if HTTP_OK <= status < HTTP_REDIRECT:
        return Attempt(status, None)
    return Attempt(status, f"the address answered {status}; give one that answers 200 to 299")


def _break_off(connection: _Connection) -> None:
    with suppress(OSError, AttributeError):  # not connected yet, or over
        connection.sock.shutdown(socket.SHUT_RDWR)


def _headers(secret: str, message_id: str, body: str) -> dict[str, str]:
    now = datetime.now(UTC)
    return {
        "Content-Type": "application/json",
        "User-Agent": "Sextant",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Signer(secret).sign(message_id, now, body),
    }
