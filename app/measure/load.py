"""What a benchmark's cameras do: how many, how fast, and when in relation to each other. Pure."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal, TypeAlias

from app.measure.figures import LimitRun

Mode: TypeAlias = Literal["saturated", "paced"]
Phase: TypeAlias = Literal["aligned", "random", "spread"]
# Saturated cameras send so many times what can be inferred.
_OVERLOAD = 1.25
# Of one camera: more than a core decodes of most streams.
MOST_FPS = 240.0
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The cameras of one measurement. They all show the same clip."""

    cameras: int
    clip: str
    fps: float  # that each camera sends
    mode: Mode = "saturated"
    phase: Phase = "spread"
    seed: int = 0
    max_fps: float | None = None  # the cameras' setting

    @property
    def phases_s(self) -> tuple[float, ...]:
        """How long after the first camera's each camera's first frame comes, within a second.

        Aligned: all at once, keyframes too. Spread: multiples of the golden ratio, which lie apart however many cameras
        and whatever the rate. Random: drawn from `seed`.
        """
        chance = random.Random(self.seed)
        if self.phase == "aligned":
            return (0.0,) * self.cameras
        if self.phase == "random":
            return tuple(chance.random() for _ in range(self.cameras))
        return tuple(number * _GOLDEN % 1.0 for number in range(self.cameras))


def saturating_fps(run: LimitRun, *, cores: float, cameras: int, times: float = _OVERLOAD) -> float:
    """Frames a second that each camera has to send, so that together they send `times` what can be inferred of them.

    With d and i CPU seconds of decoding and inferring a frame, f frames a second leave (cores - f d) / i to infer. This
    gives the f that is `times` that.
    """
    decode_s, infer_s = run.decode_cpu_ms / 1e3, run.infer_cpu_ms / 1e3
    return min(MOST_FPS, times * cores / (infer_s + times * decode_s) / cameras)
