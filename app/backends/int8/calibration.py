"""Pictures that stand for what the cameras will see: a folder of images, or frames of a video file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from app.errors import ModelError

MIN_IMAGES = 8
MAX_IMAGES = 512  # more change no scale any more and cost minutes
MAX_PICTURES = 96  # held in memory: two thirds to calibrate with, one to try on
_SUFFIXES = (".jpg", ".jpeg", ".png")
_LONGEST_SIDE = 1280  # of a picture in memory
_NAMED = 3  # unreadable images that a sentence names


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSet:
    """Images of a folder."""

    images: tuple[Path, ...]  # each can be read
    unreadable: tuple[Path, ...]
    sha256: str  # over the files' bytes

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth knowing of it, as sentences."""
        calibrated = f"INT8 scales come from {len(self.images)} images"
        return (calibrated, *([_unreadable(self.unreadable)] if self.unreadable else []))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """BGR pictures, u8[height, width, 3] each, no longer than 1280 on a side. `held_out` share none with `used`."""

    used: tuple[NDArray[np.uint8], ...]
    held_out: tuple[NDArray[np.uint8], ...]
    source: str  # what they are, as a phrase
    notes: tuple[str, ...]
    digests: frozenset[str]  # SHA-256 of the image files among `used`; none of a video


def calibration_set(folder: Path, most: int = MAX_IMAGES) -> CalibrationSet:
    """The images of a folder, evenly thinned to `most`. Blocking. Raises `ModelError`."""
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    except OSError as exc:
        raise ModelError(f"calibration folder {folder} cannot be read: {exc.strerror}") from exc
    if not found:
        raise ModelError(f"calibration folder {folder} holds no .jpg or .png images")
    step = max(1, -(-len(found) // most))
    digest = hashlib.sha256()
    images, unreadable = [], []
    for path in found[::step]:
        content = read_bytes(path)
        if content is None or decoded(content) is None:
            unreadable.append(path)
            continue
        images.append(path)
        digest.update(hashlib.sha256(content).digest())
    if len(images) < MIN_IMAGES:
        reason = f"; {_unreadable(unreadable)}" if unreadable else ""
        raise ModelError(
            f"calibration folder {folder} has {len(images)} images that can be read, "
            f"at least {MIN_IMAGES} are needed{reason}"
        )
    return CalibrationSet(images=tuple(images), unreadable=tuple(unreadable), sha256=digest.hexdigest())


def read_pictures(source: Path, *, hold_out: bool) -> Pictures:
    """The pictures of a folder or a video file. Blocking, seconds. Raises `ModelError`.

    `hold_out` keeps every third one apart. Of a video that is another frame, not another scene.
    """
    return _of_video(source, hold_out) if source.is_file() else _of_folder(source, hold_out)


def read_bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def decoded(content: bytes) -> NDArray[np.uint8] | None:
    """A BGR picture from an image file's bytes; None when they are none."""
    if not content:
        return None
    picture: NDArray[np.uint8] | None = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_COLOR)
    return picture


def _of_folder(folder: Path, hold_out: bool) -> Pictures:
    found = calibration_set(folder, MAX_PICTURES)
    pictures, digests = [], []
    for path in found.images:
        content = read_bytes(path) or b""
        picture = decoded(content)
        if picture is None:
            raise ModelError(f"calibration image {path} vanished while it was in use")
        pictures.append(_small(picture))
        digests.append(hashlib.sha256(content).hexdigest())
    used, held_out = _split(pictures, hold_out)
    return Pictures(
        used=used,
        held_out=held_out,
        source=f"{len(used)} images of {folder.name}",
        notes=(_unreadable(found.unreadable),) if found.unreadable else (),
        digests=frozenset(digest for number, digest in enumerate(digests) if not hold_out or number % 3 != 2),
    )


def _of_video(path: Path, hold_out: bool) -> Pictures:
    pictures: list[NDArray[np.uint8]] = []
    step = 1
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ModelError(f"calibration video {path} has no video")
            # The length is not always told: the gap doubles whenever the pictures have become too many.
            for number, frame in enumerate(container.decode(container.streams.video[0])):
                if number % step:
                    continue
                pictures.append(_small(frame.to_ndarray(format="bgr24")))
                if len(pictures) > MAX_PICTURES:
                    pictures, step = pictures[::2], 2 * step
    except (av.FFmpegError, OSError) as exc:
        if not pictures:
            raise ModelError(f"calibration video {path} cannot be read: {exc.strerror}") from exc
    if len(pictures) < MIN_IMAGES:
        raise ModelError(f"calibration video {path} has {len(pictures)} frames, at least {MIN_IMAGES} are needed")
    used, held_out = _split(pictures, hold_out)
    return Pictures(
        used=used, held_out=held_out, source=f"{len(used)} frames of {path.name}", notes=(), digests=frozenset()
    )


def _split(
    pictures: Sequence[NDArray[np.uint8]], hold_out: bool
) -> tuple[tuple[NDArray[np.uint8], ...], tuple[NDArray[np.uint8], ...]]:
    if not hold_out:
        return tuple(pictures), ()
    return tuple(each for n, each in enumerate(pictures) if n % 3 != 2), tuple(pictures[2::3])


def _small(picture: NDArray[np.generic]) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    scale = _LONGEST_SIDE / max(height, width)
    if scale >= 1:
        return np.asarray(picture, dtype=np.uint8)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _unreadable(paths: Sequence[Path]) -> str:
    more = len(paths) - _NAMED
    named = ", ".join(path.name for path in paths[:_NAMED]) + (f" and {more} more" if more > 0 else "")
    return f"{len(paths)} could not be read: {named}"
