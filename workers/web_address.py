"""Where the web process listens, and whether it answers there."""

import errno
import http.client
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from rso_core.errors import UserError

_START_SECONDS = 180.0
_EVERYWHERE = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - compared with, not listened on
_LARGEST_PORT = 65535


@dataclass(frozen=True)
class WebAddress:
    """A host and a port to listen on."""

    host: str
    port: int

    @property
    def reachable_host(self) -> str:
        """Return a host by which this machine reaches it."""
        return "localhost" if self.host in _EVERYWHERE else self.host

    @property
    def url(self) -> str:
        """Return what to type into a browser on this machine."""
        host = f"[{self.reachable_host}]" if ":" in self.reachable_host else self.reachable_host
        return f"http://{host}:{self.port}"


def refuse_taken_port(address: WebAddress) -> None:
    """Raise UserError, with what to do, when nothing can listen there."""
    if not 0 < address.port <= _LARGEST_PORT:
        message = f"--port must be between 1 and {_LARGEST_PORT}, got {address.port}"
        raise UserError(message)
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            address.host or None, address.port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
    except OSError as error:
        raise UserError(_why_not(address, error)) from error


def _why_not(address: WebAddress, error: OSError) -> str:
    other = address.port + 1 if address.port < _LARGEST_PORT else 8000
    choose = f"Choose another: make up PORT={other} (or --port {other})"
    if error.errno == errno.EADDRINUSE:
        return f"port {address.port} on {address.host} is taken by another program. {choose}"
    if error.errno == errno.EACCES:
        return f"port {address.port} needs rights that this user does not have. {choose}"
    return f"--host must be an address of this machine, got {address.host!r} ({error.strerror}). 127.0.0.1 is this machine only, 0.0.0.0 all networks"


def wait_until_it_answers(address: WebAddress, look_after: Callable[[], None]) -> None:
    """Wait until the web process answers. `look_after` is called again and again, and may raise."""
    deadline = time.monotonic() + _START_SECONDS
    while not _answers(address):
        look_after()
        if time.monotonic() > deadline:
            message = f"{address.url} did not answer within {_START_SECONDS:g} s; see the web process's log"
            raise UserError(message)
        time.sleep(0.2)


def _answers(address: WebAddress) -> bool:
    connection = http.client.HTTPConnection(address.reachable_host, address.port, timeout=10)
    try:
        # A host name that is always allowed, whatever this server's is.
        connection.request("GET", "/static/icon.svg", headers={"Host": f"localhost:{address.port}"})
        return connection.getresponse().status < http.HTTPStatus.INTERNAL_SERVER_ERROR
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
