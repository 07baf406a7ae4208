"""The cameras of this service: registered, changed, removed, and remembered across restarts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any, Generic, Literal, TypeAlias

from app.batching.mailbox import Mailbox
from app.cameras.backoff import Backoff
from app.cameras.camera import Camera, CameraStatus
from app.cameras.entries import ReadEntry, read_entries, reconcile
from app.cameras.lane import Lane, LaneSettings
from app.cameras.registration import (
    check_classes,
    field_errors,
    parsed,
    password_of,
    replaced,
    resolve,
    secrets_of,
    unmasked,
)
from app.cameras.settings import CameraRegistration, CameraSettings
from app.cameras.source import FrameSource, SourceRequest, UnreadableSource
from app.cameras.store import CameraStore
from app.cameras.urls import check_credentials
from app.errors import CameraDeclared, CameraExists, CameraNotFound, NotReady, StoreError, TooManyRequests
from app.logs import forget_secret, register_secret
from app.settings import Settings
from app.types import S

logger = logging.getLogger("vidette.cameras")
STOP_S = 3.0
START_AT_ONCE = 100  # cameras, 10 ms
TURN_S = 5.0  # for earlier changes to be on disk
# Raises `OverCapacity` when one more camera would not be served.
Admit: TypeAlias = Callable[[], None]
# Threads of removed cameras that hang in a read: with more of them nobody may register another camera.
MAX_LEAVING = 256
Allow: TypeAlias = Callable[[CameraSettings], None]


class Registry(Generic[S]):
    """Owns every `Camera`. Changes are made one at a time, on disk first, so that what was answered survives a crash.

    Event loop only. `on_change` is told each new status, `on_remove` each lane that leaves.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        store: CameraStore,
        mailbox: Mailbox[S],
        open_source: Callable[[SourceRequest], FrameSource[S]],
        classes: tuple[str, ...],
        on_change: Callable[[CameraStatus], None],
        on_remove: Callable[[Lane], None],
    ) -> None:
        self.mailbox = mailbox
        self._open_source = open_source
        self.abandoned_threads = 0
        self._settings = settings
        self._hosts = settings.cameras.hosts
        self._store = store
        self._classes = classes
        self._on_change = on_change
        self._on_remove = on_remove
        self._cameras: dict[str, Camera[S]] = {}
        self._leaving: set[Camera[S]] = set()
        self._changing = asyncio.Lock()
        self._closed = False
        self._loop = asyncio.get_running_loop()

    # Reading

    def __len__(self) -> int:
        return len(self._cameras)

    def cameras(self) -> list[Camera[S]]:
        return list(self._cameras.values())

    def get(self, camera_id: str) -> Camera[S]:
        try:
            return self._cameras[camera_id]
        except KeyError:
            raise CameraNotFound(camera_id) from None

    @property
    def readers_ending(self) -> int:
        """Threads of cameras, here or removed, that were told to end and have not. Any thread."""
        return sum(max(0, camera.readers_ending) for camera in (*self.cameras(), *list(self._leaving)))

    # Changing

    async def load(self) -> None:
        """Make the stored cameras what the configuration file declares, then start them all.

        Raises `ConfigError`, and changes nothing, when one that is declared cannot be.
        """
        declared = await asyncio.to_thread(self._declared)
        plan = reconcile(await self._store.all(), declared)
        if plan.put or plan.delete:
            await self._store.apply(put=plan.put, delete=plan.delete)
            for names, what in ((plan.delete, "removed, declared no more"), ([c.id for c in plan.put], "declared")):
                if names:
                    logger.info("cameras %s: %s", what, ", ".join(names))
        for number, settings in enumerate(plan.cameras):
            if number % START_AT_ONCE == 0:  # /livez answers meanwhile, however many there are
                await asyncio.sleep(0)
            self._warn_of_unknown_classes(settings)
            self._start(settings)

    async def add(
        self, registration: CameraRegistration, *, admit: Admit | None = None, allow: Allow = lambda camera: None
    ) -> Camera[S]:
        """Register a camera. Raises `CameraExists`, or `InvalidField` for a URL or class that cannot be.

        `admit` is asked before an enabled camera starts, after all that were asked for earlier: here, and by `replace`
        and `patch` for one that was disabled. It raises `OverCapacity`. `allow` is asked before anything is written,
        here with the new camera, by `replace` and `patch` with the stored one. It raises `Forbidden`.
        """
        async with self._turn():
            if registration.id is not None and registration.id in self._cameras:
                raise CameraExists(registration.id)
            if sum(camera.readers_ending for camera in self._leaving) >= MAX_LEAVING:
                raise TooManyRequests(f"{MAX_LEAVING} connections of removed cameras have not ended yet")
            if admit is not None and registration.enabled:
                admit()
            settings = await self._stored(registration.model_dump(exclude_unset=True), allow=allow)
            return self._start(settings)

    async def replace(
        self,
        camera_id: str,
        fields: Mapping[str, Any],
        *,
        admit: Admit | None = None,
        allow: Allow = lambda camera: None,
    ) -> Camera[S]:
        """Put new settings in place of a camera's; a password that is not mentioned stays.

        This, `patch` and `remove` raise `CameraDeclared` for a camera of the configuration file.
        """
        async with self._turn():
            camera = self._changeable(camera_id)
            allow(camera.settings)
            kept = {"password": camera.settings.password} if "password" not in fields else {}
            wanted = {**kept, **fields, "id": camera_id}
            _admit(camera.settings, wanted, admit)
            return await self._change(camera, wanted, says_password="password" in fields)

    async def patch(
        self,
        camera_id: str,
        fields: Mapping[str, Any],
        *,
        admit: Admit | None = None,
        allow: Allow = lambda camera: None,
    ) -> Camera[S]:
        """Change the given fields of a camera."""
        async with self._turn():
            camera = self._changeable(camera_id)
            allow(camera.settings)
            wanted = {**camera.settings.model_dump(), **fields}
            _admit(camera.settings, wanted, admit)
            return await self._change(camera, wanted, says_password="password" in fields)

    async def remove(self, camera_id: str) -> None:
        """Forget a camera: its row, its series, its frames. Its thread ends at its next packet or read timeout."""
        async with self._turn():
            camera = self._changeable(camera_id)
            await self._store.delete(camera_id)
            del self._cameras[camera_id]
            camera.stop()
            self._on_remove(camera.lane)
            for secret in secrets_of(camera.settings):
                forget_secret(secret)
            self._leaving = {left for left in self._leaving if left.ending}
            self._leaving.add(camera)
            logger.info("camera %s removed", camera_id)

    async def close(self) -> None:
        """Stop every camera and wait, bounded, for their threads; those that hang are counted and abandoned."""
        self._closed = True
        cameras = [*self._cameras.values(), *self._leaving]
        for camera in cameras:
            camera.stop()
        waits = [asyncio.ensure_future(camera.ended.wait()) for camera in cameras]
        if waits:
            _, late = await asyncio.wait(waits, timeout=STOP_S)
            for wait in late:
                wait.cancel()
        stuck = [reader for camera in cameras for reader in camera.ending]
        self.abandoned_threads = len(stuck)
        if stuck:
            logger.warning("%d camera threads did not end within %g s and are abandoned", len(stuck), STOP_S)

    def unregistered(
        self, *, url: str, username: str | None, password: str | None, transport: Literal["auto", "tcp", "udp"]
    ) -> SourceRequest:
        """A request for a camera that is only to be looked at. Blocking. Raises `InvalidField` as `add` does."""
        camera = parsed(url, media_dir=self._settings.media_dir, hosts=self._hosts)
        username = username if camera.username is None else camera.username
        password = password if camera.password is None else camera.password
        with field_errors():
            check_credentials(username, password)
        return SourceRequest(
            camera_id="doctor",
            url=camera.url,
            username=username,
            password=password,
            transport=transport,
            stall_timeout_s=self._settings.cameras.stall_timeout_s,
            media_dir=self._settings.media_dir,
            hosts=self._hosts,
        )

    # What cameras need of us (`CameraContext`)

    def open_source(self, request: SourceRequest) -> FrameSource[S]:
        return UnreadableSource(request) if request.unreadable else self._open_source(request)

    def request(self, settings: CameraSettings) -> SourceRequest:
        return SourceRequest(
            camera_id=settings.id,
            url=settings.url,
            username=settings.username,
            password=password_of(settings),
            unreadable=bool(settings.unreadable),
            transport=settings.transport,
            stall_timeout_s=self._settings.cameras.stall_timeout_s,
            media_dir=self._settings.media_dir,
            hosts=self._hosts,
        )

    def lane_settings(self, settings: CameraSettings) -> LaneSettings:
        wanted = None if settings.classes is None else frozenset(settings.classes)
        return LaneSettings(
            max_fps=settings.max_fps,
            motion=settings.motion,
            priority=settings.priority,
            min_score=self._settings.min_score if settings.min_score is None else settings.min_score,
            class_ids=None
            if wanted is None
            else frozenset(number for number, label in enumerate(self._classes) if label in wanted),
        )

    def backoff(self) -> Backoff:
        return Backoff(max_s=self._settings.cameras.backoff_max_s)

    def changed(self, camera: Camera[S]) -> None:
        self._on_change(camera.status)

    # Inside

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One change at a time. Raises `StoreError` when those before it wait too long for the disk."""
        try:
            await asyncio.wait_for(self._changing.acquire(), TURN_S)
        except (TimeoutError, asyncio.TimeoutError):
            raise StoreError(f"earlier changes have waited for the camera database for {TURN_S:g} s") from None
        try:
            yield
        finally:
            self._changing.release()

    async def _change(self, camera: Camera[S], fields: Mapping[str, Any], *, says_password: bool) -> Camera[S]:
        # A class that only an earlier model had stays until somebody changes it, and is in nobody's way.
        settings = await self._stored(fields, camera.settings.classes or (), says_password=says_password)
        for secret in secrets_of(settings):
            register_secret(secret)
        for secret in secrets_of(camera.settings):
            forget_secret(secret)
        camera.apply(settings)
        return camera

    async def _stored(
        self,
        fields: Mapping[str, Any],
        classes: Collection[str] = (),
        *,
        says_password: bool = True,
        allow: Allow = lambda camera: None,
    ) -> CameraSettings:
        """Check the fields, whose classes the model must have, or `classes`; and write them to disk."""
        # In a thread, since a file's URL is looked up on disk.
        settings = await asyncio.to_thread(self._resolved, fields, classes, says_password)
        allow(settings)
        await self._store.put(settings)
        if self._closed:  # a thread that starts now would outlive us; the camera starts with the next process
            raise NotReady("the service is stopping")
        return settings

    def _start(self, settings: CameraSettings) -> Camera[S]:
        for secret in secrets_of(settings):
            register_secret(secret)
        camera: Camera[S] = Camera(settings, self, loop=self._loop)
        self._cameras[settings.id] = camera
        camera.start()
        return camera

    def _resolved(self, fields: Mapping[str, Any], classes: Collection[str], says_password: bool) -> CameraSettings:
        settings = resolve(fields, media_dir=self._settings.media_dir, hosts=self._hosts, taken=self._cameras)
        known = self._cameras.get(settings.id)
        settings = unmasked(settings, None if known is None else known.settings)
        if known is not None and settings.password is None:
            settings = replaced(known.settings, settings, says_password=says_password)
        check_classes(settings, self._classes, also=classes)
        return settings

    def _declared(self) -> tuple[ReadEntry, ...]:
        """What the configuration file declares. Blocking: reads password files."""
        settings = self._settings
        return read_entries(
            settings.cameras.declared, media_dir=settings.media_dir, hosts=self._hosts, classes=self._classes
        )

    def _changeable(self, camera_id: str) -> Camera[S]:
        camera = self.get(camera_id)
        if camera.settings.declared:
            raise CameraDeclared(camera_id)
        return camera

    def _warn_of_unknown_classes(self, settings: CameraSettings) -> None:
        unknown = sorted(set(settings.classes or ()) - set(self._classes))
        if unknown:
            logger.warning("camera %s: the model has no class %s", settings.id, ", ".join(map(repr, unknown)))


def _admit(before: CameraSettings, wanted: Mapping[str, Any], admit: Admit | None) -> None:
    """Ask for room when a change switches a camera on."""
    if admit is not None and not before.enabled and wanted.get("enabled", True):
        admit()
