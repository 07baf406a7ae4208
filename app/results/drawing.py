"""Boxes and labels on pictures, and JPEG. Worker threads only."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from app.types import BgrImage, Detections


def class_colour(class_id: int) -> tuple[int, int, int]:
    """A bright BGR colour for a class, far from its neighbours' (golden-angle steps round the hue circle)."""
    hue = int(class_id * 0.618033988749895 * 180) % 180
    b, g, r = cv2.cvtColor(np.array([[[hue, 190, 255]]], dtype=np.uint8), cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return int(b), int(g), int(r)


def draw_boxes(image: BgrImage, found: Detections, classes: Sequence[str]) -> None:
    """Draw every box with its label and score, in place."""
    scale = max(0.4, image.shape[0] / 1000)
    thickness = max(1, round(scale * 2))
    for box, score, class_id in zip(found.boxes, found.scores, found.class_ids.tolist(), strict=True):
        x1, y1, x2, y2 = (round(float(v)) for v in box)
        colour = class_colour(class_id)
        cv2.rectangle(image, (x1, y1), (x2, y2), colour, thickness)
        text = f"{classes[class_id]} {float(score):.2f}"
        (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        top = max(0, y1 - height - base - 2)
        cv2.rectangle(image, (x1, top), (x1 + width + 4, top + height + base + 2), colour, cv2.FILLED)
        cv2.putText(image, text, (x1 + 2, top + height), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)


def encode_jpeg(image: BgrImage, quality: int) -> bytes:
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"a picture of shape {image.shape} cannot be encoded as JPEG")
    return bytes(data)
