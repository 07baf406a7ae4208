"""A whole comparison, with contestants that are played."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.commands.peers import as_json
from app.commands.progress import Progress
from app.errors import AppError
from app.measure.machine import Machine
from app.measure.peers.comparison import Plan, Race, carried_load
from app.measure.peers.contestants import CONTESTANTS, Contestant
from app.measure.peers.job import Job, Seen
from app.measure.peers.race import Course, Turn
from app.measure.peers.report import Comparison, Load, Part, as_text
from app.measure.peers.timeline import Timeline
from app.measure.retime import clip_fps, excerpt
from app.simulator.clip import load_clip
from tests.support.clips import write_test_clip

NAMES = ("ours_fp32", "opencv_loop", "ours_best", "opencv_loop_tuned")
BOX = [10.0, 10.0, 50.0, 90.0, 0.8, 0]
MACHINE = Machine(
    cpu="A processor",
    cores=2,
    memory_bytes=2**30,
    platform="Linux",
    python="CPython 3.11",
    vidette="1.0",
    commit=None,
    versions={},
)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_test_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", fps=10)


class Played:
    """Takes the turns: each contestant gives so many results in a second, and is late by as much as it takes."""

    def __init__(self, clip: Path, fps: dict[str, int], *, peers_speed: float = 1000.0) -> None:
        self._peers_speed = peers_speed
        self._clip = load_clip(clip)
        self._fps = fps
        self.turns: list[str] = []

    def __call__(self, contestant: Contestant, course: Course, **_: Any) -> Turn:
        self.turns.append(contestant.name)
        if contestant.name not in self._fps:
            raise AppError(f"{contestant.name} ended before it was told to: it said nothing")
        fps, timeline = self._fps[contestant.name], Timeline(self._clip, 0.0)
        results = [Seen("cam-0", 1 + n / fps, None, 1 + n / fps - 2.0 / fps, [BOX]) for n in range(fps)]
        return Turn(
            began_at=1.0,
            ended_at=2.0,
            results=results,
            timelines={"cam-0": timeline},
            cpu_s=0.5,
            memory_bytes=2**20,
            simulator_cores=0.0,
            other_cores=0.5,
            frames_skipped=0,
            late_ms=1.0,
            speed=1000.0 if contestant.ours else self._peers_speed,
            details={"engine": _ENGINE, "limit_fps": 2.0 * fps, "ap": 0.5} if contestant.ours else {},
        )


_ENGINE = {"precision": "fp32", "backend": "openvino", "contexts": 2, "best_batch": 1}


@pytest.fixture
def race_of(clip: Path) -> Callable[..., tuple[Race, Played]]:
    def make(fps: dict[str, int], repeat: int, **options: float) -> tuple[Race, Played]:
        played = Played(clip, fps, **options)
        plan = Plan(
            job=Job(
                model="model.onnx",
                family="yolox",
                input_width=320,
                input_height=320,
                centred=False,
                pad=114,
                rgb=False,
                scale=1.0,
                clip="",
                cameras={},
                answer="",
            ),
            clip_at=lambda _: clip,
            contestants=[CONTESTANTS[name] for name in NAMES],
            seconds=1.0,
            repeat=repeat,
            environments=Path("environments"),
            engines_dir=Path("engines"),
            images=None,
        )
        return Race(plan, Progress(io.StringIO()), take_turn=played), played

    return make


LOAD = Load(cameras=1, fps=50.0)
FPS = {"ours_fp32": 30, "opencv_loop": 10, "ours_best": 40, "opencv_loop_tuned": 20}


def compared(part: Part, absent: dict[str, str] | None = None) -> Comparison:
    return Comparison(machine=MACHINE, model="m", clip="street.mp4", saturated=part, paced=None, absent=absent or {})


def test_every_other_round_goes_backwards(race_of: Callable[..., tuple[Race, Played]]) -> None:
    race, played = race_of(FPS, 2)

    race.run(LOAD, thorough=False)

    assert played.turns == [*NAMES, *reversed(NAMES)]


def test_a_peer_that_fails_is_out_and_the_others_go_on(race_of: Callable[..., tuple[Race, Played]]) -> None:
    race, played = race_of({name: fps for name, fps in FPS.items() if name != "opencv_loop"}, 2)

    part = race.run(LOAD, thorough=False)

    assert race.failed == {"opencv_loop": "opencv_loop ended before it was told to: it said nothing"}
    assert played.turns.count("opencv_loop") == 1
    assert "opencv-loop " not in as_text(compared(part)).split("ours against")[1]
    text = as_text(compared(part, race.failed))
    assert "did not run: opencv_loop ended before it was told to" in text


def test_the_comparison_ends_when_we_fail(race_of: Callable[..., tuple[Race, Played]]) -> None:
    race, _ = race_of({"opencv_loop": 10, "opencv_loop_tuned": 20}, 1)

    with pytest.raises(AppError, match="ours_fp32 ended"):
        race.run(LOAD, thorough=False)


def test_the_comparison_ends_when_nobody_is_left_to_compare_with(race_of: Callable[..., tuple[Race, Played]]) -> None:
    race, _ = race_of({"ours_fp32": 30, "ours_best": 40}, 1)

    with pytest.raises(AppError, match="opencv_loop_tuned ended"):
        race.run(LOAD, thorough=False)


def test_figures_and_ratios_are_in_the_common_format(race_of: Callable[..., tuple[Race, Played]]) -> None:
    race, _ = race_of(FPS, 3)

    found = as_json(compared(race.run(LOAD, thorough=False)))

    assert found["kind"] == "peers"
    assert found["figures"]["ours_fp32.inferred_fps"] == {"unit": "fps", "better": "higher", "samples": [30.0] * 3}
    assert found["figures"]["ratio.fp32.opencv_loop"]["samples"] == [3.0] * 3
    assert found["figures"]["ratio.best.opencv_loop_tuned"]["samples"] == [2.0] * 3
    assert found["figures"]["ours_best.limit_ratio"]["samples"] == [0.5] * 3
    assert found["figures"]["ours_best.ap"]["samples"] == [0.5]
    assert found["saturated"]["boxes"]["opencv_loop"]["share"] == 1.0


def test_the_table_shows_ours_first_and_what_is_in_doubt(race_of: Callable[..., tuple[Race, Played]]) -> None:
    race, _ = race_of(FPS, 1)

    text = as_text(compared(race.run(Load(cameras=1, fps=40.0), thorough=False)))

    table = text.split("as fast as they can")[1].split("\n\n")[0].splitlines()[2:]
    assert [line.split()[0] for line in table] == ["ours-fp32", "ours-best", "opencv-loop", "opencv-loop-tuned"]
    assert "ours-best inferred all that the cameras sent" in text
    assert "0.50 beside opencv-loop" in text


@pytest.mark.parametrize(("peers_speed", "in_doubt"), [(950.0, False), (500.0, True)])
def test_cores_that_are_not_steady_are_told_of(
    race_of: Callable[..., tuple[Race, Played]], peers_speed: float, in_doubt: bool
) -> None:
    race, _ = race_of(FPS, 1, peers_speed=peers_speed)

    text = as_text(compared(race.run(LOAD, thorough=False)))

    assert ("the cores themselves were at 50% of their speed at times" in text) is in_doubt


@pytest.mark.parametrize(
    ("slowest_fps", "cameras", "load"),
    [(100, 8, Load(cameras=8, fps=7.5)), (25, 8, Load(cameras=3, fps=5.0)), (4, 8, Load(cameras=1, fps=2.4))],
)
def test_the_load_that_all_carry_is_a_part_of_what_the_slowest_inferred(
    race_of: Callable[..., tuple[Race, Played]], slowest_fps: int, cameras: int, load: Load
) -> None:
    race, _ = race_of(
        {**FPS, "ours_fp32": 200, "ours_best": 200, "opencv_loop_tuned": 200, "opencv_loop": slowest_fps}, 1
    )

    part = race.run(Load(cameras=cameras, fps=15.0), thorough=False)

    assert carried_load(part) == load


@pytest.mark.parametrize("b_frames", [0, 2])
def test_an_excerpt_ends_before_a_keyframe(tmp_path: Path, b_frames: int) -> None:
    clip = write_test_clip(tmp_path / "clip.mp4", fps=10, seconds=5, gop=10, b_frames=b_frames)

    short = excerpt(clip, tmp_path / "short.mp4", seconds=1.5)

    assert len(load_clip(short).frames) == 20
    assert clip_fps(short) == pytest.approx(10)


def test_an_excerpt_of_a_shorter_clip_is_all_of_it(tmp_path: Path) -> None:
    clip = write_test_clip(tmp_path / "clip.mp4", fps=10, seconds=2)

    assert len(load_clip(excerpt(clip, tmp_path / "short.mp4", seconds=60)).frames) == 20
