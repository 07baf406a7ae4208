"""TLS by certificate files, which may be renewed while the service runs."""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

from app.errors import ConfigError

logger = logging.getLogger("vidette.service")
LOOK_EVERY_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stamp:
    """What tells one state of the files from another."""

    times_ns: tuple[int, int]
    sizes: tuple[int, int]


class Certificate:
    """A certificate and its key from PEM files. `context` goes to the server, once and for all.

    Each handshake is done with the newest files that fit together: `watch` reads them anew when they have changed.
    """

    def __init__(self, cert_file: Path, key_file: Path) -> None:
        """Blocking. Raises `ConfigError` when the files cannot be used."""
        self._cert_file = cert_file
        self._key_file = key_file
        self._stamp = _stamp(cert_file, key_file)
        self._newest = read_context(cert_file, key_file)
        self.context = self._newest
        self.context.sni_callback = self._choose

    def renew(self) -> bool:
        """Read the files anew if they have changed; whether new ones are in use. Blocking. Raises `ConfigError`."""
        stamp = _stamp(self._cert_file, self._key_file)
        if stamp == self._stamp:
            return False
        self._newest = read_context(self._cert_file, self._key_file)
        self._stamp = stamp
        return True

    async def watch(self) -> None:
        """Renew for ever. Files that do not fit together, as in the middle of a renewal, change nothing."""
        told = ""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                if await asyncio.to_thread(self.renew):
                    logger.info("a new certificate is in use: %s", self._cert_file)
                told = ""
            except ConfigError as exc:
                if str(exc) != told:
                    logger.error("the old certificate stays in use: %s", exc)
                told = str(exc)

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
        # OpenSSL asks at every handshake, also when the client names no server.
        if context is not self._newest:
            connection.context = self._newest


def read_context(cert_file: Path, key_file: Path) -> ssl.SSLContext:
    """TLS 1.2 and newer with this certificate. Blocking. Raises `ConfigError` that names the setting."""
    _check_readable("tls_cert_file", cert_file)
    _check_readable("tls_key_file", key_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # Without the password, OpenSSL would ask for one at the terminal and wait.
        context.load_cert_chain(cert_file, key_file, password=lambda: "")
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            sentence = f"server.tls_key_file: {key_file} is not the key of the certificate in {cert_file}"
        else:
            sentence = (
                f"server.tls_cert_file, server.tls_key_file: {cert_file} and {key_file} must hold a certificate "
                f"and its key in PEM, the key without a passphrase ({exc.reason or exc})"
            )
        raise ConfigError(sentence) from None
    return context


def _check_readable(key: str, path: Path) -> None:
    try:
        path.open("rb").close()
    except FileNotFoundError:
        raise ConfigError(f"server.{key}: there is no file {path}") from None
    except OSError as exc:
        raise ConfigError(f"server.{key}: {path} cannot be read: {exc.strerror}") from None


def _stamp(cert_file: Path, key_file: Path) -> _Stamp | None:
    try:
        states = [path.stat() for path in (cert_file, key_file)]
    except OSError:
        return None
    return _Stamp(times_ns=(states[0].st_mtime_ns, states[1].st_mtime_ns), sizes=(states[0].st_size, states[1].st_size))
