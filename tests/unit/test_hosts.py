"""Which hosts cameras may be on, however a host is spelt."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cameras.hosts import DEFAULT_HOSTS, HostList, HostPolicy, literal_address
from app.settings import load_settings


def policy(*, allow: tuple[str, ...] = (), deny: tuple[str, ...] = ()) -> HostPolicy:
    return HostPolicy(allow=HostList.parse(allow), deny=HostList.parse(deny))


def admits(policy: HostPolicy, host: str, *addresses: str) -> bool:
    try:
        policy.permitted(host, addresses or [str(literal_address(host))])
    except ValueError:
        return False
    return True


METADATA = [
    "169.254.169.254",
    "169.254.169.254.",
    "2852039166",
    "0xA9FEA9FE",
    "0xa9.0xfe.0xa9.0xfe",
    "0251.0376.0251.0376",
    "169.254.43518",
    "169.16689662",
    "\uff11\uff16\uff19.254.169.254",
    "169\u3002254\u3002169\u3002254",
    "::ffff:169.254.169.254",
    "::ffff:a9fe:a9fe",
    "::169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "64:ff9b:1::a9fe:a9fe",
    "::ffff:0:169.254.169.254",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "fd20:ce::254",
    "fd00:c1::a9fe:a9fe",
    "fd00:42::42",
    "100.100.100.200",
]
NOWHERE = ["169.254.7.7", "fe80::1", "fe80::1%eth0", "febf::1", "0.0.0.0", "0", "::", "224.0.0.1", "ff02::1"]
NOWHERE += ["255.255.255.255", "4294967295", "::ffff:0.0.0.0"]


@pytest.mark.parametrize("host", METADATA + NOWHERE)
def test_what_is_denied_by_default_is_denied_in_every_spelling(host: str) -> None:
    with pytest.raises(ValueError, match=r"^url: host is .*, where no camera may be$"):
        DEFAULT_HOSTS.check(host)


@pytest.mark.parametrize("host", ["metadata.google.internal", "METADATA.google.internal.", "metadata", "instance-data"])
def test_the_names_of_metadata_services_are_not_even_looked_up(host: str) -> None:
    with pytest.raises(ValueError, match="is a cloud's metadata service"):
        DEFAULT_HOSTS.check(host)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "localhost", "::1", "192.168.1.7", "10.0.0.1", "cam", "8.8.8.8"]
)
def test_everything_else_is_allowed_by_default(host: str) -> None:
    DEFAULT_HOSTS.check(host)


@pytest.mark.parametrize("host", ["cam.169.254.169.254", "1.2.3.4.5", "256.1.1.1", "1..2", "0x", "09.1.1.1", "a.1", ""])
def test_what_is_no_address_is_taken_for_a_name(host: str) -> None:
    if host != "0x":  # the C library takes it for 0
        assert literal_address(host) is None


@given(st.ip_addresses(v=4), st.sampled_from(["dec", "hex", "oct", "mixed"]))
def test_an_address_is_read_as_the_c_library_reads_it(address: ipaddress.IPv4Address, style: str) -> None:
    octets = list(address.packed)
    text = {
        "dec": str(int(address)),
        "hex": hex(int(address)),
        "oct": ".".join(f"0{octet:o}" for octet in octets),
        "mixed": f"{octets[0]}.{hex(octets[1])}.{(octets[2] << 8) + octets[3]}",
    }[style]
    assert literal_address(text) == address == ipaddress.IPv4Address(socket.inet_aton(text))


@given(st.text(alphabet="0123456789abcdefx.", max_size=16))
def test_whatever_the_c_library_takes_for_an_address_is_one_here(text: str) -> None:
    try:
        known = ipaddress.IPv4Address(socket.inet_aton(text))
    except OSError:
        return
    assert literal_address(text) == known


def test_a_name_is_judged_by_what_it_resolves_to() -> None:
    assert DEFAULT_HOSTS.permitted("cam.lan", ["fe80::1", "192.0.2.7"]) == ("192.0.2.7",)
    assert not admits(DEFAULT_HOSTS, "cam.lan", "169.254.169.254")
    assert not admits(DEFAULT_HOSTS, "cam.lan", "::ffff:169.254.169.254", "0.0.0.0")


def test_an_allow_list_allows_nothing_else() -> None:
    networks = policy(allow=("192.0.2.0/24", "2001:db8::/32"))
    assert admits(networks, "192.0.2.7")
    assert admits(networks, "2001:db8::7")
    assert admits(networks, "cam.lan", "192.0.2.7")
    assert not admits(networks, "198.51.100.7")
    assert not admits(networks, "127.0.0.1")
    assert not admits(networks, "cam.lan", "198.51.100.7")
    names = policy(allow=("*.cams.example", "Gate"))
    assert admits(names, "A.cams.example.", "198.51.100.7")
    assert admits(names, "gate", "198.51.100.7")
    assert not admits(names, "cams.example", "198.51.100.7")
    assert not admits(names, "198.51.100.7")
    assert not admits(names, "a.cams.example", "169.254.169.254")  # a name may not smuggle metadata in


def test_a_deny_list_wins() -> None:
    some = policy(allow=("10.0.0.0/8", "*.lan"), deny=("10.0.0.5", "bad.lan", "127.0.0.0/8", "::1"))
    assert admits(some, "10.0.0.4")
    assert not admits(some, "10.0.0.5")
    assert not admits(some, "::ffff:10.0.0.5")
    assert not admits(some, "bad.lan", "10.0.0.4")
    assert not admits(some, "good.lan", "10.0.0.5")
    assert not admits(policy(deny=("127.0.0.0/8", "::1")), "localhost", "::1", "127.0.0.1")


def test_a_default_is_lifted_only_for_what_is_named_itself() -> None:
    assert admits(policy(allow=("169.254.7.0/24",)), "169.254.7.7")
    assert admits(policy(allow=("169.254.0.0/16",)), "169.254.7.7")
    assert not admits(policy(allow=("169.254.0.0/16",)), "169.254.169.254")
    assert not admits(policy(allow=("0.0.0.0/0", "::/0")), "169.254.7.7")
    assert admits(policy(allow=("0.0.0.0/0", "::/0")), "192.0.2.7")
    assert admits(policy(allow=("169.254.169.254",)), "169.254.169.254")


def test_lists_come_from_a_file_a_variable_and_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDETTE_CAMERAS__DENY_HOSTS", "127.0.0.0/8, *.evil.example")
    settings = load_settings(overrides={"cameras": {"allow_hosts": ["10.0.0.0/8"]}}, environ={})
    assert settings.cameras.allow_hosts == ("10.0.0.0/8",)
    assert settings.cameras.deny_hosts == ("127.0.0.0/8", "*.evil.example")
    assert not admits(settings.cameras.hosts, "127.0.0.1")


@pytest.mark.parametrize("entry", ["10.0.0.0/99", "http://cam", "a b", "user@host", ""])
def test_an_entry_that_is_no_host_is_a_sentence(entry: str) -> None:
    with pytest.raises(ValueError, match="must be a host name"):
        HostList.parse([entry])


_POLICIES = st.sampled_from(
    [DEFAULT_HOSTS, policy(allow=("*.lan", "10.0.0.0/8")), policy(allow=("a*",)), policy(deny=("::/0", "b?"))]
)


@given(_POLICIES, st.text(max_size=40) | st.text(alphabet="0123456789abcdefx.:[]%-", max_size=24))
def test_whatever_a_host_is_it_is_allowed_or_a_sentence(policy: HostPolicy, host: str) -> None:
    try:
        policy.check(host)
    except ValueError as exc:
        assert str(exc).startswith("url: host ")


@given(_POLICIES, st.lists(st.ip_addresses() | st.just(ipaddress.IPv6Address("fe80::1%2")), max_size=4))
def test_whatever_a_name_resolves_to_no_denied_address_is_given_out(
    policy: HostPolicy, addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address]
) -> None:
    try:
        kept = policy.permitted("cam.lan", map(str, addresses))
    except ValueError:
        return
    assert set(kept) <= set(map(str, addresses))
    assert not any(ipaddress.ip_address(text).is_link_local for text in kept)
    assert not any(ipaddress.ip_address(text).is_multicast for text in kept)
    assert not any(ipaddress.ip_address(text).is_unspecified for text in kept)
