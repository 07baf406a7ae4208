"""From what contestants did to figures. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from app.inference.nms import iou_matrix
from app.measure.figures import percentiles, spread
from app.measure.peers.race import Turn
from app.measure.results import Better
from app.measure.samples import Sample

SURE = 0.4  # boxes of less are left out when contestants' boxes are compared
SAME_IOU = 0.9
Boxes = Sequence[Sequence[float]]  # x1 y1 x2 y2 score class


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One result, with the frame that it is of."""

    camera: str
    at: float
    frame: int | None  # counted through all loops; None: not recognised
    latency_s: float
    boxes: Boxes


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How many boxes of two contestants, in frames that both saw, have a like one on the other side."""

    boxes: int
    agreeing: int

    @property
    def share(self) -> float:
        return self.agreeing / self.boxes if self.boxes else float("nan")


def sightings(turn: Turn, alike: Mapping[int, Sequence[int]]) -> list[Sighting]:
    """All results of a turn, warm-up included. `alike`: the clip's frames by fingerprint, for peers."""
    newest: dict[str, int] = {}
    found = []
    for one in turn.results:
        timeline = turn.timelines[one.camera]
        frame: int | None = None
        if one.captured_at is not None:
            frame = timeline.by_capture(one.captured_at)
        elif one.fingerprint is not None:
            frame = timeline.by_picture(alike.get(one.fingerprint, ()), one.at, newest.get(one.camera))
        if frame is not None:
            newest[one.camera] = frame
        latency_s = float("nan") if frame is None else one.at - timeline.sent_at(frame)
        found.append(Sighting(camera=one.camera, at=one.at, frame=frame, latency_s=latency_s, boxes=one.boxes))
    return found


def samples(turn: Turn, seen: Sequence[Sighting]) -> dict[str, Sample]:
    """The figures of one turn, from what it saw in the measured time."""
    seen = [one for one in seen if turn.began_at <= one.at < turn.ended_at]
    counts = Counter(dict.fromkeys(turn.timelines, 0))
    counts.update(one.camera for one in seen)
    share = spread(count / turn.seconds for count in counts.values())
    dated = [one for one in seen if one.frame is not None]
    latency = percentiles([1e3 * one.latency_s for one in dated])
    values: dict[str, tuple[float, str, Better]] = {
        "inferred_fps": (len(seen) / turn.seconds, "fps", "higher"),
        "camera_fps.min": (share.min, "fps", "higher"),
        "camera_fps.mean": (share.mean, "fps", "higher"),
        "camera_fps.max": (share.max, "fps", "neither"),
        "fairness": (share.jain, "1", "higher"),
        "latency_ms.p50": (latency.p50, "ms", "lower"),
        "latency_ms.p95": (latency.p95, "ms", "lower"),
        "latency_ms.p99": (latency.p99, "ms", "lower"),
        "latency_growth_ms_per_s": (latency_growth(dated), "ms/s", "lower"),
        "cpu_ms_per_frame": (1e3 * turn.cpu_s / max(1, len(seen)), "ms", "lower"),
        "cores": (turn.cpu_s / turn.seconds, "cores", "neither"),
        "memory_mib": (turn.memory_bytes / 2**20, "MiB", "lower"),
        "unrecognised": (float(len(seen) - len(dated)), "frames", "lower"),
        "frames_skipped": (float(turn.frames_skipped), "frames", "lower"),
    }
    limit_fps = turn.details.get("limit_fps")
    if limit_fps:
        values["limit_fps"] = (limit_fps, "fps", "higher")
        values["limit_ratio"] = (len(seen) / turn.seconds / limit_fps, "1", "higher")
    return {name: Sample(value=value, unit=unit, better=better) for name, (value, unit, better) in values.items()}


def latency_growth(dated: Sequence[Sighting]) -> float:
    """By how many ms the latency grows in a second: a straight line through all results. NaN of fewer than two."""
    if len(dated) < 2:
        return float("nan")
    at = np.array([one.at for one in dated])
    ms = np.array([1e3 * one.latency_s for one in dated])
    at -= at.mean()
    squares = float(at @ at)
    return float(at @ (ms - ms.mean())) / squares if squares else float("nan")


def boxes_by_frame(seen: Sequence[Sighting], loop_frames: int) -> dict[int, Boxes]:
    """One result for each of the clip's frames."""
    return {one.frame % loop_frames: one.boxes for one in seen if one.frame is not None}


def agreement(ours: Mapping[int, Boxes], theirs: Mapping[int, Boxes]) -> Agreement:
    """Compare the boxes of every frame that both saw, in both directions.

    A sure box of one side (score of at least 0.4) agrees when the other side has one of its class, sure or not, with an
    IoU of at least 0.9.
    """
    boxes = agreeing = 0
    for frame in ours.keys() & theirs.keys():
        a, b = (np.asarray(side[frame], dtype=np.float32).reshape(-1, 6) for side in (ours, theirs))
        same = (iou_matrix(a[:, :4], b[:, :4]) >= SAME_IOU) & (a[:, 5:6] == b[:, 5])
        for sure, has in ((a[:, 4] >= SURE, same.any(axis=1)), (b[:, 4] >= SURE, same.any(axis=0))):
            boxes += int(sure.sum())
            agreeing += int((sure & has).sum())
    return Agreement(boxes=boxes, agreeing=agreeing)


def ratios(round_: Mapping[str, Mapping[str, Sample]]) -> dict[str, Sample]:
    """Ours against each of theirs, in one round: `ratio.fp32.opencv_loop` and so on. Above 1 is to our credit.

    `ratio`: inferred frames a second; `cpu_ratio`: their CPU time of a frame against ours; `p99_ratio`: their latency.
    """
    found: dict[str, Sample] = {}
    ours = {name: figures for name, figures in round_.items() if name.startswith("ours_")}
    for name, mine in ours.items():
        for peer, theirs in round_.items():
            if peer in ours:
                continue
            both = f"{name.removeprefix('ours_')}.{peer}"
            found[f"ratio.{both}"] = _ratio(mine["inferred_fps"], theirs["inferred_fps"])
            found[f"cpu_ratio.{both}"] = _ratio(theirs["cpu_ms_per_frame"], mine["cpu_ms_per_frame"])
            found[f"p99_ratio.{both}"] = _ratio(theirs["latency_ms.p99"], mine["latency_ms.p99"])
    return found


def _ratio(a: Sample, b: Sample) -> Sample:
    return Sample(value=a.value / b.value if b.value else float("nan"), unit="1", better="higher")
