"""`vidette serve`."""

from __future__ import annotations

import logging
import os
import sys
import threading

from app.allocator import keep_memory_flat
from app.api.hosts import is_loopback
from app.errors import BackendUnavailable, ConfigError
from app.logs import configure_logging, redacted
from app.main import create_app
from app.server import listen, make_server, raise_descriptor_limit
from app.service import Service
from app.settings import Settings
from app.stderr import guarded_stderr

logger = logging.getLogger("vidette.service")
# Every step of the shutdown is bounded; this is for the one that nobody thought of.
LAST_RESORT_S = 9.0


def serve(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT, or until the service breaks. 0 after a stop, 1 after a crash, 2 for bad settings."""
    with guarded_stderr(redacted) as stream:
        configure_logging(settings.log.level, settings.log.format, stream=stream)
        try:
            service = _run(settings)
            code = outcome(service)
        finally:
            configure_logging(settings.log.level, settings.log.format)
    return leave(code, abandoned=service.abandoned_threads)


def _run(settings: Settings) -> Service:
    raise_descriptor_limit()
    keep_memory_flat()
    sock = listen(settings.server, settings.auth)
    host, port = sock.getsockname()[:2]
    app = create_app(settings)
    service: Service = app.state.service
    server = make_server(app, service)
    scheme = "http" if settings.server.tls_cert_file is None else "https"
    logger.info("listening on %s://%s:%d", scheme, f"[{host}]" if ":" in host else host, port)
    if settings.auth.mode == "none" and not is_loopback(host):
        logger.warning("auth.mode is none: everybody who reaches %s:%d may see and change cameras", host, port)
    service.on_stopping = watch_the_clock
    service.on_hung = lambda: os._exit(1)
    server.run(sockets=[sock])
    sock.close()
    return service


def outcome(service: Service) -> int:
    """The exit code that a finished service means. Raises the error that a user can mend, to be told as a sentence."""
    if service.fatal is None:
        return 0
    if isinstance(service.fatal, ConfigError):
        raise service.fatal
    if isinstance(service.fatal, BackendUnavailable):
        raise ConfigError(str(service.fatal))
    logger.critical("the service broke: %s", service.fatal, exc_info=service.fatal)
    return 1


def leave(code: int, *, abandoned: int) -> int:
    """Return `code`, or end the process with it at once when so many threads had to be `abandoned`."""
    if abandoned:
        # A thread that still hangs in a native read would touch an interpreter that is being taken down.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def watch_the_clock() -> None:
    """End the process if it has not ended by itself soon. For `Service.on_stopping`."""

    def give_up() -> None:
        logger.critical("the shutdown took longer than %g s; ending the process", LAST_RESORT_S)
        os._exit(1)

    timer = threading.Timer(LAST_RESORT_S, give_up)
    timer.daemon = True
    timer.start()
