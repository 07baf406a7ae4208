"""A comparison's result, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.commands.columns import in_columns
from app.measure.machine import Machine
from app.measure.peers.contestants import CONTESTANTS, OURS
from app.measure.peers.race import Turn
from app.measure.peers.scoring import Agreement, Boxes, agreement
from app.measure.report import QUIET
from app.measure.samples import Sample, median

DEFINITIONS = {
    "clip": "its first 20 s, up to a keyframe, in a loop: whoever starts late sees the same pictures",
    "inferred_fps": "results a second, of all cameras, in the measured time",
    "latency_ms": "from the moment when the simulated camera sends a frame (its clip's clock, CLOCK_MONOTONIC) to the "
    "moment when the program has the frame's boxes. Peers' frames are recognised by their pixels, Vidette's by the "
    "capture time that it reports, which comes from the camera's sender reports",
    "latency_growth_ms_per_s": "slope of the latency over the measured time: so much falls behind who cannot keep up "
    "and drops nothing",
    "cpu_ms_per_frame": "CPU time of the contestant's processes per inferred frame, decoding included, the simulator "
    "not",
    "memory_mib": "resident memory of the contestant's processes, shared pages once",
    "limit_fps": "inferred frames a second of the same decoders and execution contexts without the service, measured "
    "right after each of our turns",
    "limit_ratio": "inferred_fps / limit_fps",
    "unrecognised": "results whose picture is not one of the clip: a decoder concealed a loss",
    "frames_skipped": "frames that the cameras held back since the contestant had left 4 MB unread",
    "ratio": "our inferred_fps / theirs, in the same round",
    "cpu_ratio": "their cpu_ms_per_frame / ours",
    "p99_ratio": "their latency_ms.p99 / ours",
    "paced": "the same at a load that all carry: 60 % of what the slowest inferred",
    "core_speeds": "MiB a second that all cores hash, before and after each turn: on a shared host it varies",
    "boxes": "of the boxes with a score of at least 0.4 in frames that ours_fp32 saw too, those with a like one on the "
    "other side (same class, IoU 0.9), both ways",
}
# Ours at another precision may move a box a little; theirs compute the same numbers as our FP32.
ENOUGH_AGREEMENT = 0.9
# Cores whose speed varies by more than this make figures of different turns doubtful.
STEADY = 0.85
_COLUMNS = (
    ("fps", "inferred_fps", "{:.1f}"),
    ("min", "camera_fps.min", "{:.2f}"),
    ("mean", "camera_fps.mean", "{:.2f}"),
    ("max", "camera_fps.max", "{:.2f}"),
    ("fairness", "fairness", "{:.3f}"),
    ("p50 ms", "latency_ms.p50", "{:.0f}"),
    ("p95", "latency_ms.p95", "{:.0f}"),
    ("p99", "latency_ms.p99", "{:.0f}"),
    ("ms/s", "latency_growth_ms_per_s", "{:+.0f}"),
    ("CPU ms", "cpu_ms_per_frame", "{:.1f}"),
    ("cores", "cores", "{:.2f}"),
    ("MiB", "memory_mib", "{:.0f}"),
    ("of limit", "limit_ratio", "{:.3f}"),
)
Rounds = Sequence[Mapping[str, Mapping[str, Sample]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the cameras send in one part of the comparison."""

    cameras: int
    fps: float

    @property
    def offered_fps(self) -> float:
        return self.cameras * self.fps


@dataclass(slots=True, kw_only=True)
class Part:
    """One load: a round is a turn of every contestant. Grows turn by turn."""

    load: Load
    seconds: float
    rounds: list[dict[str, dict[str, Sample]]] = field(default_factory=list)
    compared: list[dict[str, Sample]] = field(default_factory=list)  # ratios, a round each
    details: dict[str, dict[str, Any]] = field(default_factory=dict)  # of each contestant's last turn
    boxes: dict[str, dict[int, Boxes]] = field(default_factory=dict)  # by contestant and frame of the clip
    other_cores: dict[str, float] = field(default_factory=dict)  # the most that other programs used beside each
    speeds: list[float] = field(default_factory=list)  # of the cores, turn by turn
    late_ms: float = 0.0  # the simulator's worst delay

    def note(self, name: str, turn: Turn, boxes: Mapping[int, Boxes]) -> None:
        """Keep what is told once of all rounds."""
        self.details[name] = dict(turn.details)
        self.boxes.setdefault(name, {}).update(boxes)
        self.other_cores[name] = max(self.other_cores.get(name, 0.0), turn.other_cores or 0.0)
        self.speeds.append(turn.speed)
        self.late_ms = max(self.late_ms, turn.late_ms)

    def agreements(self) -> dict[str, Agreement]:
        """How far everybody's boxes are those of `ours_fp32`."""
        reference = self.boxes[OURS[0]]
        return {name: agreement(reference, self.boxes[name]) for name in in_order(self) if name != OURS[0]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Everything that one run found."""

    machine: Machine
    model: str
    clip: str
    saturated: Part
    paced: Part | None
    absent: Mapping[str, str]  # why a peer has no figures

    @property
    def average_precision(self) -> dict[str, float]:
        """Of ours, by name; empty when it was not measured."""
        details = self.saturated.details
        return {name: ap for name in OURS if name in details and (ap := details[name]["ap"]) is not None}


def as_text(found: Comparison) -> str:
    """What a person wants to see first."""
    machine = found.machine
    lines = [
        ("machine", f"{machine.cpu}, {machine.cores} cores, {machine.python}, commit {machine.commit or 'unknown'}"),
        ("model", found.model),
        *[(_title(name), _engine(found, name)) for name in OURS if name in found.saturated.details],
    ]
    parts = [in_columns(lines), _part("as fast as they can", found.clip, found.saturated)]
    if found.paced is not None:
        parts.append(_part("at a load that all carry", found.clip, found.paced))
    parts.append(_ratios(found))
    parts.append(in_columns([*_legend(found), *_doubts(found)]))
    return "\n\n".join(parts)


def _engine(found: Comparison, name: str) -> str:
    engine = found.saturated.details[name]["engine"]
    text = f"{engine['precision']} on {engine['backend']}, {engine['contexts']} contexts, batch {engine['best_batch']}"
    ap = found.average_precision
    if name not in ap:
        return text
    return f"{text}; AP {ap[name]:.3f}" + (f", {ap[name] - ap[OURS[0]]:+.3f} against FP32" if name != OURS[0] else "")


def _part(title: str, clip: str, part: Part) -> str:
    load, count = part.load, len(part.rounds)
    offered = f"{load.cameras} cameras x {load.fps:g} fps of {clip}"
    head = f"{title}: {offered}, {count} x {part.seconds:g} s each{', medians' if count > 1 else ''}"
    rows: list[tuple[str, ...]] = [("", *(column for column, _, _ in _COLUMNS), "boxes")]
    agreements = part.agreements()
    for name in in_order(part):
        repetitions = [each[name] for each in part.rounds]
        left_out = set() if _is_saturated(part, name) else {"limit_ratio"}  # it says nothing of who did all there was
        cells = [
            form.format(median(repetitions, figure)) if figure in repetitions[0].keys() - left_out else ""
            for _, figure, form in _COLUMNS
        ]
        rows.append((_title(name), *cells, _agreement(agreements.get(name))))
    return f"{head}\n{in_columns(rows, right=range(1, len(rows[0])))}"


def in_order(part: Part) -> list[str]:
    """Who ran, ours first."""
    return sorted(part.rounds[0], key=list(CONTESTANTS).index)


def _is_saturated(part: Part, name: str) -> bool:
    """Whether the cameras sent more than it inferred."""
    return median([each[name] for each in part.rounds], "inferred_fps") < 0.97 * part.load.offered_fps


def _ratios(found: Comparison) -> str:
    ours = [name.removeprefix("ours_") for name in OURS if name in found.saturated.details]
    titles = [title for which in ours for title in (f"{which} fps", "CPU", "p99")]
    rows: list[tuple[str, ...]] = [("ours against", *titles)]
    saturated, paced = found.saturated, found.paced
    for peer in (name for name in in_order(saturated) if not CONTESTANTS[name].ours):
        cells = []
        for which in ours:
            both = f"{which}.{peer}"
            cells += [_times(saturated.compared, f"ratio.{both}"), _times(saturated.compared, f"cpu_ratio.{both}")]
            cells.append("" if paced is None else _times(paced.compared, f"p99_ratio.{both}"))
        rows.append((_title(peer), *cells))
    note = "times as many frames a second and as little CPU time a frame; p99 at the load that all carry"
    return f"{in_columns(rows, right=range(1, len(rows[0])))}\n{note}"


def _times(compared: Sequence[Mapping[str, Sample]], name: str) -> str:
    values = [each[name].value for each in compared]
    middle = f"{median(compared, name):.2f}x"
    return middle if len(values) == 1 else f"{middle} ({min(values):.2f}..{max(values):.2f})"


def _legend(found: Comparison) -> list[tuple[str, str]]:
    ran = [(_title(name), CONTESTANTS[name].what) for name in in_order(found.saturated)]
    return [*ran, *((_title(name), f"did not run: {reason}") for name, reason in found.absent.items())]


def _doubts(found: Comparison) -> list[tuple[str, str]]:
    notes = []
    parts = [part for part in (found.saturated, found.paced) if part is not None]
    for part in parts:
        disturbed = {name: others for name, others in part.other_cores.items() if others > QUIET * found.machine.cores}
        if disturbed:
            beside = ", ".join(f"{others:.2f} beside {_title(name)}" for name, others in disturbed.items())
            notes.append(f"other programs used cores, {beside}: measure again when it is quiet")
    speeds = [speed for part in parts for speed in part.speeds]
    if min(speeds) < STEADY * max(speeds):
        slow = min(speeds) / max(speeds)
        notes.append(f"the cores themselves were at {slow:.0%} of their speed at times: measure again, or more rounds")
    idle = [_title(name) for name in in_order(found.saturated) if not _is_saturated(found.saturated, name)]
    if idle:
        notes.append(f"{', '.join(idle)} inferred all that the cameras sent: more would tell how fast that can be")
    for part in parts:
        for name, agreed in part.agreements().items():
            if not CONTESTANTS[name].ours and agreed.share < ENOUGH_AGREEMENT:
                notes.append(f"{_title(name)} finds other boxes than we do: it may not do the same work")
    return [("note", note) for note in dict.fromkeys(notes)]


def _agreement(agreed: Agreement | None) -> str:
    return "" if agreed is None or not agreed.boxes else f"{100 * agreed.share:.1f}% of {agreed.boxes}"


def _title(name: str) -> str:
    return name.replace("_", "-")
