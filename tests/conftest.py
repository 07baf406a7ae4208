"""What holds in every test: no blocking call on an event loop, no thread left behind, the same examples every time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeAlias

import blockbuster.blockbuster
import pytest
from blockbuster import BlockBuster, BlockingError
from hypothesis import HealthCheck, settings

from app.backends.base import Backend
from tests.support.app import RunningApp, make_settings, running_app

# Derandomized: a red example is red again for everybody; no example database is written into the checkout.
settings.register_profile(
    "vidette",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("vidette")

THREAD_GRACE_S = 5.0
# Pools that belong to an event loop or to a library, and end with them.
POOLS = ("asyncio_", "AnyIO worker")
OURS = ("camera:", "store", "cpu")

StartApp: TypeAlias = Callable[..., Awaitable[RunningApp]]


class _Noted(BlockingError):
    """Kept in a list, so that a supervisor's `except Exception` cannot hide it."""

    seen: list[str] = []

    def __init__(self, func: str) -> None:
        super().__init__(func)
        self.seen.append(f"{func} in {_caller()}")


def _caller() -> str:
    import traceback

    ours = [frame for frame in traceback.extract_stack() if "/app/" in frame.filename]
    return f"{ours[-1].filename}:{ours[-1].lineno}" if ours else "?"


@pytest.fixture(scope="session")
def _blockbuster() -> BlockBuster:
    watch = BlockBuster("app")
    # A log line is written where it is made, to stderr in production and to pytest's own handlers here.
    for function in ("io.TextIOWrapper.write", "io.BufferedWriter.write", "os.write"):
        watch.functions[function].can_block_in("logging/__init__.py", {"emit", "flush"})
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


@pytest.fixture
async def running(start_app: StartApp) -> RunningApp:
    """The application with default settings and no camera."""
    return await start_app()
