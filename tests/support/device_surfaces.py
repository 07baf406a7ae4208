"""Surfaces in a driver's memory, as a camera's source would leave them there."""

from __future__ import annotations

import cv2
import numpy as np

from app.backends.cuda.driver import Driver
from app.backends.cuda.surface import CudaSurface
from app.backends.ffmpeg.surface import YuvPlanes
from app.types import BgrImage
from tests.support.device_pictures import Samples, UploadedPicture


class _Planes:
    """The memory of one surface; implements `Slot`."""

    def __init__(self, driver: Driver, picture: UploadedPicture) -> None:
        self._driver = driver
        self._picture = picture

    def release(self) -> None:
        with self._driver.bound():
            self._picture.close()


def upload(planes: YuvPlanes, driver: Driver) -> CudaSurface:
    """A surface with a copy of planar YUV; `release` frees its memory. Rows are padded, as decoders' are."""
    with driver.bound():
        stream = driver.stream()
        samples = Samples(y=planes.y, u=planes.u, v=planes.v, full_range=planes.full_range, matrix=planes.matrix)
        picture = UploadedPicture(driver, samples, "planar", slack=24, stream=stream)
        stream.close()
    height, width = planes.y.shape
    slot = _Planes(driver, picture)
    return CudaSurface(width=width, height=height, planes=picture.planes, slot=slot, driver=driver)


def upload_bgr(image: BgrImage, driver: Driver) -> CudaSurface:
    """A surface with a BGR image in full-range YUV of all samples, which loses nothing but the rounding."""
    y, v, u = (np.ascontiguousarray(plane) for plane in cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2YCrCb)))
    return upload(YuvPlanes(y=y, u=u, v=v, full_range=True, matrix="bt601"), driver)
