"""Who runs, with which job, and why one does not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from app.errors import ConfigError
from app.measure.peers.contestants import CONTESTANTS, PEERS, chosen_peers
from app.measure.peers.job import Answer, Job, Seen

JOB = Job(
    model="model.onnx",
    family="yolox",
    input_width=416,
    input_height=416,
    centred=False,
    pad=114,
    rgb=False,
    scale=1.0,
    clip="clip.mp4",
    cameras={"cam-0": "rtsp://127.0.0.1/cam-0", "cam-1": "rtsp://127.0.0.1/cam-1"},
    answer="answer.json",
)


def test_a_job_travels_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["contestant", JOB.to_json()])

    assert Job.from_arguments() == JOB


def test_an_answer_is_read_as_it_was_written(tmp_path: Path) -> None:
    answer = Answer([Seen("cam-0", 12.5, 77, None, [[1.0, 2.0, 3.0, 4.0, 0.5, 1.0]])], {"versions": {"opencv": "5"}})

    answer.write(str(tmp_path / "answer.json"))

    assert Answer.read(tmp_path / "answer.json") == answer


def test_one_process_watches_all_cameras_with_its_options() -> None:
    (job,) = CONTESTANTS["opencv_loop_tuned"].jobs(JOB)

    assert job.cameras == JOB.cameras
    assert job.options == {"threads": 1}


def test_a_process_for_each_camera_has_one_camera_and_an_answer_of_its_own() -> None:
    jobs = CONTESTANTS["opencv_processes"].jobs(JOB)

    assert [list(job.cameras) for job in jobs] == [["cam-0"], ["cam-1"]]
    assert len({job.answer for job in jobs}) == 2


def test_a_peer_that_is_not_installed_says_how_to_install_it(tmp_path: Path) -> None:
    reason = CONTESTANTS["ultralytics"].unavailable("yolov8", tmp_path)

    assert reason is not None
    assert "scripts/peers_environment.py ultralytics" in reason


def test_a_peer_is_available_once_its_environment_has_a_python(tmp_path: Path) -> None:
    python = tmp_path / "ultralytics" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()

    assert CONTESTANTS["ultralytics"].unavailable("yolov8", tmp_path) is None
    assert CONTESTANTS["ultralytics"].unavailable("yolox", tmp_path) == "it does not run yolox models"


def test_all_peers_run_unless_some_are_named() -> None:
    assert [peer.name for peer in chosen_peers(None)] == list(PEERS)
    assert [peer.name for peer in chosen_peers(["shared-session"])] == ["shared_session"]


def test_an_unknown_peer_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(ConfigError, match="there is no yolo; there are opencv-loop, opencv-loop-tuned"):
        chosen_peers(["yolo"])
