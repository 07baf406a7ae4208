"""A whole comparison: rounds in which everybody has a turn, flat out first and then at a load that all carry."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from app.commands.progress import Progress
from app.errors import AppError
from app.measure import load as loads
from app.measure.peers.contestants import Contestant
from app.measure.peers.job import Job
from app.measure.peers.race import Course, Turn, take_turn
from app.measure.peers.report import Load, Part
from app.measure.peers.scoring import Sighting, boxes_by_frame, ratios, samples, sightings
from app.measure.samples import Sample
from app.simulator.clip import load_clip

WARM_UP_S = 5.0  # or as long as is measured, where that is less
# OpenCV looks at a stream for up to 5 s before it shows a picture, and has to make up for them first.
PACED_WARM_UP_S = 10.0
CARRIED = 0.6  # of what the slowest inferred: a load that nobody falls behind at
_LEAST_FPS = 5.0  # of a camera at that load, where it suffices for as much
_ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is compared with what, on what."""

    job: Job  # without cameras
    clip_at: Callable[[float], Path]  # the clip at so many frames a second
    contestants: Sequence[Contestant]
    seconds: float
    repeat: int
    environments: Path
    engines_dir: Path  # where Vidette finds what was built for this machine
    images: Path | None  # labelled ones


class Race:
    """Runs rounds. Blocking, one thread."""

    def __init__(self, plan: Plan, progress: Progress, *, take_turn: Callable[..., Turn] = take_turn) -> None:
        self._plan = plan
        self._take_turn = take_turn
        self._progress = progress
        self._alike: dict[tuple[str, str], dict[int, list[int]]] = {}
        self.failed: dict[str, str] = {}  # why a peer has no figures

    def run(self, load: Load, *, thorough: bool) -> Part:
        """Every contestant once a round, in turn. A peer that fails is out; raises `AppError` when we do, or all peers.

        thorough: each of our turns is followed by a measurement of the limit and, where there are labelled images, of
        the average precision.
        """
        plan = self._plan
        clip_path = plan.clip_at(load.fps)
        course = Course(
            job=replace(plan.job, clip=str(clip_path)),
            clip=load_clip(clip_path),
            phases_s=loads.Load(cameras=load.cameras, clip=clip_path.name, fps=load.fps).phases_s,
            warm_up_s=min(WARM_UP_S, plan.seconds) if thorough else PACED_WARM_UP_S,
            seconds=plan.seconds,
            ours={
                "engines_dir": str(plan.engines_dir.resolve()),
                "limit_s": plan.seconds / 2 if thorough else 0.0,
                "images": str(plan.images.resolve()) if thorough and plan.images is not None else None,
            },
        )
        part = Part(load=load, seconds=plan.seconds)
        for number in range(plan.repeat):
            # There and back again: whoever comes right after a demanding neighbour does not always do so.
            order = plan.contestants if number % 2 == 0 else tuple(reversed(plan.contestants))
            part.rounds.append(self._round(order, course, part, f"round {number + 1} of {plan.repeat}"))
        for figures in part.rounds:
            for name in self.failed:
                figures.pop(name, None)
            part.compared.append(ratios(figures))
        return part

    def _round(
        self, order: Sequence[Contestant], course: Course, part: Part, when: str
    ) -> dict[str, dict[str, Sample]]:
        figures: dict[str, dict[str, Sample]] = {}
        for contestant in order:
            if contestant.name in self.failed:
                continue
            try:
                turn, seen = self._turn(contestant, course, f"{when}, {part.load.fps:g} fps")
            except AppError as exc:
                if contestant.ours:
                    raise
                self.failed[contestant.name] = str(exc)
                if all(each.ours or each.name in self.failed for each in order):
                    raise
                continue
            figures[contestant.name] = samples(turn, seen)
            part.note(contestant.name, turn, boxes_by_frame(seen, len(course.clip.frames)))
        return figures

    def _turn(self, contestant: Contestant, course: Course, when: str) -> tuple[Turn, list[Sighting]]:
        plan, progress = self._plan, self._progress
        alike = {} if contestant.ours else self._frames_alike(contestant.python(plan.environments), course.job.clip)
        progress.step(f"{when}: {contestant.name.replace('_', '-')}", total=course.seconds)
        turn = self._take_turn(contestant, course, environments=plan.environments, on_tick=progress.done)
        seen = sightings(turn, alike)
        if not any(turn.began_at <= one.at < turn.ended_at for one in seen):
            raise AppError(f"{contestant.name} gave no result in {course.seconds:g} s")
        return turn, seen

    def _frames_alike(self, python: str, clip: str) -> Mapping[int, Sequence[int]]:
        """The clip's frames by fingerprint, as that environment's OpenCV decodes them."""
        if (python, clip) not in self._alike:
            self._progress.step("learning the clip's pictures by heart")
            command = [python, "-m", f"{__package__}.recording", clip]
            ran = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
            if ran.returncode != 0:
                raise AppError(f"clip {clip} cannot be read by {python}: {ran.stderr.strip()[-300:]}")
            alike: dict[int, list[int]] = {}
            for number, seen in enumerate(json.loads(ran.stdout)):
                alike.setdefault(seen, []).append(number)
            self._alike[python, clip] = alike
        return self._alike[python, clip]


def carried_load(saturated: Part) -> Load:
    """A load that every contestant carries: 60 % of what the slowest inferred, on as many cameras as get 5 fps each."""
    slowest = min(each["inferred_fps"].value for round_ in saturated.rounds for each in round_.values())
    fps = CARRIED * slowest
    cameras = max(1, min(saturated.load.cameras, int(fps / _LEAST_FPS)))
    return Load(cameras=cameras, fps=min(saturated.load.fps, round(fps / cameras, 2)))
