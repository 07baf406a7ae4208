"""Cameras are registered, changed, removed and remembered; none disturbs another one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from app.backends.synthetic.source import SyntheticSource, SyntheticSurface
from app.batching.mailbox import Mailbox
from app.batching.policy import BatchPolicy
from app.cameras.camera import Camera, CameraStatus
from app.cameras.lane import Lane
from app.cameras.registry import Registry
from app.cameras.settings import CameraRegistration
from app.cameras.store import CameraStore
from app.errors import CameraExists, CameraNotFound, InvalidField, NotReady, StoreError
from tests.support.app import make_settings
from tests.support.wait import wait_until

SLOW = "rtsp://camera.test/1?fps=20"


@dataclass
class Place:
    """A registry with a real store, and what it told."""

    registry: Registry[SyntheticSurface]
    store: CameraStore
    changes: list[CameraStatus] = field(default_factory=list)
    removed: list[Lane] = field(default_factory=list)

    async def add(self, **fields: Any) -> Camera[SyntheticSurface]:
        return await self.registry.add(CameraRegistration.model_validate({"url": SLOW, **fields}))


@asynccontextmanager
async def place(data_dir: Path, **sections: Any) -> AsyncIterator[Place]:
    settings = await asyncio.to_thread(make_settings, data_dir, **sections)
    store = CameraStore(settings.data_dir)
    await store.open()
    changes: list[CameraStatus] = []
    removed: list[Lane] = []
    registry: Registry[SyntheticSurface] = Registry(
        settings,
        store=store,
        mailbox=Mailbox(BatchPolicy(), on_frame=lambda: None),
        open_source=SyntheticSource,
        classes=("person", "car"),
        on_change=changes.append,
        on_remove=removed.append,
    )
    try:
        await registry.load()
        yield Place(registry, store, changes, removed)
    finally:
        await registry.close()
        await store.close()


async def test_a_registration_makes_up_what_is_absent(data_dir: Path) -> None:
    async with place(data_dir) as p:
        named = await p.add(name="Gate 1")
        again = await p.add(name="Gate 1")
        bare = await p.add()
        with_id = await p.add(id="door")
        assert [(c.settings.id, c.settings.name) for c in (named, again, bare, with_id)] == [
            ("gate-1", "Gate 1"),
            ("gate-1-2", "Gate 1"),
            ("camera-test", "camera.test"),
            ("door", "door"),
        ]
        assert len(p.registry) == 4


async def test_a_long_host_name_is_cut_to_a_name(data_dir: Path) -> None:
    async with place(data_dir) as p:
        host = ".".join(["a" * 60] * 3)
        camera = await p.add(url=f"rtsp://{host}/1", enabled=False)
        assert camera.settings.name == host[:128]


async def test_credentials_leave_the_url(data_dir: Path) -> None:
    async with place(data_dir) as p:
        camera = await p.add(url="rtsp://ad%40min:p%40ss%3Aw%2F%23@camera.test/1", enabled=False)
        assert camera.settings.url == "rtsp://camera.test/1"
        assert camera.settings.username == "ad@min"
        assert camera.settings.password is not None
        assert camera.settings.password.get_secret_value() == "p@ss:w/#"
        request = p.registry.request(camera.settings)
        assert (request.url, request.username, request.password) == ("rtsp://camera.test/1", "ad@min", "p@ss:w/#")


async def test_a_user_name_in_the_url_leaves_the_password_field_alone(data_dir: Path) -> None:
    async with place(data_dir) as p:
        camera = await p.add(url="rtsp://admin@camera.test/1", password="given", enabled=False)
        assert p.registry.request(camera.settings).password == "given"
        request = p.registry.unregistered(
            url="rtsp://admin@camera.test/1", username="x", password="given", transport="tcp"
        )
        assert (request.username, request.password) == ("admin", "given")


async def test_an_id_is_taken_once(data_dir: Path) -> None:
    async with place(data_dir) as p:
        results = await asyncio.gather(*(p.add(id="gate", enabled=False) for _ in range(5)), return_exceptions=True)
        assert sum(isinstance(result, Camera) for result in results) == 1
        assert sum(isinstance(result, CameraExists) for result in results) == 4


async def test_an_unknown_camera_is_an_error_of_its_name(data_dir: Path) -> None:
    async with place(data_dir) as p:
        for call in (
            p.registry.remove("nobody"),
            p.registry.patch("nobody", {}),
            p.registry.replace("nobody", {"url": SLOW}),
        ):
            with pytest.raises(CameraNotFound, match="camera 'nobody' is not registered"):
                await call


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"url": "http://h"}, "url"),
        ({"url": "file:///etc/passwd"}, "url"),
        ({"classes": ["unicorn"]}, "classes"),
        ({"username": "a:b"}, "username"),
        ({"password": "x" * 200}, "password"),
    ],
)
async def test_what_cannot_be_is_refused_by_field_and_changes_nothing(
    data_dir: Path, fields: dict[str, Any], named: str
) -> None:
    async with place(data_dir) as p:
        with pytest.raises(InvalidField) as caught:
            await p.add(**fields)
        assert caught.value.field == named
        await p.add(id="gate", enabled=False)
        with pytest.raises(InvalidField):
            await p.registry.patch("gate", fields)
        assert [camera.url for camera in await p.store.all()] == [SLOW]
        assert len(p.registry) == 1


async def test_a_file_below_the_media_folder_is_taken(data_dir: Path, tmp_path: Path) -> None:
    async with place(data_dir, media_dir=tmp_path) as p:
        camera = await p.add(url="file:clip.mp4", enabled=False)
        assert camera.settings.url == f"file://{tmp_path}/clip.mp4"
        with pytest.raises(InvalidField, match="below media_dir"):
            await p.add(url="file:../clip.mp4")


async def test_settings_of_a_lane_come_from_the_camera_and_else_from_the_service(data_dir: Path) -> None:
    async with place(data_dir, min_score=0.4) as p:
        plain = await p.add(enabled=False)
        assert (plain.lane.settings.min_score, plain.lane.settings.class_ids) == (0.4, None)
        own = await p.add(enabled=False, min_score=0.0, classes=["car"], priority=9, max_fps=3)
        assert own.lane.settings.min_score == 0.0
        assert own.lane.settings.class_ids == frozenset({1})
        assert (own.lane.settings.priority, own.lane.settings.max_fps) == (9, 3)
        await p.registry.patch(own.settings.id, {"min_score": None, "classes": None})
        assert own.lane.settings == plain.lane.settings.__class__(max_fps=3, priority=9, min_score=0.4)


async def test_a_replacement_keeps_the_password_that_it_does_not_mention(data_dir: Path) -> None:
    async with place(data_dir) as p:
        camera = await p.add(id="gate", username="admin", password="hunter2", priority=9, enabled=False)
        await p.registry.replace("gate", {"url": SLOW, "enabled": False})
        assert p.registry.request(camera.settings).password == "hunter2"
        assert (camera.settings.username, camera.settings.priority) == (None, 5)
        await p.registry.replace("gate", {"url": SLOW, "enabled": False, "password": None})
        assert p.registry.request(camera.settings).password is None


async def test_cameras_come_back_after_a_restart(data_dir: Path) -> None:
    async with place(data_dir) as p:
        await p.add(id="gate", password="hunter2", min_score=0.7, enabled=False)
        await p.add(id="door", enabled=False)
        await p.add(id="gone", enabled=False)
        await p.registry.patch("door", {"priority": 1})
        await p.registry.remove("gone")
    async with place(data_dir) as p:
        found = {camera.settings.id: camera.settings for camera in p.registry.cameras()}
        assert list(found) == ["gate", "door"]
        assert found["door"].priority == 1
        assert found["gate"].min_score == 0.7
        assert p.registry.request(found["gate"]).password == "hunter2"


async def test_a_class_that_the_model_lost_is_a_warning_at_the_start(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with place(data_dir) as p:
        camera = await p.add(id="gate", enabled=False)
        await p.store.put(camera.settings.model_copy(update={"classes": ["zebra", "car"]}))
    async with place(data_dir) as p:
        assert p.registry.get("gate").lane.settings.class_ids == frozenset({1})
    assert "camera gate: the model has no class 'zebra'" in caplog.text


async def test_a_class_that_the_model_lost_does_not_stand_in_the_way_of_other_changes(data_dir: Path) -> None:
    async with place(data_dir) as p:
        camera = await p.add(id="gate", enabled=False)
        await p.store.put(camera.settings.model_copy(update={"classes": ["zebra"]}))
    async with place(data_dir) as p:
        changed = await p.registry.patch("gate", {"priority": 9})
        assert (changed.settings.priority, changed.settings.classes) == (9, ["zebra"])
        with pytest.raises(InvalidField, match="'unicorn' is not a class"):
            await p.registry.patch("gate", {"classes": ["zebra", "unicorn"]})


async def test_a_removed_camera_takes_its_thread_with_it_and_disturbs_no_other(data_dir: Path) -> None:
    async with place(data_dir) as p:
        gone, stays = await p.add(id="gone"), await p.add(id="stays")
        await wait_until(lambda: all(c.status.state == "running" for c in (gone, stays)))
        since = stays.status.since_utc
        await p.registry.remove("gone")
        await asyncio.wait_for(gone.ended.wait(), 10)
        assert p.removed == [gone.lane]
        before = stays.status.frames.decoded
        await wait_until(lambda: stays.status.frames.decoded > before)
        assert (stays.status.since_utc, stays.status.restarts) == (since, {})
        assert gone.lane.counts().in_flight == 0


async def test_a_change_that_the_disk_refuses_changes_nothing(data_dir: Path) -> None:
    async with place(data_dir) as p:
        camera = await p.add(id="gate", enabled=False)

        async def full(_: object) -> None:
            raise StoreError("the disk is full")

        p.store.put = full  # type: ignore[method-assign, assignment]
        with pytest.raises(StoreError):
            await p.registry.patch("gate", {"priority": 9})
        with pytest.raises(StoreError):
            await p.add(id="new")
        assert camera.settings.priority == 5
        assert len(p.registry) == 1


async def test_changes_of_state_are_told(data_dir: Path) -> None:
    async with place(data_dir) as p:
        camera = await p.add(id="gate", url="rtsp://camera.test/1?fail=auth_failed")
        await wait_until(lambda: len(p.changes) >= 2)
        assert [change.state for change in p.changes[:2]] == ["connecting", "retrying"]
        assert p.changes[1].error is not None
        assert p.changes[1].error.code.value == "auth_failed"
        assert camera.status.restarts["auth_failed"] >= 1


async def test_a_camera_that_comes_while_the_service_stops_is_stored_but_not_started(data_dir: Path) -> None:
    async with place(data_dir) as p:
        await p.registry.close()
        with pytest.raises(NotReady):
            await p.add(id="late")
        assert len(p.registry) == 0
        assert [camera.id for camera in await p.store.all()] == ["late"]
