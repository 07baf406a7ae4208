"""`vidette model add`: a model comes in complete and checked, or not at all."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from app.errors import DownloadFailed, ModelError
from app.inference.catalog import RELEASES, Release, add_model, slug
from app.inference.model import ModelSpec, resolve_model
from tests.support.onnx_models import bright_cells, declared, saved


def _accept(_spec: ModelSpec) -> None:
    pass


def _entries(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    return saved(bright_cells(), tmp_path / "files" / "Bright Cells.onnx")


def test_a_file_is_copied_and_described(onnx: Path, models_dir: Path) -> None:
    checked: list[str] = []
    spec = add_model(str(onnx), models_dir, check=lambda found: checked.append(found.name))
    assert spec.path == models_dir / "bright-cells" / "Bright Cells.onnx"
    assert spec.path.read_bytes() == onnx.read_bytes()
    assert checked == ["Bright Cells"]
    assert resolve_model("bright-cells", models_dir) == spec
    assert _entries(models_dir) == ["bright-cells"]


def test_what_a_directory_says_of_its_model_comes_along(onnx: Path, models_dir: Path) -> None:
    onnx.with_name("model.toml").write_text(
        f'name = "cells"\nfile = "{onnx.name}"\nclasses = ["blé \\"x\\"", "red"]\nlicence = "CC0-1.0"\n'
        '[input]\ncolour = "rgb"\nletterbox = "centre"\npad = 7\nmean = [1, 2, 3]\nstd = [4, 5, 6.5]\n',
        encoding="utf-8",
    )
    before = resolve_model(str(onnx.parent), models_dir)
    after = add_model(str(onnx.parent), models_dir, check=_accept)
    assert after.classes == ('blé "x"', "red")
    for field in ("family", "classes", "licence", "colour", "letterbox", "pad", "mean", "std", "sha256"):
        assert getattr(after, field) == getattr(before, field), field


def test_adding_the_same_model_again_changes_nothing(onnx: Path, models_dir: Path) -> None:
    first = add_model(str(onnx), models_dir, check=_accept)
    stamp = first.path.stat().st_mtime_ns
    assert add_model(str(onnx), models_dir, check=_accept) == first
    assert first.path.stat().st_mtime_ns == stamp


def test_another_model_of_the_same_name_is_refused(onnx: Path, models_dir: Path) -> None:
    add_model(str(onnx), models_dir, check=_accept)
    saved(bright_cells(batch="N"), onnx)
    with pytest.raises(ModelError, match="bright-cells holds another model already; remove it first"):
        add_model(str(onnx), models_dir, check=_accept)


def test_a_model_that_fails_its_check_leaves_nothing(onnx: Path, models_dir: Path) -> None:
    def refuse(spec: ModelSpec) -> None:
        raise ModelError(f"model {spec.name} cannot be run")

    with pytest.raises(ModelError, match="cannot be run"):
        add_model(str(onnx), models_dir, check=refuse)
    assert _entries(models_dir) == []


def test_a_model_of_no_family_leaves_nothing(tmp_path: Path, models_dir: Path) -> None:
    path = saved(declared({"out": (1, 1000)}), tmp_path / "classifier.onnx")
    with pytest.raises(ModelError, match="supported are"):
        add_model(str(path), models_dir, check=_accept)
    assert _entries(models_dir) == []


def test_an_unknown_name_lists_the_known_ones(models_dir: Path) -> None:
    with pytest.raises(
        ModelError, match="neither a file nor one that can be downloaded: yolox_nano, yolox_tiny, yolox_s"
    ):
        add_model("yolo_huge", models_dir, check=_accept)


def test_a_directory_that_cannot_be_made_is_named(onnx: Path) -> None:
    # /proc refuses even root, whom permission bits would not stop.
    with pytest.raises(ModelError, match="/proc/vidette-models cannot be written to: "):
        add_model(str(onnx), Path("/proc/vidette-models"), check=_accept)


def test_a_file_in_the_place_of_the_directory_is_named(onnx: Path, models_dir: Path) -> None:
    models_dir.write_text("")
    with pytest.raises(ModelError, match="models cannot be written to: File exists"):
        add_model(str(onnx), models_dir, check=_accept)


@pytest.mark.parametrize(
    ("name", "directory"), [("YOLOv8n 640", "yolov8n-640"), ("a_b-C", "a_b-c"), ("über/é", "ber"), ("!!", "model")]
)
def test_a_name_becomes_a_directory(name: str, directory: str) -> None:
    assert slug(name) == directory


def test_known_releases_pin_a_hash() -> None:
    assert set(RELEASES) == {"yolox_nano", "yolox_tiny", "yolox_s"}
    for release in RELEASES.values():
        assert release.url.startswith("https://") and len(release.sha256) == 64 and release.size > 1_000_000


# Downloads, from a server on this machine


class _Files(BaseHTTPRequestHandler):
    content = b""
    promised: int | None = None  # a Content-Length that is not kept

    def do_GET(self) -> None:
        if self.path == "/gone.onnx":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(self.promised or len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(onnx: Path) -> Iterator[str]:
    _Files.content, _Files.promised = onnx.read_bytes(), None
    with ThreadingHTTPServer(("127.0.0.1", 0), _Files) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, name="files")
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def _release(url: str, **changes: object) -> dict[str, Release]:
    known = {
        "url": url,
        "sha256": hashlib.sha256(_Files.content).hexdigest(),
        "size": len(_Files.content),
        "licence": "Apache-2.0",
    }
    return {"cells": Release(**{**known, **changes})}  # type: ignore[arg-type]


def test_a_known_name_is_downloaded_with_progress(server: str, models_dir: Path) -> None:
    steps: list[tuple[int, int]] = []
    spec = add_model(
        "cells",
        models_dir,
        check=_accept,
        progress=lambda done, total: steps.append((done, total)),
        releases=_release(f"{server}/cells.onnx"),
    )
    assert spec.path == models_dir / "cells" / "cells.onnx" and spec.licence == "Apache-2.0"
    assert steps[-1] == (len(_Files.content), len(_Files.content))
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)


@pytest.mark.parametrize("changes", [{"sha256": "0" * 64}, {"size": 10}, {"size": 10_000_000}])
def test_a_file_that_is_not_the_known_one_is_refused(server: str, models_dir: Path, changes: dict[str, object]) -> None:
    with pytest.raises(DownloadFailed, match="is not the one that Vidette knows"):
        add_model("cells", models_dir, check=_accept, releases=_release(f"{server}/cells.onnx", **changes))
    assert _entries(models_dir) == []


def test_a_file_that_is_gone_is_refused(server: str, models_dir: Path) -> None:
    with pytest.raises(DownloadFailed, match=r"cannot be downloaded: http://.*/gone\.onnx says 404"):
        add_model("cells", models_dir, check=_accept, releases=_release(f"{server}/gone.onnx"))
    assert _entries(models_dir) == []


def test_a_download_that_breaks_off_leaves_nothing(server: str, models_dir: Path) -> None:
    _Files.promised = len(_Files.content) + 1000
    with pytest.raises(DownloadFailed, match="cannot be downloaded from"):
        add_model("cells", models_dir, check=_accept, releases=_release(f"{server}/cells.onnx"))
    assert _entries(models_dir) == []


def test_without_a_network_the_sentence_says_what_to_do(models_dir: Path) -> None:
    _Files.content = b"x"
    with pytest.raises(DownloadFailed, match="without a network, copy the file here and add it by its path"):
        # Port 1 of this machine: nobody listens.
        add_model("cells", models_dir, check=_accept, releases=_release("http://127.0.0.1:1/cells.onnx"))
    assert _entries(models_dir) == []
