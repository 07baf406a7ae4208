"""NVIDIA's hardware decoder, through PyNvVideoCodec's core decoder. Imports the library only when it is loaded.

What is not in its documentation was read in its published source, and `tests/integration/test_nvdec_library.py` holds
2.0.0 and 2.2.4 to it: a decoded picture lies in one block, rows packed tight, the width rounded up to even where u and
v alternate; the next `Decode` overwrites it; it is copied on the stream that the decoder was given. A sequence of
another size is scaled to the first one's size, or an exception is thrown through the driver's parser, which may end the
process as every error of the CUDA driver in there may: so a decoder must never see one.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from app.backends.cuda.driver import Driver, Stream
from app.backends.cuda.surface import PictureLayout
from app.errors import AppError

if TYPE_CHECKING:  # written from the real packages, where `tests/integration/test_api_conformance.py` checks with them
    import PyNvVideoCodec
    from nvidia_modules import NvVideoCodec

Chroma: TypeAlias = Literal["400", "420", "422", "444", "other"]
# FFmpeg's name of the codec: NVIDIA's. JPEG is decoded by kernels there, not by NVDEC, and VP8 and VP9 may change
# their size on any frame, without parameter sets that would announce it.
CODECS: Mapping[str, str] = {"h264": "H264", "hevc": "HEVC", "av1": "AV1"}
_CHROMAS: Mapping[Chroma, str] = {"420": "420", "422": "422", "444": "444"}
# NVIDIA's pixel format: bytes a sample, u and v alternate, chroma is halved (across, down).
_PIXELS: Mapping[str, tuple[int, bool, bool, bool]] = {
    "NV12": (1, True, True, True),
    "P016": (2, True, True, True),
    "NV16": (1, True, True, False),
    "P216": (2, True, True, False),
    "YUV444": (1, False, False, False),
    "YUV444_16Bit": (2, False, False, False),
}


class NvdecError(AppError):
    """NVDEC refused a stream or failed while it decoded; the process goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NvdecCaps:
    """What this GPU's decoder takes of one codec, chroma format and bit depth. Sizes are of coded pictures."""

    supported: bool
    min_width: int
    min_height: int
    max_width: int
    max_height: int
    max_macroblocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedPicture:
    """A picture in the decoder's own memory, until its next call. `width` may be one more than the stream's."""

    address: int
    width: int
    height: int
    pixels: str  # NV12, P016, ...: NVIDIA's names
    pts: int  # as it was given with the packet

    def layout(self, *, width: int, alignment: int) -> PictureLayout:
        """How its planes lie when rows begin at multiples of `alignment`: 1 for the picture itself."""
        sample_bytes, interleaved, across, down = _PIXELS[self.pixels]
        return PictureLayout(
            width=width,
            height=self.height,
            chroma_width=(width + 1) // 2 if across else width,
            chroma_height=(self.height + 1) // 2 if down else self.height,
            sample_bytes=sample_bytes,
            interleaved=interleaved,
            alignment=alignment,
        )


class HardwareDecoder(Protocol):
    """The decoder of one stream. Belongs to one thread, inside `driver.bound()`."""

    def decode(self, address: int, nbytes: int, *, pts: int) -> list[DecodedPicture]:
        """Decode the packet at a host address, and give the pictures that are due. Raises `NvdecError`.

        The copies that made them are queued on the decoder's stream, not done. Blocking; lets go of the GIL.
        """
        ...

    def flush(self) -> list[DecodedPicture]:
        """Give the pictures that are held back. Raises `NvdecError`."""
        ...

    def close(self) -> None:
        """Free the decoder. Idempotent."""
        ...


class Nvdec(Protocol):
    """Makes hardware decoders. Any thread inside `driver.bound()`."""

    def caps(self, codec: str, chroma: Chroma, bit_depth: int) -> NvdecCaps:
        """Ask the device. Slow and hungry: the library makes a CUDA context for it. Raises `NvdecError`."""
        ...

    def open(self, codec: str, *, stream: Stream, reordered: bool) -> HardwareDecoder:
        """A decoder whose work is queued on `stream`. `reordered`: the stream has B-frames. Raises `NvdecError`."""
        ...


def load_nvdec(driver: Driver) -> Nvdec:
    """Load PyNvVideoCodec. Call it after the driver was found: without one its import fails. Raises `NvdecError`."""
    try:
        library: Any = importlib.import_module("PyNvVideoCodec")
    except (ImportError, RuntimeError, OSError) as exc:
        raise NvdecError(f"PyNvVideoCodec cannot be loaded: {_sentence(exc)}") from exc
    return PyNvdec(library, driver)


class PyNvdec:
    """`Nvdec` on PyNvVideoCodec 2."""

    def __init__(self, library: NvVideoCodec, driver: Driver) -> None:
        self._library = library
        self._driver = driver

    def caps(self, codec: str, chroma: Chroma, bit_depth: int) -> NvdecCaps:
        library = self._library
        try:
            found = library.GetDecoderCaps(
                gpuid=self._driver.index,
                codec=getattr(library.cudaVideoCodec, CODECS[codec]),
                # Its names are digits, which no attribute access in source can spell.
                chromaformat=getattr(library.cudaVideoChromaFormat, _CHROMAS[chroma]),
                bitdepth=bit_depth,
            )
        except self._errors as exc:
            raise NvdecError(f"NVDEC does not tell what it can decode: {_sentence(exc)}") from exc
        return NvdecCaps(
            supported=bool(found["supported"]),
            min_width=found["width_min"],
            min_height=found["height_min"],
            max_width=found["width_max"],
            max_height=found["height_max"],
            max_macroblocks=found["mb_num_max"],
        )

    def open(self, codec: str, *, stream: Stream, reordered: bool) -> HardwareDecoder:
        library = self._library
        latency = library.DisplayDecodeLatencyType
        try:
            decoder = library.CreateDecoder(
                gpuid=self._driver.index,
                codec=getattr(library.cudaVideoCodec, CODECS[codec]),
                cudacontext=self._driver.context_handle,
                cudastream=stream.handle,
                usedevicememory=True,
                # The low latency is documented for streams without B-frames only.
                latency=latency.NATIVE if reordered else latency.LOW,
            )
        except self._errors as exc:
            raise NvdecError(f"NVDEC refused to open: {_sentence(exc)}") from exc
        # Packets are whole pictures, so the parser need not wait for the next one to begin.
        flags = 0 if reordered else int(library.VideoPacketFlag.ENDOFPICTURE)
        return PyNvDecoder(library, decoder, flags=flags, errors=self._errors)

    @property
    def _errors(self) -> tuple[type[Exception], ...]:
        return (
            self._library.PyNvVCException,
            self._library.PyNvVCExceptionUnsupported,
            RuntimeError,
            ValueError,
            TypeError,
        )


class PyNvDecoder:
    """`HardwareDecoder` on PyNvVideoCodec's core decoder."""

    def __init__(
        self,
        library: NvVideoCodec,
        decoder: PyNvVideoCodec.PyNvDecoder,
        *,
        flags: int,
        errors: tuple[type[Exception], ...],
    ) -> None:
        self._library = library
        self._decoder: PyNvVideoCodec.PyNvDecoder | None = decoder
        self._flags = flags
        self._errors = errors

    def decode(self, address: int, nbytes: int, *, pts: int) -> list[DecodedPicture]:
        return self._decode(address, nbytes, pts=pts, flags=self._flags)

    def flush(self) -> list[DecodedPicture]:
        return self._decode(0, 0, pts=0, flags=0)  # no bytes mean the end of the stream

    def close(self) -> None:
        self._decoder = None  # its destructor frees everything, in this thread

    def _decode(self, address: int, nbytes: int, *, pts: int, flags: int) -> list[DecodedPicture]:
        if self._decoder is None:
            raise NvdecError("the NVDEC decoder was closed")
        packet = self._library.PacketData()
        packet.bsl_data = address
        packet.bsl = nbytes
        packet.pts = pts
        packet.decode_flag = flags
        try:
            return [_picture(frame) for frame in self._decoder.Decode(packet)]
        except self._errors as exc:
            raise NvdecError(f"NVDEC failed: {_sentence(exc)}") from exc


def _picture(frame: PyNvVideoCodec.DecodedFrame) -> DecodedPicture:
    # Only the first plane's address and size are taken: the strides that are reported are wrong for 16 bits before
    # 2.2.4, and so is the second plane of 16-bit 4:4:4.
    height, width = (int(length) for length in frame.cuda()[0].shape[:2])
    pixels = frame.format.name
    if pixels not in _PIXELS:
        raise NvdecError(f"NVDEC gave a picture in the pixel format {pixels}, which is not known here")
    return DecodedPicture(
        address=int(frame.GetPtrToPlane(0)), width=width, height=height, pixels=pixels, pts=int(frame.getPTS())
    )


def _sentence(exc: BaseException) -> str:
    """What one of the library's errors says. Its own have several lines: function, code, `Error Type : ...`, place."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    telling = [line.partition(":")[2].strip() for line in lines if line.startswith("Error Type")]
    return next(iter([*filter(None, telling), *lines]), type(exc).__name__)
