"""Output decoders, on tensors with known answers, and telling families apart."""

from __future__ import annotations

import math

import numpy as np
import pytest

from app.errors import ModelError
from app.inference.families.base import MAX_CANDIDATES, Candidates, cell_count, grid, hits, reached
from app.inference.families.identify import FAMILIES, INPUT_FORMATS, Evidence, OutputTensor, decoder_for, identify
from app.inference.families.nanodet import NanoDet
from app.inference.families.yolo import EndToEnd, YoloV5, YoloV8, Yolox
from app.types import FloatArray

CELLS_64 = 64 + 16 + 4


def _zeros(*shape: int) -> FloatArray:
    return np.zeros(shape, dtype=np.float32)


def _one(candidates: Candidates) -> tuple[list[float], float, int]:
    """The box, score and class of the only candidate."""
    assert len(candidates.scores) == 1
    assert candidates.boxes.dtype == candidates.scores.dtype == np.float32
    assert candidates.class_ids.dtype == np.int32
    return candidates.boxes[0].tolist(), float(candidates.scores[0]), int(candidates.class_ids[0])


def test_grid_goes_row_by_row_from_fine_to_coarse() -> None:
    cells = grid(64, 32)
    assert cells.cells[:9].tolist() == [[0, 0], [1, 0], [2, 0], [3, 0], [4, 0], [5, 0], [6, 0], [7, 0], [0, 1]]
    assert cells.strides[[0, 31, 32, 39, 40]].ravel().tolist() == [8, 8, 16, 16, 32]
    assert len(cells.cells) == cell_count(64, 32) == 32 + 8 + 2


def test_a_cell_that_the_border_cuts_counts() -> None:
    assert cell_count(416, 416, (64,)) == 49


def test_yolox_decodes_a_cell_of_the_middle_stride() -> None:
    output = _zeros(CELLS_64, 7)
    # The cell in column 2, row 1 of stride 16.
    output[64 + 4 + 2] = [0.5, 0.25, math.log(2), math.log(3), 0.8, 0.1, 0.9]
    box, score, class_id = _one(Yolox(64, 64).decode([output], 0.5))
    assert box == pytest.approx([24, -4, 56, 44])  # centre (40, 20), size (32, 48)
    assert score == pytest.approx(0.72) and class_id == 1


def test_yolox_needs_both_objectness_and_class() -> None:
    output = _zeros(CELLS_64, 6)
    output[0, 4:] = 0.7, 0.7  # 0.49
    output[1, 4:] = 0.4, 1.0
    assert len(Yolox(64, 64).decode([output], 0.5).scores) == 0


def test_yolov5_boxes_are_pixels_already() -> None:
    output = _zeros(3 * CELLS_64, 7)
    output[100] = [30, 20, 10, 8, 0.9, 0.2, 0.9]
    box, score, class_id = _one(YoloV5().decode([output], 0.5))
    assert box == pytest.approx([25, 16, 35, 24])
    assert score == pytest.approx(0.81) and class_id == 1


def test_yolov8_reads_columns() -> None:
    output = _zeros(6, CELLS_64)
    output[:, 33] = [30, 20, 10, 8, 0.1, 0.6]
    box, score, class_id = _one(YoloV8().decode([output], 0.5))
    assert box == pytest.approx([25, 16, 35, 24])
    assert score == pytest.approx(0.6) and class_id == 1


def test_yolov8_gives_a_box_for_every_class_that_reaches_the_score() -> None:
    output = _zeros(7, CELLS_64)
    output[:, 5] = [30, 20, 10, 8, 0.5, 0.1, 0.6]
    found = YoloV8().decode([output], 0.5)
    assert found.class_ids.tolist() == [0, 2]
    assert found.scores.tolist() == pytest.approx([0.5, 0.6])
    assert found.boxes.tolist() == [[25, 16, 35, 24]] * 2


def test_end_to_end_is_final_already() -> None:
    output = _zeros(300, 6)
    output[7] = [1, 2, 3, 4, 0.5, 17]
    box, score, class_id = _one(EndToEnd().decode([output], 0.5))
    assert (box, score, class_id) == ([1, 2, 3, 4], 0.5, 17)
    assert not EndToEnd.needs_nms


def _nanodet_outputs(cells: int, row: int, score: float) -> tuple[FloatArray, FloatArray]:
    """Two classes; at `row` class 1 has the score, and left, top, right, bottom are 1, 2, 3 and 4 strides."""
    scores, sides = _zeros(cells, 2), _zeros(cells, 4, 8)
    scores[row] = [0.01, score]
    for side, bin_ in enumerate((1, 2, 3, 4)):
        sides[row, side, bin_] = 100.0  # softmax gives this bin everything
    return scores, sides.reshape(cells, 32)


def test_nanodet_measures_from_the_middle_pixel_of_a_cell() -> None:
    scores, sides = _nanodet_outputs(CELLS_64, 8 * 2 + 3, 0.6)  # column 3, row 2 of stride 8
    outputs = [scores[:64], scores[64:80], scores[80:], sides[:64], sides[64:80], sides[80:]]
    box, score, class_id = _one(NanoDet(64, 64).decode(outputs, 0.5))
    assert box == pytest.approx([27.5 - 8, 19.5 - 16, 27.5 + 24, 19.5 + 32])
    assert score == pytest.approx(0.6) and class_id == 1


def test_nanodet_in_one_tensor_means_the_same() -> None:
    scores, sides = _nanodet_outputs(CELLS_64, 64 + 5, 0.6)  # column 1, row 1 of stride 16
    box, _, _ = _one(NanoDet(64, 64).decode([np.hstack((scores, sides))], 0.5))
    assert box == pytest.approx([23.5 - 16, 23.5 - 32, 23.5 + 48, 23.5 + 64])


def test_nanodet_distance_is_the_mean_of_its_distribution() -> None:
    scores, sides = _nanodet_outputs(CELLS_64, 0, 0.6)
    sides[0] = 0.0  # all bins alike: 3.5 strides to every side
    box, _, _ = _one(NanoDet(64, 64).decode([np.hstack((scores, sides))], 0.5))
    assert box == pytest.approx([3.5 - 28, 3.5 - 28, 3.5 + 28, 3.5 + 28])


def test_nanodet_plus_measures_from_the_corner_and_has_a_fourth_stride() -> None:
    scores, sides = _nanodet_outputs(CELLS_64 + 1, CELLS_64, 0.6)  # the only cell of stride 64
    box, _, _ = _one(NanoDet(64, 64, plus=True).decode([np.hstack((scores, sides))], 0.5))
    assert box == pytest.approx([-64, -128, 192, 256])


def test_of_many_candidates_the_best_remain_and_of_equal_ones_the_first() -> None:
    scores = np.full(3 * MAX_CANDIDATES, 0.5, dtype=np.float32)
    scores[::3] = np.linspace(0.3, 0.4, MAX_CANDIDATES)
    scores[-10:] = 0.9
    rows = reached(scores, 0.25)
    assert len(rows) == MAX_CANDIDATES
    assert rows.tolist() == sorted(rows.tolist())
    assert set(range(3 * MAX_CANDIDATES - 10, 3 * MAX_CANDIDATES)) <= set(rows.tolist())
    assert rows[:4].tolist() == [1, 2, 4, 5] and (scores[rows] >= 0.5).all()


def test_scores_far_apart_are_found_in_their_order() -> None:
    scores = np.zeros(200_000, dtype=np.float32)
    places = [0, 65_535, 65_536, 131_071, 199_999]
    scores[places] = [0.5, 0.9, 0.25, 0.7, 0.3]
    assert hits(scores, 0.25).tolist() == places
    scores[places] = np.nan
    assert hits(scores, 0.25).tolist() == []


def test_of_many_candidates_of_several_strides_the_best_of_all_remain() -> None:
    random = np.random.default_rng(0)
    scores, sides = random.random((84, 20), dtype=np.float32), random.random((84, 32), dtype=np.float32)
    scores = np.round(scores, 2)  # so that many are equal
    whole = NanoDet(64, 64).decode([np.hstack((scores, sides))], 0.1)
    parts = [scores[:64], scores[64:80], scores[80:], sides[:64], sides[64:80], sides[80:]]
    split = NanoDet(64, 64).decode(parts, 0.1)
    assert len(whole.scores) == len(split.scores) == MAX_CANDIDATES
    assert whole.scores.min() > 0.35 and sorted(whole.scores) == sorted(np.sort(scores.reshape(-1))[-MAX_CANDIDATES:])
    assert np.array_equal(whole.boxes, split.boxes) and np.array_equal(whole.class_ids, split.class_ids)


def test_a_score_of_exactly_the_floor_reaches_it() -> None:
    assert reached(np.array([0.5, 0.25, 0.2499], dtype=np.float32), 0.25).tolist() == [0, 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_finds_nothing_in_nothing(family: str) -> None:
    shapes = {"yolov8": (6, CELLS_64), "nanodet": (CELLS_64, 34), "nanodet_plus": (CELLS_64 + 1, 34)}
    found = decoder_for(family, 64, 64).decode([_zeros(*shapes.get(family, (CELLS_64, 6)))], 0.25)
    assert found.boxes.shape == (0, 4) and found.scores.shape == found.class_ids.shape == (0,)
    assert family in INPUT_FORMATS


def _evidence(*shapes: tuple[int | None, ...], size: int = 640, **known: object) -> Evidence:
    outputs = tuple(OutputTensor(name=f"out{number}", shape=shape) for number, shape in enumerate(shapes))
    return Evidence(input_width=size, input_height=size, outputs=outputs, **known)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "size", "family", "classes"),
    [
        ((1, 8400, 85), 640, "yolox", 80),
        ((1, 756, 6), 192, "yolox", 1),
        ((None, 3549, 85), 416, "yolox", 80),
        ((1, 25200, 85), 640, "yolov5", 80),
        ((1, 25200, 6), 640, "yolov5", 1),
        ((1, 25500, 85), 640, "yolov5", 80),  # four strides, as in the P6 models
        ((1, 84, 8400), 640, "yolov8", 80),
        ((None, 5, None), 640, "yolov8", 1),
        ((1, 2100, 112), 320, "nanodet", 80),
        ((1, 3598, 112), 416, "nanodet_plus", 80),
        ((1, 3598, 33), 416, "nanodet_plus", 1),
        ((1, 300, 6), 640, "end2end", None),
    ],
)
def test_the_family_is_told_from_the_shape(
    shape: tuple[int | None, ...], size: int, family: str, classes: int | None
) -> None:
    match = identify(_evidence(shape, size=size))
    assert (match.family, match.class_count, match.output_names) == (family, classes, ("out0",))


def test_metadata_tells_end_to_end_from_a_yolox_of_one_class() -> None:
    assert identify(_evidence((1, 8400, 6), end_to_end=True)).family == "end2end"


def test_class_names_tell_nanodet_from_yolox() -> None:
    assert identify(_evidence((1, 8400, 35), class_count=3)).family == "nanodet"
    assert identify(_evidence((1, 8400, 35), class_count=30)).family == "yolox"


def test_class_names_tell_end_to_end_from_a_yolox_of_one_class() -> None:
    assert identify(_evidence((1, 8400, 6), class_count=80)).family == "end2end"


def test_a_named_family_wins_where_shapes_allow_several() -> None:
    assert identify(_evidence((1, 8400, 85), family="yolov5")).family == "yolov5"


def test_a_named_family_must_fit_the_shapes() -> None:
    with pytest.raises(ModelError, match=r"out0 \[1, 8400, 85\], which does not fit family yolov8; supported are"):
        identify(_evidence((1, 8400, 85), family="yolov8"))


def test_class_names_must_fit_the_output() -> None:
    with pytest.raises(ModelError, match="that is 80 classes as yolov8, but 3 class names"):
        identify(_evidence((1, 84, 8400), class_count=3))


def test_raw_heads_beside_the_decoded_output_are_not_read() -> None:
    match = identify(_evidence((1, 3, 80, 80, 85), (1, 25200, 85), (1, 3, 40, 40, 85), (1, 3, 20, 20, 85)))
    assert (match.family, match.output_names) == ("yolov5", ("out1",))


def test_split_nanodet_outputs_are_put_in_order() -> None:
    shapes = ((1, 100, 32), (1, 400, 80), (1, 1600, 32), (1, 100, 80), (1, 400, 32), (1, 1600, 80))
    match = identify(_evidence(*shapes, size=320))
    assert match.output_names == ("out5", "out1", "out3", "out2", "out4", "out0")
    assert (match.family, match.class_count) == ("nanodet", 80)


def test_split_nanodet_plus_has_eight_outputs() -> None:
    shapes = [(1, n, width) for width in (2, 32) for n in (2704, 676, 169, 49)]
    assert identify(_evidence(*shapes, size=416)).family == "nanodet_plus"


def test_with_32_classes_the_order_in_the_file_decides() -> None:
    shapes = [(1, n, 32) for _ in range(2) for n in (1600, 400, 100)]
    assert identify(_evidence(*shapes, size=320)).output_names == ("out0", "out1", "out2", "out3", "out4", "out5")


@pytest.mark.parametrize(
    "shapes",
    [
        [(1, 1000)],  # a classifier
        [(1, 300, 84)],  # RT-DETR
        [(1, 116, 8400), (1, 32, 160, 160)],  # segmentation
        [(1, 8401, 85)],
        [(1, 1600, 80), (1, 400, 80), (1, 100, 80), (1, 1600, 32), (1, 400, 32), (1, 99, 32)],
        [(1, 1600, 80), (1, 400, 80), (1, 100, 80), (1, 1600, 36), (1, 400, 36), (1, 100, 36)],
        [(1, 1600, 80), (1, 400, 79), (1, 100, 80), (1, 1600, 32), (1, 400, 32), (1, 100, 32)],
        [(1, 80, 40, 40)] * 6,
        [(1, None, 85)],
    ],
)
def test_unknown_outputs_are_listed_with_what_is_supported(shapes: list[tuple[int | None, ...]]) -> None:
    with pytest.raises(ModelError, match=r"has outputs out0 \[1, .*\]; supported are YOLOX"):
        identify(_evidence(*shapes, size=320))
