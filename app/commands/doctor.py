"""`vidette doctor`: what this machine can do, or what ails a camera."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from app.backends.select import choose
from app.cameras.doctor import Diagnosis, diagnose
from app.cameras.source import SourceRequest
from app.cameras.urls import parse_camera_url
from app.commands.checks import check_machine
from app.commands.columns import in_columns
from app.commands.hints import HINTS
from app.commands.serve import leave
from app.errors import ConfigError
from app.logs import configure_logging, register_secret
from app.measure.machine import this_machine
from app.settings import load_settings

_LONGEST_PASSWORD_FILE = 4096
_LAST_READ_S = 2.0


def doctor(arguments: argparse.Namespace) -> int:
    """Examine the machine, or the camera at `arguments.url`. 0: all is well, 1: something failed, 2: bad usage."""
    if arguments.url is None:
        return _examine_machine(as_json=arguments.json)
    request = camera_request(arguments)
    timeout_s: float = arguments.timeout
    if not (0 < timeout_s < math.inf):
        raise ConfigError(f"--timeout must be more than 0 seconds, not {timeout_s:g}")
    # What a source logs on its way is in the diagnosis too.
    configure_logging("critical")
    settings = load_settings()
    backend = choose(settings).backend
    request = replace(request, hosts=settings.cameras.hosts)
    diagnosis = asyncio.run(diagnose(request, open_source=backend.open_source, timeout_s=timeout_s))
    if arguments.json:
        print(json.dumps(as_json(diagnosis), indent=2))
    else:
        print(as_text(diagnosis))
    return leave(0 if diagnosis.ok else 1, abandoned=_still_reading())


def camera_request(arguments: argparse.Namespace) -> SourceRequest:
    """The camera that the command line means. Raises `ConfigError`, which never repeats a password."""
    media_dir: Path | None = arguments.media_dir
    try:
        camera = parse_camera_url(arguments.url, media_dir=media_dir)
    except ValueError as exc:
        raise ConfigError(str(exc)) from None
    password = camera.password
    if arguments.password_file is not None:
        password = read_secret(arguments.password_file, "--password-file")
    register_secret(password)
    return SourceRequest(
        camera_id="doctor",
        url=camera.url,
        username=arguments.username if arguments.username is not None else camera.username,
        password=password,
        transport=arguments.transport,
        media_dir=media_dir,
    )


def read_secret(path: Path, option: str) -> str:
    """The first line of a file. Raises `ConfigError` that names the option."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_LONGEST_PASSWORD_FILE)
    except FileNotFoundError:  # its name is not repeated: it may be the secret itself
        raise ConfigError(f"{option}: there is no file of this name; it takes a file that holds the secret") from None
    except OSError as exc:
        raise ConfigError(f"{option}: {path} cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{option}: {path} is not a text file") from None
    password = text.splitlines()[0] if text else ""
    if not password:
        raise ConfigError(f"{option}: the first line of {path} is empty")
    return password


def as_json(diagnosis: Diagnosis) -> dict[str, Any]:
    return {
        "ok": diagnosis.ok,
        "code": diagnosis.code,
        "message": diagnosis.message,
        "hint": None if diagnosis.code is None else HINTS[diagnosis.code],
        "steps": [asdict(step) for step in diagnosis.steps],
    }


def as_text(diagnosis: Diagnosis) -> str:
    lines = [
        (step.step.replace("_", " "), step.state, "" if step.ms is None else f"{step.ms:.1f} ms")
        for step in diagnosis.steps
    ]
    table = in_columns([("step", "result", "time"), *lines], right=(2,))
    if diagnosis.code is None:
        return f"{table}\n\n{diagnosis.message}"
    return f"{table}\n\n{diagnosis.message} ({diagnosis.code.value})\n{HINTS[diagnosis.code]}"


def _examine_machine(*, as_json: bool) -> int:
    machine = this_machine()
    checks = check_machine(machine)
    ok = all(check.state != "failed" for check in checks)
    if as_json:
        print(json.dumps({"ok": ok, "machine": asdict(machine), "checks": [asdict(each) for each in checks]}, indent=2))
    else:
        print(in_columns([(check.name, check.state, check.message) for check in checks]))
        if not ok:
            print("vidette: what failed above keeps the service from starting", file=sys.stderr)
    return 0 if ok else 1


def _still_reading() -> int:
    """How many of the examination's threads hang in a read, after a moment in which they may end."""
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("doctor:")]
    for thread in threads:
        thread.join(_LAST_READ_S)
    return sum(thread.is_alive() for thread in threads)
