"""NVDEC alone: packets from memory into decoders, as fast as they go; each picture is dropped where it comes out."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import av

from app.backends.cuda.bitstream import Bitstream, FormatProbe, VideoFormat
from app.backends.cuda.driver import Driver
from app.backends.cuda.engines import open_driver
from app.backends.cuda.nvdec import Nvdec, load_nvdec
from app.backends.ffmpeg.reader import VideoPacket
from scripts.gate.clips import source_clip
from scripts.gate.pipeline import gate_settings
from scripts.gate.plan import GatePlan
from scripts.gate.sampler import sampled

_DECODERS = (1, 2, 4, 8, 16, 32)
_SECONDS = 4.0


def measure(plan: GatePlan) -> dict[str, Any]:
    """Pictures a second, by the number of decoders that work at once."""
    gpu = gate_settings(plan).backend.gpu
    packets, video = packets_of(source_clip(plan))
    with ExitStack() as stack:
        driver = open_driver(gpu)
        stack.callback(driver.close)
        with driver.bound():
            nvdec = load_nvdec(driver)
        runs: list[dict[str, Any]] = []
        for count in _DECODERS:
            with sampled(gpu) as sampler:
                fps = _decode(driver, nvdec, packets, video, decoders=count, seconds=plan.seconds(_SECONDS))
            runs.append({"decoders": count, "fps": fps, "gpu": sampler.means()})
    return {
        "picture": f"{video.codec} {video.width}x{video.height}",
        "runs": runs,
        "fps": max(run["fps"] for run in runs),
    }


def packets_of(clip: Path) -> tuple[list[VideoPacket], VideoFormat]:
    """A clip's packets as NVDEC takes them, and their format."""
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        bitstream, probe = Bitstream(stream), FormatProbe(stream)
        packets: list[VideoPacket] = []
        video: VideoFormat | None = None
        for raw in container.demux(stream):
            packet = cast(VideoPacket, raw)
            if not packet.size:
                continue
            is_key, converted = packet.is_keyframe, bitstream.convert(packet)
            if converted is None:
                continue
            packets.append(converted if packets else bitstream.complete(converted))
            if video is None:  # the probe has no container's parameter sets either
                video = probe.learn(packets[-1], is_key=is_key)
    if video is None:
        raise RuntimeError(f"no picture of {clip} can be decoded")
    return packets, video


def _decode(
    driver: Driver, nvdec: Nvdec, packets: list[VideoPacket], video: VideoFormat, *, decoders: int, seconds: float
) -> float:
    counts = [0] * decoders
    ready, stop = threading.Barrier(decoders + 1, timeout=60), threading.Event()
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            with driver.bound():
                stream = driver.stream()
                decoder = nvdec.open(video.codec, stream=stream, reordered=video.reordered)
                try:
                    pts = 0
                    for packet in packets:  # once through, so that every decoder is warm
                        pts += 1
                        decoder.decode(packet.buffer_ptr, packet.buffer_size, pts=pts)
                    ready.wait()
                    while not stop.is_set():
                        for packet in packets:
                            pts += 1
                            counts[number] += len(decoder.decode(packet.buffer_ptr, packet.buffer_size, pts=pts))
                            if stop.is_set():
                                break
                    stream.synchronize()
                finally:
                    decoder.close()
                    stream.close()
        except BaseException as exc:
            failed.append(exc)
            ready.abort()

    threads = [threading.Thread(target=work, args=(number,), name=f"gate:nvdec-{number}") for number in range(decoders)]
    for thread in threads:
        thread.start()
    try:
        ready.wait()
        before, began = sum(counts), time.perf_counter()
        time.sleep(seconds)
        fps = (sum(counts) - before) / (time.perf_counter() - began)
    except threading.BrokenBarrierError:
        fps = 0.0
    stop.set()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return fps
