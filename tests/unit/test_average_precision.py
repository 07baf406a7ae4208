"""COCO average precision, on cases that can be computed by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from app.inference.average_precision import Claims, Truth, average_precision

Box = tuple[float, float, float, float]
A: Box = (0, 0, 10, 10)
B: Box = (100, 100, 120, 140)


def _truth(*boxes: Box, class_ids: Sequence[int] | None = None, crowd: Sequence[bool] | None = None) -> Truth:
    return Truth(
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        class_ids=np.array(class_ids or [0] * len(boxes), dtype=np.int32),
        crowd=np.array(crowd or [False] * len(boxes), dtype=np.bool_),
    )


def _claims(*scored: tuple[Box, float], class_ids: Sequence[int] | None = None) -> Claims:
    return Claims(
        boxes=np.array([box for box, _ in scored], dtype=np.float32).reshape(-1, 4),
        scores=np.array([score for _, score in scored], dtype=np.float32),
        class_ids=np.array(class_ids or [0] * len(scored), dtype=np.int32),
    )


def test_perfect_claims_have_ap_1() -> None:
    result = average_precision([(_truth(A, B), _claims((A, 0.9), (B, 0.3)))])
    assert (result.ap, result.ap50, result.of_class) == (1.0, 1.0, {0: 1.0})


def test_no_claims_have_ap_0() -> None:
    assert average_precision([(_truth(A), _claims())]).ap == 0.0


def test_half_of_the_objects_found_is_half_of_the_recall_points() -> None:
    # Precision is 1 up to recall 0.5: 51 of 101 points.
    assert average_precision([(_truth(A, B), _claims((A, 0.9)))]).ap == pytest.approx(51 / 101)


def test_a_false_claim_above_a_true_one_halves_the_precision() -> None:
    assert average_precision([(_truth(A), _claims((B, 0.9), (A, 0.5)))]).ap == pytest.approx(0.5)


def test_a_false_claim_below_all_true_ones_costs_nothing() -> None:
    assert average_precision([(_truth(A), _claims((A, 0.9), (B, 0.5)))]).ap == 1.0


def test_claims_of_all_images_are_ranked_together() -> None:
    images = [(_truth(A), _claims((A, 0.5))), (_truth(), _claims((B, 0.9)))]
    assert average_precision(images).ap == pytest.approx(0.5)


def test_a_second_claim_on_an_object_is_false() -> None:
    images = [(_truth(A, B), _claims((A, 0.9), (A, 0.8), (B, 0.7)))]
    assert average_precision(images).ap50 == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_looser_boxes_count_at_fewer_thresholds() -> None:
    loose: Box = (0, 0, 10, 8)  # IoU 0.8: right at 0.50 to 0.80, seven of ten thresholds
    result = average_precision([(_truth(A), _claims((loose, 0.9)))])
    assert result.ap == pytest.approx(0.7)
    assert result.ap50 == 1.0


def test_classes_are_averaged_and_kept_apart() -> None:
    images = [(_truth(A, B, class_ids=[0, 7]), _claims((A, 0.9), (B, 0.8), class_ids=[0, 0]))]
    result = average_precision(images)
    assert result.of_class == {0: 1.0, 7: 0.0}
    assert result.ap == 0.5


def test_only_the_classes_that_a_model_knows_count() -> None:
    images = [(_truth(A, B, class_ids=[0, 7]), _claims((A, 0.9)))]
    assert average_precision(images, [0]).ap == 1.0


def test_claims_on_a_crowd_are_neither_right_nor_wrong() -> None:
    crowd: Box = (200, 200, 400, 400)
    inside: Box = (210, 210, 220, 220)
    images = [(_truth(A, crowd, crowd=[False, True]), _claims((inside, 0.95), (inside, 0.9), (A, 0.5)))]
    assert average_precision(images).ap == 1.0


def test_an_object_is_preferred_to_the_crowd_around_it() -> None:
    images = [(_truth((0, 0, 50, 50), A, crowd=[True, False]), _claims((A, 0.9)))]
    assert average_precision(images).ap == 1.0


def test_a_hundred_claims_of_a_class_count() -> None:
    false = [((500.0, 500.0, 510.0, 510.0), 0.9)] * 100
    images = [(_truth(A), _claims(*false, (A, 0.1)))]
    assert average_precision(images).ap == 0.0


def test_without_labelled_objects_there_is_no_precision() -> None:
    with pytest.raises(ValueError, match="no labelled object"):
        average_precision([(_truth(A, crowd=[True]), _claims((A, 0.9)))])
