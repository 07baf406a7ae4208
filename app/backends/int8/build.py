"""From a model and pictures to its quantised copy: the fastest recipe that costs little enough."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from app.backends.cpu.engine import load_graphs
from app.backends.cpu.preprocess import Preprocessor
from app.backends.ffmpeg.surface import HostSurface
from app.backends.int8.calibration import Pictures, decoded, read_bytes, read_pictures
from app.backends.int8.cost import agreement, detect, speeds
from app.backends.int8.quantise import Recipe, model_input, quantise
from app.errors import ConfigError, ModelError
from app.inference.average_precision import Truth, average_precision
from app.inference.int8_file import MAX_AP_COST, Int8Model, int8_path, write_int8
from app.inference.labelled import LabelledImages, claims_of, read_labelled
from app.inference.model import ModelSpec
from app.types import Detections

_OPSET = 13  # the first with a scale per channel
# Fastest first; both leave depthwise and last layers in floats. OpenVINO takes zero points, and needs no pair behind a
# layer: AP of yolox_nano (FP32 0.348, 40 video frames, 32 channels or more) was 0.334 symmetric with such pairs, 0.343
# without them, 0.346 without them and with zero points. 27 photos tell no difference below about 0.01.
RECIPES = (
    Recipe(
        name="all layers but depthwise and last ones",
        opset=_OPSET,
        min_channels=0,
        symmetric=False,
        outputs=False,
        float_weights=False,
    ),
    Recipe(
        name="layers of 32 channels or more",
        opset=_OPSET,
        min_channels=32,
        symmetric=False,
        outputs=False,
        float_weights=False,
    ),
)
OnProgress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How one recipe did, by AP on labelled images or else by agreement with FP32."""

    recipe: str
    ap: float | None
    agreement: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    int8: Int8Model
    recipe: str
    fp32_ap: float | None
    int8_ap: float | None
    judged_on: str  # the pictures that the cost was measured on, as a phrase
    fps: Mapping[str, float]
    source_bytes: int
    int8_bytes: int
    trials: tuple[Trial, ...]  # every recipe that was tried, in order


def build_int8(
    spec: ModelSpec, calibrate: Path, *, labelled: Path | None, folder: Path, out: Path | None, on_progress: OnProgress
) -> Built:
    """Quantise a model and publish the copy. Blocking, tens of seconds. Raises `ModelError`, `QuantiserMissing`.

    The first recipe that costs at most `MAX_AP_COST` is taken, else the one that costs least. Without labelled images
    the cost of a recipe is what its boxes lack in agreement with FP32's, which the service does not take for an AP.
    """
    graphs = load_graphs(spec)
    if graphs.quantised:
        raise ModelError(f"model {spec.name} is quantised already; name the FP32 model it was made from")
    on_progress("reading calibration pictures")
    pictures = read_pictures(calibrate, hold_out=labelled is None)
    judge: _Judge = _Agreement(pictures) if labelled is None else _Labels(spec, read_labelled(labelled), labelled)
    on_progress("detecting with FP32")
    judge.hear(detect(spec, None, judge.pictures()))
    with tempfile.TemporaryDirectory(prefix="vidette-int8-") as scratch:
        tried: list[tuple[float, Path, ModelProto, Trial]] = []
        for number, recipe in enumerate(RECIPES):
            model = quantise(spec, graphs.batch, _inputs(spec, pictures, on_progress), recipe)
            candidate = Path(scratch) / f"{number}.onnx"
            onnx.save(model, str(candidate))
            on_progress(f"measuring the cost of INT8 in {recipe.name}")
            score = judge.score(detect(spec, candidate, judge.pictures()))
            trial = Trial(recipe=recipe.name, ap=score if labelled else None, agreement=None if labelled else score)
            tried.append((judge.reference - score, candidate, model, trial))
            if judge.reference - score <= MAX_AP_COST:
                break
        cost, candidate, model, trial = min(tried, key=lambda each: each[0])
        on_progress("measuring the speed")
        fps = speeds(spec, candidate)
        int8 = write_int8(
            out or int8_path(spec, folder),
            model,
            spec,
            ap_cost=None if labelled is None else cost,
            agreement=trial.agreement,
            calibration=pictures.source,
            notes=(*pictures.notes, *judge.notes(pictures)),
        )
    return Built(
        int8=int8,
        recipe=trial.recipe,
        fp32_ap=None if labelled is None else judge.reference,
        int8_ap=trial.ap,
        judged_on=judge.phrase,
        fps=fps,
        source_bytes=spec.path.stat().st_size,
        int8_bytes=int8.path.stat().st_size,
        trials=tuple(each[3] for each in tried),
    )


class _Judge:
    """Scores detections; `reference` is what FP32 gets."""

    reference: float
    phrase: str

    def pictures(self) -> Iterator[NDArray[np.uint8]]:
        raise NotImplementedError

    def hear(self, fp32: Sequence[Detections]) -> None:
        raise NotImplementedError

    def score(self, found: Sequence[Detections]) -> float:
        raise NotImplementedError

    def notes(self, pictures: Pictures) -> tuple[str, ...]:
        return ()


class _Agreement(_Judge):
    def __init__(self, pictures: Pictures) -> None:
        self._held_out = pictures.held_out
        self.phrase = f"{len(self._held_out)} held-out pictures"

    def pictures(self) -> Iterator[NDArray[np.uint8]]:
        return iter(self._held_out)

    def hear(self, fp32: Sequence[Detections]) -> None:
        self._fp32 = fp32
        self.reference = 1.0
        try:
            agreement(fp32, fp32)
        except ValueError as exc:
            raise ModelError("--calibrate: the model finds nothing in its pictures to compare INT8 with") from exc

    def score(self, found: Sequence[Detections]) -> float:
        return agreement(self._fp32, found)


class _Labels(_Judge):
    def __init__(self, spec: ModelSpec, labelled: LabelledImages, folder: Path) -> None:
        self._labelled = labelled
        self._categories = labelled.categories(spec.classes)
        self.phrase = f"{len(labelled.images)} labelled images of {folder.name}"
        if not self._categories:
            raise ConfigError(f"--images: {folder} labels none of the classes of model {spec.name}")

    def pictures(self) -> Iterator[NDArray[np.uint8]]:
        for image in self._labelled.images:
            picture = decoded(read_bytes(image.path) or b"")
            if picture is None:
                raise ConfigError(f"--images: image {image.path} cannot be read")
            yield picture

    def hear(self, fp32: Sequence[Detections]) -> None:
        try:
            self.reference = self.score(fp32)
        except ValueError as exc:
            raise ConfigError(f"--images: {exc}") from exc

    def score(self, found: Sequence[Detections]) -> float:
        truths: list[Truth] = [image.truth for image in self._labelled.images]
        claims = [claims_of(each, self._categories) for each in found]
        return average_precision(list(zip(truths, claims, strict=True)), self._categories.values()).ap

    def notes(self, pictures: Pictures) -> tuple[str, ...]:
        contents = (read_bytes(image.path) or b"" for image in self._labelled.images)
        shared = sum(hashlib.sha256(content).hexdigest() in pictures.digests for content in contents)
        if not shared:
            return ()
        return (f"{shared} of the labelled images were also calibrated with, so the AP of INT8 flatters",)


def _inputs(spec: ModelSpec, pictures: Pictures, on_progress: OnProgress) -> Iterator[NDArray[np.float32]]:
    preprocessor = Preprocessor(spec, 1)
    for number, picture in enumerate(pictures.used, start=1):
        on_progress(f"calibrating INT8: image {number} of {len(pictures.used)}")
        preprocessor.write([HostSurface.from_bgr(picture)])
        yield model_input(spec, preprocessor.images)
