"""The protocol that every camera source follows, on every backend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Generic, Literal, Protocol

from app.cameras.hosts import DEFAULT_HOSTS, HostPolicy
from app.cameras.urls import masked
from app.errors import SourceError, SourceErrorCode
from app.types import S, SourceFrame, StreamInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRequest:
    """What a source needs to know to open one camera. `repr` never shows what is secret."""

    camera_id: str
    url: str  # without credentials
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    unreadable: bool = False  # the stored password or URL is sealed with a key that is not here
    transport: Literal["auto", "tcp", "udp"] = "auto"
    stall_timeout_s: float = 10.0  # no frame for this long is a `read_timeout`
    media_dir: Path | None = None  # file URLs must lie below it; None forbids them
    hosts: HostPolicy = DEFAULT_HOSTS

    def __repr__(self) -> str:
        return f"SourceRequest({self.camera_id}, {masked(self.url)}, username={self.username!r}, {self.transport})"


class DecodeEffort(IntEnum):
    """How much work decoding may be. Each leaves out what the one before it does, and more."""

    FULL = 0
    LIGHT = 1  # no loop filter but in keyframes: some noise at block edges
    REFERENCES = 2  # no frames that none builds on
    KEYFRAMES = 3  # nothing else


class FrameSource(Protocol[S]):
    """One connection to one camera. Works until it fails; never retries (its `Camera` does).

    `frames` and `close` belong to the camera's reader thread; `interrupt` and `pace` may come from any thread.
    """

    @property
    def info(self) -> StreamInfo | None:
        """What is known of the stream; None before it is open. Readable from any thread."""
        ...

    def frames(self) -> Iterator[SourceFrame[S]]:
        """Connect, then yield each decoded frame. Blocking.

        Returns quietly after `interrupt`. Everything that a camera can do wrong is a `SourceError`, the end of a
        live stream or file too (`end_of_stream`). The receiver owns each surface and releases it.
        """
        ...

    def pace(self, max_fps: float | None, effort: DecodeEffort = DecodeEffort.FULL) -> None:
        """Tell how many frames a second are wanted, and what they may cost. A hint, never a promise.

        Pictures stay right: what needs a keyframe to begin, as every return to more effort does, begins with one.
        """
        ...

    def interrupt(self) -> None:
        """Ask `frames` to end soon: at the next packet or read timeout. Idempotent."""
        ...

    def close(self) -> None:
        """Free the connection and the decoder. Idempotent."""
        ...


class UnreadableSource(Generic[S]):
    """The source of a camera whose password cannot be read: it says so, and touches no network."""

    info = None

    def __init__(self, request: SourceRequest) -> None:
        self._request = request

    def frames(self) -> Iterator[SourceFrame[S]]:
        raise SourceError(
            SourceErrorCode.AUTH_FAILED,
            f"the stored password of {self._request.camera_id} cannot be read with this key; "
            "set the password anew, or put the right key back (secret.key or secrets.key_file) and restart",
        )

    def pace(self, max_fps: float | None, effort: DecodeEffort = DecodeEffort.FULL) -> None:
        pass

    def interrupt(self) -> None:
        pass

    def close(self) -> None:
        pass
