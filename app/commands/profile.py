"""`vidette profile`: what each stage of a frame's way costs, which resource binds, which batch is best.

Three measurements follow each other: the components one after the other (`app.measure.profile.walk`), batch sizes
against each other (`sweep`), and the whole service under more than it can do (`load`). A fourth, of its own, sets
postprocessing beside the loop that it replaces (`anchors`).
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.commands.clips import render_clip
from app.commands.progress import Progress
from app.commands.scratch import scratch_folder
from app.errors import AppError, ConfigError
from app.logs import configure_logging
from app.measure.machine import this_machine
from app.measure.profile.tools import TOOLS, run_under
from app.settings import Settings, load_settings

if TYPE_CHECKING:
    from app.measure.profile.session import Session

SCENE = "plaza"
MOST_CAMERAS = 64
_HISTORY = 256
_OPTIONS = (
    "device",
    "model",
    "models_dir",
    "clip",
    "cameras",
    "batch",
    "seconds",
    "frames",
    "budget_ms",
    "out",
    "trace",
)
_FLAGS = ("postprocess", "comprehensive", "json")


def profile(arguments: argparse.Namespace) -> int:
    """Measure, print, write. 0 when it was measured, 1 also when the two postprocessings differ; `ConfigError` is 2."""
    _check(arguments)
    for tool in TOOLS:
        if getattr(arguments, tool):
            return run_under(tool, as_arguments(arguments))
    # Late: device libraries, half a second.
    from app.measure.profile.anchors import compare_postprocessing
    from app.measure.profile.report import Profile, as_json, as_text
    from app.measure.profile.trace import chrome_trace

    configure_logging("error")
    session = comparison = None
    with scratch_folder("profile") as folder, Progress() as progress:
        if not arguments.postprocess or arguments.comprehensive:
            session = _measured(arguments, folder, progress)
        if arguments.postprocess or arguments.comprehensive:
            progress.step("measuring postprocessing, beside a loop over anchors")
            comparison = compare_postprocessing()
    components = None if session is None else session.components
    found = Profile(machine=this_machine(), components=components, comparison=comparison)
    written = as_json(found)
    if arguments.out is not None:
        _write("--out", arguments.out, written, indent=2)
    if arguments.trace is not None and session is not None:
        _write("--trace", arguments.trace, chrome_trace(session.recorders, session.components.memory))
    print(json.dumps(written, indent=2) if arguments.json else as_text(found))
    if comparison is not None and not comparison.identical:
        raise AppError("the vectorised postprocessing and the loop over anchors do not find the same boxes")
    return 0


def as_arguments(arguments: argparse.Namespace) -> list[str]:
    """The command line that gives these arguments, without the tool that runs it."""
    words = []
    for name in _OPTIONS:
        if (value := getattr(arguments, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words + [f"--{name}" for name in _FLAGS if getattr(arguments, name)]


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what cannot be measured, with a sentence that names the option."""
    cameras, batch = arguments.cameras, arguments.batch
    if cameras is not None and not 1 <= cameras <= MOST_CAMERAS:
        raise ConfigError(f"--cameras must be from 1 to {MOST_CAMERAS}, not {cameras}")
    if batch is not None and not 1 <= batch <= 16:
        raise ConfigError(f"--batch must be from 1 to 16, not {batch}")
    if cameras is not None and batch is not None and cameras < batch:
        raise ConfigError(f"--batch {batch} is never filled by {cameras} cameras, which give one frame each")
    if not 0.5 <= arguments.seconds <= 600:
        raise ConfigError(f"--seconds must be from 0.5 to 600, not {arguments.seconds:g}")
    if arguments.frames is not None and arguments.frames < 1:
        raise ConfigError(f"--frames must be at least 1, not {arguments.frames}")
    if not 0 < arguments.budget_ms < math.inf:
        raise ConfigError(f"--budget-ms must be more than 0, not {arguments.budget_ms:g}")
    if arguments.clip is not None and not arguments.clip.is_file():
        raise ConfigError(f"--clip: there is no file {arguments.clip}")
    for option, path in (("--out", arguments.out), ("--trace", arguments.trace)):
        if path is not None and not path.absolute().parent.is_dir():
            raise ConfigError(f"{option}: there is no folder {path.parent}")
    if arguments.trace is not None and arguments.postprocess and not arguments.comprehensive:
        raise ConfigError("--trace: comparing postprocessing alone has no stages to show")


def _measured(arguments: argparse.Namespace, folder: Path, progress: Progress) -> Session:
    from app.measure.profile.session import Wishes, device_for, measure
    from app.measure.retime import clip_fps

    settings = _settings(arguments, folder)
    open_device = device_for(settings)
    progress.step("preparing the pictures")
    clip = arguments.clip or render_clip(folder / f"{SCENE}.mp4", SCENE)
    clip_fps(clip)  # a sentence for what is no video
    wishes = Wishes(
        clip=clip,
        folder=folder,
        seconds=arguments.seconds,
        budget_ms=arguments.budget_ms,
        cameras=arguments.cameras,
        batch=arguments.batch,
        frames=arguments.frames,
    )
    return measure(settings, wishes, progress, open_device=open_device)


def _settings(arguments: argparse.Namespace, folder: Path) -> Settings:
    overrides: dict[str, Any] = {
        "media_dir": folder,
        "model": arguments.model,
        "history": {"size": _HISTORY},
        "cameras": {"declared": ()},  # the user's cameras are not what is measured
    }
    if arguments.models_dir is not None:
        overrides["models_dir"] = arguments.models_dir
    if arguments.device is not None:
        overrides["backend"] = {"device": arguments.device}
    return load_settings(overrides=overrides)


def _write(option: str, path: Path, content: dict[str, Any], *, indent: int | None = None) -> None:
    try:
        path.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")
    except OSError as exc:
        raise AppError(f"{option}: {path} cannot be written: {exc.strerror}") from None
