"""From YUV to RGB: which matrix a stream means, and the map it stands for."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.inference.families.base import Colour

ColorMatrix: TypeAlias = Literal["bt601", "bt709", "bt2020"]

# Weights of red and blue in luma: ITU-R BT.601, BT.709 and BT.2020.
_LUMA: dict[ColorMatrix, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
}


@lru_cache(maxsize=16)
def yuv_to_rgb(matrix: ColorMatrix, full_range: bool, colour: Colour) -> NDArray[np.float64]:
    """The affine map from Y, U, V bytes to R, G, B (or B, G, R) bytes: f64[3, 4]. Source: ITU-T H.273, 8.3."""
    red, blue = _LUMA[matrix]
    green = 1.0 - red - blue
    luma_gain, luma_zero, chroma_gain = (1.0, 0.0, 1.0) if full_range else (255.0 / 219.0, 16.0, 255.0 / 224.0)
    from_u, from_v = 2.0 * (1.0 - blue) * chroma_gain, 2.0 * (1.0 - red) * chroma_gain
    rows = np.array(
        [
            [luma_gain, 0.0, from_v],
            [luma_gain, -from_u * blue / green, -from_v * red / green],
            [luma_gain, from_u, 0.0],
        ]
    )
    offsets = -rows @ np.array([luma_zero, 128.0, 128.0])
    rgb = np.column_stack((rows, offsets))
    return rgb if colour == "rgb" else np.ascontiguousarray(rgb[::-1])
