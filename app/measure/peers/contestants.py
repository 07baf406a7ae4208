"""Who runs: Vidette in two ways, and what a user would write or pick instead."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from app.errors import ConfigError
from app.measure.peers.job import Job

OURS = ("ours_fp32", "ours_best")
ENVIRONMENTS = Path(".cache/peers")
MAKE_ENVIRONMENT = "python scripts/peers_environment.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One way to watch the cameras."""

    name: str  # in figures and tables; on the command line with dashes
    what: str  # in a few words
    module: str  # of `app.measure.peers`, run as a script
    options: Mapping[str, Any] = field(default_factory=dict)
    processes: bool = False  # a process for each camera, instead of one for all
    environment: str | None = None  # a virtual environment of its own; None: ours
    families: Sequence[str] = ("yolox", "yolov8")  # of models that it can run

    @property
    def ours(self) -> bool:
        return self.name in OURS

    def jobs(self, job: Job) -> list[Job]:
        """The job of each of its processes."""
        options = {**self.options, **job.options}
        if not self.processes:
            return [replace(job, options=options)]
        return [
            replace(job, options=options, cameras={camera: url}, answer=f"{job.answer}.{camera}")
            for camera, url in job.cameras.items()
        ]

    def python(self, environments: Path) -> str:
        if self.environment is None:
            return sys.executable
        return str(environments.resolve() / self.environment / "bin" / "python")

    def unavailable(self, family: str, environments: Path) -> str | None:
        """The sentence why it cannot run here with a model of this family; None when it can."""
        if family not in self.families:
            return f"it does not run {family} models"
        if self.environment is not None and not Path(self.python(environments)).is_file():
            return f"not installed: {MAKE_ENVIRONMENT} {self.environment} installs it beside the project"
        return None


CONTESTANTS: Mapping[str, Contestant] = {
    each.name: each
    for each in (
        Contestant(name="ours_fp32", what="Vidette, FP32", module="vidette", options={"precision": "fp32"}),
        Contestant(
            name="ours_best",
            what="Vidette as it sets itself up",
            module="vidette",
            options={"precision": "auto"},
        ),
        Contestant(
            name="opencv_loop",
            what="OpenCV + ONNX Runtime, a thread and a session for each camera, defaults",
            module="opencv_loop",
        ),
        Contestant(
            name="opencv_loop_tuned",
            what="the same with one thread for each session",
            module="opencv_loop",
            options={"threads": 1},
        ),
        Contestant(
            name="opencv_processes",
            what="OpenCV + ONNX Runtime, a process for each camera, defaults",
            module="opencv_loop",
            processes=True,
        ),
        Contestant(
            name="shared_session",
            what="OpenCV + ONNX Runtime, a thread for each camera, one session for all, defaults",
            module="opencv_loop",
            options={"shared": True},
        ),
        Contestant(
            name="ultralytics",
            what="Ultralytics' predict over a list of streams",
            module="ultralytics_streams",
            environment="ultralytics",
            families=("yolov8",),
        ),
        Contestant(
            name="roboflow",
            what="Roboflow's InferencePipeline with the model as custom logic (its own models need an account)",
            module="roboflow_pipeline",
            environment="roboflow",
        ),
    )
}
PEERS = tuple(name for name in CONTESTANTS if name not in OURS)


def chosen_peers(names: Sequence[str] | None) -> list[Contestant]:
    """The peers by their names on the command line, all of them for None. Raises `ConfigError` for an unknown one."""
    by_name = {peer.replace("_", "-"): CONTESTANTS[peer] for peer in PEERS}
    for name in names or ():
        if name not in by_name:
            raise ConfigError(f"--peer: there is no {name}; there are {', '.join(by_name)}")
    return [peer for name, peer in by_name.items() if names is None or name in names]


def check_packages() -> None:
    """Raise `ConfigError` when the packages that every comparison needs are not installed."""
    missing = {"onnxruntime": "onnxruntime", "cv2": "opencv-python-headless"}
    packages = [package for module, package in missing.items() if find_spec(module) is None]
    if packages:
        raise ConfigError(f"--peers compares with what is not installed: pip install {' '.join(packages)}")
