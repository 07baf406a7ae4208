"""`vidette bench --peers`: Vidette beside what a user would write or pick instead."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from app.commands.clips import render_clip
from app.commands.progress import Progress
from app.errors import ConfigError
from app.inference.labelled import LABELS_NAME
from app.inference.model import ModelSpec, resolve_model
from app.measure.machine import this_machine
from app.measure.peers.comparison import Plan, Race, carried_load
from app.measure.peers.contestants import (
    CONTESTANTS,
    ENVIRONMENTS,
    Contestant,
    check_packages,
    chosen_peers,
)
from app.measure.peers.job import Job
from app.measure.peers.report import DEFINITIONS, Comparison, Load, Part, as_text
from app.measure.results import Figure, result
from app.measure.retime import clip_fps, excerpt, retimed
from app.measure.samples import figures
from app.settings import load_settings

SCENE = "plaza"
EXCERPT_S = 20.0


def run_peers(arguments: argparse.Namespace, folder: Path, progress: Progress) -> tuple[dict[str, Any], str]:
    """Compare; the result's JSON and its text. Raises `ConfigError` when it cannot be compared here."""
    check_packages()
    if arguments.images is not None and not (arguments.images / LABELS_NAME).is_file():
        raise ConfigError(f"--images: there is no file {arguments.images / LABELS_NAME}")
    settings = load_settings()
    spec = resolve_model(arguments.model, arguments.models_dir or settings.models_dir)
    job = job_for(spec)
    environments = arguments.environments or ENVIRONMENTS
    peers = chosen_peers(arguments.peer)
    absent = {peer.name: reason for peer in peers if (reason := peer.unavailable(spec.family, environments))}
    present = [peer for peer in peers if peer.name not in absent]
    if not present:
        raise ConfigError(f"--peers: nobody to compare with: {'; '.join(f'{k}: {v}' for k, v in absent.items())}")
    progress.step("preparing the cameras")
    clips = Clips(arguments.clip or render_clip(folder / f"{SCENE}.mp4", SCENE), folder)
    engines = (arguments.data_dir or settings.data_dir) / "engines"
    plan = Plan(
        job=job,
        clip_at=clips.at,
        contestants=_by_turns(present, arguments.precision),
        seconds=arguments.seconds,
        repeat=arguments.repeat,
        environments=environments,
        engines_dir=engines if engines.is_dir() else folder,
        images=arguments.images,
    )
    machine = this_machine()
    race = Race(plan, progress)
    saturated = race.run(Load(cameras=arguments.cameras, fps=arguments.fps or clips.fps), thorough=True)
    paced = None if arguments.no_paced else race.run(carried_load(saturated), thorough=False)
    found = Comparison(
        machine=machine,
        model=spec.name,
        clip=clips.whole.name,
        saturated=saturated,
        paced=paced,
        absent={**absent, **race.failed},
    )
    return as_json(found), as_text(found)


class Clips:
    """The beginning of a clip, at any rate."""

    def __init__(self, whole: Path, folder: Path) -> None:
        self.whole = whole
        self._folder = folder
        # All contestants see all of it, however late they start: nobody gets an easier part.
        self._excerpt = excerpt(whole, folder / f"excerpt{whole.suffix}", seconds=EXCERPT_S)
        self.fps = clip_fps(self._excerpt)

    def at(self, fps: float) -> Path:
        if fps == self.fps:
            return self._excerpt
        path = self._folder / f"excerpt-{fps:g}{self.whole.suffix}"
        return path if path.is_file() else retimed(self._excerpt, path, fps=fps)


def _by_turns(peers: Sequence[Contestant], precision: str | None) -> tuple[Contestant, ...]:
    """Ours and theirs in turns. `precision`: of ours_best, which is left out when it is no other than FP32."""
    first, *others = peers
    best = replace(CONTESTANTS["ours_best"], options={"precision": precision or "auto"})
    return (CONTESTANTS["ours_fp32"], first, *([] if precision == "fp32" else [best]), *others)


def job_for(spec: ModelSpec) -> Job:
    """What a peer has to know of a model. Raises `ConfigError` for one whose loop nobody has written here."""
    if spec.family not in ("yolox", "yolov8") or any(spec.mean) or len(set(spec.std)) != 1:
        raise ConfigError(
            f"--peers: model {spec.name} cannot be compared: the peers' code decodes yolox and yolov8, with pixels "
            f"that are only scaled, and this is {spec.family} with mean {spec.mean} and std {spec.std}"
        )
    return Job(
        model=str(spec.path.resolve()),
        family=spec.family,
        input_width=spec.input_width,
        input_height=spec.input_height,
        centred=spec.letterbox == "centre",
        pad=spec.pad,
        rgb=spec.colour == "rgb",
        scale=1.0 / spec.std[0],
        clip="",
        cameras={},
        answer="",
    )


def as_json(found: Comparison) -> dict[str, Any]:
    """The result in the format that all measurements share; figures by contestant, `paced.` leads the second part's."""
    figured = _figures(found.saturated)
    if found.paced is not None:
        figured |= {f"paced.{name}": figure for name, figure in _figures(found.paced).items()}
    for name, ap in found.average_precision.items():
        figured[f"{name}.ap"] = Figure(unit="1", better="higher", samples=(ap,))
    parts = {"saturated": found.saturated, "paced": found.paced}
    return result(
        "peers",
        found.machine,
        figured,
        model=found.model,
        clip=found.clip,
        contestants={name: CONTESTANTS[name].what for name in found.saturated.rounds[0]},
        absent=found.absent,
        **{name: None if part is None else _part(part) for name, part in parts.items()},
        definitions=DEFINITIONS,
    )


def _figures(part: Part) -> dict[str, Figure]:
    found: dict[str, Figure] = {}
    for name in part.rounds[0]:
        found |= figures([round_[name] for round_ in part.rounds], name)
    return found | figures(part.compared)


def _part(part: Part) -> dict[str, Any]:
    return {
        "load": asdict(part.load),
        "seconds": part.seconds,
        "rounds": len(part.rounds),
        "details": part.details,
        "boxes": {name: {**asdict(agreed), "share": agreed.share} for name, agreed in part.agreements().items()},
        "other_cores": part.other_cores,
        "core_speeds": part.speeds,
        "simulator_late_ms": part.late_ms,
    }
