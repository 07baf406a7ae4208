"""The service writes below data_dir alone: not to its home, its working folder, /tmp, its models or its own code."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from app.simulator.process import SimulatorProcess
from tests.support.clips import write_test_clip
from tests.support.serve_process import ROOT, SETTLED, ServeProcess
from tests.support.wait import wait_in_thread

pytestmark = pytest.mark.alone

_WRITING = os.O_WRONLY | os.O_RDWR


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    clip = write_test_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", width=192, height=128, fps=10, seconds=1)
    with SimulatorProcess([clip], cameras=1) as running:
        yield running


def snapshot(*folders: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file and folder below these."""
    found = [path for folder in folders for path in (folder, *folder.rglob("*"))]
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in found}


def written_to(pid: int) -> set[str]:
    """Regular files, anywhere, that a process has open for writing."""
    return {name for entry in Path(f"/proc/{pid}/fd").iterdir() if (name := _written_by(entry))}


def _written_by(entry: Path) -> str | None:
    try:
        flags = (entry.parents[1] / "fdinfo" / entry.name).read_text().split("flags:")[1].split()[0]
        writes = int(flags, 8) & _WRITING and stat.S_ISREG(entry.stat().st_mode)
        return os.readlink(entry) if writes else None
    except OSError:  # closed meanwhile
        return None


def homes(tmp_path: Path) -> Mapping[str, str]:
    """Every place that a program might think is its own."""
    names = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "MPLCONFIGDIR")
    for name in names:
        (tmp_path / name).mkdir()
    return {name: str(tmp_path / name) for name in names}


def test_the_service_writes_below_data_dir_alone(tmp_path: Path, simulator: SimulatorProcess) -> None:
    places = homes(tmp_path)
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    data_dir = tmp_path / "data"
    environ = {**SETTLED, **places, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT)}
    watched = [*map(Path, places.values()), cwd, ROOT / "models", ROOT / "app"]
    before = snapshot(*watched)
    options = ("--backend.device", "cpu", "--models_dir", str(ROOT / "models"))
    with ServeProcess(data_dir, *options, environ=environ, cwd=cwd) as service:
        service.register(id="cam", url=simulator.url("cam0"), username="admin", password="hunter2")
        service.wait_running("cam")
        wait_in_thread(lambda: service.frames()["cam"]["published"] > 3, 20, every_s=0.1)
        assert httpx.get(f"{service.url}/api/v1/cameras/cam/snapshot.jpg", timeout=10).status_code == 200
        log = str(tmp_path / "data-serve-")  # the test's own: our stderr
        strange = {
            name
            for name in written_to(service.process.pid)
            if not name.startswith((f"{data_dir}/", log, "/memfd:", "/dev/"))
        }
        assert strange == set()
        assert service.terminate() == 0
    after = snapshot(*watched)
    changed = {name for name in after.keys() | before.keys() if before.get(name) != after.get(name)}
    assert {name for name in changed if "__pycache__" not in name} == set()  # the simulator's, which is a test's own
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) & 0o077 for path in data_dir.iterdir() if path.is_file()}
    assert {name for name, mode in modes.items() if mode and name.startswith(("vidette.db", "secret.key"))} == set()
    assert {"vidette.db", "secret.key"} <= set(modes)
