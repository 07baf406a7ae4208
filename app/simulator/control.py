"""Commands to a running simulator: one JSON object a line in, one JSON object a line out.

    {"command": "fault", "camera": "cam0", "fault": "drop=0.05"}
    {"command": "load", "clip": "wide.mp4"}                             known as "wide" to resolution=wide
    {"command": "add", "camera": "gate", "clip": "gate.mp4", "phase_s": 0.1, "audio_first": true, "sprop": false}
    {"command": "remove", "camera": "gate"}
    {"command": "stats"}

An answer is {"ok": true, ...} or {"ok": false, "error": "a sentence"}; an "id" in the command comes back in it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from app.simulator.clip import Clip, load_clip
from app.simulator.errors import SimulatorError
from app.simulator.server import RtspServer

Json = dict[str, Any]
T = TypeVar("T")


class Control:
    """Carries out commands on one server. Not thread-safe: it belongs to the server's event loop."""

    def __init__(self, server: RtspServer) -> None:
        self._server = server
        self._loaded: dict[Path, Clip] = {}
        self._commands: dict[str, Callable[[Mapping[str, Any]], Awaitable[Json]]] = {
            "fault": self._fault,
            "load": self._load,
            "add": self._add,
            "remove": self._remove,
            "stats": self._stats,
        }

    async def clip(self, path: Path) -> Clip:
        """Load a clip, once, and make it known to the server by its file's stem (`-2` and so on behind a namesake)."""
        path = await asyncio.to_thread(path.resolve)
        clip = self._loaded.get(path)
        if clip is None:
            name, count = path.stem, 1
            while name in self._server.clips:
                count += 1
                name = f"{path.stem}-{count}"
            clip = await asyncio.to_thread(load_clip, path, name=name)
            self._server.add_clip(clip)
            self._loaded[path] = clip
        return clip

    async def answer(self, line: bytes) -> Json:
        """Carry out one command. Whatever is wrong with it is in the answer."""
        try:
            command = json.loads(line)
        except ValueError:
            return {"ok": False, "error": "a command must be a JSON object on one line"}
        if not isinstance(command, dict):
            return {"ok": False, "error": "a command must be a JSON object"}
        identity = {"id": command["id"]} if "id" in command else {}
        try:
            carry_out = self._commands.get(_value(command, "command", str))
            if carry_out is None:
                raise SimulatorError(
                    f"command {command['command']!r} is unknown; there are {', '.join(self._commands)}"
                )
            return {**identity, "ok": True, **await carry_out(command)}
        except SimulatorError as exc:
            return {**identity, "ok": False, "error": str(exc)}

    async def _fault(self, command: Mapping[str, Any]) -> Json:
        self._server.set_fault(_value(command, "camera", str), _value(command, "fault", str))
        return {}

    async def _load(self, command: Mapping[str, Any]) -> Json:
        return {"clip": (await self.clip(Path(_value(command, "clip", str)))).name}

    async def _add(self, command: Mapping[str, Any]) -> Json:
        name = _value(command, "camera", str)
        self._server.add_camera(
            name,
            await self.clip(Path(_value(command, "clip", str))),
            phase_s=_value(command, "phase_s", float, 0.0),
            audio_first=_value(command, "audio_first", bool, False),
            sprop=_value(command, "sprop", bool, True),
        )
        return {"url": self._server.url(name)}

    async def _remove(self, command: Mapping[str, Any]) -> Json:
        self._server.remove_camera(_value(command, "camera", str))
        return {}

    async def _stats(self, command: Mapping[str, Any]) -> Json:
        return {"cameras": {name: asdict(stats) for name, stats in self._server.stats().items()}}


def _value(command: Mapping[str, Any], key: str, kind: type[T], default: T | None = None) -> T:
    value = command.get(key, default)
    if kind is float and type(value) is int:
        value = float(value)
    if not isinstance(value, kind):
        raise SimulatorError(f"a command needs {key!r} as {kind.__name__}, not {value!r}")
    return value


async def serve_control(control: Control, reader: asyncio.StreamReader, write: Callable[[Json], None]) -> None:
    """Answer each line, in order, until the input ends."""
    while True:
        try:
            line = await reader.readline()
        except ValueError:  # asyncio's way to say that a line is beyond the reader's limit; it has dropped it
            write({"ok": False, "error": "a command is too long"})
            continue
        if not line:
            return
        write(await control.answer(line))
