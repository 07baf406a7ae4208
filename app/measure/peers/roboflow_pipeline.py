"""Roboflow's InferencePipeline over all cameras, with the model as its custom logic.

    python -m app.measure.peers.roboflow_pipeline JOB

Runs in an environment of its own. The models that it brings itself need an account, so the frames that it gathers go
through the same code as the OpenCV loop's, with one session.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from app.measure.peers.job import Job


def main() -> None:
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "rtsp_transport;tcp"
    # Late: what is installed beside it reads variables when it is imported.
    inference: Any = import_module("inference")
    from app.measure.peers.opencv_loop import LoopDetector, open_session
    from app.measure.peers.recording import Recorder

    job = Job.from_arguments()
    recorder = Recorder(job)
    detect = LoopDetector(job, open_session(job))
    names = list(job.cameras)

    def on_video_frame(frames: Any) -> Any:
        return [detect(frame.image) for frame in frames]

    def on_prediction(predictions: Any, frames: Any) -> None:
        # With one camera it gives one of each, with several it gives lists, with None for a camera without a frame.
        several = isinstance(frames, list)
        pairs = zip(predictions, frames, strict=True) if several else [(predictions, frames)]
        for found, frame in pairs:
            if frame is not None:
                recorder.result(names[frame.source_id or 0], frame.image, *found)

    pipeline = inference.InferencePipeline.init_with_custom_logic(
        video_reference=list(job.cameras.values()), on_video_frame=on_video_frame, on_prediction=on_prediction
    )
    pipeline.start(use_main_thread=False)
    recorder.wait()
    recorder.write(versions={"inference": getattr(inference, "__version__", None)})
    pipeline.terminate()
    os._exit(0)  # a camera's thread that waits for a frame would hold the process


if __name__ == "__main__":
    main()
