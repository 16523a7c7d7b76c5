"""Where requests to an endpoint may go: the rules against being sent into networks that are none of the user's business.

https only, unless an admin has allowed the endpoint to be private; the name is looked up once, every address it has
must be allowed, and the connection goes to one of the addresses looked at (so a name that changes its mind gains
nothing). Link-local addresses (among them the metadata services of clouds), multicast and reserved ones are refused
always. Must stay light: the web application checks addresses with it.
"""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from rso_core.errors import UserError

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_PORTS = {"https": 443, "http": 80}
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*")
# Metadata services outside the link-local ranges: Amazon over IPv6, Alibaba, Oracle, and Azure's platform address.
_METADATA = frozenset(
    ipaddress.ip_address(text) for text in ("fd00:ec2::254", "100.100.100.200", "192.0.0.192", "168.63.129.16")
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class Address:
    """A checked base address: `path` has no slash at its end."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def netloc(self) -> str:
        """Return host and port as a Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def at(self, ip: IpAddress, path: str) -> str:
        """Return the URL of `path` under this address with the host's name replaced by the pinned `ip`."""
        host = f"[{ip}]" if ip.version == 6 else str(ip)  # noqa: PLR2004 - the version's own number
        return f"{self.scheme}://{host}:{self.port}{self.path}{path}"


def parse_address(text: str, *, private_allowed: bool) -> Address:
    """Return the parts of an endpoint's address. Raises UserError when it is not one, or its scheme is not allowed."""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        raise _not_an_address(text, str(error)) from error
    if url.scheme not in _PORTS or not url.hostname or not _HOST.fullmatch(url.hostname):
        raise _not_an_address(text, "it needs a scheme and a host name of letters, digits, dots and hyphens")
    if url.username is not None or url.password is not None or url.query or url.fragment or "\\" in text:
        raise _not_an_address(None, "it must hold no user name, password, query or fragment")
    if url.scheme == "http" and not private_allowed:
        message = (
            f"the address of an endpoint must begin with https://, got {text!r}: over http:// its key and your data travel "
            f"in the clear. Use https, or let an admin allow the endpoint as a private one"
        )
        raise UserError(message)
    return Address(url.scheme, url.hostname, port or _PORTS[url.scheme], url.path.rstrip("/"))


def _not_an_address(text: str | None, why: str) -> UserError:
    received = "" if text is None else f", got {text!r}"  # a password is not repeated
    return UserError(f"the address of an endpoint is written https://host[:port]/v1{received}: {why}")


def choose_ip(host: str, found: list[str], *, private_allowed: bool) -> IpAddress:
    """Return the address to connect to. Raises UserError when any address the name has is not allowed."""
    addresses = [ipaddress.ip_address(text.partition("%")[0]) for text in found]
    for address in addresses:
        refusal = refusal_of(address, private_allowed=private_allowed)
        if refusal:
            message = f"requests to {host} are refused: its address {address} is {refusal}"
            raise UserError(message)
    if not addresses:
        message = f"{host} has no address; check the spelling of the endpoint's host"
        raise UserError(message)
    return min(addresses, key=lambda address: address.version)  # many servers of one machine listen on IPv4 only


def refusal_of(address: IpAddress, *, private_allowed: bool) -> str:
    """Return why requests to an address are refused, empty when they are not."""
    inner = _embedded(address)
    if inner is not None:
        return refusal_of(inner, private_allowed=private_allowed)
    if address in _METADATA or address.is_link_local:
        return "link-local or the metadata service of a cloud, which no endpoint may be"
    if address.is_multicast or address.is_unspecified or (address.is_reserved and not address.is_loopback):
        return "multicast, unspecified or reserved, which no endpoint may be"
    if not address.is_global and not private_allowed:
        return "private or of this machine; an admin may allow this endpoint to be private"
    return ""


def _embedded(address: IpAddress) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that an IPv6 address leads to through mapping or a tunnel."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
