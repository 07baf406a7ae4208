"""Which hosts cameras may be on. Pure: names are looked up by whoever connects, and what was found is checked here."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TypeAlias

Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"
Network: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"

_NAME_PATTERN = re.compile(r"[a-z0-9*?._-]+")
# Networks of IPv6 whose addresses end with one of IPv4: RFC 6052, 8215 (as it is mostly used), 2765.
_TRANSLATED = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0:0/96")))
_V4_COMPATIBLE = ipaddress.IPv6Network("::/96")
# Where no camera is, but what a request from inside must not reach. Clouds hand out credentials at the first ones.
_DENIED: tuple[tuple[Network, str], ...] = tuple(
    (ipaddress.ip_network(network), what)
    for network, what in (
        ("169.254.169.254/32", "a cloud's metadata address"),  # AWS, Azure, Google, OpenStack, ...
        ("fd00:ec2::/64", "a cloud's metadata address"),  # AWS, also its containers' credentials
        ("fd20:ce::254/128", "a cloud's metadata address"),  # Google
        ("fd00:c1::a9fe:a9fe/128", "a cloud's metadata address"),  # Oracle
        ("fd00:42::42/128", "a cloud's metadata address"),  # Scaleway
        ("100.100.100.200/32", "a cloud's metadata address"),  # Alibaba
        ("192.0.0.192/32", "a cloud's metadata address"),  # Oracle
        ("168.63.129.16/32", "a cloud's metadata address"),  # Azure's host
        ("169.254.0.0/16", "a link-local address"),
        ("fe80::/10", "a link-local address"),
        ("0.0.0.0/8", "no host's address"),
        ("::/128", "no host's address"),
        ("224.0.0.0/4", "a multicast address"),
        ("ff00::/8", "a multicast address"),
        ("240.0.0.0/4", "a reserved address"),  # with 255.255.255.255, the broadcast address
    )
)
_DENIED_NAMES = ("metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.*")


@dataclass(frozen=True, slots=True)
class HostList:
    """Networks and name patterns, as a user writes them: `192.0.2.0/24`, `2001:db8::7`, `*.cameras.example`."""

    networks: tuple[Network, ...] = ()
    names: tuple[str, ...] = ()

    @classmethod
    def parse(cls, entries: Sequence[str]) -> HostList:
        """Raises ValueError with a sentence for an entry that is neither."""
        networks: list[Network] = []
        names: list[str] = []
        for entry in entries:
            network = _network(entry.strip().strip("[]"))
            if network is not None:
                networks.append(network)
            elif _NAME_PATTERN.fullmatch(name := _plain_name(entry)) and "/" not in entry:
                names.append(name)
            else:
                raise ValueError(f"{entry[:80]!r} must be a host name (* stands for anything), an address or a network")
        return cls(networks=tuple(networks), names=tuple(names))

    def __bool__(self) -> bool:
        return bool(self.networks or self.names)

    def has_name(self, host: str) -> bool:
        return any(fnmatchcase(_plain_name(host), pattern) for pattern in self.names)

    def has_address(self, address: Address) -> bool:
        return any(form in network for form in _forms(address) for network in self.networks)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPolicy:
    """Allowed is what `allow` names, or everything where it names nothing; never what `deny` names.

    Some addresses are denied by default. An entry of `allow` lifts that for what it names, if it lies inside of the
    denied network: `169.254.7.0/24` lets link-local cameras in, `0.0.0.0/0` does not.
    """

    allow: HostList = field(default_factory=HostList)
    deny: HostList = field(default_factory=HostList)

    def check(self, host: str) -> None:
        """Raise ValueError with a sentence that starts with `url:` when no look-up is needed to refuse this host."""
        address = literal_address(host)
        if address is not None:
            self._check_address(address, named=False)
            return
        if self.deny.has_name(host):
            raise _refused("is on cameras.deny_hosts")
        named = self.allow.has_name(host)
        if not named and any(fnmatchcase(_plain_name(host), pattern) for pattern in _DENIED_NAMES):
            raise _refused("is a cloud's metadata service")
        if self.allow and not named and not self.allow.networks:
            raise _refused("is not on cameras.allow_hosts")

    def permitted(self, host: str, addresses: Iterable[str]) -> tuple[str, ...]:
        """Those of a host's addresses that may be connected to, in order. Raises ValueError when there are none."""
        self.check(host)
        named = self.allow.has_name(host)
        kept, refusal = [], _refused("has no address")
        for text in addresses:
            problem = self._problem(ipaddress.ip_address(text), named=named)
            if problem is None:
                kept.append(text)
            else:
                refusal = _refused(problem)
        if not kept:
            raise refusal
        return tuple(kept)

    def _check_address(self, address: Address, *, named: bool) -> None:
        problem = self._problem(address, named=named)
        if problem is not None:
            raise _refused(problem)

    def _problem(self, address: Address, *, named: bool) -> str | None:
        if self.deny.has_address(address):
            return f"is on cameras.deny_hosts ({address})"
        for network, what in _DENIED:
            if any(form in network for form in _forms(address)) and not self._lifted(address, network):
                return f"is {what} ({address})"
        if self.allow and not named and not self.allow.has_address(address):
            return f"is not on cameras.allow_hosts ({address})"
        return None

    def _lifted(self, address: Address, denied: Network) -> bool:
        return any(
            form in network and _within(network, denied) for form in _forms(address) for network in self.allow.networks
        )


DEFAULT_HOSTS = HostPolicy()


def literal_address(host: str) -> Address | None:
    """The address that a host spells, in whatever way the C library understands, or None for a name.

    `127.1`, `2130706433`, `0x7f.1` and `0177.0.0.1` are all 127.0.0.1, with a dot at the end too, and in wide digits.
    """
    host = _plain_name(host)
    try:
        return ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        pass
    parts = host.split(".")
    numbers = [_c_number(part) for part in parts]
    if not 1 <= len(parts) <= 4 or any(number is None for number in numbers):
        return None
    *heads, last = [number for number in numbers if number is not None]
    if any(head > 255 for head in heads) or last >= 256 ** (4 - len(heads)):
        return None
    return ipaddress.IPv4Address(sum(head << 8 * (3 - place) for place, head in enumerate(heads)) + last)


def _c_number(text: str) -> int | None:
    for pattern, base in ((r"0x[0-9a-f]*", 16), (r"0[0-7]*", 8), (r"[1-9][0-9]*", 10)):
        if len(text) <= 40 and re.fullmatch(pattern, text):
            return int(text.removeprefix("0x") or "0", base)
    return None


def _plain_name(host: str) -> str:
    """A name as the resolver takes it: without dots at its end, in lower case and ASCII."""
    host = host.strip()
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            return host
    return host.rstrip(".").lower()


def _forms(address: Address) -> tuple[Address, ...]:
    """The address, and the IPv4 address that it carries where it is one of IPv6 that does."""
    if isinstance(address, ipaddress.IPv4Address):
        return (address,)
    inner = address.ipv4_mapped or address.sixtofour
    translated = any(address in network for network in _TRANSLATED)
    if inner is None and (translated or (address in _V4_COMPATIBLE and int(address) > 1)):
        inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return (address,) if inner is None else (address, inner)


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _within(inner: Network, outer: Network) -> bool:
    if isinstance(inner, ipaddress.IPv4Network) and isinstance(outer, ipaddress.IPv4Network):
        return inner.subnet_of(outer)
    if isinstance(inner, ipaddress.IPv6Network) and isinstance(outer, ipaddress.IPv6Network):
        return inner.subnet_of(outer)
    return False


def _refused(problem: str) -> ValueError:
    # The host's own text is not repeated: with a strange password it may be a part of one.
    return ValueError(f"url: host {problem}, where no camera may be")
