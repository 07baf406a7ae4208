"""Files that become clips, and files that do not."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from app.simulator.clip import Clip, load_clip, nal_type
from app.simulator.errors import ClipError
from app.simulator.sdp import describe
from tests.support.clips import Codec, draw_test_image, write_test_clip


def write_video(path: Path, encoder: str, **options: str) -> Path:
    """One second of 10 fps from any encoder."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=10, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.codec_context.thread_count = 1  # with more, the MJPEG encoder keeps to the standard Huffman tables
        stream.width, stream.height = 64, 64
        stream.pix_fmt = "yuvj420p" if encoder == "mjpeg" else "yuv420p"
        for index in range(10):
            frame = av.VideoFrame.from_ndarray(draw_test_image(index, width=64, height=64), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def payloads(clip: Clip, index: int) -> list[bytes]:
    frame = clip.frames[index]
    ends = (*frame.offsets[1:], len(frame.wire))
    return [frame.wire[start + 16 : end] for start, end in zip(frame.offsets, ends, strict=True)]


@pytest.mark.parametrize(
    ("codec", "b_frames", "payload_type"),
    [("h264", 0, 96), ("h264", 2, 96), ("hevc", 0, 96), ("hevc", 2, 96), ("mjpeg", 0, 26), ("av1", 0, 96)],
)
def test_clip_has_every_frame_and_an_even_clock(tmp_path: Path, codec: Codec, b_frames: int, payload_type: int) -> None:
    path = write_test_clip(tmp_path / "street.mp4", codec=codec, b_frames=b_frames, fps=25, seconds=0.6, gop=5)
    clip = load_clip(path)
    assert (clip.name, clip.codec, clip.width, clip.height) == ("street", codec, 320, 240)
    assert (clip.payload_type, clip.fps, clip.duration_ticks) == (payload_type, 25.0, 15 * 3600)
    assert [frame.decode_ticks for frame in clip.frames] == [index * 3600 for index in range(15)]
    assert sorted(frame.present_ticks for frame in clip.frames) == [index * 3600 for index in range(15)]
    assert (clip.lead_ticks > 0) == (b_frames > 0)
    keys = [index for index, frame in enumerate(clip.frames) if frame.is_key]
    assert keys == (list(range(15)) if codec == "mjpeg" else [0, 5, 10])


def test_packets_fit_into_an_ethernet_frame(tmp_path: Path) -> None:
    clip = load_clip(write_test_clip(tmp_path / "c.mp4", codec="mjpeg", width=640, height=480, seconds=0.3))
    assert all(len(frame.offsets) > 3 for frame in clip.frames)
    assert max(len(payload) for index in range(3) for payload in payloads(clip, index)) <= 1400 - 12


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".avi", ".h264"])
def test_every_h264_keyframe_carries_its_parameter_sets(tmp_path: Path, suffix: str) -> None:
    clip = load_clip(write_test_clip(tmp_path / f"c{suffix}", width=160, height=120, seconds=1.0, gop=5))
    assert [nal_type("h264", unit) for unit in clip.parameter_sets] == [7, 8]
    for index, frame in enumerate(clip.frames):
        sent = b"".join(payloads(clip, index))
        assert all(unit in sent for unit in clip.parameter_sets) == frame.is_key


def test_every_h265_keyframe_carries_its_parameter_sets(tmp_path: Path) -> None:
    clip = load_clip(write_test_clip(tmp_path / "c.mp4", codec="hevc", width=160, height=120, seconds=1.0, gop=5))
    assert [nal_type("hevc", unit) for unit in clip.parameter_sets] == [32, 33, 34]
    for index, frame in enumerate(clip.frames):
        sent = b"".join(payloads(clip, index))
        assert all(unit in sent for unit in clip.parameter_sets) == frame.is_key


def test_file_without_a_clock_gets_one(tmp_path: Path) -> None:
    clip = load_clip(write_test_clip(tmp_path / "raw.h264", seconds=0.8, gop=4, fps=25))
    assert [frame.decode_ticks for frame in clip.frames] == [index * 3600 for index in range(len(clip.frames))]


def test_video_is_found_behind_audio(tmp_path: Path) -> None:
    clip = load_clip(write_test_clip(tmp_path / "c.mp4", audio_first=True, seconds=0.5))
    assert (clip.codec, len(clip.frames)) == ("h264", 5)


def test_single_picture_loops_at_its_frame_rate(tmp_path: Path) -> None:
    clip = load_clip(write_test_clip(tmp_path / "c.mp4", seconds=0.1), name="still")
    assert (clip.name, len(clip.frames), clip.duration_ticks) == ("still", 1, 9000)


def test_frames_before_the_first_keyframe_are_left_out(tmp_path: Path) -> None:
    whole = write_test_clip(tmp_path / "whole.mp4", seconds=1.0, gop=5)
    cut = tmp_path / "cut.mp4"
    with av.open(str(whole)) as source, av.open(str(cut), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in list(source.demux(source.streams.video[0]))[2:]:
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    clip = load_clip(cut)
    assert (len(clip.frames), clip.frames[0].is_key, clip.frames[0].decode_ticks) == (5, True, 0)


def test_file_without_any_keyframe_is_refused_with_a_sentence(tmp_path: Path) -> None:
    whole = write_test_clip(tmp_path / "whole.mp4", seconds=1.0, gop=10)
    cut = tmp_path / "cut.mp4"
    with av.open(str(whole)) as source, av.open(str(cut), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in list(source.demux(source.streams.video[0]))[1:]:
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    with pytest.raises(ClipError, match=r"cut\.mp4 has no keyframe$"):
        load_clip(cut)


def test_file_too_large_to_hold_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = write_test_clip(tmp_path / "c.mp4", codec="mjpeg", seconds=1.0)
    with pytest.raises(ClipError, match=r"c\.mp4 needs more than 20000 bytes; cut it shorter$"):
        load_clip(path, max_bytes=20_000)


def test_missing_file_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match=r"^clip .*nothing\.mp4 cannot be read: No such file or directory$"):
        load_clip(tmp_path / "nothing.mp4")


def test_text_file_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "notes.mp4"
    path.write_text("no video in here")
    with pytest.raises(ClipError, match=r"notes\.mp4 cannot be read: Invalid data found"):
        load_clip(path)


def test_sound_alone_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(ClipError, match=r"sound\.wav has no video stream$"):
        load_clip(path)


def test_other_codec_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = write_video(tmp_path / "old.mp4", "mpeg4")
    with pytest.raises(ClipError, match=r"old\.mp4 has codec mpeg4; a clip is h264, hevc, mjpeg or av1$"):
        load_clip(path)


def test_mjpeg_with_its_own_huffman_tables_is_refused_with_a_hint(tmp_path: Path) -> None:
    path = write_video(tmp_path / "tables.avi", "mjpeg", huffman="optimal")
    with pytest.raises(ClipError, match="ffmpeg -huffman default"):
        load_clip(path)


def test_description_tells_the_parameter_sets(tmp_path: Path) -> None:
    h264 = describe(load_clip(write_test_clip(tmp_path / "a.mp4", seconds=0.3)))
    assert "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n" in h264
    assert "a=fmtp:96 packetization-mode=1;profile-level-id=42c0" in h264
    assert ";sprop-parameter-sets=Z0L" in h264
    assert "a=framerate:10\r\na=control:trackID=0\r\n" in h264
    hevc = describe(load_clip(write_test_clip(tmp_path / "b.mp4", codec="hevc", seconds=0.3)))
    assert "a=rtpmap:96 H265/90000\r\na=fmtp:96 sprop-vps=QAE" in hevc
    assert ";sprop-sps=QgE" in hevc
    assert ";sprop-pps=RAH" in hevc


def test_description_can_leave_the_parameter_sets_out(tmp_path: Path) -> None:
    h264 = describe(load_clip(write_test_clip(tmp_path / "a.mp4", seconds=0.3)), sprop=False)
    assert "a=fmtp:96 packetization-mode=1\r\n" in h264
    hevc = describe(load_clip(write_test_clip(tmp_path / "b.mp4", codec="hevc", seconds=0.3)), sprop=False)
    assert "a=fmtp" not in hevc


def test_description_can_list_audio_first(tmp_path: Path) -> None:
    lines = describe(load_clip(write_test_clip(tmp_path / "a.mp4", codec="mjpeg", seconds=0.3)), audio_first=True)
    media = [line for line in lines.split("\r\n") if line.startswith(("m=", "a=rtpmap", "a=control:track"))]
    assert media == [
        "m=audio 0 RTP/AVP 0",
        "a=rtpmap:0 PCMU/8000",
        "a=control:trackID=1",
        "m=video 0 RTP/AVP 26",
        "a=rtpmap:26 JPEG/90000",
        "a=control:trackID=0",
    ]
