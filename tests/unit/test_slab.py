"""Reading what the kernels leave of a batch."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from app.backends.cuda.slab import IMAGE_BYTES, SLAB, read_slab
from app.errors import EngineError
from app.inference.found import MAX_BOXES


def slab(*counts: int) -> NDArray[np.uint8]:
    images = np.zeros(len(counts), dtype=SLAB)
    for image, count in zip(images, counts, strict=True):
        image["count"] = count
        for number in range(min(count, MAX_BOXES)):
            image["boxes"][number] = ([number, 1, number + 2.5, 3], 1 - number / 400, number % 80)
    return images.view(np.uint8)


def test_each_image_has_its_own_boxes() -> None:
    first, second, third = read_slab(slab(2, 0, MAX_BOXES), 3)
    assert first.boxes.tolist() == [[0, 1, 2.5, 3], [1, 1, 3.5, 3]]
    assert first.scores.tolist() == pytest.approx([1.0, 0.9975])
    assert first.class_ids.tolist() == [0, 1]
    assert second.boxes.shape == (0, 4) and len(second.scores) == len(second.class_ids) == 0
    assert len(third.scores) == MAX_BOXES and third.class_ids[-1] == 299 % 80
    assert first.boxes.dtype == first.scores.dtype == np.float32 and first.class_ids.dtype == np.int32


def test_only_the_images_that_are_asked_for_are_read() -> None:
    assert len(read_slab(slab(1, 1, 999), 2)) == 2


def test_boxes_are_copies() -> None:
    memory = slab(1)
    (found,) = read_slab(memory, 1)
    memory[:] = 0xFF
    assert found.boxes.tolist() == [[0, 1, 2.5, 3]] and found.scores.tolist() == [1.0]
    assert found.boxes.flags.c_contiguous


@pytest.mark.parametrize("count", [-1, MAX_BOXES + 1, 0x7FFFFFFF])
def test_a_count_that_cannot_be_is_an_error(count: int) -> None:
    with pytest.raises(EngineError, match="room for 300"):
        read_slab(slab(count), 1)


def test_an_image_has_the_size_of_the_kernels_struct() -> None:
    assert IMAGE_BYTES == 16 + MAX_BOXES * 24 == 7216
