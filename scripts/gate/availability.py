"""Which of the parts that the CUDA backend needs are on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from app.backends.cuda.probe import probe_parts
from app.types import Availability


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What every part said. `gpu`: a driver with a device is there."""

    parts: tuple[Availability, ...]

    @property
    def gpu(self) -> bool:
        return any(part.name == "driver" and part.available for part in self.parts)

    def missing(self) -> dict[str, str]:
        """The reasons, by the names that steps use; `engine` is missing when neither TensorRT is there."""
        by_name = {part.name: part for part in self.parts}
        missing = {name: part.reason for name, part in by_name.items() if not part.available}
        engines = [by_name[name] for name in ("tensorrt", "tensorrt_rtx") if name in by_name]
        if not any(engine.available for engine in engines):
            missing["engine"] = "; ".join(f"{engine.name}: {engine.reason}" for engine in engines)
        return missing


def look_around() -> Found:
    """Ask every part. Blocking, a second."""
    return Found(parts=probe_parts())
