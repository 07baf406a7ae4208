"""The demo's table."""

from __future__ import annotations

import io
from typing import Any

from app.commands.wall import COLUMNS, Wall, plain, row


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def camera(state: str = "running", *, name: str = "yard", error: dict[str, str] | None = None, **status: Any) -> Any:
    known = {
        "state": state,
        "error": error,
        "retry_in_s": None,
        "measured_fps": 15.04,
        "inferred_fps": 14.96,
        "frames": {"dropped": {"rate_limit": 0, "replaced": 3, "stale": 0}},
    }
    return {"name": name, "status": {**known, **status}}


def result(total_ms: float) -> Any:
    return {"timing_ms": {"total": total_ms}}


def test_row_tells_the_median_latency_and_the_drops_that_happened() -> None:
    cells = dict(zip(COLUMNS, row(camera(), [result(20), result(90), result(31)], 4).cells, strict=True))
    assert cells == {
        "camera": "yard",
        "state": "running",
        "fps": "15.0",
        "inferred": "15.0",
        "latency p50": "31 ms",
        "boxes": "4",
        "dropped": "replaced 3",
    }


def test_row_of_a_camera_that_retries_tells_when_and_why() -> None:
    shown = row(camera("retrying", error={"code": "read_timeout", "message": "..."}, retry_in_s=2.4), [], None)
    assert shown.cells[1] == "retrying in 2 s: read_timeout"
    assert shown.cells[4:6] == ("-", "-")


def test_row_of_a_camera_that_connects_again_still_tells_what_went_wrong() -> None:
    shown = row(camera("connecting", error={"code": "end_of_stream", "message": "..."}), [], None)
    assert shown.cells[1] == "connecting: end_of_stream"


def test_plain_table_has_a_line_for_each_camera_and_aligned_columns() -> None:
    lines = plain([row(camera(name="a"), [], 1), row(camera(name="longer"), [], 12)]).splitlines()
    assert len(lines) == 3
    assert lines[1].index("running") == lines[2].index("running") == lines[0].index("state")
    assert lines[1].index("replaced") == lines[2].index("replaced")


def test_wall_prints_a_block_each_time_into_a_pipe() -> None:
    out = io.StringIO()
    with Wall(out) as wall:
        wall.show([row(camera(), [], 1)])
        wall.show([row(camera(), [], 2)])
    assert out.getvalue().count("camera  state") == 2
    assert "\x1b" not in out.getvalue()


def test_wall_redraws_one_table_on_a_terminal() -> None:
    out = Terminal()
    with Wall(out) as wall:
        wall.show([row(camera("retrying", error={"code": "read_timeout", "message": "..."}), [], 1)])
        wall.show([row(camera(), [], 2)])
        assert wall.interval_s < 1
    assert "\x1b[" in out.getvalue()
    assert "running" in out.getvalue()
