"""What a run of the gate is about: handed from the gate to each step as a file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class GatePlan:
    """Paths are absolute. `scale` stretches every measurement: 1.0 takes about ten minutes on an H200."""

    model: str
    models_dir: str
    precision: str
    clip: str | None  # None: the demo's own scene
    scale: float
    work: str  # a folder of this run: engines, clips, data

    @property
    def folder(self) -> Path:
        return Path(self.work)

    def seconds(self, base: float) -> float:
        return base * self.scale


def write_plan(plan: GatePlan, path: Path) -> None:
    path.write_text(json.dumps(asdict(plan), indent=2), encoding="utf-8")


def read_plan(path: Path) -> GatePlan:
    return GatePlan(**json.loads(path.read_text(encoding="utf-8")))
