"""One simulated camera: a clip played live for ever, whoever looks, with a fault on command."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from app.simulator.clip import Clip
from app.simulator.faults import CLIP_FAULTS, OK, Fault, FaultKind, Reordering, damage
from app.simulator.player import ClipPlayer
from app.simulator.rtp import RTP_CLOCK_HZ, RtpBurst, RtpStream, media_frame
from app.simulator.sdp import AUDIO_CONTROL, PCMU_CLOCK_HZ, VIDEO_CONTROL, describe
from app.simulator.tracks import LiveTrack, MediaClock

_TOO_LATE_S = 2.0
# All cameras send at multiples of this, so that many of them share one wake-up of the event loop: half of the cost.
GRID_S = 0.005
_SILENCE_SAMPLES = 320  # 40 ms
_SILENCE = media_frame(
    [b"\x80\x00" + bytes(10) + b"\xff" * _SILENCE_SAMPLES], decode_ticks=0, present_ticks=0, is_key=True
)
_NO_MEDIA = frozenset({FaultKind.STALL, FaultKind.MUTE, FaultKind.VANISH, FaultKind.HOLE})
_HALF_OPEN = frozenset({FaultKind.VANISH, FaultKind.HOLE})
_NO_CLIENTS = frozenset(
    {
        FaultKind.CLOSE, FaultKind.REFUSE, FaultKind.UNAUTHORIZED, FaultKind.MISSING, FaultKind.TRICKLE,
        FaultKind.ZERO, FaultKind.AUDIO, FaultKind.EMPTY, FaultKind.CODEC, FaultKind.WRAP,
    }
)  # fmt: skip
_AUDIO_ONLY = frozenset({FaultKind.AUDIO})
_NO_VIDEO = _AUDIO_ONLY | {FaultKind.EMPTY}


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraOptions:
    phase_s: float = 0.0  # its first frame is due so long after it was added
    audio_first: bool = False  # a PCMU track before the video, silent
    sprop: bool = True  # False: the session description leaves the parameter sets out
    seed: int = 0  # of the stream's numbers and of what `drop`, `corrupt` and `garbage` hit
    max_backlog_bytes: int = 4_000_000  # unsent media held for one client
    report_interval_s: float = 5.0  # between RTCP sender reports


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraStats:
    """What a camera has done so far."""

    clients: int  # RTSP connections
    viewers: int  # of them, those that play the video
    connects: int
    frames_sent: int  # summed over viewers
    frames_skipped: int  # of viewers with a full backlog
    packets: int
    octets: int
    late_max_ms: float  # the worst delay of a frame behind its time
    started_at: float  # monotonic, when its first frame was due; moves on when the machine sleeps
    fault: str


class Client(Protocol):
    """An RTSP connection, as a camera sees it."""

    def abort(self) -> None:
        """Drop the connection now."""
        ...

    def finish(self) -> None:
        """Send what is on its way, then close."""
        ...

    def vanish(self) -> None:
        """Read and answer nothing more, and leave the connection open."""
        ...


class Camera:
    """Belongs to the event loop that it was made in; every method is for that loop's thread."""

    def __init__(self, name: str, clip: Clip, options: CameraOptions, *, wall: Callable[[], float] = time.time) -> None:
        self.name = name
        self.fault = OK
        self._clip = clip
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._clock = MediaClock(started_at=self._loop.time() + options.phase_s, monotonic=self._loop.time, wall=wall)
        self._rng = random.Random(f"{options.seed}:{name}")
        self._player = ClipPlayer(clip)
        self._video = self._track(RTP_CLOCK_HZ)
        self._audio = self._track(PCMU_CLOCK_HZ)
        self._reordering = Reordering()
        self._drifted_ticks = 0.0  # what a whole tick is still missing of
        self._clients: set[Client] = set()
        self._connects = 0
        self._late_max_s = 0.0
        self._silence_ticks = 0
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._schedule_frame()

    def __repr__(self) -> str:
        return f"Camera({self.name!r}, clip={self._player.clip.name!r}, fault={str(self.fault)!r})"

    @property
    def codec(self) -> str:
        return self._clip.codec

    def describe(self) -> str:
        """The session description of what it plays now."""
        kind = self.fault.kind
        return describe(
            None if kind in _NO_VIDEO else self._player.clip,
            audio_first=self._has_audio,
            sprop=self._options.sprop,
        )

    def track(self, control: str) -> LiveTrack | None:
        """The track of a SETUP URL; the video where the URL names the whole camera."""
        if control == AUDIO_CONTROL:
            return self._audio if self._has_audio else None
        return self._video if control in ("", VIDEO_CONTROL) and self.fault.kind not in _NO_VIDEO else None

    def attach(self, client: Client) -> None:
        """Tell of a connection that has asked for this camera, whether it plays or not."""
        self._clients.add(client)
        self._connects += 1

    def detach(self, client: Client) -> None:
        self._clients.discard(client)

    def start_audio(self) -> None:
        """Pace silence while somebody listens."""
        if self._audio.sinks and "audio" not in self._timers:
            self._silence_ticks = self._clock.ticks(PCMU_CLOCK_HZ)
            self._send_silence()

    def set_fault(self, fault: Fault, *, clip: Clip | None = None) -> None:
        """Start a fault, and end the one before. `clip` goes with `resolution`. The same fault hits alike each time."""
        self._end_fault()
        self._rng.seed(f"{self._options.seed}:{self.name}:{fault}")
        self.fault = OK if fault.is_momentary else fault
        if fault.kind in _NO_CLIENTS:
            self._drop_clients()
        if fault.kind in CLIP_FAULTS and clip is not None:
            self._swap(clip)
        self._start_fault(fault)

    def _start_fault(self, fault: Fault) -> None:
        ticks = round(fault.amount * RTP_CLOCK_HZ)
        if fault.kind in _HALF_OPEN:
            for client in tuple(self._clients):
                client.vanish()
        elif fault.kind is FaultKind.EOF:
            self._say_goodbye()
        elif fault.kind is FaultKind.JUMP:
            self._video.stream.jump(ticks)
        elif fault.kind is FaultKind.WRAP:
            self._video.stream.wrap(self._clock.ticks(RTP_CLOCK_HZ), in_ticks=ticks)
        elif fault.kind is FaultKind.SKEW:
            self._video.skew_s = fault.amount
            self._video.report_soon()
        elif fault.kind is FaultKind.FLAP:
            self._schedule_flap()

    def stats(self) -> CameraStats:
        return CameraStats(
            clients=len(self._clients),
            viewers=self._video.sinks,
            connects=self._connects,
            frames_sent=self._video.frames_sent,
            frames_skipped=self._video.frames_skipped,
            packets=self._video.stream.packets,
            octets=self._video.stream.octets,
            late_max_ms=self._late_max_s * 1000,
            started_at=self._clock.due_at(0, RTP_CLOCK_HZ),
            fault=str(self.fault),
        )

    def close(self) -> None:
        """Stop the clocks and drop the clients. Idempotent."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._drop_clients()

    def _track(self, clock_hz: int) -> LiveTrack:
        stream = RtpStream(
            ssrc=self._rng.getrandbits(32),
            first_sequence=self._rng.getrandbits(16),
            first_timestamp=self._rng.getrandbits(32),
            clock_hz=clock_hz,
        )
        return LiveTrack(
            stream,
            self._clock,
            max_backlog_bytes=self._options.max_backlog_bytes,
            report_interval_s=self._options.report_interval_s,
        )

    def _schedule_frame(self) -> None:
        due_at = self._clock.due_at(self._player.due_ticks, RTP_CLOCK_HZ)
        self._timers["video"] = self._loop.call_at(math.ceil(due_at / GRID_S) * GRID_S, self._send_frame)

    def _send_frame(self) -> None:
        late_s = self._clock.lateness_s(self._player.due_ticks, RTP_CLOCK_HZ)
        if late_s > _TOO_LATE_S:  # the machine slept: go on from here, a burst would be no live stream
            self._clock.postpone(late_s)
        else:
            self._late_max_s = max(self._late_max_s, late_s)
        due = self._player.take()
        if self.fault.kind in _NO_MEDIA:
            self._video.hold(due.frame)
        else:
            lead_ticks = self._player.clip.lead_ticks
            self._drift()
            self._video.send(due.frame, due.present_ticks, lead_ticks=lead_ticks, harm=self._harm)
        self._schedule_frame()

    def _drift(self) -> None:
        if self.fault.kind is FaultKind.DRIFT:
            clip = self._player.clip
            self._drifted_ticks += self.fault.amount * clip.duration_ticks / len(clip.frames)
            whole = math.trunc(self._drifted_ticks)
            self._drifted_ticks -= whole
            self._video.stream.jump(whole)

    def _harm(self, burst: RtpBurst) -> RtpBurst:
        if self.fault.kind is FaultKind.REORDER:
            return self._reordering.pass_through(burst, self.fault.amount, self._rng)
        return damage(self.fault, burst, self._rng)

    @property
    def _has_audio(self) -> bool:
        return self._options.audio_first or self.fault.kind in _AUDIO_ONLY

    def _send_silence(self) -> None:
        audio = self._audio
        if not audio.sinks:
            self._timers.pop("audio", None)
            return
        if self.fault.kind in _NO_MEDIA:
            audio.hold(_SILENCE)
        else:
            audio.send(_SILENCE, self._silence_ticks, lead_ticks=0, harm=self._harm)
        self._silence_ticks += _SILENCE_SAMPLES
        due_at = self._clock.due_at(self._silence_ticks, PCMU_CLOCK_HZ)
        self._timers["audio"] = self._loop.call_at(due_at, self._send_silence)

    def _schedule_flap(self) -> None:
        self._timers["flap"] = self._loop.call_later(self.fault.amount, self._flap)

    def _flap(self) -> None:
        self._drop_clients()
        self._schedule_flap()

    def _end_fault(self) -> None:
        flap = self._timers.pop("flap", None)
        if flap is not None:
            flap.cancel()
        self._reordering, self._drifted_ticks, self._video.skew_s = Reordering(), 0.0, 0.0
        if self.fault.kind in _HALF_OPEN:  # a peer that comes back knows nothing of its old connections
            self._drop_clients()
        if self._player.clip is not self._clip:
            self._swap(self._clip)
            if self.fault.kind is not FaultKind.RESOLUTION:
                self._drop_clients()

    def _swap(self, clip: Clip) -> None:
        self._player.swap(clip)
        self._timers["video"].cancel()
        self._schedule_frame()

    def _drop_clients(self) -> None:
        for client in tuple(self._clients):
            client.abort()

    def _say_goodbye(self) -> None:
        self._video.say_goodbye()
        self._audio.say_goodbye()
        for client in tuple(self._clients):
            client.finish()
