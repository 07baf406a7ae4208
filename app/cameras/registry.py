"""The cameras of this service: registered, changed, removed, and remembered across restarts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, Literal

from pydantic import SecretStr

from app.batching.mailbox import Mailbox
from app.cameras.backoff import Backoff
from app.cameras.camera import Camera, CameraStatus
from app.cameras.lane import Lane, LaneSettings
from app.cameras.settings import CameraRegistration, CameraSettings, free_id
from app.cameras.source import FrameSource, SourceRequest
from app.cameras.store import CameraStore
from app.cameras.urls import CameraUrl, check_credentials, parse_camera_url
from app.errors import CameraExists, CameraNotFound, InvalidField, NotReady
from app.logs import forget_secret, register_secret
from app.settings import Settings
from app.types import S

logger = logging.getLogger("vidette.cameras")
STOP_S = 3.0


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
        self.open_source = open_source
        self.abandoned_threads = 0
        self._settings = settings
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

    # Changing

    async def load(self) -> None:
        """Start every stored camera."""
        for settings in await self._store.all():
            self._warn_of_unknown_classes(settings)
            self._start(settings)

    async def add(self, registration: CameraRegistration) -> Camera[S]:
        """Register a camera. Raises `CameraExists`, or `InvalidField` for a URL or class that cannot be."""
        async with self._changing:
            if registration.id is not None and registration.id in self._cameras:
                raise CameraExists(registration.id)
            settings = await self._stored(registration.model_dump(exclude_unset=True), self._classes)
            return self._start(settings)

    async def replace(self, camera_id: str, fields: Mapping[str, Any]) -> Camera[S]:
        """Put new settings in place of a camera's; a password that is not mentioned stays."""
        async with self._changing:
            camera = self.get(camera_id)
            kept = {"password": camera.settings.password} if "password" not in fields else {}
            return await self._change(camera, {**kept, **fields, "id": camera_id})

    async def patch(self, camera_id: str, fields: Mapping[str, Any]) -> Camera[S]:
        """Change the given fields of a camera."""
        async with self._changing:
            camera = self.get(camera_id)
            return await self._change(camera, {**camera.settings.model_dump(), **fields})

    async def remove(self, camera_id: str) -> None:
        """Forget a camera: its row, its series, its frames. Its thread ends at its next packet or read timeout."""
        async with self._changing:
            camera = self.get(camera_id)
            await self._store.delete(camera_id)
            del self._cameras[camera_id]
            camera.stop()
            self._on_remove(camera.lane)
            forget_secret(self._password(camera.settings))
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
        parsed = self._parsed(url)
        username = username if parsed.username is None else parsed.username
        password = password if parsed.password is None else parsed.password
        with _field_errors():
            check_credentials(username, password)
        return SourceRequest(
            camera_id="doctor",
            url=parsed.url,
            username=username,
            password=password,
            transport=transport,
            stall_timeout_s=self._settings.cameras.stall_timeout_s,
            media_dir=self._settings.media_dir,
        )

    # What cameras need of us (`CameraContext`)

    def request(self, settings: CameraSettings) -> SourceRequest:
        return SourceRequest(
            camera_id=settings.id,
            url=settings.url,
            username=settings.username,
            password=self._password(settings),
            transport=settings.transport,
            stall_timeout_s=self._settings.cameras.stall_timeout_s,
            media_dir=self._settings.media_dir,
        )

    def lane_settings(self, settings: CameraSettings) -> LaneSettings:
        wanted = None if settings.classes is None else frozenset(settings.classes)
        return LaneSettings(
            max_fps=settings.max_fps,
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

    async def _change(self, camera: Camera[S], fields: Mapping[str, Any]) -> Camera[S]:
        # A class that only an earlier model had stays until somebody changes it, and is in nobody's way.
        settings = await self._stored(fields, (*self._classes, *(camera.settings.classes or ())))
        register_secret(self._password(settings))
        forget_secret(self._password(camera.settings))
        camera.apply(settings)
        return camera

    async def _stored(self, fields: Mapping[str, Any], classes: Collection[str]) -> CameraSettings:
        """Check the fields, of which classes must be among `classes`, and write them to disk."""
        settings = await asyncio.to_thread(self._resolved, fields, classes)  # a file's URL is looked up on disk
        await self._store.put(settings)
        if self._closed:  # a thread that starts now would outlive us; the camera starts with the next process
            raise NotReady("the service is stopping")
        return settings

    def _start(self, settings: CameraSettings) -> Camera[S]:
        register_secret(self._password(settings))
        camera: Camera[S] = Camera(settings, self, loop=self._loop)
        self._cameras[settings.id] = camera
        camera.start()
        return camera

    def _resolved(self, fields: Mapping[str, Any], classes: Collection[str]) -> CameraSettings:
        """The settings that these fields mean: credentials out of the URL, id and name made up where absent."""
        fields = dict(fields)
        url = self._parsed(fields["url"])
        fields["url"] = url.url
        if url.username is not None:
            fields["username"] = url.username
        if url.password is not None:  # a URL with a name alone says nothing of the password
            fields["password"] = SecretStr(url.password)
        fields["name"] = fields.get("name") or fields.get("id") or url.host[:128] or "camera"
        fields["id"] = fields.get("id") or free_id(fields["name"], self._cameras)
        settings = CameraSettings.model_validate(fields)
        unknown = sorted(set(settings.classes or ()) - set(classes))
        if unknown:
            known = ", ".join(self._classes[:12]) + (", ..." if len(self._classes) > 12 else "")
            raise InvalidField("classes", f"{', '.join(map(repr, unknown))} is not a class of the model ({known})")
        with _field_errors():
            check_credentials(settings.username, self._password(settings))
        return settings

    def _parsed(self, url: str) -> CameraUrl:
        with _field_errors():
            return parse_camera_url(url, media_dir=self._settings.media_dir)

    @staticmethod
    def _password(settings: CameraSettings) -> str | None:
        return None if settings.password is None else settings.password.get_secret_value()

    def _warn_of_unknown_classes(self, settings: CameraSettings) -> None:
        unknown = sorted(set(settings.classes or ()) - set(self._classes))
        if unknown:
            logger.warning("camera %s: the model has no class %s", settings.id, ", ".join(map(repr, unknown)))


@contextmanager
def _field_errors() -> Iterator[None]:
    """Turn `field: sentence` of the pure checks into the API's error for that field."""
    try:
        yield
    except ValueError as exc:
        field, _, message = str(exc).partition(": ")
        raise InvalidField(field, message) from None
