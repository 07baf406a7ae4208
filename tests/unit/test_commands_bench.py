"""The benchmark's options and its report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from app.backends.synthetic.detector import SyntheticDetector
from app.cameras.ledger import FrameCounts
from app.measure.figures import LimitRun, Percentiles, Spread, Usage
from app.measure.machine import Machine
from app.measure.observation import STAGES, ServiceFigures, check_ledgers
from app.measure.report import DEFINITIONS, Report, as_json, as_text
from tests.support.command import run_command

BALANCED = FrameCounts(
    decoded=10,
    published=7,
    dropped={"rate_limit": 0, "replaced": 2, "stale": 0, "infer_failed": 0, "shutdown": 0},
    in_flight=1,
)


def stopped(counts: FrameCounts) -> FrameCounts:
    return replace(counts, published=counts.published + counts.in_flight, in_flight=0)


def make_report(*, inferred_fps: float = 90.0, decoded_fps: float = 180.0, limit_fps: float = 100.0) -> Report:
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
        cameras=12,
        clip="clip.mp4",
        camera_fps=15.0,
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
        (["--fps", "0"], "--fps must be more than 0 and at most 240, not 0"),
        (["--clip", "missing.mp4"], "--clip: there is no file missing.mp4"),
        (["--out", "missing/bench.json"], "--out: there is no folder missing"),
        (["--model", "no-such-model"], "model no-such-model is neither a file nor one of the models"),
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


def test_report_is_json_without_numbers_that_are_none() -> None:
    report = as_json(make_report())
    text = json.dumps(report, allow_nan=False)
    assert json.loads(text)["ratio"] == 0.9
    assert report["service"]["latency_ms"]["total"]["p99"] is None
    assert report["definitions"] == DEFINITIONS
    assert "classes" not in report["engine"]


def test_report_compares_with_the_limit_when_the_cameras_deliver_more_than_it() -> None:
    report = make_report()
    assert report.saturated
    assert as_text(report).split("ratio", 1)[1].splitlines()[0].strip() == (
        "0.900 of the limit; 0.911 beside the simulator"  # its 0.02 cores would have inferred 1.25 fps
    )


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
