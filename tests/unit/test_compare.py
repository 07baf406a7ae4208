"""Two measurements side by side: what changed, and whether chance explains it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ConfigError
from app.measure.baselines import fingerprint
from app.measure.compare import Change, Measurement, compare, differences, joined, parse
from app.measure.results import Better, Figure
from app.measure.significance import chance

MACHINE = {
    "cpu": "A CPU",
    "cores": 2,
    "memory_bytes": 24 * 2**30,
    "platform": "Linux-6.1-x86_64",
    "python": "CPython 3.11.7",
    "vidette": "0.1.0",
    "commit": "abc",
    "versions": {"numpy": "2.0"},
}


def measurement(figures: dict[str, Figure], **machine: Any) -> Measurement:
    return Measurement(kind="bench", machine={**MACHINE, **machine}, figures=figures, conditions={})


def figure(*samples: float, better: Better = "lower", unit: str = "ms") -> Figure:
    return Figure(unit=unit, better=better, samples=samples)


def change(base: Sequence[float], new: Sequence[float], *, better: Better = "lower", threshold: float = 5.0) -> Change:
    found = compare(
        measurement({"x": figure(*base, better=better)}),
        measurement({"x": figure(*new, better=better)}),
        threshold_percent=threshold,
    )
    return found.changes[0]


def as_json(**changes: Any) -> dict[str, Any]:
    figures = {"x": {"unit": "ms", "better": "lower", "samples": [1.0, None]}}
    return {"version": 2, "kind": "bench", "machine": MACHINE, "figures": figures, **changes}


def test_five_pairs_that_all_got_worse_are_significant() -> None:
    found = change([10, 11, 10, 12, 10], [12, 13, 12, 14, 12])
    assert (found.base, found.new) == (10, 12)
    assert found.percent == pytest.approx(20)
    assert found.chance == pytest.approx(1 / 32)
    assert (found.direction, found.regression) == ("worse", True)


def test_four_pairs_are_too_few_for_a_chance_and_count_when_all_agree() -> None:
    found = change([10, 11, 10, 12], [12, 13, 12, 14])
    assert (found.chance, found.agree, found.regression) == (None, True, True)
    assert not change([10, 11, 10, 12], [12, 13, 9, 14]).regression


def test_a_change_of_the_medians_that_the_pairs_do_not_bear_out_is_no_change() -> None:
    found = change([10, 20, 10, 20, 10, 20], [20, 10, 11, 19, 20, 21])
    assert found.percent > 5
    assert (found.direction, found.regression) == ("same", False)


def test_a_significant_change_below_the_threshold_is_told_but_fails_nothing() -> None:
    found = change([100.0] * 6, [101.0] * 6)
    assert (found.direction, found.regression) == ("worse", False)
    assert change([100.0] * 6, [101.0] * 6, threshold=0.5).regression


def test_one_sample_each_is_held_against_the_threshold_alone() -> None:
    worse = change([100], [106])
    assert (worse.pairs, worse.chance, worse.regression) == (1, None, True)
    assert (change([100], [104]).direction, change([100], [104]).regression) == ("same", False)


@pytest.mark.parametrize(("better", "direction"), [("higher", "better"), ("lower", "worse"), ("neither", "changed")])
def test_whether_more_is_better_is_the_figures_own_affair(better: Better, direction: str) -> None:
    found = change([100] * 5, [150] * 5, better=better)
    assert (found.direction, found.regression) == (direction, direction == "worse")


def test_what_was_nothing_before_and_is_something_now_is_beyond_every_threshold() -> None:
    found = change([0, 0, 0], [1, 2, 1], threshold=1e6)
    assert math.isinf(found.percent)
    assert found.regression
    assert change([0, 0, 0], [0, 0, 0]).percent == 0


def test_samples_that_were_not_measured_leave_their_pairs_out() -> None:
    found = change([math.nan, 10, 10], [99, 12, math.nan])
    assert (found.pairs, found.base, found.new) == (1, 10, 12)
    nothing = change([math.nan], [1])
    assert (nothing.pairs, nothing.direction, nothing.regression) == (0, "unknown", False)


def test_more_samples_on_one_side_have_no_partner() -> None:
    assert change([10, 10, 10, 10], [12, 12]).pairs == 2


def test_figures_that_only_one_side_has_are_told_and_another_unit_makes_another_figure() -> None:
    base = measurement({"a": figure(1), "b": figure(1), "c": figure(1)})
    new = measurement({"a": figure(1), "b": figure(1, unit="s"), "d": figure(1)})
    found = compare(base, new, threshold_percent=5)
    assert [each.name for each in found.changes] == ["a"]
    assert (found.only_in_base, found.only_in_new) == (("b", "c"), ("b", "d"))


def test_results_without_a_figure_in_common_are_refused() -> None:
    with pytest.raises(ConfigError, match="no figure in common"):
        compare(measurement({"a": figure(1)}), measurement({"b": figure(1)}), threshold_percent=5)


def test_repetitions_in_several_files_add_up_to_pairs() -> None:
    first = measurement({"a": figure(1), "gone": figure(1)})
    whole = joined(first, [measurement({"a": figure(2)}), measurement({"a": figure(3, 4)})])
    assert {name: each.samples for name, each in whole.figures.items()} == {"a": (1, 2, 3, 4)}


def test_a_result_is_read_with_null_as_not_measured() -> None:
    found = parse(as_json(load={"cameras": 4, "rows": [1]}, engine={"model": "m", "notes": ["n"]}), "base.json")
    assert found.kind == "bench"
    assert found.figures["x"].samples[0] == 1.0
    assert math.isnan(found.figures["x"].samples[1])
    assert found.conditions == {"load.cameras": 4, "engine.model": "m"}


@pytest.mark.parametrize(
    ("whole", "message"),
    [
        ([], "is no result of a measurement"),
        ({"a": 1}, "is no result of a measurement"),
        (as_json(version=1), "an older Vidette's.*measure again"),
        (as_json(version=3), "a newer Vidette's"),
        (as_json(figures=[]), "figures are missing or not as they should be"),
        (as_json(figures={"x": {"unit": "ms", "better": "bigger", "samples": []}}), "not as they should be"),
        (as_json(figures={"x": {"unit": "ms", "better": "lower", "samples": ["a"]}}), "not as they should be"),
        (as_json(machine=3), "not as they should be"),
        ({key: value for key, value in as_json().items() if key != "kind"}, "kind, machine or figures are missing"),
    ],
)
def test_what_is_no_result_is_refused_with_a_sentence(whole: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^base.json: .*{message}"):
        parse(whole, "base.json")


def test_differences_name_what_is_new_what_is_gone_and_what_changed() -> None:
    assert differences({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 4, "d": 5}) == [
        "b: 2 -> 4",
        "c: 3 -> none",
        "d: none -> 5",
    ]


@pytest.mark.parametrize(
    ("name", "value", "same"),
    [
        ("cpu", "Another CPU", False),
        ("cores", 4, False),
        ("memory_bytes", 48 * 2**30, False),
        ("platform", "Darwin-23-arm64", False),
        ("memory_bytes", 24 * 2**30 - 2**20, True),
        ("platform", "Linux-6.8-x86_64", True),
        ("python", "CPython 3.13.0", True),
        ("commit", "def", True),
    ],
)
def test_a_fingerprint_is_of_the_hardware(name: str, value: Any, same: bool) -> None:
    assert (fingerprint({**MACHINE, name: value}) == fingerprint(MACHINE)) == same


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=10))
def test_a_chance_is_a_probability_that_does_not_depend_on_the_side(values: list[float]) -> None:
    found = chance(values)
    assert 2.0 ** -len(values) <= found <= 1
    assert found == chance([-value for value in values])


def test_the_chance_of_a_hand_counted_case() -> None:
    # Of the 8 sums of +-1 +-2 +-3, two reach the observed 4: itself and 1 + 2 + 3.
    assert chance([-1, 2, 3]) == pytest.approx(2 / 8)


def test_many_pairs_are_drawn_from_and_come_out_the_same_every_time() -> None:
    values = [1.0, -0.5] * 20
    assert chance(values) == chance(values)
    assert 0.001 < chance(values) < 0.05
