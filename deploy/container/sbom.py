"""Writes a software bill of materials (CycloneDX 1.5, JSON) from a lock file: what the image and `make install` hold.

python deploy/container/sbom.py requirements.lock [app/__init__.py] > sbom.cdx.json

The second file tells our own version. Needs nothing but Python. The same lock gives the same bytes: no date, and a
serial number made of what is listed.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PIN = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)\s*(?:;\s*(.*?))?\s*\\?")
_HASH = re.compile(r"\s+--hash=sha256:([0-9a-f]{64})\s*\\?")
_NAMESPACE = uuid.UUID("a3c8e7d2-1f6b-5c4e-9d0a-76b1f2e4c5d8")


@dataclass(frozen=True, kw_only=True)
class Pin:
    """One package of a lock file. `marker` says on which machines it is wanted; empty: on all."""

    name: str
    version: str
    marker: str
    sha256: tuple[str, ...]

    @property
    def purl(self) -> str:
        return f"pkg:pypi/{normal(self.name)}@{self.version}"


def normal(name: str) -> str:
    """A package's name as PEP 503 compares them."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(text: str) -> list[Pin]:
    """The packages of a lock file. Raises ValueError with the line that is neither a pin nor one of its hashes."""
    found: list[tuple[str, str, str, list[str]]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if (hashed := _HASH.fullmatch(line)) and found:
            found[-1][3].append(hashed[1])
        elif pin := _PIN.fullmatch(line):
            found.append((pin[1], pin[2], pin[3] or "", []))
        else:
            raise ValueError(f"line {number} is neither a pinned package nor a hash of one: {line.strip()[:80]}")
    return [Pin(name=name, version=version, marker=marker, sha256=tuple(s)) for name, version, marker, s in found]


def bill(pins: list[Pin], *, version: str | None = None) -> dict[str, Any]:
    """The document; `version` is our own."""
    components = [_component(pin) for pin in sorted(pins, key=lambda pin: (normal(pin.name), pin.version))]
    root = "pkg:generic/vidette" + (f"@{version}" if version else "")
    ours = {"type": "application", "bom-ref": root, "name": "vidette", **({"version": version} if version else {})}
    listed = json.dumps([root, components], sort_keys=True)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, hashlib.sha256(listed.encode()).hexdigest())}",
        "version": 1,
        "metadata": {"component": {**ours, "purl": root, "licenses": [{"license": {"id": "Apache-2.0"}}]}},
        "components": components,
        "dependencies": [{"ref": root, "dependsOn": [component["bom-ref"] for component in components]}],
    }


def _component(pin: Pin) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": pin.purl,
        "name": normal(pin.name),
        "version": pin.version,
        "purl": pin.purl,
        # One of these is the file that was installed: which one depends on the machine.
        "hashes": [{"alg": "SHA-256", "content": digest} for digest in pin.sha256],
    }
    if pin.marker:
        component["properties"] = [{"name": "vidette:marker", "value": pin.marker}]
    return component


def version_in(text: str) -> str | None:
    """Our version, as `app/__init__.py` says it."""
    found = re.search(r'__version__ = "([^"]+)"', text)
    return found[1] if found else None


def main(argv: list[str]) -> int:
    texts = [Path(name).read_text(encoding="utf-8") for name in argv]
    document = bill(read_lock(texts[0]), version=version_in(texts[1]) if len(texts) > 1 else None)
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
