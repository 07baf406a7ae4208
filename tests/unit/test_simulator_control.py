"""JSON commands to a server, and what it answers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from app.simulator.control import Control, serve_control
from app.simulator.server import RtspServer
from tests.support.clips import write_test_clip


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_test_clip(tmp_path / "street.mp4", width=64, height=64, seconds=0.3)


async def ask(control: Control, **command: Any) -> dict[str, Any]:
    return await control.answer(json.dumps(command).encode())


async def test_camera_is_added_changed_and_removed(clip: Path) -> None:
    async with RtspServer() as server:
        control = Control(server)
        added = await ask(control, id=7, command="add", camera="gate", clip=str(clip), phase_s=0, audio_first=True)
        assert added == {"id": 7, "ok": True, "url": f"rtsp://127.0.0.1:{server.port}/gate"}
        assert await ask(control, command="fault", camera="gate", fault="drop=0.5") == {"ok": True}
        stats = await ask(control, command="stats")
        assert stats["cameras"]["gate"]["fault"] == "drop=0.5"
        assert await ask(control, command="remove", camera="gate") == {"ok": True}
        assert (await ask(control, command="stats"))["cameras"] == {}


async def test_clip_is_read_once_and_namesakes_are_told_apart(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    namesake = write_test_clip(tmp_path / "other" / "street.mp4", width=64, height=64, seconds=0.2)
    async with RtspServer() as server:
        control = Control(server)
        names = [(await ask(control, command="load", clip=str(path)))["clip"] for path in (clip, namesake, clip)]
        assert names == ["street", "street-2", "street"]
        assert await control.clip(clip) is await control.clip(tmp_path / "other" / ".." / "street.mp4")


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ({}, "a command needs 'command' as str, not None"),
        ({"command": "dance"}, "command 'dance' is unknown; there are fault, load, add, remove, stats"),
        ({"command": "fault", "camera": "cam9", "fault": "ok"}, "there is no camera cam9; there are: none"),
        ({"command": "fault", "camera": 3, "fault": "ok"}, "a command needs 'camera' as str, not 3"),
        ({"command": "remove", "camera": "cam9"}, "there is no camera cam9"),
        ({"command": "load", "clip": "/nowhere.mp4"}, "clip /nowhere.mp4 cannot be read: No such file"),
        (
            {"command": "add", "camera": "a", "clip": "/nowhere.mp4", "phase_s": "soon"},
            "clip /nowhere.mp4 cannot be read",
        ),
    ],
)
async def test_bad_command_is_answered_with_a_sentence(command: dict[str, Any], sentence: str) -> None:
    async with RtspServer() as server:
        answer = await ask(Control(server), id="x", **command)
    assert (answer["id"], answer["ok"]) == ("x", False)
    assert sentence in answer["error"]


async def test_option_of_the_wrong_kind_is_refused(clip: Path) -> None:
    async with RtspServer() as server:
        answer = await ask(Control(server), command="add", camera="a", clip=str(clip), sprop="no")
    assert answer == {"ok": False, "error": "a command needs 'sprop' as bool, not 'no'"}


@pytest.mark.parametrize("line", [b"\n", b"stall\n", b"[1]\n", b"\xff\n"])
async def test_line_that_is_no_object_is_refused(line: bytes) -> None:
    async with RtspServer() as server:
        answer = await Control(server).answer(line)
    assert answer["ok"] is False
    assert answer["error"].startswith("a command must be a JSON object")


async def test_lines_are_answered_in_order_until_the_input_ends() -> None:
    reader = asyncio.StreamReader(limit=64)
    reader.feed_data(b'{"id": 1, "command": "stats"}\n' + b"x" * 100 + b'\n{"id": 2, "command": "stats"}\n')
    reader.feed_eof()
    answers: list[dict[str, Any]] = []
    async with RtspServer() as server:
        await serve_control(Control(server), reader, answers.append)
    assert answers == [
        {"id": 1, "ok": True, "cameras": {}},
        {"ok": False, "error": "a command is too long"},
        {"id": 2, "ok": True, "cameras": {}},
    ]
