"""Basic and Digest, against the examples of their RFCs and against forged requests."""

from __future__ import annotations

import base64

import pytest

from app.simulator.auth import AuthGate, digest_response

PASSWORD = "p@ss:w/ö#%?"


def digest_header(gate: AuthGate, *, password: str = PASSWORD, method: str = "DESCRIBE", **changes: str) -> str:
    realm = gate.challenge.split('realm="')[1].split('"')[0]
    fields = {"username": "admin", "realm": realm, "nonce": gate.nonce, "uri": "rtsp://host/cam0", **changes}
    counted = (fields["nc"], fields["cnonce"]) if fields.get("qop") == "auth" else None
    fields["response"] = digest_response(
        username=fields["username"],
        password=password,
        realm=realm,
        nonce=fields["nonce"],
        method=method,
        uri=fields["uri"],
        counted=counted,
    )
    return "Digest " + ", ".join(f'{name}="{value}"' for name, value in fields.items())


@pytest.fixture
def digest() -> AuthGate:
    return AuthGate(scheme="digest", username="admin", password=PASSWORD, nonce="abc123")


@pytest.fixture
def basic() -> AuthGate:
    return AuthGate(scheme="basic", username="admin", password=PASSWORD)


def test_digest_matches_the_example_of_rfc_7616() -> None:
    assert (
        digest_response(
            username="Mufasa",
            password="Circle of Life",
            realm="http-auth@example.org",
            nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
            method="GET",
            uri="/dir/index.html",
            counted=("00000001", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"),
        )
        == "8ca523f5e9506fed4657c9700eebdbec"
    )


def test_open_gate_admits_anybody() -> None:
    assert AuthGate().admits("DESCRIBE", "")


def test_digest_admits_the_right_password(digest: AuthGate) -> None:
    assert digest.admits("DESCRIBE", digest_header(digest))


def test_digest_admits_a_counted_request(digest: AuthGate) -> None:
    assert digest.admits("DESCRIBE", digest_header(digest, qop="auth", nc="00000001", cnonce="xyz"))


def test_digest_reads_unquoted_and_escaped_values() -> None:
    gate = AuthGate(scheme="digest", username='ad"min', password="x", nonce="n")
    header = digest_header(gate, password="x", username='ad"min').replace('ad"min', 'ad\\"min', 1)
    assert gate.admits("DESCRIBE", header.replace('nonce="n"', "nonce=n"))


@pytest.mark.parametrize(
    ("method", "changes", "password"),
    [
        ("DESCRIBE", {}, "wrong"),
        ("SETUP", {}, PASSWORD),  # computed for DESCRIBE
        ("DESCRIBE", {"username": "root"}, PASSWORD),
        ("DESCRIBE", {"nonce": "stale"}, PASSWORD),
    ],
)
def test_digest_refuses_what_was_not_computed_for_it(
    digest: AuthGate, method: str, changes: dict[str, str], password: str
) -> None:
    assert not digest.admits(method, digest_header(digest, password=password, **changes))


def test_basic_admits_the_right_password_only(basic: AuthGate) -> None:
    def header(password: str) -> str:
        return "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()

    assert basic.admits("DESCRIBE", header(PASSWORD))
    assert not basic.admits("DESCRIBE", header(PASSWORD + "x"))


@pytest.mark.parametrize(
    "header",
    ["", "Basic", "Basic ???", "Basic YWRtaW4=", "Bearer x", "Digest", 'Digest username="admin"', "Digest \udcff"],
)
def test_nonsense_is_refused(basic: AuthGate, digest: AuthGate, header: str) -> None:
    assert not basic.admits("DESCRIBE", header)
    assert not digest.admits("DESCRIBE", header)


def test_password_is_not_in_the_repr(basic: AuthGate) -> None:
    assert PASSWORD not in repr(basic)
