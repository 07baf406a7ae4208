"""Which frames of a camera are wanted, when it delivers more than `max_fps`. Pure."""

from __future__ import annotations

_WINDOW_S = 2.0
# A clock that goes at less than the first or more than the second of its rate counts something else.
_SLOWEST, _FASTEST = 0.5, 2.0
# A stream's clock that moves by more than this between two frames has jumped, and says nothing about the rate.
JUMP_S = 5.0


class ClockRate:
    """How fast a stream's clock goes, as a share of ours, in the last whole window of two seconds. One thread."""

    def __init__(self) -> None:
        self._since: tuple[float, float] | None = None
        self._rate: float | None = None

    def observe(self, media_s: float, at: float) -> float | None:
        """Take note of a stream time and of ours; gives the rate, None before the first window is over."""
        if self._since is None:
            self._since = media_s, at
        since_media_s, since = self._since
        if at - since >= _WINDOW_S:
            self._rate = (media_s - since_media_s) / (at - since)
            self._since = media_s, at
        return self._rate


class StreamTime:
    """The time by which a stream is thinned: its own, or that of arrival where its clock is of no use. One thread."""

    def __init__(self) -> None:
        self._clock = ClockRate()

    def of(self, media_s: float | None, arrived_at: float) -> float:
        """The time of a frame or packet, in seconds. Jumps where one clock takes over from the other."""
        if media_s is None:
            return arrived_at
        rate = self._clock.observe(media_s, arrived_at)
        return media_s if rate is None or _SLOWEST <= rate <= _FASTEST else arrived_at


class RateGate:
    """Lets through `max_fps` frames a second of stream time, evenly spaced, on average exactly.

    A grid of due times moves by one interval per admitted frame, so 15 fps thinned to 10 gives 10 and not 7.5.
    Not thread-safe: the reader thread owns it.
    """

    def __init__(self) -> None:
        self._due_s: float | None = None
        self._last_s: float | None = None

    def admits(self, at_s: float, max_fps: float | None) -> bool:
        """Whether the frame at stream time `at_s` is wanted. `max_fps` None wants all."""
        if max_fps is None:
            self._due_s = None
            return True
        interval_s = 1.0 / max_fps
        jumped = self._last_s is not None and not 0 <= at_s - self._last_s <= JUMP_S + interval_s
        self._last_s = at_s
        if self._due_s is None or jumped or self._due_s - at_s > interval_s:
            self._due_s = at_s
        if at_s < self._due_s - 1e-3:  # a millisecond of slack: camera clocks tick in 1/90000 s and round
            return False
        # A camera that fell behind the grid starts a new one: a burst of late frames is not owed.
        self._due_s = max(self._due_s, at_s - interval_s) + interval_s
        return True
