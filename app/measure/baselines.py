"""Stored measurements to compare with: one of each kind for each machine."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.errors import AppError


def hardware(machine: Mapping[str, Any]) -> dict[str, Any]:
    """What of a machine its figures depend on and no change of ours can alter.

    Processor, cores, memory in GiB (kernels differ in what they keep for themselves) and system. Not Python and not the
    packages: they are part of what is measured, and shown.
    """
    memory = machine.get("memory_bytes")
    return {
        "cpu": machine.get("cpu"),
        "cores": machine.get("cores"),
        "memory_gib": round(memory / 2**30) if isinstance(memory, (int, float)) else None,
        "system": str(machine.get("platform") or "").partition("-")[0],
    }


def software(machine: Mapping[str, Any]) -> dict[str, Any]:
    """What else of it may explain a change: the commit and the versions."""
    versions = machine.get("versions")
    named = {key: machine.get(key) for key in ("commit", "vidette", "python", "platform")}
    return {**named, **(versions if isinstance(versions, dict) else {})}


def fingerprint(machine: Mapping[str, Any]) -> str:
    """Twelve hex digits that machines of the same hardware share."""
    return hashlib.sha256(json.dumps(hardware(machine), sort_keys=True).encode()).hexdigest()[:12]


def baseline_path(data_dir: Path, machine: Mapping[str, Any], kind: str) -> Path:
    """Where this machine's baseline of this kind lies, whether or not there is one."""
    return data_dir / "baselines" / fingerprint(machine) / f"{re.sub(r'[^a-z0-9_-]', '_', kind.lower())}.json"


def save_baseline(path: Path, whole: Mapping[str, Any]) -> None:
    """Store a result, in place of an older one. Raises `AppError`."""
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
        unfinished.replace(path)
    except OSError as exc:
        raise AppError(f"{path} cannot be written: {exc.strerror}") from None
