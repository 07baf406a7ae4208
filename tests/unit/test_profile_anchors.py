"""Postprocessing beside a loop over anchors: the comparison must be able to tell that they differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.inference.found import Found
from app.measure.profile import anchors
from app.measure.profile.anchors import CLASSES, Comparison, compare_postprocessing, identical, synthetic_outputs
from tests.support.command import run_command


def make_found(count: int = 3) -> Found:
    return Found(
        boxes=np.arange(4 * count, dtype=np.float32).reshape(count, 4),
        scores=np.linspace(0.9, 0.3, count, dtype=np.float32),
        class_ids=np.arange(count, dtype=np.int32),
    )


@pytest.mark.parametrize("seed", range(3))
def test_both_ways_find_the_same_boxes(seed: int) -> None:
    comparison = compare_postprocessing(2, size=320, seed=seed, runs=1)
    assert comparison.identical
    assert comparison.largest_difference_px == 0.0
    assert comparison.boxes > 20
    assert (comparison.images, comparison.rows, comparison.anchors) == (2, 84, 2100)
    assert len(comparison.loop_ms) == len(comparison.vectorised_ms) == 1
    assert comparison.ratio > 0


def test_made_up_outputs_are_the_same_for_the_same_seed_and_have_objects_in_front_of_a_background() -> None:
    outputs = synthetic_outputs(2, size=640, seed=1)
    assert outputs.shape == (2, 4 + CLASSES, 8400)
    assert np.array_equal(outputs, synthetic_outputs(2, size=640, seed=1))
    assert not np.array_equal(outputs, synthetic_outputs(2, size=640, seed=2))
    sure = (outputs[:, 4:] >= anchors.MIN_SCORE).any(axis=1).sum(axis=1)
    assert np.all((sure > 60) & (sure < 600))
    assert np.median(outputs[:, 4:]) < 0.01


def test_boxes_that_differ_are_noticed() -> None:
    ours = [make_found()]
    moved = replace(ours[0], boxes=ours[0].boxes + np.float32(0.001))
    other_class = replace(ours[0], class_ids=ours[0].class_ids + 1)
    other_score = replace(ours[0], scores=ours[0].scores * np.float32(0.99))
    assert identical(ours, ours) == (True, 0.0)
    same, difference = identical(ours, [moved])
    assert not same and difference == pytest.approx(0.001, rel=0.1)
    for theirs in (other_class, other_score):
        assert not identical(ours, [theirs])[0]
    assert identical(ours, [make_found(2)]) == (False, float("inf"))
    assert not identical(ours, [])[0]


def test_the_command_prints_both_times_and_fails_when_the_boxes_differ(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    comparison = Comparison(
        images=16,
        anchors=8400,
        rows=84,
        boxes=700,
        vectorised_ms=(4.0, 5.0, 6.0),
        loop_ms=(400.0,),
        identical=False,
        largest_difference_px=2.0,
    )
    monkeypatch.setattr(anchors, "compare_postprocessing", lambda: comparison)
    assert run_command("profile", "--postprocess", "--out", str(tmp_path / "profile.json")) == 1
    shown = capsys.readouterr()
    assert "80 times as fast; THE BOXES DIFFER" in shown.out
    assert "16 x 8400 anchors x 84" in shown.out
    assert shown.err.splitlines()[-1] == (
        "vidette: the vectorised postprocessing and the loop over anchors do not find the same boxes"
    )
    assert (tmp_path / "profile.json").is_file()
    monkeypatch.setattr(anchors, "compare_postprocessing", lambda: replace(comparison, identical=True))
    assert run_command("profile", "--postprocess") == 0
