"""Cameras as YAML: what is exported is what an import makes, and no password is in it unless it is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from app.cameras.entries import read_entries
from app.cameras.exchange import ImportPlan, as_yaml, plan_import, read_cameras
from app.cameras.settings import CameraSettings, MotionSettings
from app.errors import ConfigError


def camera(camera_id: str = "gate-1", **fields: Any) -> CameraSettings:
    url = f"rtsp://camera.test/{camera_id}"
    return CameraSettings.model_validate({"id": camera_id, "name": camera_id, "url": url, **fields})


def imported(text: str, folder: Path, *stored: CameraSettings, **options: Any) -> ImportPlan:
    file = folder / "cameras.yml"
    file.write_text(text, encoding="utf-8")
    entries = read_entries(read_cameras(file), media_dir=None, masked=True)
    return plan_import(entries, {each.id: each for each in stored}, **options)


FULL = camera(
    "full",
    name="Südtor: 1",
    username="admin",
    password=" p@ss:w/ö#%?\"' ",
    enabled=False,
    transport="udp",
    max_fps=2.5,
    motion=MotionSettings(hold_s=0.5),
    priority=9,
    min_score=1e-5,
    classes=["person", "on", "123"],
    labels={"floor": "2", "yes": "no", "ö": "1e3"},
)


def test_what_is_exported_with_secrets_comes_back_whole(tmp_path: Path) -> None:
    assert imported(as_yaml([FULL, camera()], with_secrets=True), tmp_path).new == (FULL, camera())


def test_an_export_is_short_and_says_what_is_in_it() -> None:
    text = as_yaml([camera(), FULL], with_secrets=False)
    assert text.splitlines()[1] == "# No password is in it; an import keeps those that are stored."
    document = yaml.safe_load(text)
    assert document["version"] == 1
    assert document["cameras"][0] == {"id": "gate-1", "name": "gate-1", "url": "rtsp://camera.test/gate-1"}
    assert "password" not in document["cameras"][1]
    assert "# It holds passwords." in as_yaml([FULL], with_secrets=True)


def test_no_secret_is_exported_unless_it_is_wanted() -> None:
    url = "rtsp://camera.test/user=admin&password=geheim1&channel=1"
    cameras = [camera(url=url), camera("other", password="hunter2")]
    text = as_yaml(cameras, with_secrets=False)
    assert "geheim1" not in text
    assert "hunter2" not in text
    assert "password=***&channel=1" in text
    assert {"geheim1", "hunter2"} <= set(
        as_yaml(cameras, with_secrets=True).replace("&", " ").replace("=", " ").split()
    )


def test_an_import_is_idempotent(tmp_path: Path) -> None:
    cameras = [FULL, camera(), camera("query", url="rtsp://h/1?password=geheim1&x=1")]
    for with_secrets in (False, True):
        plan = imported(as_yaml(cameras, with_secrets=with_secrets), tmp_path, *cameras)
        assert (plan.new, plan.changed, plan.same) == ((), (), tuple(cameras))


def test_an_import_keeps_a_password_that_the_file_does_not_tell(tmp_path: Path) -> None:
    text = as_yaml([FULL.model_copy(update={"priority": 1})], with_secrets=False)
    (changed,) = imported(text, tmp_path, FULL).changed
    assert (changed.priority, changed.password) == (1, FULL.password)


def test_cameras_that_the_file_does_not_name_stay(tmp_path: Path) -> None:
    plan = imported(as_yaml([camera("new")], with_secrets=False), tmp_path, camera("old"))
    assert [each.id for each in (*plan.new, *plan.changed, *plan.same)] == ["new"]


def test_a_secret_that_the_export_left_out_must_be_put_back(tmp_path: Path) -> None:
    one = camera(url="rtsp://h/1?password=geheim1")
    text = as_yaml([camera("first"), one], with_secrets=False)
    with pytest.raises(ConfigError, match=r"^cameras\[1\].url: the export left its secret out"):
        imported(text, tmp_path)
    elsewhere = one.model_copy(update={"url": "rtsp://other/1?password=geheim1"})
    with pytest.raises(ConfigError, match=r"^cameras\[1\].url: "):  # never another camera's secret
        imported(text, tmp_path, elsewhere)


def test_a_declared_camera_is_left_as_it_is_or_refused(tmp_path: Path) -> None:
    declared = camera(declared=True)
    same = imported(as_yaml([declared], with_secrets=False), tmp_path, declared)
    assert same.same == (declared,)
    text = as_yaml([declared.model_copy(update={"priority": 1})], with_secrets=False)
    with pytest.raises(ConfigError, match=r"^cameras\[0\].id: 'gate-1' is declared in the configuration file"):
        imported(text, tmp_path, declared)


def test_where_passwords_are_not_known_they_make_no_difference(tmp_path: Path) -> None:
    shown = FULL.model_copy(update={"password": None})
    text = as_yaml([FULL], with_secrets=True)
    assert imported(text, tmp_path, shown, passwords_known=False).same == (FULL,)
    assert imported(text, tmp_path, shown).changed == (FULL,)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("cameras: [{id: a, url: 'http://h'}]", "cameras[0].url: scheme must be rtsp or rtsps, not http"),
        ("cameras: [{id: a, url: 'rtsp://h'}, {id: b}]", "cameras[1].url: must be given"),
        ("cameras: [{url: 'rtsp://h'}]", "cameras[0].id: must be given"),
        ("cameras: [{id: a, url: 'rtsp://h', priority: 11}]", "cameras[0].priority: "),
        ("cameras: [{id: a, url: 'rtsp://h', declared: true}]", "cameras[0].declared: unknown key"),
        ("cameras: {a: 1}", "cameras: must be a list"),
        ("version: 2\ncameras: []", "version: "),
        ("version: 1", "cameras: must be given"),
        ("[]", "the configuration must be a mapping"),
        ("cameras: [", "not valid YAML"),
        ("", "cameras: must be given"),
    ],
)
def test_a_file_that_cannot_be_imported_is_refused_with_the_place(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        imported(text, tmp_path)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=20).map(str.strip)
NAMES = TEXT.filter(bool)


@settings(max_examples=60)
@given(
    name=NAMES,
    username=st.none() | TEXT.filter(lambda text: ":" not in text),
    labels=st.dictionaries(TEXT, TEXT, max_size=3),
    classes=st.none() | st.lists(NAMES, min_size=1, max_size=3),
    max_fps=st.none() | st.floats(0.001, 240),
    min_score=st.none() | st.floats(0, 1),
    enabled=st.booleans(),
)
def test_whatever_a_camera_holds_comes_back_from_its_export(
    tmp_path_factory: pytest.TempPathFactory, **fields: Any
) -> None:
    one = camera(**fields)
    assert imported(as_yaml([one], with_secrets=True), tmp_path_factory.mktemp("exchange")).new == (one,)
