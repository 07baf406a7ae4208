"""Simulated RTSP cameras: `python -m app.simulator CLIP [CLIP ...]`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from app.simulator.control import Control, serve_control
from app.simulator.errors import SimulatorError
from app.simulator.faults import Fault
from app.simulator.server import RtspServer, ServerOptions
from app.title import name_process

_EXAMPLE = """\
example:
  python -m app.simulator street.mp4 --cameras 4 --port 8554 --user admin --password secret --fault cam3=flap=3

faults:
  ok stall close refuse unauthorized missing mute vanish trickle garbage eof zero audio empty
  drop=P corrupt=P truncate=P reorder=P duplicate=P flap=SECONDS jump=SECONDS wrap=SECONDS skew=SECONDS drift=SHARE
  resolution=CLIP codec=CLIP recode=CLIP; of the whole server: hole restart=SECONDS
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"simulator: {message} (--help shows an example)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m app.simulator",
        description="Serve video files as live RTSP cameras: rtsp://HOST:PORT/cam0, /cam1 and so on.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("clips", nargs="*", metavar="CLIP", type=Path, help="a file with H.264, H.265, MJPEG or AV1")
    parser.add_argument("--cameras", type=int, metavar="N", help="how many cameras (default: one for each clip)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8554, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--user", default="", metavar="NAME", help="ask clients for this user name")
    parser.add_argument("--password", default="", help="and this password")
    parser.add_argument(
        "--auth", choices=("none", "basic", "digest"), help="how to ask (default: digest if there is a --user)"
    )
    parser.add_argument("--tls", nargs=2, type=Path, metavar=("CERT", "KEY"), help="speak RTSPS with these PEM files")
    parser.add_argument("--audio-first", action="store_true", help="list a silent audio track before the video")
    parser.add_argument("--no-sprop", action="store_true", help="send parameter sets in band only")
    parser.add_argument("--seed", type=int, default=0, help="of what drop, corrupt and garbage hit (default: 0)")
    parser.add_argument(
        "--fault", action="append", default=[], metavar="CAMERA=FAULT", help="start with a fault; may be repeated"
    )
    parser.add_argument(
        "--control", action="store_true", help="take JSON commands on standard input, and end when it ends"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run until Ctrl-C, SIGTERM or, with --control, the end of the input; return the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        faults = [_camera_fault(text) for text in arguments.fault]
        _check(arguments)
        asyncio.run(_run(arguments, faults))
    except SimulatorError as exc:
        sys.stderr.write(f"simulator: {exc}\n")
        return 2
    except KeyboardInterrupt:  # before the signal handlers were in place
        return 1
    return 0


def _check(arguments: argparse.Namespace) -> None:
    if not arguments.clips and not arguments.control:
        raise SimulatorError("there must be at least one CLIP, or --control")
    if arguments.cameras is not None and (arguments.cameras < 1 or not arguments.clips):
        raise SimulatorError("--cameras must be at least 1, and needs a CLIP")
    if not 0 <= arguments.port <= 65535:
        raise SimulatorError(f"--port must be from 0 to 65535, not {arguments.port}")
    if arguments.auth in ("basic", "digest") and not arguments.user:
        raise SimulatorError(f"--auth {arguments.auth} needs a --user")


def _camera_fault(text: str) -> tuple[str, Fault]:
    camera, equals, fault = text.partition("=")
    if not equals:
        raise SimulatorError(f"--fault must be CAMERA=FAULT, not {text!r}")
    return camera, Fault.parse(fault)


def _server_options(arguments: argparse.Namespace) -> ServerOptions:
    certificate, key = arguments.tls or (None, None)
    return ServerOptions(
        host=arguments.host,
        port=arguments.port,
        auth=arguments.auth or ("digest" if arguments.user else "none"),
        username=arguments.user,
        password=arguments.password,
        certificate=certificate,
        key=key,
        seed=arguments.seed,
    )


async def _run(arguments: argparse.Namespace, faults: Sequence[tuple[str, Fault]]) -> None:
    async with RtspServer(_server_options(arguments)) as server:
        control = Control(server)
        await _add_cameras(arguments, server, control)
        for camera, fault in faults:
            server.set_fault(camera, fault)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        if not arguments.control:
            _write_text("".join(f"{url}\n" for url in server.urls().values()))
            await stop.wait()
            return
        async with _standard_input() as reader:
            _write_json({"ready": True, "port": server.port, "urls": server.urls()})
            commands = loop.create_task(serve_control(control, reader, _write_json), name="simulator:control")
            stopped = loop.create_task(stop.wait(), name="simulator:stop")
            done, pending = await asyncio.wait((commands, stopped), return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            for task in done:
                task.result()


async def _add_cameras(arguments: argparse.Namespace, server: RtspServer, control: Control) -> None:
    clips = [await control.clip(path) for path in arguments.clips]
    count = arguments.cameras or len(clips)
    for index in range(count):
        clip = clips[index % len(clips)]
        # Spread over one frame's time: cameras do not expose in step.
        phase_s = index / count / clip.fps
        server.add_camera(
            f"cam{index}", clip, phase_s=phase_s, audio_first=arguments.audio_first, sprop=not arguments.no_sprop
        )


@contextlib.asynccontextmanager
async def _standard_input() -> AsyncIterator[asyncio.StreamReader]:
    reader = asyncio.StreamReader()
    try:
        transport, _protocol = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
    except ValueError as exc:
        raise SimulatorError("--control needs a pipe or a terminal as standard input") from exc
    try:
        yield reader
    finally:
        transport.close()


def _write_json(message: dict[str, Any]) -> None:
    _write_text(json.dumps(message) + "\n")


def _write_text(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    name_process("vidette-simulator", sys.argv[1:])
    sys.exit(main())
