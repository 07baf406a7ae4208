"""The batching simulator: its arrivals, its device, and the default policy against all others."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest

from app.batching.policy import BatchPolicy
from app.errors import ConfigError
from scripts.batching.arrivals import Arrival, Cameras, Phase, at_rate, drawn, rate, recorded, repeated
from scripts.batching.candidates import DEFAULT, candidates
from scripts.batching.device import Device, from_result, from_text
from scripts.batching.report import best, drawing, figures, table
from scripts.batching.simulation import Candidate, Execution, Outcome, execute, simulate
from scripts.simulate_batching import LIKE, main

RECORD = Path(__file__).parents[1] / "support" / "arrivals.json"
GREEDY = Candidate(name="greedy", policy=BatchPolicy())
# Each context has a core of its own; batches gain nothing, something, much.
CURVES = {"flat": LIKE["cpu"].ms, "some gain": {1: 9.0, 2: 17.0, 4: 33.0, 8: 66.0}, "gain": {1: 9.0, 4: 27.0, 8: 54.0}}


def arrivals(*each: tuple[int, float]) -> list[Arrival]:
    """From cameras and milliseconds."""
    return sorted(Arrival(at_s=ms / 1e3, camera=camera) for camera, ms in each)


def in_ms(executions: list[Execution]) -> list[tuple[tuple[int, ...], float, float]]:
    return [(each.cameras, round(each.starts_at * 1e3, 6), round(each.ends_at * 1e3, 6)) for each in executions]


def test_a_batch_grows_while_the_only_context_is_busy() -> None:
    device = Device(ms={1: 10.0, 4: 16.0})
    found = execute(arrivals((0, 0), (1, 1), (2, 2)), device, GREEDY)
    assert in_ms(found) == [((0,), 0, 10), ((1, 2), 10, 22)]


def test_a_newer_frame_takes_the_place_of_one_that_waits() -> None:
    found = execute(arrivals((0, 0), (1, 1), (1, 2)), Device(ms={1: 10.0, 2: 10.0}), GREEDY)
    assert [each.arrived_at for each in found] == [(0.0,), (0.002,)]


def test_a_launch_leaves_the_device_idle_unless_the_batch_was_closed_early() -> None:
    frames = arrivals((0, 0), (1, 1), (2, 9.5))
    device = Device(ms={1: 10.0, 2: 10.0}, launch_ms=2.0)
    assert in_ms(execute(frames, device, GREEDY)) == [((0,), 2, 12), ((1, 2), 14, 24)]
    early = Candidate(name="early", policy=BatchPolicy(), early_s=0.002)
    assert in_ms(execute(frames, device, early)) == [((0,), 2, 12), ((1, 2), 12, 22)]


def test_a_delay_is_waited_out_and_a_full_batch_is_not() -> None:
    delay = Candidate(name="delay", policy=BatchPolicy(max_size=2, max_delay_s=0.005))
    device = Device(ms={1: 1.0, 2: 1.0})
    assert in_ms(execute(arrivals((0, 0), (0, 50), (1, 51)), device, delay)) == [((0,), 5, 6), ((1, 0), 51, 52)]


def test_contexts_that_share_a_device_execute_in_turn_and_others_at_once() -> None:
    frames = arrivals((0, 0), (1, 1))
    assert in_ms(execute(frames, Device(ms={1: 10.0}, contexts=2), GREEDY)) == [((0,), 0, 10), ((1,), 1, 11)]
    shared = Device(ms={1: 10.0}, contexts=2, shared=True)
    assert in_ms(execute(frames, shared, GREEDY)) == [((0,), 0, 10), ((1,), 10, 20)]


def test_what_is_counted_adds_up() -> None:
    device = Device(ms={1: 10.0})
    frames = drawn(Cameras(count=4, fps=50.0, seconds=10.0))  # twice what the device can do
    found = simulate(frames, device, Candidate(name="one", policy=BatchPolicy(max_size=1)))
    assert found.mean_batch == 1
    assert found.busy_share == pytest.approx(1, abs=0.01)
    assert found.dropped_share == pytest.approx(0.5, abs=0.01)
    assert found.served_fps == pytest.approx(100, rel=0.01)
    assert found.fairness == pytest.approx(1, abs=0.001)


@pytest.mark.parametrize("phase", ["aligned", "random", "spread"])
def test_arrivals_come_at_the_rate_and_in_the_phase_that_is_asked_for(phase: Phase) -> None:
    plan = Cameras(count=4, fps=10.0, seconds=5.0, phase=phase, jitter_ms=0.0)
    found = drawn(plan)
    assert found == drawn(plan)
    assert len(found) == 200
    first = sorted(next(a.at_s for a in found if a.camera == camera) for camera in range(4))
    if phase == "aligned":
        assert first == [0.0] * 4
    elif phase == "spread":
        assert first == pytest.approx([0.0, 0.025, 0.05, 0.075])
    else:
        assert len(set(first)) == 4


def test_poisson_arrivals_have_the_rate_of_regular_ones_and_other_gaps() -> None:
    found = drawn(Cameras(count=1, fps=100.0, seconds=50.0, poisson=True))
    gaps = [b.at_s - a.at_s for a, b in itertools.pairwise(found)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(0.01, rel=0.05)
    # The spread of exponential gaps is their mean.
    assert (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 == pytest.approx(mean, rel=0.05)


def test_a_record_is_played_faster_and_longer() -> None:
    record = recorded(RECORD)
    assert len({arrival.camera for arrival in record}) == 12
    assert rate(at_rate(record, 500.0)) == pytest.approx(500)
    twice = repeated(record, 2)
    assert len(twice) == 2 * len(record)
    assert rate(twice) == pytest.approx(rate(record), rel=0.001)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"arrivals_ms": 3}', '{"arrivals_ms": [[1]]}', '{"arrivals_ms": [[1, NaN]]}']
)
def test_what_is_no_record_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="arrivals_ms"):
        recorded(path)


def test_a_curve_is_interpolated_and_its_best_size_is_the_smallest_of_nearly_equal_ones() -> None:
    device = Device(ms=from_text("4:20,1:10,8:40"), contexts=2)
    assert device.execution_s(2) == pytest.approx(0.04 / 3)
    assert device.capacity_fps(16) == pytest.approx(400)
    assert device.best_size(16) == 4
    assert device.best_size(2) == 1


@pytest.mark.parametrize("text", ["", "1", "1:a", "2:3.0", "1:0", "1:-3", "1:nan", "0:1,1:1", "1:1,65:2"])
def test_a_curve_that_cannot_be_simulated_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--curve"):
        from_text(text)


def test_a_curve_is_read_from_a_sweep_and_from_what_a_bench_ran(tmp_path: Path) -> None:
    path = tmp_path / "sweep.json"
    figure = {"unit": "ms", "better": "lower", "samples": [9.0, None, 11.0]}
    rows = [{"engine": {"contexts": 2}}]
    path.write_text(json.dumps({"figures": {"batch_1.batch_ms.p50": figure, "batch_1.fps": figure}, "rows": rows}))
    assert (from_result(path).ms, from_result(path).contexts) == ({1: 10.0}, 2)
    service = {"batch_ms": {"1": {"p50": 9.0}, "2": {"p50": 17.0}}}
    path.write_text(json.dumps({"figures": {}, "service": service, "engine": {"contexts": 3}}))
    assert (from_result(path).ms, from_result(path).contexts) == ({1: 9.0, 2: 17.0}, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is no result"), ("[]", "is no result"), ('{"figures": {}}', "bench --sweep"), (None, "cannot be read")],
)
def test_a_file_without_a_curve_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        from_result(path)


def results(device: Device, load: float, *, cameras: int | None = None) -> dict[str, Outcome]:
    """All policies on the recorded arrivals, or on drawn ones, at a share of what the device can do."""
    fps = load * device.capacity_fps(device.largest)
    if cameras is None:
        frames = at_rate(recorded(RECORD), fps)
    else:
        frames = drawn(Cameras(count=cameras, fps=fps / cameras, seconds=2.0))
    return {each.name: simulate(frames, device, each) for each in candidates(device, device.largest, 0.5)}


@pytest.mark.parametrize("load", [0.5, 0.7, 0.9, 1.2])
@pytest.mark.parametrize("curve", CURVES)
def test_on_cores_no_policy_beats_the_default_on_recorded_arrivals(curve: str, load: float) -> None:
    found = results(Device(ms=CURVES[curve], contexts=2, launch_ms=0.1), load)
    default = found.pop(DEFAULT)
    for name, other in found.items():
        # Fewer drops cost age, and the other way round: a policy is better only where it loses no more frames.
        # Where batches gain a little and there is room, single frames are younger still, by a fifth.
        if other.dropped_share <= default.dropped_share + 0.005:
            assert default.age_p99_ms <= (1.25 if name == "batch 1" else 1.05) * other.age_p99_ms, name
        assert default.dropped_share <= other.dropped_share + 0.01, name


@pytest.mark.parametrize("load", [0.5, 0.7, 0.9])
def test_on_a_gpu_only_knowing_when_a_batch_will_end_beats_the_default(load: float) -> None:
    found = results(LIKE["gpu"], load, cameras=72)
    default = found.pop(DEFAULT)
    early = found.pop("just in time")
    assert early.age_p99_ms < default.age_p99_ms < 1.35 * early.age_p99_ms
    for name, other in found.items():
        assert default.age_p99_ms <= 1.01 * other.age_p99_ms, name


def test_contexts_with_cores_of_their_own_gain_by_sharing_what_is_ready() -> None:
    device = Device(ms=CURVES["some gain"], contexts=4)
    frames = drawn(Cameras(count=32, fps=0.7 * device.capacity_fps(8) / 32, seconds=5.0, phase="aligned"))
    alone = simulate(frames, device, Candidate(name="alone", policy=BatchPolicy(max_size=8)))
    shared = simulate(frames, device, Candidate(name="shared", policy=BatchPolicy(max_size=8, shared_by=4)))
    assert shared.age_p99_ms < 0.95 * alone.age_p99_ms
    assert shared.age_p50_ms < alone.age_p50_ms


def test_the_table_stars_the_youngest_of_those_that_lose_fewest() -> None:
    def outcome(p99_ms: float, dropped: float) -> Outcome:
        return Outcome(
            age_p50_ms=1.0,
            age_p99_ms=p99_ms,
            mean_batch=1.0,
            busy_share=0.5,
            fairness=1.0,
            dropped_share=dropped,
            served_fps=10.0,
        )

    found = {"slow": outcome(9.0, 0.1), "quick": outcome(5.0, 0.1), "lossy": outcome(1.0, 0.2)}
    assert best(found) == "quick"
    assert "quick *" in table(found)
    assert figures({70: found})["load_70.quick.age_ms.p99"].samples == (5.0,)
    svg = xml.etree.ElementTree.fromstring(drawing({50: found, 70: found}, "a < b"))
    assert sum(each.tag.endswith("circle") for each in svg) == 6


def test_the_script_prints_tables_and_writes_a_drawing_and_a_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot, out = tmp_path / "p99.svg", tmp_path / "out.json"
    given = ["--curve", "1:10,2:18", "--contexts", "2", "--arrivals", str(RECORD), "--seconds", "2"]
    assert main([*given, "--load", "50,90", "--plot", str(plot), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "load 50 %: 12 cameras, 111 fps of 222; 2 contexts; batches up to 2" in printed
    assert plot.read_text(encoding="utf-8").startswith("<svg")
    whole = json.loads(out.read_text(encoding="utf-8"))
    assert whole["kind"] == "batching_simulation"
    assert "load_90.full_or_33_ms.age_ms.p99" in whole["figures"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--cameras", "0"], "--cameras must be from 1 to 1024"),
        (["--seconds", "0"], "--seconds must be more than 0"),
        (["--fps", "nan"], "--fps must be more than 0"),
        (["--jitter-ms", "-1"], "--jitter-ms must be at least 0"),
        (["--contexts", "0"], "--contexts must be from 1"),
        (["--plot", "x.png"], "must end in .svg"),
        (["--cameras", "1", "--load", "1", "--seconds", "0.01"], "too short for two frames"),
    ],
)
def test_bad_options_are_refused_with_a_sentence(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    assert message in capsys.readouterr().err


def test_the_script_runs_from_a_checkout() -> None:
    script = Path(__file__).parents[2] / "scripts" / "simulate_batching.py"
    ran = subprocess.run(
        [sys.executable, str(script), "--cameras", "4", "--seconds", "0.5", "--like", "cpu"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "full or 33 ms" in ran.stdout
