"""Which decoder a camera gets: NVDEC, or software and the reason why."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from app.backends.cuda.bitstream import VideoFormat
from app.backends.cuda.driver import Driver
from app.backends.cuda.guard import OpeningGuard
from app.backends.cuda.nvdec import CODECS, Chroma, Nvdec, NvdecCaps
from app.backends.ffmpeg.decoder import Log
from app.errors import SourceError, SourceErrorCode

DecoderMode: TypeAlias = Literal["auto", "nvdec", "software"]
# Why a camera is decoded in software: a closed list, for counters.
FallbackKind: TypeAlias = Literal["unavailable", "codec", "memory", "guard", "failure"]

RETRY_AFTER_S = 600.0
_CODES: Mapping[FallbackKind, SourceErrorCode] = {
    "unavailable": SourceErrorCode.DECODE_FAILED,
    "codec": SourceErrorCode.UNSUPPORTED_CODEC,
    "memory": SourceErrorCode.RESOURCE_EXHAUSTED,
    "guard": SourceErrorCode.DECODE_FAILED,
    "failure": SourceErrorCode.DECODE_FAILED,
}
# A refused allocation would end the process, so these err on the high side. They are estimates, not measured: as many
# pictures as H.264 may refer to, the decoder's output, what it copies them to, and a session's own buffers.
_SURFACES = 16 + 2 + 4
_SESSION_BYTES = 128 * 2**20
# Asking for capabilities makes a CUDA context of its own for a moment.
_CONTEXT_BYTES = 768 * 2**20
_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why NVDEC does not decode a camera. `kind` is None when that is what the settings ask for."""

    kind: FallbackKind | None
    reason: str


class DecoderChoice:
    """Chooses for every camera of a device, and remembers what failed. Any thread."""

    def __init__(
        self,
        *,
        mode: DecoderMode,
        nvdec: Nvdec | None,
        missing: str = "",
        guard: OpeningGuard,
        driver: Driver,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`missing` says why there is no `nvdec`, as a part of a sentence."""
        self.guard = guard
        self.nvdec = nvdec
        self._mode = mode
        self._missing = missing
        self._driver = driver
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: dict[str, tuple[float, str]] = {}  # camera: when NVDEC failed on it, and how
        self._caps: dict[tuple[str, Chroma, int], NvdecCaps] = {}
        self._fallbacks: Counter[FallbackKind] = Counter()

    @property
    def fallbacks(self) -> Mapping[FallbackKind, int]:
        """How often a connection was decoded in software against the setting's wish, by reason."""
        with self._lock:
            return dict(self._fallbacks)

    def comes_last(self, camera_id: str) -> bool:
        """Whether a camera is to connect after the others, since the last process died of it."""
        wants_nvdec = self._mode != "software" and self.nvdec is not None
        return wants_nvdec and self.guard.suspicion(camera_id) is not None

    def refuse_camera(self, camera_id: str, codec: str) -> Refusal | None:
        """What is known without a picture; None when NVDEC may be tried."""
        if self._mode == "software":
            return Refusal(kind=None, reason="the setting backend.decoder asks for software")
        if self.nvdec is None:
            return Refusal(kind="unavailable", reason=f"NVDEC is not available: {self._missing}")
        if codec not in CODECS:
            return Refusal(kind="codec", reason=f"{codec} is not decoded on NVDEC")
        suspicion = self.guard.suspicion(camera_id, codec=codec)
        if suspicion is not None:
            return Refusal(kind="guard", reason=suspicion)
        failure = self._recent_failure(camera_id)
        if failure is not None and self._mode == "auto":
            return Refusal(kind="failure", reason=failure)
        return None

    def refuse_format(self, video: VideoFormat) -> Refusal | None:
        """Ask the device about a stream. Inside `driver.bound()` and an `Opening`. Raises `NvdecError`."""
        assert self.nvdec is not None
        if video.chroma not in ("420", "422", "444"):
            return Refusal(kind="codec", reason=f"NVDEC does not decode {_describe(video)}")
        key = (video.codec, video.chroma, video.bit_depth)
        free, _ = self._driver.memory()
        if key not in self._caps:
            if free < _CONTEXT_BYTES:
                return _no_memory(_CONTEXT_BYTES, free, "to ask NVDEC what it decodes")
            self._caps[key] = self.nvdec.caps(*key)  # one opening at a time: nobody else asks now
        refusal = _beyond(self._caps[key], video)
        needed = decoder_bytes(video)
        if refusal is None and free < needed:
            return _no_memory(needed, free, f"to decode {video.width}x{video.height} on NVDEC")
        return refusal

    def failed(self, camera_id: str, reason: str) -> None:
        """NVDEC failed on a camera: it is decoded in software for the next ten minutes."""
        now = self._clock()
        with self._lock:
            recent = {known: each for known, each in self._failures.items() if now - each[0] < RETRY_AFTER_S}
            self._failures = {**recent, camera_id: (now, reason)}

    def fall_back(self, refusal: Refusal, *, log: Log) -> str:
        """Log and count that software decodes instead, and give the reason to show.

        Raises `SourceError` when the settings ask for NVDEC and nothing else.
        """
        if refusal.kind is None:
            return refusal.reason
        if self._mode == "nvdec":
            raise SourceError(_CODES[refusal.kind], f"backend.decoder is nvdec, but {refusal.reason}")
        with self._lock:
            self._fallbacks[refusal.kind] += 1
        log.warning("decoding in software: %s", refusal.reason)
        return refusal.reason

    def _recent_failure(self, camera_id: str) -> str | None:
        with self._lock:
            at, reason = self._failures.get(camera_id, (0.0, ""))
        return reason if reason and self._clock() - at < RETRY_AFTER_S else None


def decoder_bytes(video: VideoFormat) -> int:
    """The device memory that a decoder of this stream may take at most, by estimate."""
    width, height = _aligned(video.coded_width, 64), _aligned(video.coded_height, 64)
    halves = {"420": 3, "422": 4}.get(video.chroma, 6)  # bytes of a picture: halves of those of its luma
    picture = width * height * halves // 2 * (1 if video.bit_depth == 8 else 2)
    return _SURFACES * picture + _SESSION_BYTES


def _beyond(caps: NvdecCaps, video: VideoFormat) -> Refusal | None:
    width, height = video.coded_width, video.coded_height
    macroblocks = -(-width // 16) * -(-height // 16)
    if not caps.supported:
        return Refusal(kind="codec", reason=f"NVDEC of this GPU does not decode {_describe(video)}")
    if width < caps.min_width or height < caps.min_height:
        least = f"{caps.min_width}x{caps.min_height}"
        return Refusal(kind="codec", reason=f"{width}x{height} is below the {least} that NVDEC decodes")
    if width > caps.max_width or height > caps.max_height or macroblocks > caps.max_macroblocks:
        most = f"{caps.max_width}x{caps.max_height}"
        return Refusal(kind="codec", reason=f"{width}x{height} is above the {most} that NVDEC decodes")
    return None


def _describe(video: VideoFormat) -> str:
    chroma = {"400": "grey", "420": "4:2:0", "422": "4:2:2", "444": "4:4:4"}.get(video.chroma, "this kind of pixels")
    return f"{video.codec} of {video.bit_depth} bits in {chroma}"


def _no_memory(needed: int, free: int, purpose: str) -> Refusal:
    reason = f"{needed // _MIB} MiB of GPU memory are needed {purpose}, and {free // _MIB} MiB are free"
    return Refusal(kind="memory", reason=reason)


def _aligned(length: int, alignment: int) -> int:
    return -(-length // alignment) * alignment
