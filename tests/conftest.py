"""What holds in every test: no blocking call on an event loop, no thread left behind, the same examples every time."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, ClassVar

import blockbuster.blockbuster
import pytest
import pytest_asyncio
from blockbuster import BlockBuster, BlockingError
from hypothesis import HealthCheck, settings

import app
from app.backends.base import Backend
from tests.support import scheduling, signal_stack
from tests.support.app import RunningApp, StartApp, make_settings, running_app

# Derandomized: a red example is red again for everybody; no example database is written into the checkout.
settings.register_profile(
    "vidette",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("vidette")

THREAD_GRACE_S = 20.0
# Pools that belong to an event loop or to a library, and end with them.
POOLS = ("asyncio_", "AnyIO worker")
OURS = ("camera:", "store", "cpu", "cuda", "tuning", "opening", "gpus", "profile:", "watchdog")

_APP = str(Path(app.__file__).parent)
_MACHINERY = (__file__, blockbuster.blockbuster.__file__)


class _Noted(BlockingError):
    """Kept in a list, so that a supervisor's `except Exception` cannot hide it."""

    seen: ClassVar[list[str]] = []

    def __init__(self, func: str) -> None:
        super().__init__(func)
        self.seen.append(f"{func} in {_caller()}")


def _caller() -> str:
    """The line of `app` that blocked, and the line that it called for it."""
    frames = [each for each in traceback.extract_stack() if each.filename not in _MACHINERY]
    ours = [each for each in frames if each.filename.startswith(_APP)]
    return " by ".join(f"{each.filename}:{each.lineno}" for each in (*ours[-1:], frames[-1]))


@pytest.fixture(scope="session")
def _blockbuster() -> BlockBuster:
    watch = BlockBuster("app")
    # A log line is written where it is made, to stderr in production and to pytest's own handlers here.
    for function in ("io.TextIOWrapper.write", "io.BufferedWriter.write", "os.write"):
        watch.functions[function].can_block_in("logging/__init__.py", {"emit", "flush"})
    for blocking in watch.functions.values():
        # FastAPI looks up where a route is written, once for each route, to name it in error messages.
        blocking.can_block_in("fastapi/routing.py", {"_extract_endpoint_context"})
        # The tracer of a coverage run takes its own lock wherever a new file is entered.
        blocking.can_block_in("coverage/collector.py", {"lock_data"})
    return watch


@pytest.fixture(autouse=True)
def blocking_calls(_blockbuster: BlockBuster, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Blocking calls that code of `app` made on an event loop; one that is left in the list fails the test."""
    monkeypatch.setattr(blockbuster.blockbuster, "BlockingError", _Noted)
    _Noted.seen.clear()
    _blockbuster.activate()
    try:
        yield _Noted.seen
    finally:
        _blockbuster.deactivate()
    assert not _Noted.seen, f"blocking calls on the event loop: {_Noted.seen}"


# pytest's own, for its crash reports.
_SIGNAL_STACK = signal_stack.read()


@pytest.fixture(autouse=True)
def a_signal_stack_that_exists() -> None:
    """Tests free OpenVINO's models on the main thread, which the application never does; see `off_main_thread`."""
    signal_stack.restore(_SIGNAL_STACK)


@pytest.fixture(autouse=True)
def scheduled_as_before() -> Iterator[None]:
    """No test makes its process, and those that it starts, a real-time one; see `scheduling`."""
    before = scheduling.policy()
    yield
    assert scheduling.policy() == before


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """Every thread that a test starts ends with it; daemons that are not the service's own are let be."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + THREAD_GRACE_S
    while left := [thread for thread in threading.enumerate() if thread not in before and _must_end(thread)]:
        if time.monotonic() > deadline:
            pytest.fail(f"threads left behind: {sorted(thread.name for thread in left)}")
        time.sleep(0.005)


def _must_end(thread: threading.Thread) -> bool:
    if thread.name.startswith(POOLS):
        return False
    return not thread.daemon or thread.name.startswith(OURS)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
async def start_app(data_dir: Path) -> AsyncIterator[StartApp]:
    """Start the whole application, with settings sections, a backend and `create_app` options as wanted."""
    async with AsyncExitStack() as stack:

        async def start(
            backend: Backend[Any] | None = None,
            *,
            wait_ready: bool = True,
            options: dict[str, Any] | None = None,
            **sections: Any,
        ) -> RunningApp:
            settings = await asyncio.to_thread(make_settings, data_dir, **sections)
            return await stack.enter_async_context(
                running_app(settings, backend, wait_ready=wait_ready, **(options or {}))
            )

        yield start


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _module_app(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningApp]:
    settings = await asyncio.to_thread(make_settings, tmp_path_factory.mktemp("app") / "data")
    async with running_app(settings) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def shared(_module_app: RunningApp) -> AsyncIterator[RunningApp]:
    """One application for a module's tests, without cameras at the start of each; mark them `on_shared`."""
    yield _module_app
    await _module_app.clear()


@pytest.fixture
async def running(start_app: StartApp) -> RunningApp:
    """The application with default settings and no camera."""
    return await start_app()


@pytest.fixture
def own_logging() -> Iterator[None]:
    """For tests that configure logging: its handlers and levels are gone afterwards."""
    names = ["", *logging.root.manager.loggerDict]
    loggers = [logging.getLogger(name) for name in names]
    kept = [(each, each.level, list(each.handlers), each.propagate) for each in loggers]
    yield
    for each, level, handlers, propagate in kept:
        each.setLevel(level)
        each.handlers[:] = handlers
        each.propagate = propagate
