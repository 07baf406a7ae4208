"""`vidette bench --overhead`: what a frame costs beside decoding, scaling and inference."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.commands.columns import in_columns
from app.commands.progress import Progress
from app.cores import available_cores
from app.measure.machine import this_machine
from app.measure.overhead import OverheadPlan, OverheadRun, measure_overhead
from app.measure.results import Figure, result
from app.measure.samples import Sample, figures
from app.measure.threads import CONTEXTS, LOOP, OTHERS, READERS
from app.settings import Settings, load_settings

CAMERAS = (1, 4, 16, 64)
# In all: as many as there is time for, and so few that nothing is replaced.
OFFERED_FPS = (10_000.0, 1_000.0)
DEFINITIONS = {
    "us_per_decoded": "CPU time of the process, less the sources' and the detectors' own, per frame that came out of a "
    "decoder, whether it was published or replaced",
    "us_per_published": "the same, per frame whose result was published: it pays for those that were replaced as well",
    "source": "CPU time of the synthetic cameras, which stand for decoding, waits included; taken off",
    "detector": "CPU time of the synthetic contexts, which stand for scaling, inference and postprocessing; taken off",
    "threads": "the service's own CPU time by thread: camera readers, event loop, contexts, and all others",
    "subscribers": "tasks that take every message as a WebSocket does: serialised, put into their queue, taken; the "
    "socket itself is not there",
}
_EXPLAINED = """us/decoded is the CPU time of the whole process for each frame that was decoded, less that of the
synthetic cameras (-source) and of the synthetic detector (-detector); it is the sum of the columns with a +, its
threads. Frames that nobody could infer in time are replaced, which costs less than to publish them: us/published
divides the same time by the published frames only. A subscriber takes every message as a WebSocket does, without the
socket."""


def overhead(arguments: argparse.Namespace, folder: Path, progress: Progress) -> tuple[dict[str, Any], str]:
    """Measure every load; the result's JSON and its table."""
    contexts, seconds = min(available_cores(), 16), float(arguments.seconds)
    plans = [
        OverheadPlan(cameras=cameras, offered_fps=offered_fps, subscribers=subscribers, seconds=seconds)
        for offered_fps in arguments.offered_fps or OFFERED_FPS
        for subscribers in (0, 1)
        for cameras in arguments.camera_counts or CAMERAS
    ]
    runs: dict[OverheadPlan, list[OverheadRun]] = {plan: [] for plan in plans}
    for repetition in range(arguments.repeat):
        for number, plan in enumerate(plans):
            progress.step(f"measuring {_load(plan)}", total=seconds)
            # Each service has a database of its own, without the last one's cameras.
            settings = _settings(folder / f"data-{repetition}-{number}")
            runs[plan].append(measure_overhead(plan, settings, contexts=contexts, on_tick=progress.done))
    samples: dict[str, Figure] = {}
    for plan, repetitions in runs.items():
        samples.update(figures([_samples(run) for run in repetitions], _name(plan)))
    details = {
        "contexts": contexts,
        "runs": [_row(run) for repetitions in runs.values() for run in repetitions],
        "definitions": DEFINITIONS,
    }
    text = f"{_table(runs)}\n\n{_spreads(runs)}\n\n{_EXPLAINED}"
    return result("overhead", this_machine(), samples, **details), text


def _settings(data_dir: Path) -> Settings:
    overrides = {"data_dir": data_dir, "backend": {"device": "synthetic"}, "cameras": {"declared": ()}}
    return load_settings(overrides=overrides)


def _load(plan: OverheadPlan) -> str:
    return f"{plan.cameras} cameras, {plan.offered_fps:g} fps, {plan.subscribers} subscribers"


def _name(plan: OverheadPlan) -> str:
    return f"offered_{plan.offered_fps:g}.cameras_{plan.cameras}.subscribers_{plan.subscribers}"


def _samples(run: OverheadRun) -> dict[str, Sample]:
    return {
        "us_per_decoded": Sample(value=run.us_per_decoded, unit="us", better="lower"),
        "us_per_published": Sample(value=run.us_per_published, unit="us", better="lower"),
        "decoded_fps": Sample(value=run.decoded / run.seconds, unit="fps", better="neither"),
        "published_fps": Sample(value=run.published / run.seconds, unit="fps", better="higher"),
    }


def _row(run: OverheadRun) -> dict[str, Any]:
    us = 1e6 / max(1, run.decoded)
    return {
        "cameras": run.plan.cameras,
        "offered_fps": run.plan.offered_fps,
        "subscribers": run.plan.subscribers,
        "seconds": run.seconds,
        "decoded_fps": run.decoded / run.seconds,
        "published_fps": run.published / run.seconds,
        "dropped": dict(run.dropped),
        "mean_batch": run.mean_batch,
        "us_per_decoded": run.us_per_decoded,
        "us_per_published": run.us_per_published,
        "threads_us_per_decoded": {name: spent * us for name, spent in run.threads_s.items()},
        "taken_off_us_per_decoded": {"source": run.source_s * us, "detector": run.detector_s * us},
        "cores": run.process_s / run.seconds,
    }


def _table(runs: Mapping[OverheadPlan, Sequence[OverheadRun]]) -> str:
    """A line a load; of more than one repetition, the one with the median cost."""
    threads = (READERS, LOOP, CONTEXTS, OTHERS)
    head = ("offered", "cameras", "subscribers", "decoded", "published", "batch", "us/decoded", "us/published")
    lines: list[tuple[str, ...]] = [(*head, *(f"+{name}" for name in threads), "-source", "-detector", "cores")]
    for plan, repetitions in runs.items():
        run = _middle(repetitions)
        us = 1e6 / max(1, run.decoded)
        fps = (f"{count / run.seconds:.0f}" for count in (run.decoded, run.published))
        costs = (run.us_per_decoded, run.us_per_published, *(run.threads_s[name] * us for name in threads))
        taken_off = (run.source_s * us, run.detector_s * us)
        lines.append(
            (
                *(f"{plan.offered_fps:g}", str(plan.cameras), str(plan.subscribers)),
                *(*fps, f"{run.mean_batch:.1f}"),
                *(f"{cost:.1f}" for cost in (*costs, *taken_off)),
                f"{run.process_s / run.seconds:.2f}",
            )
        )
    return in_columns(lines, right=range(len(lines[0])))


def _middle(repetitions: Sequence[OverheadRun]) -> OverheadRun:
    return sorted(repetitions, key=lambda run: run.us_per_decoded)[len(repetitions) // 2]


def _spreads(runs: Mapping[OverheadPlan, Sequence[OverheadRun]]) -> str:
    """For each rate, how the cost depends on the number of cameras."""
    costs: dict[tuple[float, int], list[float]] = {}
    for plan, repetitions in runs.items():
        costs.setdefault((plan.offered_fps, plan.subscribers), []).append(_middle(repetitions).us_per_decoded)
    return "\n".join(
        f"{offered_fps:g} fps, {subscribers} subscribers: {_range(of)}"
        for (offered_fps, subscribers), of in costs.items()
    )


def _range(costs: Sequence[float]) -> str:
    middle = (min(costs) + max(costs)) / 2
    share = (max(costs) - min(costs)) / 2 / middle
    return f"{min(costs):.1f} to {max(costs):.1f} us of CPU time a decoded frame, which is {middle:.1f} +- {share:.0%}"
