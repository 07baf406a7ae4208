"""The dashboards: made by the script, explained, and complete."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.dashboards import main, render
from tests.contract.test_metrics_names import CONTRACT, GPU_SERIES
from tests.support.dashboards import FOLDER, load_dashboards, names_in, panels, queries
from tests.support.prometheus import SHIPPED, load_rules

GRAFANA = FOLDER.parent
DASHBOARDS = load_dashboards()
PANELS = [
    pytest.param(panel, id=f"{name}/{panel['title']}") for name in DASHBOARDS for panel in panels(DASHBOARDS[name])
]
# What prometheus-client gives of the process.
PROCESS = {
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_virtual_memory_bytes",
    "python_gc_collections_total",
    "python_gc_objects_collected_total",
    "python_gc_objects_uncollectable_total",
    "python_info",
}
METRICS = {*CONTRACT, *GPU_SERIES, "vidette_gpu_throttled", *PROCESS}
# On no dashboard, on purpose.
NOT_SHOWN = {
    "process_virtual_memory_bytes": "address space says nothing: libraries reserve what they never use",
    "python_gc_objects_collected_total": "the collections themselves are what costs time",
    "python_gc_objects_uncollectable_total": "Python has collected all cycles since 3.4",
    "vidette_camera_readers_ending": "an alert reads it, and it is nearly always nought",
    "vidette_metrics_errors_total": "a bug, which the log tells",
    "python_info": "GET /api/v1/system says it",
}
RECORDED = {rule["record"] for rule in load_rules("recording.yml")}


def test_the_committed_dashboards_are_those_of_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_a_missing_and_a_foreign_file_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--folder", str(tmp_path)]) == 0
    assert main(["--folder", str(tmp_path), "--check"]) == 0
    (tmp_path / "fleet.json").write_text(render()["fleet.json"].replace("Fleet", "Fleets"), encoding="utf-8")
    (tmp_path / "camera.json").unlink()
    (tmp_path / "mine.json").write_text("{}", encoding="utf-8")
    assert main(["--folder", str(tmp_path), "--check"]) == 1
    told = capsys.readouterr().err.splitlines()
    assert [Path(line.split(" is out of date")[0]).name for line in told] == ["camera.json", "fleet.json", "mine.json"]


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_is_explained_and_has_a_unit(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith("."), panel["description"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    assert all(target["expr"] for target in panel["targets"])
    letters = [target["refId"] for target in panel["targets"]]
    assert len(set(letters)) == len(letters)


@pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS)
def test_panels_lie_side_by_side_in_the_grid(dashboard: dict[str, Any]) -> None:
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


def test_every_query_reads_metrics_that_exist() -> None:
    unknown = {query: names for query in queries() if (names := names_in(query.expr) - METRICS - RECORDED)}
    assert not unknown


def test_names_are_found_wherever_an_expression_has_them() -> None:
    expr = (
        'sum by (le) (rate(vidette_batch_size_bucket{a="vidette_ws_clients"}[1m]))'
        " / instance:vidette_overload:ratio_rate5m * vidette_frames_dropped_total - process_open_fds"
    )
    assert names_in(expr) == {
        "vidette_batch_size",
        "instance:vidette_overload:ratio_rate5m",
        "vidette_frames_dropped_total",
        "process_open_fds",
    }


def test_every_metric_is_on_a_dashboard_or_left_out_on_purpose() -> None:
    read_by_rule = {rule["record"]: names_in(rule["expr"]) for rule in load_rules("recording.yml")}
    shown: set[str] = set()
    for query in queries():
        for name in names_in(query.expr):
            shown |= read_by_rule.get(name, {name})
    assert METRICS - shown == set(NOT_SHOWN)


def test_a_dashboard_s_variables_are_used_and_there_is_no_other() -> None:
    for name, dashboard in DASHBOARDS.items():
        (datasource, *others) = dashboard["templating"]["list"]
        assert datasource["type"] == "datasource"
        values = {each["name"]: "x" for each in others} | {"__rate_interval": "1m"}
        for query in (query for query in queries() if query.dashboard == name):
            query.with_values(values)  # fails for a variable that is not there
        for each in others:
            assert any(f"${each['name']}" in query.expr for query in queries() if query.dashboard == name)


@pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS)
def test_camera_states_and_service_starts_are_marked(dashboard: dict[str, Any]) -> None:
    marks = {each["name"]: each for each in dashboard["annotations"]["list"]}
    assert set(marks) == {"Camera not running", "Service started"}
    assert "vidette_camera_state" in marks["Camera not running"]["expr"]
    assert marks["Camera not running"]["titleFormat"] == "{{camera}}: {{state}}"


def test_links_between_the_dashboards_lead_somewhere() -> None:
    uids = {dashboard["uid"] for dashboard in DASHBOARDS.values()}
    text = "".join(render().values()) + "".join(str(rule["annotations"]) for rule in load_rules("alerts.yml"))
    linked = {part.split("?")[0].split('"')[0] for part in text.split("/d/")[1:]}
    assert linked == uids


def test_what_grafana_is_provisioned_with_fits_the_dashboards_and_prometheus() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    for dashboard in DASHBOARDS.values():
        assert dashboard["templating"]["list"][0]["current"]["value"] == source["uid"]
        assert "id" not in dashboard, "Grafana numbers dashboards itself"
    config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text(encoding="utf-8"))
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/vidette.yml").read_text())["providers"]
    compose = yaml.safe_load((FOLDER.parents[2] / "docker-compose.yml").read_text(encoding="utf-8"))
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in compose["services"]["grafana"]["volumes"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in compose["services"]
