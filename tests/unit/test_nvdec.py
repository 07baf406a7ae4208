"""The adapter on PyNvVideoCodec: what it hands over, how it reads pictures, and how errors look."""

from __future__ import annotations

import builtins
import enum
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from app.backends.cuda.nvdec import DecodedPicture, NvdecError, PyNvdec, load_nvdec
from tests.support.host_driver import HostDriver


class Refused(Exception):
    pass


class Unsupported(Exception):
    pass


class Decoder:
    """What `CreateDecoder` gives: answers with the next scripted frames."""

    def __init__(self) -> None:
        self.packets: list[SimpleNamespace] = []
        self.answers: list[Any] = []

    def Decode(self, packet: SimpleNamespace) -> list[Any]:
        self.packets.append(packet)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return list(answer)


class Library(ModuleType):
    """The part of PyNvVideoCodec that is used, by its names; other tests hold them against the real one."""

    PyNvVCException = Refused
    PyNvVCExceptionUnsupported = Unsupported
    cudaVideoCodec = SimpleNamespace(H264="H264!", HEVC="HEVC!", AV1="AV1!")
    DisplayDecodeLatencyType = SimpleNamespace(NATIVE="native", LOW="low")

    class VideoPacketFlag(enum.IntEnum):
        ENDOFPICTURE = 8

    class PacketData(SimpleNamespace):
        pass

    def __init__(self) -> None:
        super().__init__("PyNvVideoCodec")
        self.cudaVideoChromaFormat = SimpleNamespace(**{"420": "4:2:0", "422": "4:2:2", "444": "4:4:4"})
        self.asked: list[dict[str, Any]] = []
        self.created: list[dict[str, Any]] = []
        self.error: Exception | None = None
        self.decoder = Decoder()

    def GetDecoderCaps(self, **how: Any) -> dict[str, int]:
        self.asked.append(how)
        if self.error is not None:
            raise self.error
        return {
            "supported": 1,
            "num_decoder_engines": 7,
            "width_min": 48,
            "height_min": 16,
            "width_max": 8192,
            "height_max": 8192,
            "mb_num_max": 262144,
        }

    def CreateDecoder(self, **how: Any) -> Decoder:
        self.created.append(how)
        if self.error is not None:
            raise self.error
        return self.decoder


class Frame:
    """A `DecodedFrame`, whose strides nobody may trust."""

    def __init__(self, *, pixels: str, height: int, width: int, address: int, pts: int) -> None:
        self.format = SimpleNamespace(name=pixels)
        self._shape = [height, width, 1]
        self._address = address
        self._pts = pts

    def cuda(self) -> list[Any]:
        return [SimpleNamespace(shape=self._shape)]

    def GetPtrToPlane(self, plane: int) -> int:
        assert plane == 0
        return self._address

    def getPTS(self) -> int:
        return self._pts


@pytest.fixture
def driver() -> HostDriver:
    return HostDriver()


@pytest.fixture
def library() -> Library:
    return Library()


@pytest.fixture
def nvdec(library: Library, driver: HostDriver) -> PyNvdec:
    return PyNvdec(library, driver)


def test_capabilities_are_asked_for_the_stream_and_read(nvdec: PyNvdec, library: Library) -> None:
    caps = nvdec.caps("hevc", "444", 10)
    assert library.asked == [{"gpuid": 0, "codec": "HEVC!", "chromaformat": "4:4:4", "bitdepth": 10}]
    assert caps.supported
    assert (caps.min_width, caps.min_height, caps.max_width, caps.max_height) == (48, 16, 8192, 8192)
    assert caps.max_macroblocks == 262144


@pytest.mark.parametrize(("reordered", "latency", "flags"), [(False, "low", 8), (True, "native", 0)])
def test_a_decoder_works_on_our_context_and_stream_in_device_memory(
    nvdec: PyNvdec, library: Library, driver: HostDriver, reordered: bool, latency: str, flags: int
) -> None:
    with driver.bound():
        stream = driver.stream()
        decoder = nvdec.open("h264", stream=stream, reordered=reordered)
        assert library.created == [
            {
                "gpuid": 0,
                "codec": "H264!",
                "cudacontext": driver.context_handle,
                "cudastream": stream.handle,
                "usedevicememory": True,
                "latency": latency,
            }
        ]
        library.decoder.answers = [[], []]
        assert decoder.decode(0x1000, 77, pts=5) == []
        assert decoder.flush() == []
        decoder.close()
        decoder.close()
        stream.close()
    first, last = library.decoder.packets
    assert (first.bsl_data, first.bsl, first.pts, first.decode_flag) == (0x1000, 77, 5, flags)
    assert (last.bsl, last.decode_flag) == (0, 0)
    with pytest.raises(NvdecError, match="closed"):
        decoder.decode(0x1000, 77, pts=6)


def decode(nvdec: PyNvdec, library: Library, driver: HostDriver, *answers: Any) -> list[DecodedPicture]:
    with driver.bound():
        stream = driver.stream()
        try:
            decoder = nvdec.open("h264", stream=stream, reordered=False)
            library.decoder.answers = list(answers)
            return decoder.decode(0x1000, 10, pts=1)
        finally:
            stream.close()


@pytest.mark.parametrize(
    ("pixels", "width", "chroma", "chroma_offset", "nbytes"),
    [
        # 33x17 is stored 34 wide where u and v alternate.
        ("NV12", 33, (17, 9), 34 * 17, 34 * 17 + 34 * 9),
        ("P016", 33, (17, 9), 68 * 17, 68 * 17 + 68 * 9),
        ("NV16", 33, (17, 17), 34 * 17, 34 * 17 * 2),
        ("P216", 33, (17, 17), 68 * 17, 68 * 17 * 2),
        ("YUV444", 33, (33, 17), 33 * 17, 33 * 17 * 3),
        ("YUV444_16Bit", 33, (33, 17), 66 * 17, 66 * 17 * 3),
    ],
)
def test_pictures_are_packed_tight_in_every_pixel_format(
    nvdec: PyNvdec,
    library: Library,
    driver: HostDriver,
    pixels: str,
    width: int,
    chroma: tuple[int, int],
    chroma_offset: int,
    nbytes: int,
) -> None:
    frame = Frame(pixels=pixels, height=17, width=34, address=0x5000, pts=9)
    (picture,) = decode(nvdec, library, driver, [frame])
    assert picture == DecodedPicture(address=0x5000, width=34, height=17, pixels=pixels, pts=9)
    layout = picture.layout(width=width, alignment=1)
    planes = layout.planes(picture.address, full_range=False, matrix="bt709")
    assert (planes.chroma_width, planes.chroma_height) == chroma
    assert planes.u - planes.y == chroma_offset
    assert layout.nbytes == nbytes
    wide = "16" in pixels and pixels != "NV16"
    assert planes.sample_bytes == (2 if wide else 1)
    assert planes.white == (255 * 256 if wide else 255)
    assert planes.v - planes.u == (planes.sample_bytes if planes.chroma_step == 2 else planes.y_pitch * 17)


def test_a_pixel_format_that_nobody_knows_is_refused(nvdec: PyNvdec, library: Library, driver: HostDriver) -> None:
    frame = Frame(pixels="RGBP", height=16, width=16, address=1, pts=1)
    with pytest.raises(NvdecError, match="pixel format RGBP"):
        decode(nvdec, library, driver, [frame])


@pytest.mark.parametrize("error", [Refused, Unsupported, RuntimeError, ValueError])
def test_errors_are_sentences_of_one_line(
    nvdec: PyNvdec, library: Library, driver: HostDriver, error: type[Exception]
) -> None:
    with pytest.raises(NvdecError, match=r"^NVDEC failed: cuvid returned error 100$"):
        decode(nvdec, library, driver, error("\n  cuvid returned error 100\nat NvDecoder.cpp:12"))
    library.error = error("no such codec")
    with pytest.raises(NvdecError, match=r"^NVDEC refused to open: no such codec$"):
        decode(nvdec, library, driver)
    with pytest.raises(NvdecError, match=r"^NVDEC does not tell what it can decode: no such codec$"):
        nvdec.caps("h264", "420", 8)


def test_the_librarys_own_errors_are_cut_to_what_they_say(nvdec: PyNvdec, library: Library, driver: HostDriver) -> None:
    # As PyNvVideoCodec 2.2.4 words it.
    text = (
        "HandlePictureDisplay : \nError code : 2\nError Type : CUDA driver API error CUDA_ERROR_OUT_OF_MEMORY\n"
        "at /project/src/NvDecoder.cpp:430\n\n"
    )
    with pytest.raises(NvdecError, match=r"^NVDEC failed: CUDA driver API error CUDA_ERROR_OUT_OF_MEMORY$"):
        decode(nvdec, library, driver, Refused(text))


def test_an_error_without_a_text_is_named(nvdec: PyNvdec, library: Library, driver: HostDriver) -> None:
    with pytest.raises(NvdecError, match="NVDEC failed: Refused"):
        decode(nvdec, library, driver, Refused())


def test_the_library_is_loaded_when_it_is_asked_for(
    driver: HostDriver, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PyNvVideoCodec", library)
    assert load_nvdec(driver).caps("av1", "420", 8).supported


@pytest.mark.parametrize("error", [ImportError, RuntimeError, OSError])
def test_a_library_that_cannot_be_loaded_says_why_in_one_line(
    driver: HostDriver, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    import_as_before = builtins.__import__

    def no_library(name: str, *how: Any) -> Any:
        if name == "PyNvVideoCodec":
            raise error("libnvidia-encode.so.1: cannot open\n\n=== TROUBLESHOOTING STEPS ===\nRunning in Docker?")
        return import_as_before(name, *how)

    monkeypatch.delitem(sys.modules, "PyNvVideoCodec", raising=False)
    monkeypatch.setattr("app.backends.cuda.nvdec.importlib.import_module", no_library)
    with pytest.raises(NvdecError) as caught:
        load_nvdec(driver)
    assert str(caught.value) == "PyNvVideoCodec cannot be loaded: libnvidia-encode.so.1: cannot open"
