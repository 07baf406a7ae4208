"""The loop that most people write: OpenCV reads, ONNX Runtime infers, a thread for each camera.

    python -m app.measure.peers.opencv_loop JOB

Options: `shared`: one session for all cameras instead of one each; `threads`: intra-op threads of a session, where
ONNX Runtime's own choice is not wanted.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import cv2
import numpy as np
import onnxruntime

from app.measure.peers.job import Job
from app.measure.peers.recording import Recorder


class LoopDetector:
    """From a BGR frame to boxes, as a single script does it. Belongs to one thread; the session may be shared."""

    def __init__(self, job: Job, session: Any) -> None:
        self.job = job
        self.session = session
        self.input_name = session.get_inputs()[0].name
        if job.family == "yolox":
            self.cells, self.strides = yolox_grid(job.input_width, job.input_height)

    def __call__(self, frame: Any) -> tuple[Any, Any, Any]:
        """boxes [n, 4] x1 y1 x2 y2 in the frame's pixels, scores [n], class ids [n]."""
        blob, scale, left, top = self.preprocess(frame)
        output = self.session.run(None, {self.input_name: blob})[0][0]
        boxes, scores = self.decode_yolox(output) if self.job.family == "yolox" else (output[:4].T, output[4:].T)
        class_ids = scores.argmax(axis=1)
        best = scores[np.arange(len(scores)), class_ids]
        likely = best >= self.job.min_score
        boxes, best, class_ids = boxes[likely], best[likely], class_ids[likely]
        boxes[:, :2] -= boxes[:, 2:] / 2
        kept = cv2.dnn.NMSBoxesBatched(
            boxes.tolist(), best.tolist(), class_ids.tolist(), self.job.min_score, self.job.iou
        )
        rows = np.asarray(kept, dtype=np.intp).reshape(-1)
        found = boxes[rows]
        found[:, 2:] += found[:, :2]
        found = (found - (left, top, left, top)) / scale
        height, width = frame.shape[:2]
        return np.clip(found, 0, (width, height, width, height)), best[rows], class_ids[rows]

    def preprocess(self, frame: Any) -> tuple[Any, float, int, int]:
        job = self.job
        height, width = frame.shape[:2]
        scale = min(job.input_width / width, job.input_height / height)
        new_width, new_height = round(width * scale), round(height * scale)
        left = (job.input_width - new_width) // 2 if job.centred else 0
        top = (job.input_height - new_height) // 2 if job.centred else 0
        padded = np.full((job.input_height, job.input_width, 3), job.pad, dtype=np.uint8)
        padded[top : top + new_height, left : left + new_width] = cv2.resize(frame, (new_width, new_height))
        return cv2.dnn.blobFromImage(padded, job.scale, swapRB=job.rgb), scale, left, top

    def decode_yolox(self, output: Any) -> tuple[Any, Any]:
        centres = (output[:, :2] + self.cells) * self.strides
        sizes = np.exp(output[:, 2:4]) * self.strides
        return np.concatenate((centres, sizes), axis=1), output[:, 4:5] * output[:, 5:]


def yolox_grid(width: int, height: int) -> tuple[Any, Any]:
    cells, strides = [], []
    for stride in (8, 16, 32):
        x, y = np.meshgrid(np.arange(width // stride), np.arange(height // stride))
        cells.append(np.stack((x, y), axis=2).reshape(-1, 2))
        strides.append(np.full((x.size, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(strides).astype(np.float32)


def open_session(job: Job) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # some models make it warn of what it optimises away
    if job.options.get("threads"):
        options.intra_op_num_threads = job.options["threads"]
    return onnxruntime.InferenceSession(job.model, options, providers=["CPUExecutionProvider"])


def watch(camera: str, url: str, detect: LoopDetector, recorder: Recorder) -> None:
    """One camera's thread."""
    capture = cv2.VideoCapture(url)
    while recorder.recording:
        read, frame = capture.read()
        if read:
            recorder.result(camera, frame, *detect(frame))
        else:
            capture.release()
            capture = cv2.VideoCapture(url)
    capture.release()


def main() -> None:
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "rtsp_transport;tcp"
    job = Job.from_arguments()
    recorder = Recorder(job)
    shared = open_session(job) if job.options.get("shared") else None
    threads = [
        threading.Thread(target=watch, args=(camera, url, LoopDetector(job, shared or open_session(job)), recorder))
        for camera, url in job.cameras.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorder.write(versions={"onnxruntime": onnxruntime.__version__, "opencv": cv2.__version__})


if __name__ == "__main__":
    main()
