"""Applies the degradation ladder to the cameras, on the service's timer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.batching.mailbox import Mailbox
from app.cameras.camera import Camera
from app.cameras.ladder import LEVELS, Degradation, Ladder, LevelName, Pressure
from app.cameras.lane import Lane
from app.cameras.registry import Registry
from app.cameras.shares import Demand, dues
from app.cameras.source import DecodeEffort
from app.load import Window

logger = logging.getLogger("vidette.overload")
# Thinned out to so many times what a camera is due: what is inferred is then still young when its turn comes.
_SURPLUS = 3.0
_LEAST_FPS = 1.0
# A new rate must differ by so much: each costs the decoder a decision.
_CHANGE = 0.15
_WEIGHT = 0.3
# With more than the first shed, batches leave out whose turn it is not; with less than the second, they are filled.
_STRICT_ABOVE, _STRICT_BELOW = 0.4, 0.25
EFFORTS = (DecodeEffort.FULL, DecodeEffort.FULL, DecodeEffort.LIGHT, DecodeEffort.REFERENCES, DecodeEffort.KEYFRAMES)


@dataclass(frozen=True, slots=True, kw_only=True)
class OverloadState:
    """Where the service stands, for those who look."""

    level: int
    name: LevelName
    reason: str | None
    degraded: int  # cameras above level 0
    light: int  # of them, those that are decoded with less work


class Overload:
    """One for each service. Event loop only."""

    def __init__(
        self,
        registry: Registry[Any],
        mailbox: Mailbox[Any],
        *,
        cores: int,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.ladder = Ladder()
        self._registry = registry
        self._mailbox = mailbox
        self._cores = cores
        self._clock = clock
        self._wall = wall
        self._rate_fps = 0.0  # what can be inferred now
        self._full_fps: dict[Lane, float] = {}  # what each camera delivered when it was decoded whole

    @property
    def state(self) -> OverloadState:
        levels = [camera.lane.level for camera in self._registry.cameras()]
        rung = self.ladder.rung
        return OverloadState(
            level=rung,
            name=LEVELS[rung],
            reason=self.ladder.reason if rung else None,
            degraded=sum(level > 0 for level in levels),
            light=sum(EFFORTS[level] is not DecodeEffort.FULL for level in levels),
        )

    def observe(self, window: Window) -> None:
        """Take note of the last second and have the cameras do as the ladder says."""
        cameras = [camera for camera in self._registry.cameras() if camera.running]
        ladder, now = self.ladder, self._clock()
        pressure = Pressure(
            shed=window.shed_share,
            decode_load=window.decode_cores / self._cores,
            cpu_load=window.process_cores / self._cores,
            lag_s=window.lag_s,
        )
        if ladder.observe(pressure, {camera.settings.priority for camera in cameras}, now):
            self._tell()
        self._note_rates(cameras, window, now)
        mailbox = self._mailbox
        mailbox.strict = ladder.rung > 0 and window.shed_share > (_STRICT_BELOW if mailbox.strict else _STRICT_ABOVE)
        wanted = self._thinned(cameras) if ladder.rung else {}
        for camera in self._registry.cameras():
            level = ladder.level(camera.settings.priority)
            self._apply(camera, level, wanted.get(camera.settings.id))

    def _tell(self) -> None:
        ladder = self.ladder
        if ladder.rung:
            logger.warning("overload, level %d (%s): %s", ladder.rung, LEVELS[ladder.rung], ladder.reason)
        else:
            logger.info("the overload is over: everything is decoded and inferred again")

    def _note_rates(self, cameras: list[Camera[Any]], window: Window, now: float) -> None:
        seen_fps = window.inferred_fps / min(1.0, max(0.2, window.busy))
        self._rate_fps += (1.0 if not self._rate_fps else _WEIGHT) * (seen_fps - self._rate_fps)
        known, self._full_fps = self._full_fps, {}
        for camera in cameras:
            lane, info = camera.lane, camera.info
            fps = lane.decoded_rate.rate(now)
            declared = 0.0 if info is None else info.declared_fps or 0.0
            # What is decoded with less work, or less often, says nothing of what the camera sends.
            self._full_fps[lane] = fps if not lane.level else max(fps, declared, known.get(lane, 0.0))

    def _thinned(self, cameras: list[Camera[Any]]) -> dict[str, float]:
        """Frames a second that cameras have to be thinned out to; those that may send all they have are left out."""
        demands = {}
        for camera in cameras:
            max_fps, full_fps = camera.settings.max_fps, self._full_fps[camera.lane]
            fps = full_fps if max_fps is None else min(max_fps, full_fps)
            demands[camera.settings.id] = Demand(fps=fps, priority=camera.settings.priority)
        wanted = {name: max(_LEAST_FPS, _SURPLUS * fps) for name, fps in dues(demands, self._rate_fps).items()}
        return {name: fps for name, fps in wanted.items() if fps < 0.9 * demands[name].fps}

    def _apply(self, camera: Camera[Any], level: int, thin_fps: float | None) -> None:
        lane = camera.lane
        before = lane.thin_fps
        if thin_fps is not None and before is not None and abs(thin_fps - before) < _CHANGE * before:
            thin_fps = before
        if level == lane.level and thin_fps == before:
            return
        if level != lane.level:
            since_utc, reason = self._wall(), self.ladder.reason
            lane.degradation = None if not level else Degradation(level=level, since_utc=since_utc, reason=reason)
        lane.thin_fps, lane.effort = thin_fps, EFFORTS[level]
        camera.pace()
