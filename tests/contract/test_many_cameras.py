"""Thousands of registered cameras: a start, a list and a change stay what they are for ten."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.cameras.database import open_database
from app.cameras.settings import CameraSettings
from tests.support.app import API, StartApp

pytestmark = pytest.mark.alone
MANY = 3000


def store_many(data_dir: Path) -> None:
    cameras = [
        CameraSettings(
            id=f"camera-{number}",
            name=f"Camera {number}",
            url=f"rtsp://camera.test/{number}",
            username="admin",
            password=SecretStr(f"secret-{number}"),
            enabled=False,
        )
        for number in range(MANY)
    ]
    with closing(open_database(data_dir)) as database:
        database.apply(put=cameras)


async def test_a_start_a_list_and_a_change_among_thousands(data_dir: Path, start_app: StartApp) -> None:
    await asyncio.to_thread(store_many, data_dir)
    started_at = time.monotonic()
    running = await start_app()
    assert time.monotonic() - started_at < 20
    listed = (await running.http.get(f"{API}/cameras")).json()
    assert [each["id"] for each in listed] == [f"camera-{number}" for number in range(MANY)]
    assert "secret-" not in str(listed)
    before = time.monotonic()
    for number in range(20):
        await running.register(f"new-{number}", enabled=False, password=f"secret-new-{number}")
        await running.remove(f"camera-{number}")
    assert time.monotonic() - before < 20  # each cost half a second when secrets were a pattern
    assert 'camera="new-19"' in await running.metrics()
    assert len((await running.http.get(f"{API}/cameras")).json()) == MANY
