"""Passwords at rest: AES-256-GCM under keys that a file holds, apart from the database. Why so: docs/adr/0015."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.errors import StoreError

FILE_NAME = "secret.key"
KEY_BYTES = 32
_NONCE_BYTES = 12  # random; NIST SP 800-38D allows 2**32 of them for a key
_VERSION = "v1"
_MAX_FILE_BYTES = 4096
_MAX_KEYS = 16
# Docker mounts secrets there for every user of the container (mode 0444), of whom there is one.
_MOUNTED_SECRETS = Path("/run/secrets")


class SecretKeys:
    """The keys of one file: the first seals, every one of them opens. `repr` shows their ids only. Immutable.

    There may be none: then nothing can be sealed or opened, and `seal` raises `StoreError` with the reason.
    """

    def __init__(self, keys: Sequence[bytes] = (), *, place: str = FILE_NAME) -> None:
        self.place = place  # what messages call the file
        self._keys = {key_id(key): AESGCM(key) for key in keys}
        self.ids = tuple(self._keys)

    def __repr__(self) -> str:
        return f"SecretKeys({', '.join(self.ids)})"

    def seal(self, text: str, *, camera_id: str, field: str) -> str:
        """Encrypt one field of one camera: `v1.<key id>.<nonce and ciphertext>`. Raises `StoreError` without a key."""
        if not self.ids:
            raise StoreError(f"{self.place}: there is no key, so no password can be stored; see docs/operations.md")
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._keys[self.ids[0]].encrypt(
            nonce, text.encode("utf-8", "surrogatepass"), _bound(camera_id, field)
        )
        return f"{_VERSION}.{self.ids[0]}.{base64.urlsafe_b64encode(sealed).decode('ascii')}"

    def unseal(self, sealed: str, *, camera_id: str, field: str) -> str | None:
        """Undo `seal`. None: it was sealed with a key that is not here, belongs to another field, or was changed."""
        version, _, rest = sealed.partition(".")
        name, _, body = rest.partition(".")
        if version != _VERSION or name not in self._keys:
            return None
        try:
            data = base64.urlsafe_b64decode(body)
            text = self._keys[name].decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], _bound(camera_id, field))
            return text.decode("utf-8", "surrogatepass")
        except (InvalidTag, ValueError):  # binascii's error and one in UTF-8 are ValueErrors
            return None


def key_id(key: bytes) -> str:
    """What tells one key from another without saying anything of it."""
    return hashlib.sha256(b"vidette key id" + key).hexdigest()[:8]


def _bound(camera_id: str, field: str) -> bytes:
    # So that nobody who can write the database moves one camera's password to another that he controls.
    return f"{camera_id}/{field}".encode()


def key_path(data_dir: Path, key_file: Path | None) -> Path:
    return data_dir / FILE_NAME if key_file is None else key_file


def read_keys(path: Path) -> SecretKeys:
    """The keys in a file. Blocking. No file: no keys. Raises `StoreError` as `read_key_bytes` does."""
    return SecretKeys(read_key_bytes(path), place=str(path))


def read_key_bytes(path: Path) -> list[bytes]:
    """The keys in a file, one a line, each 32 bytes in base64. Blocking. No file: no keys.

    Raises `StoreError` with a sentence for a file that cannot be read, holds anything else, or is open to everybody.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise StoreError(f"{path}: the key file cannot be read: {exc.strerror}") from None
    if mode & 0o007 and not path.absolute().is_relative_to(_MOUNTED_SECRETS) and _keeps_modes(path.parent):
        raise StoreError(f"{path}: everybody may read this key (mode {mode:04o}); `chmod 600 {path}`")
    keys = [_key(line) for line in data.split()] if len(data) <= _MAX_FILE_BYTES else []
    if not 1 <= len(keys) <= _MAX_KEYS or not all(len(key) == KEY_BYTES for key in keys):
        raise StoreError(
            f"{path}: this is no key file; it holds one key a line, each {KEY_BYTES} bytes in base64, "
            "as `openssl rand -base64 32` makes one"
        )
    return keys


def _keeps_modes(folder: Path) -> bool:
    """Whether a file in there can be for us alone. Where the file system has no modes, nobody could mend that."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".vidette-") as file:
            return not os.fstat(file.fileno()).st_mode & 0o007
    except OSError:
        return True


def _key(line: bytes) -> bytes:
    try:
        return base64.b64decode(line, validate=True)
    except binascii.Error:
        return b""


def make_key_file(path: Path) -> None:
    """Write a new key, for us alone. Blocking. Raises `StoreError`."""
    write_key_file(path, [os.urandom(KEY_BYTES)])


def write_key_file(path: Path, keys: Sequence[bytes]) -> None:
    """Write a key file whole or not at all. Blocking. Raises `StoreError`."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        file = os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, stat.S_IRUSR | stat.S_IWUSR)
        with os.fdopen(file, "wb") as stream:
            stream.write(b"".join(base64.b64encode(key) + b"\n" for key in keys))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
        folder = os.open(path.absolute().parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # a password that is sealed with a key that a power cut took is lost
        finally:
            os.close(folder)
    except OSError as exc:
        raise StoreError(f"{path}: the key file cannot be written: {exc.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
