"""What a quantised copy costs in precision and gains in speed, by the code that the service runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from app.backends.cpu.engine import in_own_thread
from app.backends.cpu.openvino_engine import NAME
from app.backends.cpu.preprocess import Preprocessor
from app.backends.cpu.runner import BatchRunner
from app.backends.cpu.tuning import Variant, plan_for
from app.backends.cpu.variants import Variants
from app.backends.ffmpeg.surface import HostSurface
from app.cores import available_cores
from app.inference.average_precision import Claims, Truth, average_precision
from app.inference.families.identify import decoder_for
from app.inference.model import ModelSpec
from app.inference.timing import time_streams
from app.types import Detections, Frame, FrameTimes

CERTAIN = 0.3  # FP32's boxes from this score on count as the truth, where there are no labels
_MIN_SCORE = 0.001  # COCO's AP counts what a detector would rather not say, too
_IOU = 0.65
_ROUNDS = 3
_ROUND_S = 0.4
_NO_TIMES = FrameTimes(arrived_at=0.0, decoded_at=0.0, decode_s=0.0, captured_utc=0.0, clock="arrival")


@in_own_thread
def detect(
    spec: ModelSpec,
    int8: Path | None,
    pictures: Iterable[NDArray[np.uint8]],
    on_picture: Callable[[int], None] = lambda _number: None,
) -> list[Detections]:
    """What the model finds in BGR pictures: in FP32, or its quantised copy. Blocking. Raises `ModelError`."""
    variant = Variant(engine=NAME, precision="fp32" if int8 is None else "int8")
    variants = Variants(spec, int8, engine=NAME, precision=variant.precision)
    preprocessor = Preprocessor(spec, 1)
    context = variants.context(plan_for(variant, 1, available_cores()), (1,), preprocessor.images)
    decoder = decoder_for(spec.family, spec.input_width, spec.input_height)
    runner = BatchRunner(context, preprocessor, decoder, _IOU)
    found = []
    for number, picture in enumerate(pictures, start=1):
        surface = HostSurface.from_bgr(picture)
        frame = Frame(camera_id="calibration", seq=number, pts_s=None, times=_NO_TIMES, surface=surface)
        found += runner.run([frame], [_MIN_SCORE])
        on_picture(number)
    return found


@in_own_thread
def speeds(spec: ModelSpec, int8: Path) -> Mapping[str, float]:
    """Frames a second of inference alone by precision, measured in alternation. Blocking, 1.2 s for each."""
    variants = Variants(spec, int8, engine=NAME)
    cores = available_cores()
    plans = {variant.precision: plan_for(variant, min(cores, 16), cores) for variant in variants.all}
    runs = {
        precision: [partial(variants.context(plan, (1,)).infer, 0, 1) for _ in range(plan.streams)]
        for precision, plan in plans.items()
    }
    took: dict[str, list[float]] = {precision: [] for precision in plans}
    for _ in range(_ROUNDS):
        for precision, calls in runs.items():
            took[precision].append(time_streams(calls, duration_s=_ROUND_S, clock=time.perf_counter))
    return {precision: plans[precision].streams / median(each) for precision, each in took.items()}


def agreement(reference: Sequence[Detections], found: Sequence[Detections]) -> float:
    """AP of `found` with the certain boxes of `reference` as the truth. Raises `ValueError` when there are none."""
    pairs = zip(reference, found, strict=True)
    return average_precision([(_as_truth(ours), _as_claims(theirs)) for ours, theirs in pairs]).ap


def _as_truth(found: Detections) -> Truth:
    certain = found.scores >= CERTAIN
    crowd = np.zeros(int(certain.sum()), dtype=np.bool_)
    return Truth(boxes=found.boxes[certain], class_ids=found.class_ids[certain], crowd=crowd)


def _as_claims(found: Detections) -> Claims:
    return Claims(boxes=found.boxes, scores=found.scores, class_ids=found.class_ids)
