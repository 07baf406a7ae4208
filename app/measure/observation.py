"""What is seen of a running service between two moments, and the figures that follow."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.cameras.camera import Camera
from app.cameras.ledger import DropReason, FrameCounts
from app.measure.figures import Percentiles, Spread, Usage, difference, percentiles, spread
from app.measure.usage import Reading
from app.results.hub import ResultHub
from app.service import Parts

IN_CONTEXT = ("preprocess", "infer", "postprocess")
STAGES = ("decode", "queue", *IN_CONTEXT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Counters at one moment, cameras in their order."""

    frames: tuple[FrameCounts, ...]
    batch_sizes: Mapping[int, int]
    close_reasons: Mapping[str, int]
    at: float  # monotonic


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFigures:
    """What the service did in `seconds`."""

    seconds: float
    codec: str
    width: int
    height: int
    decoded_fps: float
    inferred_fps: float
    camera_fps: Spread  # inferred
    latency_ms: dict[str, Percentiles]  # total, STAGES, and rest: what is between the stages
    cpu_ms_per_frame: float
    usage: Usage
    dropped: dict[str, int]
    batch_sizes: dict[int, int]
    close_reasons: dict[str, int]
    batch_ms: dict[int, Percentiles]  # by size: what a batch took in its context, from preprocessing to boxes
    decoders: dict[str, int]  # cameras, by what decodes them at the end
    rss_start_bytes: int
    rss_end_bytes: int

    @property
    def mean_batch(self) -> float:
        """Frames in a batch; 0 when there was none."""
        return sum(size * count for size, count in self.batch_sizes.items()) / max(1, sum(self.batch_sizes.values()))

    @property
    def dropped_share(self) -> float:
        """Of the frames that came out of the decoders."""
        return sum(self.dropped.values()) / max(1.0, self.decoded_fps * self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerCheck:
    """All ledgers together. `holds`: each was balanced, before and after the stop, and nothing is in flight at last."""

    holds: bool
    decoded: int
    published: int
    dropped: dict[str, int]
    in_flight: int
    in_flight_after_stop: int


def look(parts: Parts, cameras: Sequence[Camera[Any]]) -> Snapshot:
    """Event loop only."""
    stats = parts.batcher.stats
    return Snapshot(
        frames=tuple(camera.lane.counts() for camera in cameras),
        batch_sizes=stats.batch_sizes,
        close_reasons={str(reason): count for reason, count in stats.close_reasons.items()},
        at=time.monotonic(),
    )


class Latencies:
    """The durations of every result from now on, in ms by stage, if `take` is called often enough to miss none."""

    def __init__(self, hub: ResultHub[Any], cameras: Sequence[Camera[Any]]) -> None:
        self.ms: dict[str, list[float]] = {stage: [] for stage in ("total", *STAGES, "rest")}
        self.batch_ms: dict[int, list[float]] = {}
        self._hub = hub
        newest = {camera.settings.id: hub.history.latest(camera.settings.id) for camera in cameras}
        self._seen = {camera_id: 0 if result is None else result.seq for camera_id, result in newest.items()}

    def take(self) -> None:
        history = self._hub.history
        for camera_id, seen in self._seen.items():
            for result in history.newest(camera_id, limit=history.size, since_seq=seen):
                timing = result.message["timing_ms"]
                for stage in ("total", *STAGES):
                    self.ms[stage].append(timing[stage])
                self.ms["rest"].append(timing["total"] - sum(timing[stage] for stage in STAGES))
                in_context_ms = sum(timing[stage] for stage in IN_CONTEXT)
                self.batch_ms.setdefault(result.batch_size, []).append(in_context_ms)
                self._seen[camera_id] = result.seq


def service_figures(
    before: Snapshot,
    after: Snapshot,
    latencies: Latencies,
    cameras: Sequence[Camera[Any]],
    *,
    reading: Reading,
    rss_start_bytes: int,
) -> ServiceFigures:
    """The figures of the time between two snapshots; the cameras show the same clip."""
    published = [b.published - a.published for a, b in zip(before.frames, after.frames, strict=True)]
    decoded = [b.decoded - a.decoded for a, b in zip(before.frames, after.frames, strict=True)]
    dropped = [difference(b.dropped, a.dropped) for a, b in zip(before.frames, after.frames, strict=True)]
    infos = [camera.status.info for camera in cameras]
    info, seconds = infos[0], after.at - before.at
    assert info is not None  # it delivered frames
    return ServiceFigures(
        seconds=seconds,
        codec=info.codec,
        width=info.width,
        height=info.height,
        decoded_fps=sum(decoded) / seconds,
        inferred_fps=sum(published) / seconds,
        camera_fps=spread(count / seconds for count in published),
        latency_ms={stage: percentiles(durations) for stage, durations in latencies.ms.items()},
        cpu_ms_per_frame=1e3 * reading.usage.process * seconds / max(1, sum(published)),
        usage=reading.usage,
        dropped=summed(dropped),
        batch_sizes=dict(sorted(difference(after.batch_sizes, before.batch_sizes).items())),
        close_reasons=difference(after.close_reasons, before.close_reasons),
        batch_ms={size: percentiles(durations) for size, durations in sorted(latencies.batch_ms.items())},
        decoders=dict(Counter(each.decoder for each in infos if each is not None)),
        rss_start_bytes=rss_start_bytes,
        rss_end_bytes=reading.rss_bytes,
    )


def check_ledgers(running: Sequence[FrameCounts], stopped: Sequence[FrameCounts]) -> LedgerCheck:
    """Check the ledgers as they were while the cameras ran, and after everything had stopped."""
    in_flight = sum(counts.in_flight for counts in stopped)
    return LedgerCheck(
        holds=all(map(_balanced, (*running, *stopped))) and in_flight == 0,
        decoded=sum(counts.decoded for counts in stopped),
        published=sum(counts.published for counts in stopped),
        dropped=summed([counts.dropped for counts in stopped]),
        in_flight=sum(counts.in_flight for counts in running),
        in_flight_after_stop=in_flight,
    )


def _balanced(counts: FrameCounts) -> bool:
    return counts.decoded == counts.published + sum(counts.dropped.values()) + counts.in_flight


def summed(counts: Iterable[Mapping[DropReason, int]]) -> dict[str, int]:
    """Counters of the same names, added up."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)
