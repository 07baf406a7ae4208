"""Which frames of a camera show something new: by packet sizes, then by a small grey picture. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from app.cameras.settings import MotionSettings
from app.types import FloatArray, GreyPicture, S, SourceFrame

# The scene is looked at in 64 x 36 cells: of 20 x 20 pixels at 720p.
WIDTH, HEIGHT = 64, 36
_MIDDLE = WIDTH * HEIGHT // 8  # of a quarter of the cells
_CELLS = 6  # so many must have changed: 0.3 % of the picture
# How much a cell must change, in grey levels: twelve times what the scene's cells do while nothing happens.
_NOISE_FACTOR = 12.0
_LOWEST_BAR, _HIGHEST_BAR = 6.0, 20.0  # the latter, so that nothing can pass for noise which plainly is none
_LIGHT_BAR = 10.0  # of the whole picture's brightness
_BACKGROUND_S = 4.0  # what stays becomes part of the background with this time constant
_SLOWER = 0.2  # where something moves, so that it leaves no hole behind when it goes
_NOISE_S, _NOISE_IN_MOTION_S = 2.0, 10.0
_LEARN_S, _LEARN_LOOKS = 1.0, 5
_LEARN_EVERY_S = 0.2  # later on; a look alone costs half as much
_LOOK_EVERY_S = 0.5  # whatever packets say

_STILL_LOOKS, _MOTION_LOOKS = 32, 16  # before packet sizes are believed
_MOTION_MEMORY = 64
_QUIET_FACTOR = 1.25
_MOTION_MARGIN = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionState:
    """What the gate says of a camera's scene, for the status."""

    still: bool
    since_utc: float


class MotionGate:
    """Lets through what moves, for `hold_s` longer, and one frame each `heartbeat_s` of a still scene.

    A frame that shows motion passes itself. Until the gate has learnt the scene, a second or so, everything passes.
    One gate for one connection. Not thread-safe: the reader thread owns it.
    """

    def __init__(self) -> None:
        self.still = False
        self._scene = _Scene()
        self._sizes = _PacketSizes()
        self._open_until = self._passed_at = self._look_at = float("-inf")

    def admits(self, frame: SourceFrame[S], settings: MotionSettings) -> bool:
        """Whether the frame is wanted; takes its time from the frame's arrival."""
        at = frame.times.arrived_at
        if self._moves(frame, at, 4.0 ** (1 - 2 * settings.sensitivity)):
            self._open_until = at + settings.hold_s
        self.still = at > self._open_until
        if self.still and at < self._passed_at + settings.heartbeat_s:
            return False
        self._passed_at = at
        return True

    def _moves(self, frame: SourceFrame[S], at: float, coarseness: float) -> bool:
        size = 0 if frame.is_key else frame.packet_bytes  # a keyframe holds the whole scene, whether it moves or not
        if at < self._look_at and self._sizes.surely_still(size):
            return False
        moves = self._scene.moves(frame.surface.luma(WIDTH, HEIGHT), at, coarseness)
        self._sizes.learn(size, moves)
        self._look_at = at + _LOOK_EVERY_S
        return moves


class _Scene:
    """A background that follows the scene slowly, and how much its cells change while nothing moves."""

    def __init__(self) -> None:
        self._background: FloatArray | None = None
        self._noise = 0.0
        self._began = self._learnt_at = 0.0
        self._looks = 0

    def moves(self, picture: GreyPicture, at: float, coarseness: float) -> bool:
        """Whether the picture differs from the background. `coarseness` 1 is normal, more overlooks more."""
        if self._background is None:
            self._background = picture.astype(np.float32)
            self._began = self._learnt_at = at
            return True
        self._looks += 1
        difference = picture - self._background
        shift = float(np.add.reduce(difference, axis=None)) / difference.size  # a cloud, the exposure: of all cells
        difference -= shift
        change = np.abs(difference)
        bar = coarseness * min(max(_LOWEST_BAR, _NOISE_FACTOR * self._noise), _HIGHEST_BAR)
        changed = change > bar
        lit = abs(shift) > coarseness * _LIGHT_BAR
        moves = bool(lit or np.count_nonzero(changed) >= _CELLS)
        learning = self._looks < _LEARN_LOOKS or at - self._began < _LEARN_S
        if not (learning or lit or at - self._learnt_at >= _LEARN_EVERY_S):
            return moves
        elapsed_s, self._learnt_at = max(0.0, at - self._learnt_at), at
        settling = 1 / self._looks if learning else 0.0  # plain means at first
        typical = float(np.partition(change[::2, ::2], _MIDDLE, axis=None)[_MIDDLE])
        if lit or typical > bar:  # another scene, or in another light: it is the background from now on
            self._background = picture.astype(np.float32)
        else:
            share = max(min(1.0, elapsed_s / _BACKGROUND_S), settling)
            difference *= share * (1 - (1 - _SLOWER) * changed) if moves else share
            difference += shift
            self._background += difference
        noise_s = _NOISE_IN_MOTION_S if moves else _NOISE_S
        self._noise += (typical - self._noise) * max(min(1.0, elapsed_s / noise_s), settling)
        return moves or learning


class _PacketSizes:
    """Which packets are still for sure, as far as a look at the pixels has shown that sizes tell.

    A camera with a constant bit rate, or one whose noise fills its packets, is never believed: its packets with motion
    are no larger than the others.
    """

    def __init__(self) -> None:
        self._quiet = 0.0
        self._quiet_looks = 0
        self._loud: deque[int] = deque(maxlen=_MOTION_MEMORY)

    def surely_still(self, size: int) -> bool:
        """`size` 0 is unknown. Only what is no larger than usual in stillness, and smaller than all that ever moved."""
        if not size or self._quiet_looks < _STILL_LOOKS or len(self._loud) < _MOTION_LOOKS:
            return False
        return size <= _QUIET_FACTOR * self._quiet and size < _MOTION_MARGIN * min(self._loud)

    def learn(self, size: int, moves: bool) -> None:
        """Take note of what the pixels of a packet's picture showed."""
        if not size:
            return
        if moves:
            self._loud.append(size)
        else:
            self._quiet_looks += 1
            self._quiet += (size - self._quiet) * max(1 / self._quiet_looks, 0.03)
