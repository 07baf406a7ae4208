"""Playing clips for ever on one endless media clock. Pure: it says what is due when, and never waits."""

from __future__ import annotations

from dataclasses import dataclass

from app.simulator.clip import Clip
from app.simulator.rtp import MediaFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class DueFrame:
    """A frame with its place on the endless media clock, in ticks of 1/90000 s from the start of the player."""

    frame: MediaFrame
    due_ticks: int
    present_ticks: int


class ClipPlayer:
    """Loops a clip; both clocks run on over the seam, and over a change of the clip."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._index = 0
        self._loop_ticks = 0  # where the current loop started

    @property
    def clip(self) -> Clip:
        return self._clip

    @property
    def due_ticks(self) -> int:
        """When the next frame is due."""
        return self._loop_ticks + self._clip.frames[self._index].decode_ticks

    def take(self) -> DueFrame:
        """Give the next frame and move on."""
        frame = self._clip.frames[self._index]
        due = DueFrame(frame=frame, due_ticks=self.due_ticks, present_ticks=self._loop_ticks + frame.present_ticks)
        self._index += 1
        if self._index == len(self._clip.frames):
            self._index = 0
            self._loop_ticks += self._clip.duration_ticks
        return due

    def swap(self, clip: Clip) -> None:
        """Go on with the first frame of another clip, where the next frame of this one would have been shown."""
        # With B-frames presentation runs ahead of sending: start behind all that this clip has shown so far.
        self._loop_ticks = self.due_ticks + self._clip.lead_ticks
        self._index = 0
        self._clip = clip
