"""What a contestant's process is asked to do, and the file in which it answers.

A contestant works in a process of its own, and maybe in an environment of its own: nothing but the standard library.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)  # plain: it must load in the oldest Python that a peer's environment may have
class Job:
    """Watch the cameras and note every result, until the standard input ends. Travels as JSON."""

    model: str  # path of the ONNX file
    family: str  # yolox or yolov8
    input_width: int
    input_height: int
    centred: bool  # where the letterbox lies: in the middle, or at the top left
    pad: int
    rgb: bool  # the tensor's channel order; a decoded picture's is BGR
    scale: float  # what pixel values are multiplied by
    clip: str  # the file that every camera plays
    cameras: dict[str, str]  # URL by name
    answer: str  # the file to write
    min_score: float = 0.25
    iou: float = 0.45
    options: dict[str, Any] = field(default_factory=dict)  # a contestant's own

    @classmethod
    def from_arguments(cls) -> Job:
        """The job in this process's last argument."""
        return cls(**json.loads(sys.argv[-1]))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @property
    def running(self) -> Path:
        """The file that is there once every camera has given a result."""
        return Path(f"{self.answer}.running")


@dataclass(frozen=True)
class Seen:
    """One frame's result. Which frame it is of, is told by the picture or by when it was captured."""

    camera: str
    at: float  # monotonic, when the program had the result
    fingerprint: int | None  # of the picture; see `recording`
    captured_at: float | None  # monotonic, by the camera's sender report
    boxes: list[list[float]]  # x1 y1 x2 y2 in source pixels, score, class


@dataclass(frozen=True)
class Answer:
    """All results, and what else a contestant has to say of itself."""

    results: list[Seen]
    details: dict[str, Any] = field(default_factory=dict)

    def write(self, path: str) -> None:
        rows = [[one.camera, one.at, one.fingerprint, one.captured_at, one.boxes] for one in self.results]
        Path(path).write_text(json.dumps({"results": rows, "details": self.details}), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Answer:
        whole = json.loads(path.read_text(encoding="utf-8"))
        return cls(results=[Seen(*row) for row in whole["results"]], details=whole["details"])
