"""Labelled images: what is in each, as COCO writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.errors import ConfigError
from app.inference.average_precision import Claims, Truth
from app.types import Detections

LABELS_NAME = "instances.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImage:
    path: Path
    truth: Truth


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImages:
    """The images of a folder with labels. `names`: the labels' own class ids and names."""

    images: tuple[LabelledImage, ...]
    names: Mapping[int, str]

    def categories(self, classes: Sequence[str]) -> dict[int, int]:
        """A model's class numbers to the labels' ids, for those that both know by the same name."""
        by_name = {name: category for category, name in self.names.items()}
        return {number: by_name[name] for number, name in enumerate(classes) if name in by_name}


def read_labelled(folder: Path) -> LabelledImages:
    """The labels of a folder, from its instances.json. Blocking. Raises `ConfigError` when they cannot be used."""
    path = folder / LABELS_NAME
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))
        names = {int(category["id"]): str(category["name"]) for category in labels["categories"]}
        of_image: dict[int, list[Any]] = {image["id"]: [] for image in labels["images"]}
        for annotation in labels["annotations"]:
            of_image[annotation["image_id"]].append(annotation)
        images = tuple(
            LabelledImage(path=folder / image["file_name"], truth=_truth(of_image[image["id"]]))
            for image in labels["images"]
        )
    except OSError as exc:
        raise ConfigError(f"labels {path} cannot be read: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise ConfigError(f"labels {path} are not in COCO's form: {exc!r}") from exc
    if not images:
        raise ConfigError(f"labels {path} name no images")
    return LabelledImages(images=images, names=names)


def claims_of(result: Detections, categories: Mapping[int, int]) -> Claims:
    """What was found, by the labels' class ids; what they do not know is left out."""
    known = np.array([int(number) in categories for number in result.class_ids], dtype=np.bool_)
    class_ids = np.array([categories[int(number)] for number in result.class_ids[known]], dtype=np.int32)
    return Claims(boxes=result.boxes[known], scores=result.scores[known], class_ids=class_ids)


def _truth(annotations: Sequence[Mapping[str, Any]]) -> Truth:
    boxes = np.array([annotation["bbox"] for annotation in annotations], dtype=np.float32).reshape(-1, 4)
    return Truth(
        boxes=np.hstack((boxes[:, :2], boxes[:, :2] + boxes[:, 2:])),
        class_ids=np.array([annotation["category_id"] for annotation in annotations], dtype=np.int32),
        crowd=np.array([bool(annotation.get("iscrowd", 0)) for annotation in annotations], dtype=np.bool_),
    )
