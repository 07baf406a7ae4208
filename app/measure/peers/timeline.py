"""When a simulated camera sent which frame of its clip. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from app.simulator.camera import GRID_S
from app.simulator.clip import Clip
from app.simulator.rtp import RTP_CLOCK_HZ

# A frame is at most so much older by its capture than by its sending: clocks are read one after the other.
_TOLERANCE_S = 0.002


class Timeline:
    """One camera's frames, counted from 0 in the order of their presentation, through all loops of the clip."""

    def __init__(self, clip: Clip, started_at: float) -> None:
        frames = sorted(clip.frames, key=lambda frame: frame.present_ticks)
        self.loop_frames = len(frames)
        self._sent_ticks = [frame.decode_ticks for frame in frames]
        self._captured_ticks = [frame.present_ticks - clip.lead_ticks for frame in frames]
        self._loop_ticks = clip.duration_ticks
        self._started_at = started_at

    def sent_at(self, number: int) -> float:
        """When the camera sent a frame: the moment that every latency counts from. Monotonic."""
        return math.ceil(self._at(self._sent_ticks, number) / GRID_S) * GRID_S

    def captured_at(self, number: int) -> float:
        """When a frame was taken, by the camera's sender reports."""
        return self._at(self._captured_ticks, number)

    def by_capture(self, captured_at: float) -> int:
        """The frame that was taken then, or next to then."""
        loop = math.floor((captured_at - self._started_at) * RTP_CLOCK_HZ / self._loop_ticks)
        around = range(max(0, (loop - 1) * self.loop_frames), max(1, loop + 2) * self.loop_frames)
        return min(around, key=lambda number: abs(self.captured_at(number) - captured_at))

    def by_picture(self, alike: Sequence[int], at: float, previous: int | None) -> int | None:
        """The frame that looks like these of the clip, comes after `previous`, and was sent by `at`; None if none.

        Of several it is the next one after `previous`; the first one of all is the newest, so that no latency is
        thought longer than it was.
        """
        if previous is None:
            newest = max((self._newest(index, at) for index in alike), default=-1)
            return newest if newest >= 0 else None
        loop = previous - previous % self.loop_frames
        both = (loop + index + more for index in alike for more in (0, self.loop_frames))
        following = min((number for number in both if number > previous), default=None)
        return following if following is not None and self.sent_at(following) <= at + _TOLERANCE_S else None

    def _newest(self, index: int, at: float) -> int:
        """The last showing of the clip's frame `index` by `at`; negative when there was none."""
        loop = math.floor((at - self._started_at) * RTP_CLOCK_HZ / self._loop_ticks) + 1
        while loop >= 0 and self.sent_at(loop * self.loop_frames + index) > at + _TOLERANCE_S:
            loop -= 1
        return loop * self.loop_frames + index if loop >= 0 else -1

    def _at(self, ticks: Sequence[int], number: int) -> float:
        loop, index = divmod(number, self.loop_frames)
        return self._started_at + (loop * self._loop_ticks + ticks[index]) / RTP_CLOCK_HZ
