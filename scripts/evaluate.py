"""Measure a model's average precision on labelled images, through the detector that the service runs.

    python scripts/evaluate.py --model models/NAME --images DIR

DIR holds the images and their labels, instances.json in COCO format. Prints AP@[.5:.95] and AP50.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from app.backends.cpu.detector import CpuDetector, open_cpu_detector
from app.backends.ffmpeg.surface import HostSurface
from app.errors import AppError, ConfigError
from app.inference.average_precision import AveragePrecision, Claims, Truth, average_precision
from app.inference.labelled import LabelledImage, claims_of, read_labelled
from app.types import Frame, FrameTimes

MIN_SCORE = 0.001  # COCO's AP counts what a detector would rather not say, too
NO_TIMES = FrameTimes(arrived_at=0.0, decoded_at=0.0, decode_s=0.0, captured_utc=0.0, clock="arrival")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a name under --models-dir, or a path")
    parser.add_argument("--images", required=True, type=Path, help="directory with images and instances.json")
    parser.add_argument("--models-dir", type=Path, default=Path("models"))
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="default: as the service would choose")
    parser.add_argument("--iou", type=float, default=0.65, help="NMS threshold (default 0.65)")
    parser.add_argument("--batch", type=int, default=4, help="images in a batch, 1..16 (default 4)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    try:
        detector = open_cpu_detector(
            options.model, options.models_dir, iou=options.iou, precision=options.precision, tune=not options.precision
        )
        labels, found, result = asyncio.run(evaluate(detector, options.images, options.batch))
    except AppError as exc:
        print(exc, file=sys.stderr)
        return 2 if isinstance(exc, ConfigError) else 1
    if options.json:
        of_class = {labels[number]: round(ap, 4) for number, ap in result.of_class.items()}
        print(json.dumps({"ap": result.ap, "ap50": result.ap50, "images": found, "of_class": of_class}))
    else:
        print(f"{detector.info.model} ({detector.info.precision}): AP {result.ap:.3f}, AP50 {result.ap50:.3f}")
    return 0


async def evaluate(detector: CpuDetector, directory: Path, batch: int) -> tuple[dict[int, str], int, AveragePrecision]:
    """Detect in every labelled image; returns the class names, the number of images and the precision."""
    images: list[tuple[Truth, Claims]] = []
    try:
        labels = await asyncio.to_thread(read_labelled, directory)
        categories = labels.categories(detector.info.classes)
        for group in _groups(labels.images, batch):
            frames = [_frame(image) for image in group]
            results = await detector.detect(frames, min_scores=[MIN_SCORE] * len(frames))
            images += [
                (image.truth, claims_of(result, categories)) for image, result in zip(group, results, strict=True)
            ]
    finally:
        await detector.aclose()
    return dict(labels.names), len(images), average_precision(images, categories.values())


def _groups(items: Sequence[LabelledImage], size: int) -> Iterator[Sequence[LabelledImage]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _frame(labelled: LabelledImage) -> Frame[HostSurface]:
    image = cv2.imread(str(labelled.path))
    if image is None:
        raise ConfigError(f"image {labelled.path} cannot be read")
    surface = HostSurface.from_bgr(np.asarray(image, dtype=np.uint8))
    return Frame(camera_id=labelled.path.name, seq=1, pts_s=None, times=NO_TIMES, surface=surface)


if __name__ == "__main__":
    raise SystemExit(main())
