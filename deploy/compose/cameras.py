"""The demo's four cameras: draws their clips, serves them over RTSP, and registers them by REST, as any would be.

python cameras.py --service http://vidette:8080 --at rtsp://mediamtx:8554

They are registered under the address `--at`, where MediaMTX passes them on; a camera that is registered already is left
as it is. Runs until SIGTERM.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import httpx

from app.auth.tokens import bearer
from app.commands.clips import demo_clips
from app.commands.doctor import read_secret
from app.commands.progress import Progress
from app.errors import AppError
from app.simulator.process import ProcessOptions, SimulatorProcess

RETRY_S = 1.0
TIMEOUT_S = 10.0


def register(client: httpx.Client, names: Iterable[str], at: str) -> list[str]:
    """Register those that are not registered yet; their names. Raises `httpx.HTTPError` when the service refuses."""
    registered = []
    for name in names:
        body = {"id": f"demo-{name}", "name": name, "url": f"{at}/{name}", "labels": {"demo": "true"}}
        # force: what a small machine cannot carry shows on the dashboards.
        answer = client.post("/api/v1/cameras", params={"force": True}, json=body)
        if answer.status_code != httpx.codes.CONFLICT:
            answer.raise_for_status()
            registered.append(name)
    return registered


def register_when_ready(client: httpx.Client, names: Sequence[str], at: str, stop: threading.Event) -> None:
    """Wait for the service, for as long as that takes: on a GPU its first start builds an engine."""
    told = False
    while not stop.is_set():
        try:
            if client.get("/readyz").status_code == httpx.codes.OK:
                done = register(client, names, at)
                print(f"registered: {', '.join(done) or 'none, all of them were'}", flush=True)
                return
            reason = "it is not ready yet"
        except httpx.HTTPError as exc:
            reason = str(exc)
        if not told:
            print(f"waiting for the service at {client.base_url}: {reason}", flush=True)
            told = True
        stop.wait(RETRY_S)


def main(argv: Sequence[str] | None = None) -> int:
    """0 after SIGTERM, 1 when the cameras cannot be served."""
    parser = argparse.ArgumentParser(description="The demo's cameras.", epilog="example: cameras.py --port 8554")
    parser.add_argument("--service", default="http://vidette:8080", help="where to register (default: %(default)s)")
    parser.add_argument("--token-file", type=Path, help="file with a token that may register cameras")
    parser.add_argument("--at", default="rtsp://mediamtx:8554", help="where the cameras are seen (%(default)s)")
    parser.add_argument("--host", default="0.0.0.0", help="address to serve on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8554, help="RTSP port (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("/tmp"), help="where to draw the clips (%(default)s)")
    arguments = parser.parse_args(argv)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        token = None if arguments.token_file is None else read_secret(arguments.token_file, "--token-file")
        with Progress() as progress:
            clips = demo_clips(arguments.folder / "clips", progress)
        options = ProcessOptions(host=arguments.host, port=arguments.port)
        with (
            SimulatorProcess(options=options) as simulator,
            httpx.Client(
                base_url=arguments.service, timeout=TIMEOUT_S, trust_env=False, headers=bearer(token)
            ) as client,
        ):
            for name, clip in clips.items():
                simulator.add_camera(name, clip)
            print(f"serving {', '.join(clips)} on port {simulator.port}", flush=True)
            register_when_ready(client, list(clips), arguments.at, stop)
            stop.wait()
    except AppError as exc:
        print(f"cameras: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
