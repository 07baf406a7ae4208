"""`vidette import`: cameras from YAML, into a data folder or into a service that runs."""

from __future__ import annotations

import argparse
import json
import ssl
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
from pydantic import ValidationError

from app.auth.tokens import bearer
from app.cameras.database import FILE_NAME, copy_in_memory, open_database
from app.cameras.entries import ReadEntry, read_entries
from app.cameras.exchange import ImportPlan, plan_import, read_cameras
from app.cameras.registration import password_of
from app.cameras.settings import CameraSettings
from app.commands.doctor import read_secret
from app.errors import AppError, ConfigError, FolderInUse
from app.settings import Settings

_API = "/api/v1/cameras"
_TIMEOUT_S = 30.0


def import_cameras(settings: Settings, arguments: argparse.Namespace) -> int:
    """Make every camera of the file what the file says; others stay. 0; raises `ConfigError` (2) or `AppError` (1).

    Everything is checked before the first camera is touched. Into a folder it is all or nothing. A service takes
    one camera after the other; where it refuses one, the import ends, and may be run again.
    """
    listed, hosts = read_cameras(_file(arguments.file)), settings.cameras.hosts
    entries = read_entries(listed, media_dir=settings.media_dir, hosts=hosts, masked=True)
    if arguments.url is None:
        plan = _into_folder(settings, entries, dry_run=arguments.dry_run)
    else:
        with _client(arguments.url, arguments.token_file, arguments.ca_file) as client:
            plan = _into_service(client, entries, force=arguments.force, dry_run=arguments.dry_run)
    _tell(plan, as_json=arguments.json, dry_run=arguments.dry_run)
    return 0


def _file(path: Path) -> Path:
    return Path("/dev/stdin") if path == Path("-") else path


def _into_folder(settings: Settings, entries: Sequence[ReadEntry], *, dry_run: bool) -> ImportPlan:
    if dry_run:
        if not (settings.data_dir / FILE_NAME).exists():
            return plan_import(entries, {})
        with closing(copy_in_memory(settings.data_dir, key_file=settings.secrets.key_file)) as copy:
            return plan_import(entries, {camera.id: camera for camera in copy.all()})
    try:
        opened = open_database(settings.data_dir, key_file=settings.secrets.key_file)
    except FolderInUse as exc:
        raise ConfigError(f"{exc}; or import into the service with --url") from None
    with closing(opened) as database:
        plan = plan_import(entries, {camera.id: camera for camera in database.all()})
        database.apply(put=(*plan.new, *plan.changed))
    return plan


def _client(url: str, token_file: Path | None, ca_file: Path | None) -> httpx.Client:
    headers = {} if token_file is None else bearer(read_secret(token_file, "--token-file"))
    if not url.startswith(("http://", "https://")):
        raise ConfigError("--url: must start with http:// or https://, as in http://127.0.0.1:8080")
    try:
        verify = True if ca_file is None else _trusting(ca_file)
        return httpx.Client(base_url=url, timeout=_TIMEOUT_S, trust_env=False, headers=headers, verify=verify)
    except httpx.InvalidURL:  # its words may repeat a password
        raise ConfigError("--url: must be a host and a port, as in http://127.0.0.1:8080") from None


def _trusting(ca_file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        raise ConfigError(f"--ca-file: {ca_file} holds no certificate in PEM") from None
    except OSError as exc:
        raise ConfigError(f"--ca-file: {ca_file} cannot be read: {exc.strerror}") from None


def _address(client: httpx.Client) -> str:
    """The service as messages call it: what stands before the host may be a password, for a proxy with a login."""
    url = client.base_url
    return f"{url.scheme}://{url.netloc.decode('ascii')}{url.path.rstrip('/')}"


def _into_service(client: httpx.Client, entries: Sequence[ReadEntry], *, force: bool, dry_run: bool) -> ImportPlan:
    stored = _stored(client)
    plan = plan_import(entries, stored, passwords_known=False)
    if dry_run:
        return plan
    places = {entry.settings.id: f"cameras[{index}]" for index, entry in enumerate(entries)}
    says_password = {entry.settings.id for entry in entries if entry.says_password}
    query = {"force": "true"} if force else None
    for camera in plan.new:
        _ask(client, "POST", _API, what=places[camera.id], params=query, json=_body(camera, password=True))
    # The service tells no password, so one that the file has is always sent; a camera that has it already goes on.
    again = [camera for camera in plan.same if camera.id in says_password and not camera.declared]
    for camera in (*plan.changed, *again):
        body = _body(camera, password=camera.id in says_password)
        _ask(client, "PUT", f"{_API}/{camera.id}", what=places[camera.id], params=query, json=body)
    return plan


def _stored(client: httpx.Client) -> dict[str, CameraSettings]:
    views = _ask(client, "GET", _API)
    try:
        return {view["id"]: _settings_of(view) for view in views}
    except (TypeError, KeyError, ValidationError):
        raise AppError(f"{_address(client)} is not Vidette: its answer lists no cameras") from None


def _settings_of(view: dict[str, Any]) -> CameraSettings:
    fields = {name: view[name] for name in CameraSettings.model_fields if name in view}
    return CameraSettings.model_validate(fields)


def _body(camera: CameraSettings, *, password: bool) -> dict[str, Any]:
    body = camera.model_dump(mode="json", exclude={"password", "declared"})
    return {**body, "password": password_of(camera)} if password else body


def _ask(client: httpx.Client, method: str, path: str, *, what: str = "", **options: Any) -> Any:
    """One request to the service, and its answer. Raises `AppError` with the service's own sentence."""
    prefix = f"{what}: " if what else ""
    try:
        response = client.request(method, path, **options)
        answer = response.json()
    except httpx.HTTPError as exc:
        raise AppError(f"{prefix}{_address(client)} does not answer: {exc or type(exc).__name__}") from None
    except ValueError:
        raise AppError(f"{prefix}{_address(client)} is not Vidette: its answer is no JSON") from None
    if response.is_success:
        return answer
    detail = answer.get("detail") if isinstance(answer, dict) else None
    raise AppError(f"{prefix}{detail or f'the service answered {response.status_code}'}")


def _tell(plan: ImportPlan, *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        ids = {name: [camera.id for camera in getattr(plan, name)] for name in ("new", "changed", "same")}
        print(json.dumps({**ids, "dry_run": dry_run}, indent=2))
        return
    counts = f"{len(plan.new)} new, {len(plan.changed)} changed, {len(plan.same)} as they were"
    print(f"would import: {counts}" if dry_run else f"imported: {counts}")
