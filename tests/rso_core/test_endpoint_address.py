import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rso_core.endpoint_address import choose_ip, parse_address, refusal_of
from rso_core.errors import UserError


def test_an_address_is_taken_apart() -> None:
    found = parse_address("https://api.example.org/v1/", private_allowed=False)
    assert (found.scheme, found.host, found.port, found.path) == ("https", "api.example.org", 443, "/v1")
    assert found.netloc == "api.example.org"
    assert parse_address("http://[::1]:8000/v1", private_allowed=True).netloc == "[::1]:8000"


def test_the_url_of_a_request_holds_the_address_that_was_looked_up() -> None:
    found = parse_address("https://api.example.org:8443/v1", private_allowed=False)
    assert found.at(ipaddress.ip_address("93.184.216.34"), "/x") == "https://93.184.216.34:8443/v1/x"
    assert found.at(ipaddress.ip_address("2606:2800::1"), "/x") == "https://[2606:2800::1]:8443/v1/x"


@pytest.mark.parametrize(
    "text",
    [
        "", "api.example.org", "ftp://api.example.org", "file:///etc/passwd", "https://", "https://user:secret@api.example.org/v1",
        "https://api.example.org/v1?x=1", "https://api.example.org/v1#x", "https://api.example.org:99999/v1", "https://a b/v1",
        "https://api.example.org\\@10.0.0.1/v1", "gopher://127.0.0.1/", "https://[not-ip]/",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_and_a_password_is_not_repeated(text: str) -> None:
    with pytest.raises(UserError, match="https://host") as refusal:
        parse_address(text, private_allowed=True)
    assert "secret" not in str(refusal.value)


def test_plain_http_is_for_private_endpoints() -> None:
    with pytest.raises(UserError, match="must begin with https://"):
        parse_address("http://api.example.org/v1", private_allowed=False)


@pytest.mark.parametrize(
    "ip",
    [
        "169.254.169.254", "169.254.0.1", "fe80::1", "fd00:ec2::254", "100.100.100.200", "168.63.129.16", "0.0.0.0", "::",  # noqa: S104
        "224.0.0.1", "ff02::1", "255.255.255.255", "240.0.0.1",
        "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1",
    ],
)  # fmt: skip
def test_metadata_link_local_multicast_and_reserved_addresses_are_refused_always(ip: str) -> None:
    assert refusal_of(ipaddress.ip_address(ip), private_allowed=True)


@pytest.mark.parametrize(
    "ip",
    ["127.0.0.1", "127.8.8.8", "::1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd12::1", "::ffff:127.0.0.1", "64:ff9b::a00:1"],
)  # fmt: skip
def test_private_addresses_need_an_admin(ip: str) -> None:
    assert "private" in refusal_of(ipaddress.ip_address(ip), private_allowed=False)
    assert refusal_of(ipaddress.ip_address(ip), private_allowed=True) == ""


@pytest.mark.parametrize("ip", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34"])
def test_public_addresses_are_allowed(ip: str) -> None:
    assert refusal_of(ipaddress.ip_address(ip), private_allowed=False) == ""


@given(st.ip_addresses())
def test_whatever_is_not_public_is_refused_without_an_admin(address: ipaddress.IPv4Address) -> None:
    assert refusal_of(address, private_allowed=False) or address.is_global or address.version == 6


def test_one_bad_address_among_a_names_addresses_refuses_the_name() -> None:
    with pytest.raises(UserError, match=r"rebind\.example are refused: its address 10\.0\.0\.1 is private"):
        choose_ip("rebind.example", ["93.184.216.34", "10.0.0.1"], private_allowed=False)
    with pytest.raises(UserError, match="has no address"):
        choose_ip("nowhere.example", [], private_allowed=False)
    assert str(choose_ip("a.example", ["93.184.216.34", "93.184.216.35"], private_allowed=False)) == "93.184.216.34"
