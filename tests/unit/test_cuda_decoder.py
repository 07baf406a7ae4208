"""The CUDA decoders on real streams: pictures and dates as in software, and which decoder a stream gets."""

from __future__ import annotations

import itertools
import logging
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from app.backends.cuda.bitstream import FormatProbe
from app.backends.cuda.choice import RETRY_AFTER_S, decoder_bytes
from app.backends.cuda.nvdec import NvdecError
from app.backends.cuda.surface import CudaSurface
from app.backends.ffmpeg.decoder import FrameDecoder
from app.backends.ffmpeg.timing import Arrival
from app.errors import DeviceLost, EngineError, SourceError, SourceErrorCode
from tests.support.clips import write_test_clip
from tests.support.cuda_streams import (
    BT709,
    FULL_RANGE,
    Device,
    Feed,
    Picture,
    feeding,
    in_software,
    picture,
    write_clip,
)

MIB = 2**20


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(folder=tmp_path)


def mean_error(ours: list[Picture], theirs: list[Picture]) -> float:
    assert len(ours) == len(theirs) > 0
    pairs = zip(ours, theirs, strict=True)
    return max(float(np.abs(our.bgr.astype(int) - their.bgr).mean()) for our, their in pairs)


def next_frames(feed: Feed) -> list[Any]:
    """Decode until pictures come out."""
    for packet in feed:
        frames = feed.decode(packet)
        if frames:
            return frames
    raise AssertionError("the file is over")


def first_pictures(feed: Feed, *, packets: int) -> list[Picture]:
    return [picture(frame) for packet in itertools.islice(feed, packets) for frame in feed.decode(packet)]


class TestPictures:
    @pytest.mark.parametrize(
        ("name", "how", "decoder", "error"),
        [
            ("h264.mp4", {}, "nvdec", 0),
            ("colours.mp4", {"colorspace": BT709, "color_range": FULL_RANGE}, "nvdec", 0),
            ("raw.h264", {}, "nvdec", 0),
            ("small.mp4", {"width": 50, "height": 34}, "nvdec", 0),
            ("hevc10.mp4", {"encoder": "libx265", "pixels": "yuv420p10le", "colorspace": BT709}, "nvdec", 1),
            ("hevc444.mp4", {"encoder": "libx265", "pixels": "yuv444p"}, "nvdec", 0),
            ("hevc444-10.mp4", {"encoder": "libx265", "pixels": "yuv444p10le"}, "nvdec", 1),
            ("av1.mkv", {"encoder": "libsvtav1", "colorspace": BT709, "color_range": FULL_RANGE}, "nvdec", 0),
            ("h264-422.mp4", {"pixels": "yuv422p"}, "software", 0),
            ("h264-10.mp4", {"pixels": "yuv420p10le", "colorspace": BT709, "color_range": FULL_RANGE}, "software", 2),
            ("mjpeg.avi", {"encoder": "mjpeg", "pixels": "yuvj422p"}, "software", 0),
            ("rgb.mkv", {"encoder": "ffv1", "pixels": "bgr0"}, "software", 3),
        ],
    )
    def test_they_are_those_of_the_software_decoder(
        self, device: Device, tmp_path: Path, name: str, how: dict[str, Any], decoder: str, error: float
    ) -> None:
        path = write_clip(tmp_path / name, **how)
        with device.camera(path) as feed:
            ours = feed.pictures()
            assert feed.decoder.info.decoder == decoder
        theirs = in_software(path)
        assert mean_error(ours, theirs) <= error
        assert [(each.pts_s, each.arrived_at) for each in ours] == [(each.pts_s, each.arrived_at) for each in theirs]
        device.assert_nothing_left()

    @pytest.mark.parametrize("codec", ["h264", "hevc"])
    def test_b_frames_come_in_order_with_the_dates_of_their_packets(
        self, device: Device, tmp_path: Path, codec: Any
    ) -> None:
        path = write_test_clip(tmp_path / "clip.mp4", codec=codec, width=96, height=64, seconds=1, gop=5, b_frames=2)
        with device.camera(path) as feed:
            ours = feed.pictures()
        theirs = in_software(path)
        assert mean_error(ours, theirs) == 0
        assert [(each.pts_s, each.arrived_at) for each in ours] == [(each.pts_s, each.arrived_at) for each in theirs]
        assert device.nvdec.opened[0].reordered

    @pytest.mark.assets
    @pytest.mark.skipif("VIDETTE_ASSETS" not in os.environ, reason="VIDETTE_ASSETS is not set")
    @pytest.mark.parametrize(
        "name",
        [
            "coco_pan_1280x720_25fps_h264.mp4",
            "intel_one-by-one-person-detection.mp4",
            "nvidia_vpf_test.mp4",
            "retail02_1080p30_h264.mp4",
            "udacity_solidWhiteRight.mp4",
        ],
    )
    def test_real_videos_look_as_in_software(self, device: Device, name: str) -> None:
        path = Path(os.environ["VIDETTE_ASSETS"]) / "videos" / name
        with (
            device.camera(path) as ours,
            feeding(path, lambda video: FrameDecoder(video, log=logging.getLogger())) as theirs,
        ):
            our_pictures, their_pictures = (first_pictures(feed, packets=50) for feed in (ours, theirs))
            # The two may hold back different numbers of pictures.
            compared = min(len(our_pictures), len(their_pictures))
            assert compared > 40
            for our, their in zip(our_pictures[:compared], their_pictures, strict=False):
                assert (our.pts_s, our.arrived_at) == (their.pts_s, their.arrived_at)
                assert np.abs(our.bgr.astype(int) - their.bgr).mean() <= 3
            assert ours.decoder.info.decoder == "nvdec"
        device.assert_nothing_left()

    def test_colours_reach_the_planes(self, device: Device, tmp_path: Path) -> None:
        path = write_clip(
            tmp_path / "clip.mp4", encoder="libx265", pixels="yuv420p10le", colorspace=BT709, color_range=FULL_RANGE
        )
        with device.camera(path) as feed:
            (frame,) = next_frames(feed)
            planes = frame.surface.planes
            assert (planes.full_range, planes.matrix, planes.white, planes.sample_bytes) == (True, "bt709", 65280.0, 2)
            assert (planes.chroma_step, planes.chroma_width, planes.chroma_height) == (2, 48, 32)
            assert planes.y % 256 == planes.y_pitch % 256 == planes.chroma_pitch % 256 == 0
            assert repr(frame.surface) == "CudaSurface(96x64 p016le)"
            frame.surface.release()

    @pytest.mark.parametrize(("encoder", "pixels"), [("libx264", "yuv420p"), ("libx265", "yuv420p10le")])
    def test_their_luma_is_what_software_sees(self, device: Device, tmp_path: Path, encoder: str, pixels: str) -> None:
        path = write_clip(tmp_path / "clip.mp4", encoder=encoder, pixels=pixels)
        with (
            device.camera(path) as ours,
            feeding(path, lambda video: FrameDecoder(video, log=logging.getLogger())) as theirs,
        ):
            our, their = next_frames(ours)[0], next_frames(theirs)[0]
            assert isinstance(our.surface, CudaSurface)
            assert np.abs(our.surface.luma(32, 18).astype(int) - their.surface.luma(32, 18)).max() <= 1
            assert (our.packet_bytes, our.is_key) == (their.packet_bytes, their.is_key)
            assert our.packet_bytes > 0 and our.is_key
            our.surface.release()
            with pytest.raises(ValueError, match="released"):
                our.surface.luma(32, 18)

    def test_they_stay_when_the_decoder_goes_on_and_when_it_is_gone(self, device: Device, tmp_path: Path) -> None:
        path = write_clip(tmp_path / "clip.mp4")
        theirs = in_software(path)
        with device.camera(path) as feed:
            kept = [frame for packet in feed for frame in feed.decode(packet)]
        for frame, their in zip(kept, theirs, strict=True):
            assert np.array_equal(frame.surface.to_bgr(), their.bgr)
            frame.surface.release()
            frame.surface.release()
            with pytest.raises(ValueError, match="released"):
                frame.surface.to_bgr()
            assert repr(frame.surface) == "CudaSurface(96x64 released)"
        device.assert_nothing_left()

    def test_a_key_packet_alone_gives_its_picture_at_once(self, device: Device, tmp_path: Path) -> None:
        path = write_test_clip(tmp_path / "clip.mkv", width=96, height=64, fps=10, seconds=2, gop=5, b_frames=2)
        theirs = in_software(path)
        with device.camera(path) as feed:
            keys = [packet for packet in feed if packet.is_keyframe]
            ours = [picture(frame) for packet in keys for frame in feed.decode(packet, alone=True)]
        assert len(keys) == 4
        assert mean_error(ours, theirs[::5]) == 0
        assert device.nvdec.opened[0].flushes == 4

    def test_a_full_ring_loses_the_picture_and_nothing_else(self, device: Device, tmp_path: Path) -> None:
        path = write_clip(tmp_path / "clip.mp4", frames=5, gop=5)
        with device.camera(path, slots=2) as feed:
            held = [frame for _ in range(3) for frame in next_frames_or_none(feed)]
            assert len(held) == 2
            assert device.pool.ring_full == 1
            for frame in held:
                frame.surface.release()
            rest = feed.pictures()
        assert mean_error(rest, in_software(path)[3:]) == 0
        device.assert_nothing_left()


def next_frames_or_none(feed: Feed) -> list[Any]:
    return feed.decode(next(feed))


class TestStreams:
    def test_parameter_sets_of_the_session_description_reach_the_decoder(self, device: Device, tmp_path: Path) -> None:
        # As from a camera that sends them in its SDP only.
        path = write_clip(tmp_path / "clip.h264", format="h264")
        sets, bare = set(), []
        with av.open(str(path)) as container:
            for read in container.demux(video=0):
                units = [unit for unit in re.split(rb"\x00?\x00\x00\x01", bytes(read)) if unit]
                sets |= {unit for unit in units if unit[0] & 31 in (7, 8)}
                bare.append(b"".join(b"\0\0\1" + unit for unit in units if unit[0] & 31 not in (7, 8)))
        assert len(sets) == 2
        with device.camera(path) as feed:
            feed.decoder._bitstream.parameter_sets = b"".join(b"\0\0\1" + unit for unit in sorted(sets))
            frames = []
            for number, data in enumerate(filter(None, bare)):
                packet: Any = av.Packet(data)
                packet.is_keyframe = number % 3 == 0
                packet.opaque = Arrival(at=1.0, captured_utc=1e9, clock="arrival")
                frames += feed.decode(packet)
            assert len(frames) == 6
            for frame in frames:
                frame.surface.release()
            assert feed.decoder.info.decoder == "nvdec"

    def test_a_new_picture_size_gets_a_new_decoder(self, device: Device, tmp_path: Path) -> None:
        paths = [
            write_clip(tmp_path / "a.h264", format="h264"),
            write_clip(tmp_path / "b.h264", width=128, height=80, format="h264"),
        ]
        both = tmp_path / "both.h264"
        both.write_bytes(b"".join(path.read_bytes() for path in [*paths, paths[0]]))
        with device.camera(both) as feed:
            ours = feed.pictures()
            assert (feed.decoder.info.width, feed.decoder.info.height) == (96, 64)
        theirs = in_software(both)
        assert [each.bgr.shape for each in ours] == [each.bgr.shape for each in theirs]
        assert mean_error(ours, theirs) == 0
        assert len(device.nvdec.opened) == 3
        device.assert_nothing_left()

    def test_a_size_that_nvdec_lacks_is_decoded_in_software_and_the_next_on_nvdec(
        self, device: Device, tmp_path: Path
    ) -> None:
        big = write_clip(tmp_path / "a.h264", format="h264")
        tiny = write_clip(tmp_path / "b.h264", width=32, height=32, format="h264")
        both = tmp_path / "both.h264"
        both.write_bytes(b"".join(path.read_bytes() for path in (big, tiny, big, tiny)))
        seen = []
        with device.camera(both) as feed:
            for packet in feed:
                for frame in feed.decode(packet):
                    seen.append((frame.surface.width, feed.decoder.info.decoder, feed.decoder.info.decoder_reason))
                    frame.surface.release()
        reason = "32x32 is below the 48x16 that NVDEC decodes"
        assert set(seen[:5]) == {(96, "nvdec", None)}
        assert seen.count((32, "software", reason)) >= 11
        assert len(seen) == 24
        assert device.choice.fallbacks == {"codec": 2}
        device.assert_nothing_left()

    def test_packets_before_the_first_key_packet_are_refused(self, device: Device, tmp_path: Path) -> None:
        path = write_clip(tmp_path / "clip.h264", format="h264")
        with device.camera(path) as feed:
            next(feed)
            pictures = feed.pictures()
            assert len(pictures) == 3
            assert feed.decoder.undecodable == 2

    def test_damaged_parameter_sets_do_not_reach_nvdec(self, device: Device, tmp_path: Path) -> None:
        path = write_clip(tmp_path / "clip.h264", frames=9, format="h264")
        with device.camera(path) as feed:
            ours = 0
            for number, packet in enumerate(feed):
                if number == 3:
                    start = bytes(packet).index(b"\0\0\0\1\x67")
                    data = bytes(packet)[: start + 5] + bytes([0xFF] * 9) + bytes(packet)[start + 14 :]
                    damaged: Any = av.Packet(data)
                    damaged.is_keyframe, damaged.opaque = True, packet.opaque
                    packet = damaged
                frames = feed.decode(packet)
                ours += len(frames)
                for frame in frames:
                    frame.surface.release()
        assert ours == 6, "all but the damaged group"
        assert len(device.nvdec.opened) == 1
        assert device.nvdec.opened[0].packets == 6

    def test_b_frames_that_nobody_announced_get_a_decoder_that_can_wait(self, device: Device, tmp_path: Path) -> None:
        path = write_clip(tmp_path / "clip.h264", frames=9, format="h264")
        with device.camera(path) as feed:
            for number, packet in enumerate(feed):
                if packet.size:
                    packet.pts = (0, 2, 1, 3, 5, 4, 6, 8, 7)[number]
                for frame in feed.decode(packet):
                    frame.surface.release()
        assert [decoder.reordered for decoder in device.nvdec.opened] == [False, True]

    def test_packets_without_a_date_or_with_the_same_one_keep_their_own_arrival(
        self, device: Device, tmp_path: Path
    ) -> None:
        path = write_clip(tmp_path / "clip.mp4")
        with device.camera(path) as feed:
            frames = []
            for number, packet in enumerate(feed):
                if packet.size:
                    packet.pts = (None, 0, 0, None, 90_000, 90_000)[number]
                frames += feed.decode(packet)
            times = [(frame.pts_s, frame.times.arrived_at) for frame in frames]
            for frame in frames:
                frame.surface.release()
        base = 1 / 12_800
        assert times == [(0.0, 1), (0, 2), (0, 3), (None, 4), (90_000 * base, 5), (90_000 * base, 6)]


class TestChoice:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return write_clip(tmp_path / "clip.mp4")

    def decoder_of(self, device: Device, path: Path, camera_id: str = "cam") -> tuple[str, str | None]:
        with device.camera(path, camera_id=camera_id) as feed:
            assert len(feed.pictures()) == 6
            info = feed.decoder.info
        device.assert_nothing_left()
        return info.decoder, info.decoder_reason

    def test_a_stream_that_nvdec_takes_is_decoded_there(self, device: Device, path: Path) -> None:
        assert self.decoder_of(device, path) == ("nvdec", None)
        assert device.choice.fallbacks == {}
        assert device.nvdec.asked == [("h264", "420", 8)]
        self.decoder_of(device, path)
        assert len(device.nvdec.asked) == 1, "a device does not change its mind"

    def test_the_setting_for_software_is_no_fallback(self, tmp_path: Path, path: Path) -> None:
        device = Device(folder=tmp_path, mode="software")
        assert self.decoder_of(device, path) == ("software", "the setting backend.decoder asks for software")
        assert device.choice.fallbacks == {}
        assert device.nvdec.opened == []

    def test_without_the_library_everything_is_decoded_in_software(self, tmp_path: Path, path: Path) -> None:
        device = Device(folder=tmp_path, with_nvdec=False)
        reason = "NVDEC is not available: PyNvVideoCodec cannot be loaded: it is not installed"
        assert self.decoder_of(device, path) == ("software", reason)
        assert device.choice.fallbacks == {"unavailable": 1}

    def test_a_fallback_is_logged_once(self, device: Device, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, "vidette.test"):
            self.decoder_of(device, write_clip(tmp_path / "clip.avi", encoder="mjpeg", pixels="yuvj420p"))
        assert caplog.messages == ["decoding in software: mjpeg is not decoded on NVDEC"]

    def test_a_decoder_whose_creation_is_refused_is_replaced_at_once(self, device: Device, path: Path) -> None:
        device.nvdec.refusal = NvdecError("NVDEC refused to open: out of sessions")
        assert self.decoder_of(device, path) == ("software", "NVDEC refused to open: out of sessions")
        assert device.choice.fallbacks == {"failure": 1}
        device.nvdec.refusal = None
        device.now += RETRY_AFTER_S
        assert self.decoder_of(device, path) == ("nvdec", None)

    def test_a_failure_before_the_first_picture_loses_none(self, device: Device, path: Path) -> None:
        device.nvdec.error = NvdecError("NVDEC failed: cuvid returned error 999")
        assert self.decoder_of(device, path) == ("software", "NVDEC failed: cuvid returned error 999")

    def test_a_failure_in_mid_stream_makes_the_next_connection_software_for_a_while(
        self, device: Device, path: Path
    ) -> None:
        with device.camera(path) as feed:
            (frame,) = next_frames(feed)
            frame.surface.release()
            device.nvdec.error = NvdecError("NVDEC failed: cuvid returned error 999")
            with pytest.raises(SourceError) as caught:
                feed.decode(next(feed))
        assert caught.value.code is SourceErrorCode.DECODE_FAILED
        assert caught.value.message == (
            "NVDEC failed: cuvid returned error 999; the next connection is decoded in software"
        )
        device.nvdec.error = None
        device.now += RETRY_AFTER_S - 1
        assert self.decoder_of(device, path) == ("software", "NVDEC failed: cuvid returned error 999")
        assert self.decoder_of(device, path, camera_id="other") == ("nvdec", None)
        assert device.choice.fallbacks == {"failure": 1}
        device.now += 1
        assert self.decoder_of(device, path) == ("nvdec", None)

    def test_a_copy_that_fails_is_a_failure_of_nvdec_and_leaves_nothing(self, device: Device, path: Path) -> None:
        with device.camera(path) as feed:
            (frame,) = next_frames(feed)
            frame.surface.release()
            device.driver.fail("synchronize", EngineError("launch failed"))
            with pytest.raises(SourceError, match="a picture could not be copied from NVDEC: launch failed"):
                feed.decode(next(feed))
        device.assert_nothing_left()

    def test_a_lost_device_is_nobodys_fault(self, device: Device, path: Path) -> None:
        with device.camera(path) as feed:
            (frame,) = next_frames(feed)
            frame.surface.release()
            device.driver.fail("synchronize", DeviceLost("the device fell off the bus"))
            with pytest.raises(DeviceLost):
                feed.decode(next(feed))
            assert device.choice.refuse_camera("cam", "h264") is None

    def test_a_decoder_that_falls_silent_has_failed(self, device: Device, tmp_path: Path) -> None:
        path = write_clip(tmp_path / "long.mp4", frames=100, gop=10)
        with device.camera(path) as feed:
            (frame,) = next_frames(feed)
            frame.surface.release()
            device.nvdec.silent = True
            with pytest.raises(SourceError, match="NVDEC gave no picture for 65 packets"):
                next_frames(feed)

    def test_a_picture_of_another_size_than_the_streams_has_failed(
        self, device: Device, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        learn = FormatProbe._describe
        monkeypatch.setattr(FormatProbe, "_describe", lambda probe, frame: replace(learn(probe, frame), height=62))
        assert self.decoder_of(device, path) == (
            "software",
            "NVDEC gave a picture of 96x64 for a stream of 96x62",
        )

    def test_too_little_memory_to_ask_or_to_decode_is_told_with_numbers(self, tmp_path: Path, path: Path) -> None:
        device = Device(folder=tmp_path, memory_bytes=500 * MIB)
        assert self.decoder_of(device, path) == (
            "software",
            "768 MiB of GPU memory are needed to ask NVDEC what it decodes, and 500 MiB are free",
        )
        device.driver.memory_bytes = 800 * MIB
        assert self.decoder_of(device, path) == ("nvdec", None)
        device.driver.memory_bytes = 100 * MIB
        assert self.decoder_of(device, path) == (
            "software",
            "128 MiB of GPU memory are needed to decode 96x64 on NVDEC, and 100 MiB are free",
        )
        assert device.choice.fallbacks == {"memory": 2}

    @pytest.mark.parametrize(
        ("clip", "code", "sentence"),
        [
            ({"pixels": "yuv422p"}, SourceErrorCode.UNSUPPORTED_CODEC, "does not decode h264 of 8 bits in 4:2:2"),
            (
                {"encoder": "mjpeg", "pixels": "yuvj420p"},
                SourceErrorCode.UNSUPPORTED_CODEC,
                "mjpeg is not decoded on NVDEC",
            ),
        ],
    )
    def test_nvdec_or_nothing_says_why_nothing(
        self, tmp_path: Path, clip: dict[str, Any], code: SourceErrorCode, sentence: str
    ) -> None:
        device = Device(folder=tmp_path, mode="nvdec")
        path = write_clip(tmp_path / "clip.mkv", **clip)
        with pytest.raises(SourceError, match=sentence) as caught, device.camera(path) as feed:
            feed.pictures()
        assert caught.value.code is code
        assert caught.value.message.startswith("backend.decoder is nvdec, but ")
        assert device.choice.fallbacks == {}
        device.assert_nothing_left()

    def test_nvdec_or_nothing_tries_again_after_a_failure(self, tmp_path: Path, path: Path) -> None:
        device = Device(folder=tmp_path, mode="nvdec")
        device.nvdec.error = NvdecError("NVDEC failed: no more sessions")
        with pytest.raises(SourceError, match="no more sessions"), device.camera(path) as feed:
            feed.pictures()
        device.nvdec.error = None
        assert self.decoder_of(device, path) == ("nvdec", None)

    def test_the_third_camera_finds_no_memory_and_the_first_two_go_on(self, tmp_path: Path, path: Path) -> None:
        one = 256 * 64 + 256 * 32
        device = Device(folder=tmp_path, budget_bytes=4 * one)
        with (
            device.camera(path, camera_id="a") as first,
            device.camera(path, camera_id="b") as second,
            device.camera(path, camera_id="c") as third,
        ):
            held = [frame for feed in (first, second) for _ in range(2) for frame in feed.decode(next(feed))]
            assert len(held) == 4
            with pytest.raises(SourceError) as caught:
                third.decode(next(third))
            assert caught.value.code is SourceErrorCode.RESOURCE_EXHAUSTED
            assert "96x64, 24576 bytes each" in caught.value.message
            for frame in held:
                frame.surface.release()
            assert len(first.pictures()) == len(second.pictures()) == 4
        device.assert_nothing_left()


def test_the_estimate_for_a_decoder_grows_with_its_pictures(tmp_path: Path) -> None:
    with av.open(str(write_clip(tmp_path / "clip.h264", format="h264"))) as container:
        video = container.streams.video[0]
        known = FormatProbe(video).learn(next(container.demux(video)), is_key=True)
    assert known is not None
    assert decoder_bytes(known) == 22 * 128 * 64 * 3 // 2 + 128 * MIB
    assert decoder_bytes(replace(known, bit_depth=10)) == 22 * 128 * 64 * 3 + 128 * MIB
    assert decoder_bytes(replace(known, chroma="444")) == 22 * 128 * 64 * 3 + 128 * MIB
