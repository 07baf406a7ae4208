"""Ways to do the same work, timed side by side."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import ConfigError
from app.measure.decode_routes import VARIANTS, decode_routes, every_nth_frame, read_clip
from app.measure.preprocess_routes import REFERENCE, preprocess_routes
from app.measure.routes import Route, ratios, route_figures, route_rows, time_routes
from tests.support.clips import write_test_clip


class Work:
    """Routes that take the seconds they are told to, on a clock of their own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def route(self, name: str, seconds: float, units: int = 1) -> Route:
        def run() -> None:
            self.now += seconds
            self.order.append(name)

        return Route(name=name, run=run, units=units)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    return write_test_clip(path, width=160, height=96, fps=10, gop=5, seconds=1.0, b_frames=2)


def test_a_route_costs_its_time_by_the_piece() -> None:
    work = Work()
    routes = [work.route("slow", 0.004, units=4), work.route("quick", 0.0005)]
    samples = time_routes(routes, rounds=3, clock=lambda: work.now)
    assert samples == {"slow": pytest.approx((1000.0,) * 3), "quick": pytest.approx((500.0,) * 3)}
    assert ratios(samples)["quick"] == pytest.approx((0.5,) * 3)


def test_every_round_starts_with_another_route_after_all_ran_once() -> None:
    work = Work()
    time_routes([work.route(name, 0.001) for name in "abc"], rounds=3, clock=lambda: work.now)
    assert "".join(work.order) == "abc" + "abc" + "bca" + "cab"


def test_figures_and_rows_say_what_a_route_costs() -> None:
    samples = {"all of it": (10.0, 30.0, 20.0), "half": (5.0, 15.0, 30.0)}
    figures = route_figures("decode", samples)
    assert figures["decode.all_of_it.us"].samples == (10.0, 30.0, 20.0)
    assert figures["decode.half.ratio"].samples == (0.5, 0.5, 1.5)
    assert route_rows(samples, {"half": "but not the rest"}) == [
        "all of it        20 us  x1.00",
        "half             15 us  x0.50  but not the rest",
    ]


def test_every_way_to_decode_gives_the_frames_that_it_should(clip: Path) -> None:
    read = read_clip(clip, 100)
    assert len(read.packets) == 10
    routes, notes = decode_routes(read)
    assert [route.name for route in routes] == list(VARIANTS) == list(notes)
    assert notes["everything"].startswith("10 frames, luma off by 0.00 levels on average, 0.00")
    assert notes["keyframes alone"].startswith("2 frames, luma off by 0.00 levels on average, 0.00")
    assert notes["no loop filter"].startswith("10 frames, ")
    assert 2 < int(notes["references only"].split()[0]) < 10
    for route in routes:
        route.run()


def test_every_way_to_scale_gives_about_the_same_picture(clip: Path) -> None:
    frames = every_nth_frame(read_clip(clip, 100), 5)
    assert len(frames) == 2
    routes, notes = preprocess_routes(frames, 64)
    assert routes[0].name == "planes" and "half chroma swscale" in notes
    assert notes[REFERENCE] == "levels from the whole picture: mean 0.00, p99 0"
    means = {name: float(note.split()[6].rstrip(",")) for name, note in notes.items() if note.startswith("levels")}
    assert all(mean < 12 for mean in means.values()), means
    for route in routes:
        route.run()


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("no video at all\n")
    with pytest.raises(ConfigError, match=r"notes\.mp4 is no video that can be read"):
        read_clip(tmp_path / "notes.mp4", 10)
