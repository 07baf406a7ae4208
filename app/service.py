"""Builds, runs and unwinds everything."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import anyio

from app.auth.admin_file import read_admin_token
from app.auth.failures import FailureLimit
from app.auth.known import KnownTokens
from app.backends.select import Choice, choose
from app.batching.batcher import Batcher
from app.batching.policy import BatchPolicy
from app.cameras.capacity import Load, refusal
from app.cameras.registry import Registry
from app.cameras.store import CameraStore
from app.connections import Connections, places
from app.errors import NotReady, OverCapacity, StoreError, TooManyRequests
from app.gpus import watch_gpus
from app.inference.detector import Detector
from app.load import SAMPLE_S, LoadMeter
from app.logs import RepeatFilter
from app.overload import Overload
from app.progress import Progress
from app.results.delivery import Delivery
from app.results.history import History
from app.results.hub import ResultHub
from app.results.wire import camera_message
from app.settings import Settings, otel_variables
from app.threads import in_daemon_thread
from app.tracing import Tracing, open_tracing
from app.types import Availability, EngineInfo, GpuSnapshot
from app.watchdog import LoopWatchdog

logger = logging.getLogger("vidette.service")
store_logger = logging.getLogger("vidette.store")
store_logger.addFilter(RepeatFilter(every_s=300.0))
load_logger = logging.getLogger("vidette.load")
load_logger.addFilter(RepeatFilter())
State: TypeAlias = Literal["starting", "ready", "stopping", "stopped"]
CLOSE_S = 4.0
KEEP_S = 10.0
MAX_DIAGNOSES = 4


@dataclass(slots=True)
class Samples:
    """What the service's timers measured last, so that no request and no scrape has to."""

    decode_cores: float = 0.0
    gpus: tuple[GpuSnapshot, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a running service is made of."""

    choice: Choice
    engine: EngineInfo
    batcher: Batcher[Any]
    hub: ResultHub[Any]
    registry: Registry[Any]
    samples: Samples
    meter: LoadMeter
    overload: Overload
    watchdog: LoopWatchdog
    connections: Connections


class Places:
    """A bounded number of places for costly requests; one more is refused instead of queued. Event loop only."""

    def __init__(self, count: int, what: str) -> None:
        self._free = count
        self._count = count
        self._what = what

    @contextmanager
    def place(self) -> Iterator[None]:
        if not self._free:
            raise TooManyRequests(f"{self._count} {self._what} are under way already; ask again when one has ended")
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


class Service:
    """The owner. `run` once, as a task; `stop` cancels it and waits until everything is closed.

    Stop order: the API refuses, cameras, batches in flight, subscribers (1001), detector, store, tracing. Each bounded.
    """

    def __init__(self, settings: Settings, *, choice: Choice | None = None, tracing: Tracing | None = None) -> None:
        """`tracing` replaces what the environment asks for, and is closed by us."""
        self.settings = settings
        self.state: State = "starting"
        self.started_utc = time.time()
        self.fatal: BaseException | None = None
        self.progress = Progress(logger)
        self.samples = Samples()
        self.failures = FailureLimit(time.monotonic)
        self.tokens: KnownTokens | None = None  # once they are read, where auth.mode is token
        self.diagnoses = Places(MAX_DIAGNOSES, "diagnoses")
        self.abandoned_threads = 0
        self.on_stopping: Callable[[], None] = lambda: None
        self.on_hung: Callable[[], None] = lambda: None  # called by the watchdog, in its thread
        self.connections = Connections(*places(settings.server))
        self.watchdog = LoopWatchdog(give_up_s=settings.server.stall_exit_s, on_hung=lambda: self.on_hung())
        self._choice = choice
        self._tracing = tracing
        self._parts: Parts | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, on_fatal: Callable[[], None]) -> None:
        """Run in a task of its own; `on_fatal` is called when it ends with an error, which `fatal` then holds."""
        self._task = asyncio.create_task(self.run(), name="service")

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and task.exception() is not None:
                self.fatal = _innermost(task.exception())
                on_fatal()

        self._task.add_done_callback(ended)

    async def stop(self) -> None:
        """Stop and close everything. Idempotent; never raises what `run` ended with."""
        if self._task is None or self._task.done():
            return
        if self.state != "stopping":
            self.state = "stopping"
            self.on_stopping()
            # Once only: a second cancellation would cut the bounded waits of the first one short.
            self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await asyncio.shield(asyncio.gather(self._task, return_exceptions=True))

    @property
    def parts(self) -> Parts:
        """Everything that runs. Raises `NotReady` while the engine warms up and once the service stops."""
        if self.state != "ready" or self._parts is None:
            doing = f": {now}" if self.state == "starting" and (now := self.progress.newest) else ""
            raise NotReady(f"the service is {self.state}{doing}; ask again when /readyz answers 200")
        return self._parts

    @property
    def running_parts(self) -> Parts | None:
        """Everything that runs, or None; for readers that show what there is, such as /metrics."""
        return self._parts

    @property
    def availability(self) -> tuple[Availability, ...]:
        return self._choice.availability if self._choice is not None else ()

    async def run(self) -> None:
        """Open everything in order, serve until cancelled or broken, close in reverse order."""
        settings = self.settings
        try:
            async with AsyncExitStack() as stack:
                self.watchdog.start()
                stack.callback(self.watchdog.stop)
                self._tracing = self._tracing or await asyncio.to_thread(open_tracing, otel_variables())
                if self._tracing is not None:
                    _close_later(stack, "tracing", self._tracing.aclose)
                store = CameraStore(settings.data_dir, key_file=settings.secrets.key_file)
                _close_later(stack, "camera store", store.close)
                await store.open()
                if settings.auth.mode == "token":
                    await self._open_tokens(stack)
                if self._choice is None:
                    self._choice = await asyncio.to_thread(choose, settings)
                choice = self._choice
                logger.info("backend %s: %s", choice.backend.name, choice.reason)
                detector: Detector[Any] = await self._open_detector(choice)
                _close_later(stack, "detector", detector.aclose)
                if self._tracing is not None:
                    detector = self._tracing.detector(detector)
                await self._serve(stack, choice, detector, store)
        finally:
            self._parts = None
            self.state = "stopped"
            logger.info("stopped")

    async def _open_tokens(self, stack: AsyncExitStack) -> None:
        auth = self.settings.auth
        admin = (
            None if auth.admin_token_file is None else await asyncio.to_thread(read_admin_token, auth.admin_token_file)
        )
        tokens = KnownTokens(
            self.settings.data_dir, key_file=self.settings.secrets.key_file, fixed=() if admin is None else (admin,)
        )
        _close_later(stack, "tokens", tokens.close)
        await tokens.open()
        self.tokens = tokens
        if not len(tokens):
            logger.warning("there is no token yet, so nobody may use the API: `vidette token create --scope admin`")

    async def _open_detector(self, choice: Choice) -> Detector[Any]:
        """Open the detector in a thread of its own, which a stop ends at its next sentence, or leaves behind."""
        opening = in_daemon_thread("opening", lambda: choice.backend.open_detector(self.progress))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # A thread cannot be cancelled: have it give up, wait for what it makes all the same, then close that.
            self.progress.cancel()
            with anyio.move_on_after(CLOSE_S, shield=True) as scope, contextlib.suppress(Exception):
                await (await asyncio.shield(opening)).aclose()
            if scope.cancelled_caught:
                self.abandoned_threads += 1
                logger.warning("the detector did not open within %g s of the stop and is abandoned", CLOSE_S)
            raise
        finally:
            self.progress.finish()

    async def _serve(self, stack: AsyncExitStack, choice: Choice, detector: Detector[Any], store: CameraStore) -> None:
        settings, info = self.settings, detector.info
        hub: ResultHub[Any] = ResultHub(model=info.model, classes=info.classes, history=History(settings.history.size))
        _close_later(stack, "subscribers", hub.aclose)
        batching = settings.batching
        policy = BatchPolicy(
            max_size=min(batching.max_size, info.best_batch),
            max_delay_s=batching.max_delay_ms / 1e3,
            max_age_s=batching.max_age_ms / 1e3,
            shared_by=info.contexts if info.parallel else 1,
        )
        loop = asyncio.get_running_loop()
        batcher: Batcher[Any] = Batcher(
            policy=policy,
            detector=detector,
            sink=hub,
            loop=loop,
            clock=time.monotonic,
            give_up_s=settings.server.stall_exit_s,
        )
        stack.callback(self._count_abandoned, batcher)
        own, tracing = choice.backend.open_source, self._tracing
        registry: Registry[Any] = Registry(
            settings,
            store=store,
            mailbox=batcher.mailbox,
            open_source=own if tracing is None else tracing.sources(own),
            classes=info.classes,
            on_change=lambda status: hub.camera_changed(camera_message(status.camera_id, status.state, status.error)),
            on_remove=hub.forget,
        )
        meter = LoadMeter(registry, batcher, info, least_fps=settings.overload.least_fps)
        overload = Overload(registry, batcher.mailbox, cores=meter.cores)
        self._parts = Parts(
            choice=choice,
            engine=info,
            batcher=batcher,
            hub=hub,
            registry=registry,
            samples=self.samples,
            meter=meter,
            overload=overload,
            watchdog=self.watchdog,
            connections=self.connections,
        )
        await meter.sample()
        async with anyio.create_task_group() as workers:
            workers.start_soon(batcher.run, name="batcher")
            workers.start_soon(self._sample, meter, overload, hub.delivery, name="load")
            workers.start_soon(_keep, store, name="store")
            workers.start_soon(watch_gpus, choice.backend.gpus, self._show_gpus, name="gpus")
            try:
                await registry.load()
                self.state = "ready"
                logger.info("ready: %s on %s, %d cameras", info.model, info.device, len(registry))
                await anyio.sleep_forever()
            finally:
                self.state = "stopping"
                await _bounded("cameras", registry.close)
                self.abandoned_threads += registry.abandoned_threads
                workers.cancel_scope.cancel()

    def _count_abandoned(self, batcher: Batcher[Any]) -> None:
        self.abandoned_threads += batcher.stats.contexts_busy

    async def _sample(self, meter: LoadMeter, overload: Overload, delivery: Delivery) -> None:
        """Measure what is used, once a second, and have the cameras do with less where that is too much."""
        while True:
            await anyio.sleep(SAMPLE_S)
            try:
                window = await meter.sample()
                delivery.adapt(window.shed_share)
                if self.settings.overload.ladder == "auto":
                    overload.observe(window)
            except OSError as exc:
                load_logger.warning("the load cannot be measured: %s", exc.strerror)
            except Exception:  # a figure less is no reason to stop watching cameras
                load_logger.exception("the load cannot be measured")
            else:
                self.samples.decode_cores = window.decode_cores

    def _show_gpus(self, gpus: tuple[GpuSnapshot, ...]) -> None:
        self.samples.gpus = gpus

    def load(self) -> Load:
        """What is used and left now, as measured last."""
        parts = self.parts
        return parts.meter.load(self.samples.gpus, degraded=parts.overload.state.light)

    def admit(self) -> None:
        """Raise `OverCapacity` when one more camera would not be served."""
        reason = refusal(self.load())
        if reason is not None:
            raise OverCapacity(f"{reason}; ?force=true takes it all the same")


async def _keep(store: CameraStore) -> None:
    """Look every ten seconds whether the database is still where the next start will look for it."""
    while True:
        await anyio.sleep(KEEP_S)
        try:
            await store.keep()
        except StoreError as exc:
            store_logger.error("changes of cameras cannot be stored: %s", exc)
        except Exception:  # no more is a database a reason to stop watching cameras
            store_logger.exception("changes of cameras cannot be stored")


def _close_later(stack: AsyncExitStack, name: str, close: Callable[[], Awaitable[None]]) -> None:
    stack.push_async_callback(_bounded, name, close)


async def _bounded(name: str, close: Callable[[], Awaitable[None]]) -> None:
    """Close something whatever happens to us, for `CLOSE_S` at most."""
    with anyio.move_on_after(CLOSE_S, shield=True) as scope:
        await close()
    if scope.cancelled_caught:
        logger.error("%s did not close within %g s", name, CLOSE_S)


def _innermost(exc: BaseException | None) -> BaseException | None:
    """The one error inside task groups' wrappers."""
    while exc is not None and getattr(exc, "exceptions", None):
        exc = exc.exceptions[0]  # type: ignore[attr-defined]
    return exc
