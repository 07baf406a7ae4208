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
from typing import Any

import cv2
import numpy as np

from app.backends.cpu.detector import CpuDetector, open_cpu_detector
from app.backends.ffmpeg.surface import HostSurface
from app.errors import AppError, ConfigError
from app.inference.average_precision import AveragePrecision, Claims, Truth, average_precision
from app.types import Detections, Frame, FrameTimes

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
    labels = json.loads((directory / "instances.json").read_text(encoding="utf-8"))
    names = {category["id"]: category["name"] for category in labels["categories"]}
    to_category = {
        number: category
        for category, name in names.items()
        for number, own in enumerate(detector.info.classes)
        if own == name
    }
    images: list[tuple[Truth, Claims]] = []
    try:
        for group in _groups(labels["images"], batch):
            frames = [_frame(directory / image["file_name"], image["id"]) for image in group]
            results = await detector.detect(frames, min_scores=[MIN_SCORE] * len(frames))
            images += [
                (_truth(labels["annotations"], image["id"]), _claims(result, to_category))
                for image, result in zip(group, results, strict=True)
            ]
    finally:
        await detector.aclose()
    return names, len(images), average_precision(images, to_category.values())


def _groups(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _frame(path: Path, number: int) -> Frame[HostSurface]:
    image = cv2.imread(str(path))
    if image is None:
        raise ConfigError(f"image {path} cannot be read")
    return Frame(camera_id=path.name, seq=number, pts_s=None, times=NO_TIMES, surface=HostSurface.from_bgr(image))


def _truth(annotations: Sequence[dict[str, Any]], image_id: int) -> Truth:
    here = [annotation for annotation in annotations if annotation["image_id"] == image_id]
    corner_and_size = np.array([annotation["bbox"] for annotation in here], dtype=np.float32).reshape(-1, 4)
    return Truth(
        boxes=np.hstack((corner_and_size[:, :2], corner_and_size[:, :2] + corner_and_size[:, 2:])),
        class_ids=np.array([annotation["category_id"] for annotation in here], dtype=np.int32),
        crowd=np.array([bool(annotation.get("iscrowd", 0)) for annotation in here], dtype=np.bool_),
    )


def _claims(result: Detections, to_category: dict[int, int]) -> Claims:
    known = np.array([int(number) in to_category for number in result.class_ids], dtype=np.bool_)
    class_ids = np.array([to_category[int(number)] for number in result.class_ids[known]], dtype=np.int32)
    return Claims(boxes=result.boxes[known], scores=result.scores[known], class_ids=class_ids)


if __name__ == "__main__":
    raise SystemExit(main())
