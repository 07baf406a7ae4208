"""Ultralytics as its documentation shows it for several cameras: one `predict` over a list of streams.

    python -m app.measure.peers.ultralytics_streams JOB

Runs in an environment of its own. Its cameras' threads keep the newest frame only; a batch is one frame of each.
"""

from __future__ import annotations

import os
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from app.measure.peers.job import Job
from app.measure.peers.recording import Recorder


def main() -> None:
    job = Job.from_arguments()
    with tempfile.TemporaryDirectory(prefix="vidette-ultralytics-") as folder:
        # It is to use what is installed, to write nowhere else, and to ask nobody.
        os.environ.update(YOLO_CONFIG_DIR=folder, YOLO_AUTOINSTALL="false", YOLO_OFFLINE="true")
        os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "rtsp_transport;tcp"
        streams = Path(folder) / "cameras.streams"
        streams.write_text("\n".join(job.cameras.values()), encoding="utf-8")
        ultralytics: Any = import_module("ultralytics")  # late: it reads the variables when it is imported
        recorder = Recorder(job)
        results = ultralytics.YOLO(job.model, task="detect").predict(
            source=str(streams),
            stream=True,
            verbose=False,
            conf=job.min_score,
            iou=job.iou,
            imgsz=(job.input_height, job.input_width),
            device="cpu",
        )
        names = list(job.cameras)
        shape = None
        # A batch's results come one after the other, in the order of the streams.
        for number, found in enumerate(results):
            boxes = found.boxes.cpu().numpy()
            shape = found.orig_shape
            recorder.result(names[number % len(names)], found.orig_img, boxes.xyxy, boxes.conf, boxes.cls)
            if not recorder.recording:
                break
        recorder.write(versions={"ultralytics": ultralytics.__version__}, shape=shape)


if __name__ == "__main__":
    main()
