"""When frames happened and which packets are worth decoding. Pure: no `av`, no clock, no waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from app.cameras.gate import ClockRate, RateGate
from app.types import Clock, FrameTimes

# Between these two the reader's lag counts as jitter: it is neither shed nor finished shedding.
SHED_ABOVE_S = 1.0
SHED_UNTIL_S = 0.2
# A crystal is off by up to 100 ppm. The baseline follows that drift, and not a reader that falls percents behind.
_DRIFT = 200e-6
# Some cameras' clocks are worse: a lag that rose slowly and that shedding did not shorten was drift, and is learnt.
_SLOW_RISE_S = 5.0
_MOST_DRIFT = 0.05
_STUCK_AFTER_S = 1.0
_JUMP_S = 1.0
_LONGEST_FILE_GAP_S = 10.0
# However few frames are wanted, the camera's rate and the date of its last frame must stay true.
_LEAST_KEYS_FPS = 0.5
# A live picture is at most as old as what FFmpeg and TCP hold back, and never from the future. A camera whose clock is
# off by more was never set, is in another time zone, or has jumped: then our own clock knows better.
_MOST_AHEAD_S, _MOST_BEHIND_S = 2.0, 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """When a packet came, when its picture was taken as far as that is known, and what it was."""

    at: float  # monotonic
    captured_utc: float
    clock: Clock
    packet_bytes: int = 0
    is_key: bool = False
    lag_s: float = 0.0  # how far reading was behind the camera


def date_packet(
    *, at: float, utc: float, lag_s: float, sender_utc: float | None, packet_bytes: int = 0, is_key: bool = False
) -> Arrival:
    """Date a packet by the camera's sender report (`sender_utc`) if it can be, else by its arrival less the wait."""
    clock: Clock = "arrival"
    captured_utc = utc - lag_s
    if sender_utc is not None and -_MOST_BEHIND_S <= sender_utc - utc <= _MOST_AHEAD_S:
        captured_utc, clock = sender_utc, "rtcp"
    return Arrival(at=at, captured_utc=captured_utc, clock=clock, packet_bytes=packet_bytes, is_key=is_key, lag_s=lag_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What a decoded picture has from the packet that carried it."""

    pts: int | None
    arrival: Arrival | None  # None: the decoder lost it


@dataclass(frozen=True, slots=True, kw_only=True)
class Dated:
    """When a picture happened; `pts_s` by the stream's own clock, None when that is not known."""

    pts_s: float | None
    times: FrameTimes
    packet_bytes: int = 0  # 0: the decoder lost which packet it was
    is_key: bool = False


class Dating:
    """Dates the pictures of one stream, whatever decodes it."""

    def __init__(self, time_base_s: float) -> None:
        self._time_base_s = time_base_s
        self._spent_s = 0.0  # in the decoder since the last picture came out
        self._newest: Arrival | None = None
        self._packets = 0
        self._first = True  # no picture came out yet

    def sent(self, arrival: Arrival) -> None:
        """Take note of a packet that goes into the decoder."""
        self._newest = arrival
        self._packets += 1

    def date(self, pictures: Sequence[Carried], *, decoded_at: float, took_s: float) -> list[Dated | None]:
        """Date what came out of the decoder after `took_s` more of its time. None: leave this picture out."""
        self._spent_s += took_s
        first, count = 0, len(pictures)
        if pictures and self._first and self._is_undatable(pictures[0]):
            self._first = False
            first = 1
        if first == count:
            return [None] * count
        decode_s, self._spent_s = self._spent_s / (count - first), 0.0
        dated = [self._date(each, decoded_at=decoded_at, decode_s=decode_s) for each in pictures[first:]]
        return [None] * first + dated

    def _is_undatable(self, picture: Carried) -> bool:
        # FFmpeg leaves a camera's first packet undated. With B-frames its picture comes out some packets later, and
        # the clock's zero says nothing of it: better one picture less than a clock that goes back.
        return picture.pts is None and self._packets > 1

    def _date(self, picture: Carried, *, decoded_at: float, decode_s: float) -> Dated:
        arrival = picture.arrival or self._newest
        assert arrival is not None  # no picture without a packet
        return Dated(
            pts_s=self._pts_s(picture),
            times=FrameTimes(
                arrived_at=arrival.at,
                decoded_at=decoded_at,
                decode_s=decode_s,
                captured_utc=arrival.captured_utc,
                clock=arrival.clock,
                lag_s=arrival.lag_s,
            ),
            packet_bytes=0 if picture.arrival is None else picture.arrival.packet_bytes,
            is_key=picture.arrival is not None and picture.arrival.is_key,
        )

    def _pts_s(self, picture: Carried) -> float | None:
        first, self._first = self._first, False
        if picture.pts is not None:
            return picture.pts * self._time_base_s
        # A camera's clock starts with its first packet, within a few milliseconds.
        return 0.0 if first else None


class LagMeter:
    """How far the reader is behind the camera. FFmpeg drops nothing, so what is not read in time waits in TCP buffers.

    Lag is the growth of (arrival - media time) over its lowest value so far. `shedding` asks the reader to skip up to
    the live edge: from one second of lag until it is gone, or until skipping does not shorten it any more, since then
    it was never ours (the camera paused, its clock jumped or drifts). A clock that is still slow while nothing is
    decoded (it counts something else, or stands still) tells no lag until it is right for two seconds.
    """

    def __init__(self) -> None:
        self.lag_s = 0.0
        self.shedding = False
        self._baseline: float | None = None
        self._media_s = 0.0
        self._at = 0.0
        self._lowest_s = 0.0
        self._lowest_at = 0.0
        self._drift = _DRIFT
        self._half_at = 0.0  # when half of what is shed was last not reached
        self._rise_s = 0.0  # from there to the whole of it
        self._shed_at = self._shed_media_s = 0.0  # where shedding began
        self._rate = ClockRate()

    def observe(self, media_s: float, at: float) -> None:
        """Take note of a packet's media time and the monotonic time at which it was read."""
        offset = at - media_s
        rate = self._rate.observe(media_s, at)
        if self._drift > _MOST_DRIFT and rate is not None and rate >= 1 - _MOST_DRIFT:
            self._drift = _DRIFT
        if self._baseline is None or media_s < self._media_s - _JUMP_S:
            self._baseline = offset
        else:
            self._baseline = min(offset, self._baseline + self._drift * (at - self._at))
        self._media_s, self._at = media_s, at
        self.lag_s = offset - self._baseline
        if self.lag_s < SHED_ABOVE_S / 2:
            self._half_at = at
        if self.shedding:
            self._continue(at)
        elif self.lag_s > SHED_ABOVE_S:
            self.shedding = True
            self._rise_s = at - self._half_at
            self._lowest_s, self._lowest_at = self.lag_s, at
            self._shed_at, self._shed_media_s = at, media_s

    def _continue(self, at: float) -> None:
        if self.lag_s < self._lowest_s - 0.1:
            self._lowest_s, self._lowest_at = self.lag_s, at
        if self.lag_s < SHED_UNTIL_S:
            self.shedding = False
        elif at - self._lowest_at > _STUCK_AFTER_S:
            self.shedding = False
            self._baseline = self._at - self._media_s
            self.lag_s = 0.0
            # Reading alone keeps up with any camera: by what is missing, its clock is slow.
            slow = 1 - (self._media_s - self._shed_media_s) / (at - self._shed_at)
            if slow > _MOST_DRIFT:
                self._drift, self._rate = 1.25 * slow, ClockRate()
            elif self._rise_s > _SLOW_RISE_S:
                self._drift = min(_MOST_DRIFT, self._drift + 1.25 * (SHED_ABOVE_S / 2) / self._rise_s)


class Decode(Enum):
    """What to do with a packet."""

    SKIP = "skip"
    NEXT = "next"  # decode it after the ones before it
    ALONE = "alone"  # a key packet of which none follow: decode it and take its picture out at once


class DecodeGate:
    """Decides packet by packet whether decoding is worth it: everything, or the keyframes only.

    Keyframes suffice when they come about as often as frames are wanted, or while the reader sheds lag; of keyframes
    that come more often, those that are wanted. Decoding everything begins again right before a key packet only: in
    between, H.264 would give wrong pictures silently.
    """

    def __init__(self) -> None:
        self.keys_only = False
        self._rate = RateGate()
        self._key_at: float | None = None
        self._intervals: deque[float] = deque(maxlen=3)

    def decide(self, *, is_key: bool, media_s: float | None, max_fps: float | None, shedding: bool) -> Decode:
        """Say what to do with the next packet; `media_s` is its media time in seconds, `max_fps` what is wanted."""
        if not is_key:
            self.keys_only = self.keys_only or shedding
            return Decode.SKIP if self.keys_only else Decode.NEXT
        if media_s is not None and self._key_at is not None:
            self._intervals.append(media_s - self._key_at)
        self._key_at = media_s
        suffice = max_fps is not None and self._keys_suffice(max_fps)
        self.keys_only = shedding or suffice
        if max_fps is None or media_s is None or shedding or not suffice:
            return Decode.ALONE if self.keys_only else Decode.NEXT
        wanted = self._rate.admits(media_s, max(max_fps, _LEAST_KEYS_FPS))
        return Decode.ALONE if wanted else Decode.SKIP

    def _keys_suffice(self, max_fps: float) -> bool:
        if len(self._intervals) < 2:
            return False
        # Cameras' clocks jitter, and 25 frames of a camera that gives 24 a second are 1.04 s. The second is hysteresis.
        slack = 1.15 if self.keys_only else 1.1
        return 0 < max(self._intervals) <= slack / max_fps


class Pacer:
    """Plays a file in real time: how long to wait until a media time is due."""

    def __init__(self) -> None:
        self._offset: float | None = None
        self._media_s = 0.0

    def delay_s(self, media_s: float, now: float) -> float:
        """Give the seconds to wait at `now`, 0 when it is due. A jump or a late reader starts a new count."""
        jumped = not -_JUMP_S <= media_s - self._media_s <= _LONGEST_FILE_GAP_S
        self._media_s = media_s
        if self._offset is None or jumped or now - (media_s + self._offset) > _JUMP_S:
            self._offset = now - media_s
        return max(0.0, media_s + self._offset - now)
