"""The benchmark's options and its report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from app.backends.synthetic.detector import SyntheticDetector
from app.cameras.ledger import FrameCounts
from app.measure.figures import LimitRun, Percentiles, Spread, Usage
from app.measure.load import Load
from app.measure.machine import Machine
from app.measure.observation import STAGES, ServiceFigures, check_ledgers
from app.measure.report import Report, as_text, details, heading, samples
from tests.support.command import run_command

BALANCED = FrameCounts(
    decoded=10,
    published=7,
    dropped={"rate_limit": 0, "replaced": 2, "stale": 0, "infer_failed": 0, "shutdown": 0},
    in_flight=1,
)


def stopped(counts: FrameCounts) -> FrameCounts:
    return replace(counts, published=counts.published + counts.in_flight, in_flight=0)


def make_report(
    *, inferred_fps: float = 90.0, decoded_fps: float = 180.0, limit_fps: float = 100.0, load: Load | None = None
) -> Report:
    usage = Usage(process=1.9, simulator=0.02, others=None)
    durations = Percentiles(p50=10.0, p95=20.0, p99=float("nan"))
    figures = ServiceFigures(
        seconds=10.0,
        codec="h264",
        width=1280,
        height=720,
        decoded_fps=decoded_fps,
        inferred_fps=inferred_fps,
        camera_fps=Spread(min=7.0, mean=7.5, max=8.0, jain=0.99),
        latency_ms=dict.fromkeys(("total", *STAGES, "rest"), durations),
        cpu_ms_per_frame=21.0,
        usage=usage,
        dropped={"replaced": 900},
        batch_sizes={1: 10, 4: 225},
        close_reasons={"full": 225},
        batch_ms={1: Percentiles(p50=8.0, p95=8.5, p99=9.0)},
        decoders={"software": 4},
        rss_start_bytes=2**28,
        rss_end_bytes=2**28,
    )
    run = LimitRun(
        seconds=5.0,
        inferred_fps=limit_fps,
        decoded_fps=decoded_fps,
        decode_cpu_ms=2.0,
        infer_cpu_ms=16.0,
        usage=usage,
    )
    return Report(
        load=load or Load(cameras=12, clip="clip.mp4", fps=15.0),
        batching={"max_size": 16, "max_age_ms": 500.0},
        machine=Machine(
            cpu="Some CPU",
            cores=2,
            memory_bytes=2**33,
            platform="Linux",
            python="CPython 3.11",
            vidette="0.1.0",
            commit=None,
            versions={"av": None},
        ),
        engine=SyntheticDetector().info,
        service=figures,
        ledger=check_ledgers([BALANCED], [stopped(BALANCED)]),
        limit_runs=(run, run),
        limit_fps=limit_fps,
        budget_fps=102.0,
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--cameras", "0"], "--cameras must be from 1 to 256, not 0"),
        (["--seconds", "0"], "--seconds must be more than 0, not 0"),
        (["--seconds", "inf"], "--seconds must be more than 0, not inf"),
        (["--max-size", "17"], "--max-size must be from 1 to 16, not 17"),
        (["--repeat", "0"], "--repeat must be from 1 to 100, not 0"),
        (["--sweep", "--batches", "1,17"], "--batches must be from 1 to 16, not 17"),
        (["--camera-counts", "1,0"], "--camera-counts must be from 1 to 256, not 0"),
        (["--camera-counts", "1,2", "--sweep"], "--camera-counts does not go with --sweep"),
        (["--batches", "1,4"], "--batches goes with --sweep"),
        (["--offered-fps", "500"], "--offered-fps goes with --overhead"),
        (["--overload", "--times", "1"], "--times must be more than 1 and at most 100, not 1"),
        (["--overhead", "--offered-fps", "0"], "--offered-fps must be more than 0 and at most 1000000, not 0"),
        (["--subscribers", "4097"], "--subscribers must be from 1 to 4096, not 4097"),
        (["--subscribers", "5", "--stuck", "6"], "--stuck must be from 0 to the 5 of --subscribers, not 6"),
        (["--subscribers", "5", "--stand-still", "0"], "--stand-still must be more than 0, not 0"),
        (["--stuck", "5"], "--stuck goes with --subscribers"),
        (["--sweep", "--ladder", "off"], "--ladder goes with --overload"),
        (["--peer", "opencv-loop"], "--peer goes with --peers"),
        (["--faults", "stall", "--model", "yolox_nano"], "--model does not go with --faults"),
        (["--faults", "stall", "--repeat", "2"], "--repeat does not go with --faults"),
        (["--subscribers", "5", "--camera-counts", "1,2"], "--camera-counts does not go with --subscribers"),
        (["--max-fps", "241"], "--max-fps must be more than 0 and at most 240, not 241"),
        (["--fps", "0"], "--fps must be more than 0 and at most 240, not 0"),
        (["--clip", "missing.mp4"], "--clip: there is no file missing.mp4"),
        (["--out", "missing/bench.json"], "--out: there is no folder missing"),
        (["--model", "no-such-model"], "model no-such-model is neither a file nor one of the models"),
        (["--overload", "--model", "no-such-model"], "model no-such-model is neither a file nor one of the models"),
    ],
)
def test_bench_refuses_what_it_cannot_measure(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("bench", *arguments) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"vidette: {sentence}")


def test_bench_refuses_a_clip_that_is_no_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_text("not a video")
    assert run_command("bench", "--clip", str(clip)) == 2
    assert "clip.mp4 cannot be read" in capsys.readouterr().err


def test_bench_refuses_a_backend_that_it_does_not_measure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDETTE_BACKEND__DEVICE", "synthetic")
    assert run_command("bench") == 1
    assert "the benchmark measures the cpu backend" in capsys.readouterr().err


def test_details_have_everything_but_the_names_of_the_classes() -> None:
    found = details(make_report())
    assert found["ratio"] == 0.9
    assert found["load"]["phase"] == "spread"
    assert len(found["load"]["phases_s"]) == 12
    assert found["load"]["max_size"] == 16
    assert "classes" not in found["engine"]


def test_samples_are_what_two_runs_can_be_compared_by() -> None:
    found = samples(make_report())
    assert found["inferred_fps"].value == 90.0
    assert found["inferred_fps"].better == "higher"
    assert found["latency_ms.total.p95"].value == 20.0
    assert found["latency_ms.total.p95"].better == "lower"
    assert found["mean_batch"].value == pytest.approx(910 / 235)
    assert found["dropped_share"].value == pytest.approx(900 / 1800)


def test_report_compares_with_the_limit_when_the_cameras_deliver_more_than_it() -> None:
    report = make_report()
    assert report.saturated
    assert as_text(report).split("ratio", 1)[1].splitlines()[0].strip() == (
        "0.900 of the limit; 0.911 beside the simulator"  # its 0.02 cores would have inferred 1.25 fps
    )


def test_paced_report_says_when_too_much_was_dropped_to_be_paced() -> None:
    paced = Load(cameras=12, clip="clip.mp4", fps=15.0, mode="paced", phase="random", seed=7)
    text = as_text(make_report(load=paced))
    assert "15 fps, paced, random phases of seed 7" in text
    assert "up to 50.0% of the frames were dropped: too many for a paced load" in text


def test_heading_of_many_reports_tells_of_a_broken_ledger() -> None:
    good = make_report()
    lost = check_ledgers([replace(BALANCED, decoded=11)], [stopped(BALANCED)])
    assert dict(heading([good, good]))["ledgers"] == "hold"
    assert dict(heading([good, replace(good, ledger=lost)]))["ledgers"] == "BROKEN in 1 of 2"


def test_report_says_when_the_ratio_means_nothing() -> None:
    report = make_report(inferred_fps=59.0, decoded_fps=60.0)
    assert not report.saturated
    assert "which the cameras do not reach" in as_text(report)


def test_report_doubts_figures_that_other_programs_disturbed() -> None:
    report = make_report()
    disturbed = replace(report.limit_runs[0], usage=Usage(process=1.5, simulator=0.0, others=0.4))
    assert "note" not in as_text(report)
    shown = as_text(replace(report, limit_runs=(disturbed, report.limit_runs[1])))
    assert "other programs used up to 0.40 cores" in shown


def test_report_shows_the_figures_that_a_person_asks_for_first() -> None:
    lines = dict(line.split(maxsplit=1) for line in as_text(make_report()).splitlines() if line.strip())
    assert lines["inferred"] == "90.0 fps in 10.0 s"
    assert lines["load"].startswith("12 cameras, h264 1280x720, 15 fps")
    assert lines["batches"] == "of 1 10, of 4 225"
    assert lines["ledger"].startswith("holds: 10 decoded = 8 published + replaced 2 dropped")
    assert lines["total"].split() == ["10.0", "20.0", "nan"]


def test_ledgers_hold_when_each_is_balanced_and_nothing_is_left() -> None:
    check = check_ledgers([BALANCED, BALANCED], [stopped(BALANCED), stopped(BALANCED)])
    assert check.holds
    assert (check.decoded, check.published, check.in_flight, check.in_flight_after_stop) == (20, 16, 2, 0)


def test_ledgers_do_not_hold_when_a_frame_was_lost() -> None:
    lost = replace(BALANCED, decoded=11)
    assert not check_ledgers([lost], [stopped(BALANCED)]).holds


def test_ledgers_do_not_hold_when_a_frame_is_in_flight_after_the_stop() -> None:
    assert not check_ledgers([BALANCED], [BALANCED]).holds
