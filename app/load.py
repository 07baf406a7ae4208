"""Measures on a timer what the service uses: each camera's cores, the engine, memory. Others read the last sample."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from app.batching.batcher import Batcher
from app.cameras.camera import Camera
from app.cameras.capacity import ASSUMED_BYTES, CameraCost, Load, StreamKind, decode_cost
from app.cameras.lane import Lane
from app.cameras.ledger import FrameCounts
from app.cameras.registry import Registry
from app.cores import available_cores
from app.types import EngineInfo, GpuSnapshot

SAMPLE_S = 1.0
# The first seconds of a connection cost more than those after them, and say less.
_MEASURED_AFTER_S = 2.0
_WEIGHT = 0.3  # of the newest sample in an average
# Pictures that a camera holds in memory: what its decoder refers to, in its slot, in a batch.
_PICTURES = 8
_BYTES_PER_PIXEL = 1.5
_MEMORY_EVERY = 5  # samples: memory moves slowly, and reading it takes a thread
_SATURATED = 0.9  # of the contexts' time
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What happened between two samples, all cameras together."""

    seconds: float = SAMPLE_S
    wanted: int = 0  # frames that came out of decoders and that no setting of a camera leaves out
    published: int = 0
    shed: int = 0  # ended without a result since there was too much
    busy: float = 0.0  # share of the contexts' time
    decode_cores: float = 0.0
    process_cores: float = 0.0  # of the whole process
    lag_s: float = 0.0  # of the reader that is farthest behind its camera

    @property
    def shed_share(self) -> float:
        return self.shed / self.wanted if self.wanted else 0.0

    @property
    def inferred_fps(self) -> float:
        return self.published / self.seconds


@dataclass(slots=True)
class EngineRate:
    """What the engine infers in a second: measured alone at start-up, then corrected by what saturated it."""

    fps: float | None
    observed: bool = False

    def observe(self, window: Window) -> None:
        """Learn from a window. Contexts that are busy while frames are shed show what there is; idle ones do not."""
        if window.busy >= _SATURATED and window.shed_share > 0.05:
            seen = window.inferred_fps / min(1.0, window.busy)
            self.fps = seen if self.fps is None else self.fps + _WEIGHT * (seen - self.fps)
            self.observed = True
        elif self.fps is not None and window.inferred_fps > self.fps:
            self.fps, self.observed = window.inferred_fps, True


@dataclass(slots=True)
class _Seen:
    """What a camera's last sample was."""

    at: float
    cpu_s: float
    counts: FrameCounts
    running_since: float | None = None
    cores: float | None = None
    kind: StreamKind | None = None


class LoadMeter:
    """Event loop only, except for `Memory.read`. `sample` is called on a timer; everything else reads what it found."""

    def __init__(
        self,
        registry: Registry[Any],
        batcher: Batcher[Any],
        engine: EngineInfo,
        *,
        least_fps: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.window = Window()
        self.rate = EngineRate(engine.capacity_fps)
        self.cores = available_cores()
        self.memory = Memory()
        self._registry = registry
        self._batcher = batcher
        self._least_fps = least_fps
        self._clock = clock
        self._samples = 0
        self._decode = decode_cost([])
        self._nvdec = 0  # cameras that are decoded there
        self._needed_bytes = ASSUMED_BYTES
        self._seen: dict[Lane, _Seen] = {}
        self._at = clock()
        self._busy_s = 0.0
        self._process_s = time.process_time()
        self._idle_bytes: int | None = None  # of this process, before there was a camera

    async def sample(self) -> Window:
        """Measure what happened since the last time."""
        if self._samples % _MEMORY_EVERY == 0:
            await asyncio.to_thread(self.memory.read)
        self._samples += 1
        now = self._clock()
        seconds = max(1e-3, now - self._at)
        cameras = [camera for camera in self._registry.cameras() if camera.settings.enabled]
        if self._idle_bytes is None or not cameras:
            self._idle_bytes = self.memory.used_bytes
        seen = {camera.lane: self._look(camera, now) for camera in cameras}
        busy_s, process_s = self._batcher.busy_s, time.process_time()
        both = [(self._seen[lane], new) for lane, new in seen.items() if lane in self._seen]
        self.window = Window(
            seconds=seconds,
            wanted=sum(_wanted(new.counts) - _wanted(old.counts) for old, new in both),
            published=sum(new.counts.published - old.counts.published for old, new in both),
            shed=sum(_shed(new.counts) - _shed(old.counts) for old, new in both),
            busy=(busy_s - self._busy_s) / seconds / max(1, self._batcher.stats.contexts),
            decode_cores=sum(new.cpu_s - old.cpu_s for old, new in both) / seconds,
            process_cores=(process_s - self._process_s) / seconds,
            lag_s=max((camera.lane.lag_s for camera in cameras if camera.running), default=0.0),
        )
        self.rate.observe(self.window)
        self._seen, self._at, self._busy_s, self._process_s = seen, now, busy_s, process_s
        self._add_up()
        return self.window

    def load(self, gpus: Sequence[GpuSnapshot] = (), *, degraded: int = 0) -> Load:
        """What is used now, and what one more camera needs. Cameras that came since the last sample count."""
        enabled = sum(camera.settings.enabled for camera in self._registry.cameras())
        nvdec = self._nvdec
        loads = [gpu.decoder_utilization_ratio for gpu in gpus if gpu.decoder_utilization_ratio is not None]
        return Load(
            cameras=enabled,
            decode=self._decode.with_unknown(enabled - len(self._seen)),
            cores=self.cores,
            inferred_fps=self.window.inferred_fps,
            capacity_fps=self.rate.fps,
            memory_used_bytes=self.memory.used_bytes,
            memory_free_bytes=self.memory.free_bytes,
            needed_bytes=self._needed_bytes,
            least_fps=self._least_fps,
            degraded=degraded,
            nvdec_load=max(loads) if loads and nvdec else None,
            nvdec_cameras=nvdec,
        )

    def _look(self, camera: Camera[Any], now: float) -> _Seen:
        lane = camera.lane
        new = _Seen(at=now, cpu_s=lane.cpu_s, counts=lane.counts())
        old, info = self._seen.get(lane), camera.info
        if old is not None:
            new.running_since, new.cores, new.kind = old.running_since, old.cores, old.kind
        if info is not None:
            new.kind = StreamKind(codec=info.codec, width=info.width, height=info.height, decoder=info.decoder)
        if not camera.running:
            new.running_since = None  # what it took when it ran is what it will take
        elif new.running_since is None:
            new.running_since = now
        elif old is not None and now - new.running_since >= _MEASURED_AFTER_S:
            took = max(0.0, new.cpu_s - old.cpu_s) / max(1e-3, now - old.at)
            new.cores = took if new.cores is None else new.cores + _WEIGHT * (took - new.cores)
        return new

    def _add_up(self) -> None:
        """What `load` reads: it is asked for by every registration, and there may be thousands of cameras."""
        seen = self._seen.values()
        self._decode = decode_cost([CameraCost(kind=each.kind, cores=each.cores) for each in seen])
        self._nvdec = sum(each.kind is not None and each.kind.decoder == "nvdec" for each in seen)
        self._needed_bytes = self._bytes_of([each.kind for each in seen if each.kind is not None])

    def _bytes_of(self, kinds: Sequence[StreamKind]) -> int:
        """The growth of this process a camera, or what the pictures of one take, whichever is more."""
        if not kinds:
            return ASSUMED_BYTES
        pictures = _PICTURES * _BYTES_PER_PIXEL * sum(kind.width * kind.height for kind in kinds) / len(kinds)
        grown = (self.memory.used_bytes - (self._idle_bytes or 0)) / len(kinds)
        return max(1, int(max(pictures, grown)))


@dataclass(slots=True)
class Memory:
    """What this process uses and what is free for it: of the machine, and of its cgroup where that has a limit."""

    used_bytes: int = 0
    free_bytes: int = 1 << 40

    def read(self) -> None:
        """Reads /proc and the cgroup: call it from a worker thread."""
        self.used_bytes = int(psutil.Process().memory_info().rss)
        self.free_bytes = min(int(psutil.virtual_memory().available), _cgroup_free(_CGROUP))


def _cgroup_free(cgroup: Path) -> int:
    try:
        limit = (cgroup / "memory.max").read_text(encoding="ascii").strip()
        used = int((cgroup / "memory.current").read_text(encoding="ascii"))
        return 1 << 60 if limit == "max" else max(0, int(limit) - used)
    except (OSError, ValueError):
        return 1 << 60


def _wanted(counts: FrameCounts) -> int:
    return counts.decoded - counts.dropped["rate_limit"] - counts.dropped["still"]


def _shed(counts: FrameCounts) -> int:
    return counts.dropped["replaced"] + counts.dropped["stale"] + counts.dropped["degraded"]
