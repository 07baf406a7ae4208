"""The service as `vidette serve` runs it, in a process that tells its own counters when asked.

    python -m app.measure.subscribers.service JOB

It says its port when it is ready, answers each `look`, and stops when its standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from typing import Any

import psutil

from app.logs import configure_logging
from app.main import create_app
from app.measure.subscribers.child import say
from app.measure.threads import ThreadClocks
from app.measure.workload import run_on_loop
from app.server import Server, listen, make_server, raise_descriptor_limit
from app.service import Service
from app.settings import load_settings

_POLL_S = 0.02


def main() -> None:
    job: dict[str, Any] = json.loads(sys.argv[-1])
    configure_logging("error")
    raise_descriptor_limit()
    settings = load_settings(overrides=job["settings"])
    sock = listen(settings.server, settings.auth)
    app = create_app(settings, stand_still_s=job["stand_still_s"])
    service: Service = app.state.service
    server = make_server(app, service)

    async def serve() -> None:
        telling = asyncio.create_task(_tell(service, server, sock.getsockname()[1]), name="bench:tell")
        await server.serve(sockets=[sock])
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)

    run_on_loop(serve())
    sock.close()
    if service.fatal is not None:
        raise service.fatal


async def _tell(service: Service, server: Server, port: int) -> None:
    while service.state != "ready":
        await asyncio.sleep(_POLL_S)
        if service.fatal is not None:
            return
    loop, process = asyncio.get_running_loop(), psutil.Process()

    def commands() -> None:
        for line in sys.stdin:
            if json.loads(line)["command"] == "look":
                loop.call_soon_threadsafe(lambda: say(_look(service, process)))
        server.should_exit = True

    threading.Thread(target=commands, name="bench:commands", daemon=True).start()
    say({"port": port})


def _look(service: Service, process: psutil.Process) -> dict[str, Any]:
    parts, clocks = service.parts, ThreadClocks.read()
    counts = [camera.lane.counts() for camera in parts.registry.cameras()]
    history, stats = parts.hub.history, parts.hub.stats
    kept = [each for camera in parts.registry.cameras() for each in history.newest(camera.settings.id, limit=256)]
    return {
        "at": time.monotonic(),
        "decoded": sum(each.decoded for each in counts),
        "published": sum(each.published for each in counts),
        "dropped": sum(sum(each.dropped.values()) for each in counts),
        "in_flight": sum(each.in_flight for each in counts),
        "cpu_s": clocks.process_s,
        "threads_s": dict(clocks.threads_s),
        "rss_bytes": process.memory_info().rss,
        "clients": stats.subscribers,
        "sent": stats.messages_sent,
        "missed": stats.messages_dropped["slow_consumer"],
        "closed": {str(code): count for code, count in stats.closed.items()},
        "published_at": {str(each.seq): each.published_at for each in kept},
    }


if __name__ == "__main__":
    main()
