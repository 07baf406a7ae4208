"""The demo's video clips, drawn once and kept."""

from __future__ import annotations

import hashlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from app import simulator
from app.commands.progress import Progress
from app.errors import ConfigError

SECONDS = 12.0  # one period of a scene, so that the clip loops without a jump
FPS = 15
# What a clip's pixels depend on; a change to any of them draws the clips anew.
_DRAWN_BY = ("backdrops", "canvas", "casting", "figures", "props", "scenes", "vehicles")
_WORKERS = 2


def demo_clips(folder: Path, progress: Progress, *, seconds: float = SECONDS) -> dict[str, Path]:
    """The four demo scenes as H.264 clips below `folder`, by name. Blocking: 5 CPU seconds the first time.

    They are kept in a folder named after the code that draws them; those of an earlier version are removed. Raises
    `ConfigError` when `folder` cannot be written.
    """
    from app.simulator.scenes import DEMO_SCENES  # late: cv2 and av take half a second to import

    kept = folder / clip_version(seconds)
    if not kept.is_dir():
        try:
            _render(kept, progress, seconds)
        except OSError as exc:
            raise ConfigError(f"data_dir: the demo's clips cannot be written to {folder}: {exc.strerror}") from None
    return {name: kept / f"{name}.mp4" for name in DEMO_SCENES}


def clip_version(seconds: float = SECONDS) -> str:
    """Twelve hex digits that change with the scenes' source code and the clips' parameters."""
    digest = hashlib.sha256(f"{seconds} {FPS}".encode())
    for name in _DRAWN_BY:
        digest.update((Path(simulator.__path__[0]) / f"{name}.py").read_bytes())
    return digest.hexdigest()[:12]


def render_clip(path: Path, name: str, *, seconds: float = SECONDS) -> Path:
    """Draw one demo scene into `path`. Blocking, 2 CPU seconds at most."""
    from app.simulator.scenes import demo_scene, write_clip

    write_clip(path, demo_scene(name), seconds=seconds, fps=FPS)
    return path


def _render(kept: Path, progress: Progress, seconds: float) -> None:
    """Draw all scenes, then put the folder into its place at once: it is whole or it is not there."""
    from app.simulator.scenes import DEMO_SCENES

    progress.step("drawing the demo's scenes, the first time only", total=len(DEMO_SCENES))
    shutil.rmtree(kept.parent, ignore_errors=True)
    part = kept.with_name(f"{kept.name}.part-{os.getpid()}")
    part.mkdir(parents=True)
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="demo:draw") as pool:
        drawn = pool.map(lambda name: render_clip(part / f"{name}.mp4", name, seconds=seconds), DEMO_SCENES)
        for count, _ in enumerate(drawn, start=1):
            progress.done(count)
    part.rename(kept)
