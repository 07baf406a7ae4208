"""TLS by certificate files: https and wss, bad files as sentences, and a renewal without a restart."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from websockets.asyncio.client import connect

from app.cli import main
from app.errors import ConfigError
from app.tls import Certificate, read_context
from tests.support.app import API, STREAM, StartApp
from tests.support.serve_process import ROOT, ServeProcess


class Files:
    """A certificate for localhost in two files, by an authority of its own."""

    def __init__(self, folder: Path) -> None:
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"
        self.issue()

    def issue(self) -> None:
        self.authority = trustme.CA()
        issued = self.authority.issue_cert("localhost", "127.0.0.1")
        self.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.key.write_bytes(issued.private_key_pem.bytes())

    def client(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context

    @property
    def settings(self) -> dict[str, str]:
        return {"tls_cert_file": str(self.cert), "tls_key_file": str(self.key)}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


async def test_rest_and_websockets_speak_tls_and_a_renewal_needs_no_restart(files: Files, start_app: StartApp) -> None:
    running = await start_app(server={"port": 0, **files.settings})
    url, stream = f"https://localhost:{running.port}{API}/system", f"wss://localhost:{running.port}{STREAM}"
    trusted = await asyncio.to_thread(files.client)
    async with httpx.AsyncClient(verify=trusted) as client:
        assert (await client.get(url)).status_code == 200
    async with connect(stream, ssl=trusted, proxy=None) as socket:
        assert json.loads(await socket.recv())["type"] == "hello"
    with pytest.raises(httpx.RemoteProtocolError):
        await running.http.get("/livez")  # plain HTTP
    await asyncio.to_thread(files.issue)
    certificate = running.server._certificate
    assert certificate is not None
    assert await asyncio.to_thread(certificate.renew)
    renewed = await asyncio.to_thread(files.client)
    for context, refused in ((renewed, False), (trusted, True)):
        async with httpx.AsyncClient(verify=context) as client:
            if refused:
                with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                    await client.get(url)
            else:
                assert (await client.get(url)).status_code == 200


async def test_an_import_trusts_the_certificate_that_it_is_told(
    files: Files, start_app: StartApp, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running = await start_app(server={"port": 0, **files.settings})
    cameras = tmp_path / "cameras.yml"
    await asyncio.to_thread(cameras.write_text, "version: 1\ncameras: [{id: gate, url: rtsp://cam.test/1}]\n")
    await asyncio.to_thread(files.authority.cert_pem.write_to_path, tmp_path / "ca.pem")
    where = ["import", str(cameras), "--url", f"https://localhost:{running.port}", "--dry-run"]
    for file, code, sentence in (
        (None, 1, "CERTIFICATE_VERIFY_FAILED"),
        (tmp_path / "nothing.pem", 2, "--ca-file: .* cannot be read"),
        (cameras, 2, "--ca-file: .* holds no certificate in PEM"),
        (tmp_path / "ca.pem", 0, "^$"),
    ):
        options = [] if file is None else ["--ca-file", str(file)]
        assert await asyncio.to_thread(main, [*where, *options]) == code
        assert re.search(sentence, capsys.readouterr().err)


async def test_a_client_that_does_not_shake_hands_is_cut_off(
    files: Files, start_app: StartApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.server.HANDSHAKE_S", 0.3)
    running = await start_app(server={"port": 0, **files.settings})
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 20) == b""
    writer.close()


async def test_nothing_older_than_tls_1_2_is_spoken(files: Files, start_app: StartApp) -> None:
    running = await start_app(server={"port": 0, **files.settings})
    old = await asyncio.to_thread(files.client)
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        await asyncio.open_connection("localhost", running.port, ssl=old)


def test_files_that_have_not_changed_or_do_not_fit_leave_the_old_ones_in_use(files: Files) -> None:
    certificate = Certificate(files.cert, files.key)
    assert not certificate.renew()
    before = certificate._newest
    key = files.key.read_bytes()
    files.issue()
    files.key.write_bytes(key)  # in the middle of a renewal
    with pytest.raises(ConfigError, match="is not the key of the certificate"):
        certificate.renew()
    assert certificate._newest is before
    files.issue()
    assert certificate.renew()
    assert certificate._newest is not before
    files.cert.unlink()
    with pytest.raises(ConfigError, match=r"^server.tls_cert_file: there is no file "):
        certificate.renew()


async def test_a_failed_renewal_is_told_once(
    files: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    certificate = await asyncio.to_thread(Certificate, files.cert, files.key)
    waits: list[float] = []
    left = asyncio.Event()

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            await asyncio.to_thread(files.cert.write_text, "nothing")
        if len(waits) == 5:
            left.set()
            await asyncio.Event().wait()

    monkeypatch.setattr("app.tls.asyncio.sleep", sleep)
    watching = asyncio.create_task(certificate.watch())
    await asyncio.wait_for(left.wait(), 20)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    told = [each.getMessage() for each in caplog.records if "the old certificate stays in use" in each.getMessage()]
    assert len(told) == 1


def no_certificate(files: Files) -> None:
    files.cert.unlink()


def a_folder(files: Files) -> None:
    files.key.unlink()
    files.key.mkdir()


def another_key(files: Files) -> None:
    certificate = files.cert.read_bytes()
    files.issue()
    files.cert.write_bytes(certificate)


def no_pem(files: Files) -> None:
    files.cert.write_text("hello")


def no_key(files: Files) -> None:
    files.key.write_text("hello")


def a_passphrase(files: Files) -> None:
    key = load_pem_private_key(files.key.read_bytes(), None)
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hunter2"))
    files.key.write_bytes(encrypted)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (no_certificate, "server.tls_cert_file: there is no file {cert}"),
        (a_folder, "server.tls_key_file: {key} cannot be read: Is a directory"),
        (another_key, "server.tls_key_file: {key} is not the key of the certificate in {cert}"),
        (
            no_pem,
            "server.tls_cert_file, server.tls_key_file: {cert} and {key} must hold a certificate",
        ),
        (
            no_key,
            "server.tls_cert_file, server.tls_key_file: {cert} and {key} must hold a certificate",
        ),
        (
            a_passphrase,
            "server.tls_cert_file, server.tls_key_file: {cert} and {key} must hold a certificate",
        ),
    ],
)
def test_files_that_cannot_be_used_are_one_sentence(files: Files, spoil: object, sentence: str) -> None:
    assert callable(spoil)
    spoil(files)
    with pytest.raises(ConfigError) as caught:
        read_context(files.cert, files.key)
    assert str(caught.value).startswith(sentence.format(cert=files.cert, key=files.key))
    assert "\n" not in str(caught.value)


def test_a_process_says_https_and_its_health_check_finds_it(files: Files, tmp_path: Path) -> None:
    environ = {
        "VIDETTE_BACKEND__DEVICE": "synthetic",
        "VIDETTE_SERVER__TLS_CERT_FILE": str(files.cert),
        "VIDETTE_SERVER__TLS_KEY_FILE": str(files.key),
    }
    with ServeProcess(tmp_path / "data", environ=environ, verify=files.client()) as service:
        assert service.url.startswith("https://127.0.0.1:")
        check = subprocess.run(
            [sys.executable, "-I", str(ROOT / "deploy" / "container" / "healthcheck.py")],
            env={"VIDETTE_SERVER__PORT": service.url.rpartition(":")[2]},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (check.returncode, check.stdout.split()[0]) == (0, "200"), check
        assert service.terminate() == 0
