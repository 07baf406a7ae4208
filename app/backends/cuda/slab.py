"""What the kernels leave of a batch: for each image a header and its boxes, in one block that is copied out at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.errors import EngineError
from app.inference.found import MAX_BOXES, Found

# `Found` and `Slab` in kernels/slab.cuh.
BOX = np.dtype([("box", "<f4", (4,)), ("score", "<f4"), ("class_id", "<f4")])
SLAB = np.dtype(
    [
        ("count", "<i4"),
        ("candidates", "<i4"),  # that reached the score, before NMS, at most MAX_CANDIDATES
        ("mask_offset", "<u4"),  # of instance masks, from the image's start: 0 as long as no family has any
        ("mask_bytes", "<u4"),
        ("boxes", BOX, (MAX_BOXES,)),
    ]
)
IMAGE_BYTES: int = SLAB.itemsize


def read_slab(array: NDArray[np.uint8], count: int) -> list[Found]:
    """The boxes of the first `count` images of u8[>= count * IMAGE_BYTES]; copies, so the memory may be used again.

    Raises `EngineError` when it cannot be a slab.
    """
    images = array[: count * IMAGE_BYTES].view(SLAB)
    return [_found(images[number]) for number in range(count)]


def _found(image: np.void) -> Found:
    count = int(image["count"])
    if not 0 <= count <= MAX_BOXES:
        raise EngineError(f"the device left a slab of {count} boxes; it has room for {MAX_BOXES}")
    boxes = image["boxes"][:count]
    return Found(
        boxes=boxes["box"].copy(),
        scores=boxes["score"].copy(),
        class_ids=boxes["class_id"].astype(np.int32),
    )
