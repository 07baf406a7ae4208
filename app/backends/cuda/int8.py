"""INT8 as TensorRT wants it: symmetric Q/DQ pairs at both ends of a layer, weights that FP16 can still take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from app.backends.cpu.preprocess import Preprocessor
from app.backends.ffmpeg.surface import HostSurface
from app.backends.int8 import quantise as qdq
from app.backends.int8.calibration import CalibrationSet, decoded, read_bytes
from app.errors import ModelError
from app.inference.model import ModelSpec

# Opset 19 is the first whose Q and DQ may be FP16, as the rest of the engine is. TensorRT 8.6 reads none above 17 and
# needs no FP16 in the file; 13 is the first with a scale per channel.
OPSET = 19
OPSET_OF_TENSORRT_8 = 13
# What is not worth eight bits: a layer of few channels has little to save and, coming early, the most to spoil. On 27
# photos yolox_nano fell from AP 0.348 to 0.027 with all but its last layers quantised, to 0.327 with these left alone.
_MIN_CHANNELS = 32


def quantise(
    spec: ModelSpec,
    model: ModelProto,
    calibration: CalibrationSet,
    *,
    opset: int = OPSET,
    on_progress: Callable[[str], None],
) -> ModelProto:
    """The model with Q/DQ pairs around its convolutions. Blocking, seconds to minutes; the model stays as it is.

    TensorRT has no zero points and adds biases in full precision. Raises `QuantiserMissing`, `ModelError`.
    """
    recipe = qdq.Recipe(
        name="tensorrt", opset=opset, min_channels=_MIN_CHANNELS, symmetric=True, outputs=True, float_weights=True
    )
    return qdq.quantise(spec, model, _inputs(spec, calibration.images, on_progress), recipe)


def _inputs(
    spec: ModelSpec, images: Sequence[Path], on_progress: Callable[[str], None]
) -> Iterator[NDArray[np.float32]]:
    preprocessor = Preprocessor(spec, 1)
    for number, path in enumerate(images, start=1):
        on_progress(f"calibrating INT8: image {number} of {len(images)}")
        picture = decoded(read_bytes(path) or b"")
        if picture is None:
            raise ModelError(f"calibration image {path} vanished while it was in use")
        preprocessor.write([HostSurface.from_bgr(picture)])
        yield qdq.model_input(spec, preprocessor.images)
