"""The values that flow between stages. All are frozen; arrays in them are never written to again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

BgrImage: TypeAlias = NDArray[np.uint8]
GreyPicture: TypeAlias = NDArray[np.uint8]
FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int32]
Clock: TypeAlias = Literal["rtcp", "arrival"]


@runtime_checkable
class Surface(Protocol):
    """A decoded picture, wherever its pixels are (host memory, GPU memory, nowhere).

    One owner at a time; the owner calls `release` once. Not thread-safe, but it may move between threads.
    """

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    def to_bgr(self) -> BgrImage:
        """Copy the picture to the host as u8[height, width, 3] BGR. Blocking: call it from a worker thread."""
        ...

    def luma(self, width: int, height: int) -> GreyPicture:
        """Its brightness, scaled down to u8[height, width] by means over areas. Cheap: only some rows are looked at."""
        ...

    def release(self) -> None:
        """Give the pixels back. Idempotent."""
        ...


S = TypeVar("S", bound=Surface)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameTimes:
    """When a frame happened. `_at` is `time.monotonic()`, `_utc` is Unix time, both in seconds."""

    arrived_at: float  # the packet that carries this frame was read
    decoded_at: float  # the decoder gave the frame out
    decode_s: float  # time spent in the decoder for this frame
    captured_utc: float  # by `clock`
    clock: Clock  # rtcp: dated by the camera's RTCP sender report; arrival: by our clock
    lag_s: float = 0.0  # how far reading was behind the camera; what is not read in time waits in TCP buffers


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFrame(Generic[S]):
    """A frame as a source gives it, before the camera numbers it."""

    pts_s: float | None
    times: FrameTimes
    surface: S
    packet_bytes: int = 0  # of the packet that carried it; 0: not known
    is_key: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame(Generic[S]):
    """One decoded frame of one camera. `seq` counts the camera's decoded frames from 1 and never goes back."""

    camera_id: str
    seq: int
    pts_s: float | None  # the stream's own clock, None when the stream has none
    times: FrameTimes
    surface: S


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """What a detector spent on a batch, in seconds. Every frame of the batch waited for all of it."""

    preprocess_s: float
    infer_s: float
    postprocess_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Detections:
    """What was found in one frame, best score first.

    boxes: f32[n, 4], x1 y1 x2 y2 in source pixels, clipped to the frame. scores: f32[n]. class_ids: i32[n].
    """

    camera_id: str
    seq: int
    pts_s: float | None
    width: int
    height: int
    times: FrameTimes
    stages: StageTimes
    boxes: FloatArray
    scores: FloatArray
    class_ids: IntArray

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamInfo:
    """What a source knows of its stream once it is open; replaced when the stream changes."""

    codec: str  # h264, hevc, mjpeg, av1, ...
    width: int
    height: int
    declared_fps: float | None
    decoder: str  # what decodes: "software", "nvdec", "synthetic"
    decoder_reason: str | None = None  # why not the better one


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """A probe's answer: can this run here, and if not, why."""

    name: str
    available: bool
    reason: str  # a sentence: what was found, or what is missing


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSnapshot:
    """One reading of a GPU, by NVML. None: this GPU, its driver or its container does not tell."""

    index: int  # NVML's, which nvidia-smi shows too; CUDA may number otherwise
    name: str | None
    uuid: str | None
    utilization_ratio: float | None  # share of the last sample period in which a kernel ran
    decoder_utilization_ratio: float | None  # the same for NVDEC, of all its engines
    memory_used_bytes: int | None  # by every process, and what the driver keeps
    memory_total_bytes: int | None
    power_watts: float | None
    temperature_celsius: float | None
    sm_clock_mhz: float | None
    throttle_reasons: tuple[str, ...] | None  # what slows the clocks down now; empty: nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """A loaded engine, as `/models` and `/system` show it."""

    model: str
    sha256: str
    family: str
    input_width: int
    input_height: int
    classes: tuple[str, ...]
    precision: str  # fp32, bf16, fp16, int8
    backend: str  # openvino, onnxruntime, tensorrt, synthetic
    device: str  # the device's own name
    max_batch: int  # the largest batch the engine takes at once
    best_batch: int  # the batch size that the start-up measurement chose
    contexts: int  # batches that can be in flight at once
    capacity_fps: float | None  # measured at start-up, None when it was not
    notes: tuple[str, ...] = field(default=())  # sentences: why batch 1, how precision was chosen
    parallel: bool = False  # contexts execute at the same time, on cores of their own; else they take turns
