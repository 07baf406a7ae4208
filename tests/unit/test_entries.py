"""Cameras that a file declares: what is taken, what is refused by its place, and what becomes of the stored ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.cameras.entries import CameraEntry, read_entries, reconcile
from app.cameras.registration import password_of
from app.cameras.settings import CameraSettings
from app.errors import ConfigError
from app.settings import Settings, load_settings


def entry(camera_id: str = "gate-1", **fields: Any) -> CameraEntry:
    return CameraEntry.model_validate({"id": camera_id, "url": f"rtsp://camera.test/{camera_id}", **fields})


def stored(camera_id: str = "gate-1", **fields: Any) -> CameraSettings:
    url = f"rtsp://camera.test/{camera_id}"
    return CameraSettings.model_validate({"id": camera_id, "name": camera_id, "url": url, **fields})


def refusal(*entries: CameraEntry, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        read_entries(entries, media_dir=None, **options)
    return str(caught.value)


def settings_of(tmp_path: Path, text: str, **options: Any) -> Settings:
    file = tmp_path / "vidette.yml"
    file.write_text(text, encoding="utf-8")
    return load_settings(config=file, environ={}, secrets_dir=tmp_path / "none", **options)


# What the file may say


@pytest.mark.parametrize("text", ["cameras: [{0}]", "cameras: {{declared: [{0}]}}"])
def test_a_list_of_cameras_stands_in_the_file_in_either_form(tmp_path: Path, text: str) -> None:
    settings = settings_of(tmp_path, text.format("{id: gate-1, url: 'rtsp://camera.test/1', priority: 9}"))
    (camera,) = settings.cameras.declared
    assert (camera.id, camera.url, camera.priority) == ("gate-1", "rtsp://camera.test/1", 9)


def test_the_short_form_leaves_the_other_settings_of_cameras_to_other_places(tmp_path: Path) -> None:
    text = "cameras: [{id: gate-1, url: 'rtsp://camera.test/1'}]"
    settings = settings_of(tmp_path, text, overrides={"cameras": {"stall_timeout_s": 5}})
    assert settings.cameras.stall_timeout_s == 5
    assert len(settings.cameras.declared) == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("cameras: [{url: 'rtsp://h'}]", "cameras[0].id: must be given"),
        ("cameras: [{id: a}]", "cameras[0].url: must be given"),
        ("cameras: [{id: A B, url: 'rtsp://h'}]", "cameras[0].id: "),
        ("cameras: {declared: [{id: a, url: 'rtsp://h', prority: 1}]}", "cameras[0].prority: unknown key"),
        ("cameras: ['rtsp://u:hunter2@h']", "cameras[0]: must be a mapping of names to values"),
        ("cameras: {declared: gate}", "cameras.declared: must be a list"),
        ("cameras: [{id: a, url: 'http://h/1'}]", "cameras[0].url: scheme must be rtsp or rtsps, not http"),
        ("cameras: [{id: a, url: 'rtsp://h'}, {id: a, url: 'rtsp://h'}]", "cameras[1].id: 'a' is the id of cameras[0]"),
        ("cameras: [{id: a, url: 'rtsp://h', username: 'a:b'}]", "cameras[0].username: must not contain a colon"),
        ("cameras: [{id: a, url: 'file:x.mp4'}]", "cameras[0].url: scheme must be rtsp or rtsps, not file"),
        (
            "cameras: [{id: a, url: 'rtsp://h', password: hunter2, password_file: x}]",
            "cameras[0]: password and password",
        ),
        ("cameras: [{id: a, url: 'rtsp://h/?password=***'}]", "cameras[0].url: the export left its secret out"),
    ],
)
def test_a_bad_camera_stops_the_start_with_its_place(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_of(tmp_path, text)
    assert str(caught.value).startswith(sentence)
    assert "hunter2" not in str(caught.value)


def test_every_bad_camera_is_named_at_once() -> None:
    message = refusal(entry("a", url="x"), entry("b"), entry("c", url="ftp://h"))
    assert (
        message
        == "cameras[0].url: must start with rtsp:// or rtsps://; cameras[2].url: scheme must be rtsp or rtsps, not ftp"
    )


def test_declared_cameras_are_no_option_and_no_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="VIDETTE_CAMERAS__DECLARED: no such setting"):
        load_settings(environ={"VIDETTE_CAMERAS__DECLARED": "[]"}, secrets_dir=tmp_path)


def test_settings_show_no_password_of_a_declared_camera(tmp_path: Path) -> None:
    text = "cameras: [{id: a, url: 'rtsp://u:hunter2@h/1'}, {id: b, url: 'rtsp://h', password: hunter2}]"
    assert "hunter2" not in repr(settings_of(tmp_path, text))


# Passwords


@pytest.mark.parametrize("content", ["hunter2", "hunter2\n", "hunter2\r\n"])
def test_a_password_is_read_from_its_file_without_the_line_s_end(tmp_path: Path, content: str) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content.encode())
    (read,) = read_entries([entry(password_file=file)], media_dir=None)
    assert password_of(read.settings) == "hunter2"


def test_a_password_s_own_spaces_stay(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(" hunter 2 \n\n")
    assert "cameras[0].password: " in refusal(entry(password_file=file))  # a line break inside cannot be sent
    file.write_text(" hunter 2 \n")
    (read,) = read_entries([entry(password_file=file)], media_dir=None)
    assert password_of(read.settings) == " hunter 2 "


def test_a_password_file_that_cannot_be_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert refusal(entry(password_file=missing)) == (
        f"cameras[0].password_file: {missing} cannot be read: No such file or directory"
    )
    long, binary = tmp_path / "long", tmp_path / "binary"
    long.write_text("x" * 5000)
    binary.write_bytes(b"\xff\xfe")
    assert "is too long for a password" in refusal(entry(password_file=long))
    assert "is not text in UTF-8" in refusal(entry(password_file=binary))


def test_password_files_are_not_looked_for_when_only_settings_are_read(tmp_path: Path) -> None:
    text = f"cameras: [{{id: a, url: 'rtsp://h', password_file: {tmp_path / 'missing'}}}]"
    assert len(settings_of(tmp_path, text).cameras.declared) == 1


def test_a_class_that_the_model_lacks_is_refused_where_the_model_is_known() -> None:
    assert refusal(entry(classes=["unicorn"]), classes=("person", "car")) == (
        "cameras[0].classes: 'unicorn' is not a class of the model (person, car)"
    )
    assert len(read_entries([entry(classes=["unicorn"])], media_dir=None)) == 1


# What becomes of the stored cameras


def test_what_is_declared_is_made_and_marked() -> None:
    plan = reconcile([], read_entries([entry("a"), entry("b")], media_dir=None))
    assert [(camera.id, camera.declared) for camera in plan.put] == [("a", True), ("b", True)]
    assert (plan.delete, plan.cameras) == ((), plan.put)


def test_a_second_start_with_the_same_file_changes_nothing() -> None:
    declared = read_entries([entry("a", url="rtsp://u:p4ss@h/1"), entry("b", labels={"x": "y"})], media_dir=None)
    first = reconcile([], declared)
    again = reconcile(first.cameras, declared)
    assert (again.put, again.delete, again.cameras) == ((), (), first.cameras)


def test_what_is_declared_no_more_goes_and_what_was_registered_otherwise_stays() -> None:
    before = [stored("by-rest"), stored("old", declared=True), stored("kept", declared=True)]
    plan = reconcile(before, read_entries([entry("kept"), entry("new")], media_dir=None))
    assert plan.delete == ("old",)
    assert [camera.id for camera in plan.put] == ["new"]
    assert [camera.id for camera in plan.cameras] == ["by-rest", "kept", "new"]


def test_without_a_list_every_declared_camera_goes() -> None:
    plan = reconcile([stored("by-rest"), stored("old", declared=True)], ())
    assert (plan.put, plan.delete, [camera.id for camera in plan.cameras]) == ((), ("old",), ["by-rest"])


def test_a_registered_camera_that_is_declared_now_becomes_what_the_file_says() -> None:
    plan = reconcile([stored(priority=9, max_fps=3.0)], read_entries([entry(priority=2)], media_dir=None))
    (camera,) = plan.put
    assert (camera.declared, camera.priority, camera.max_fps) == (True, 2, None)


@pytest.mark.parametrize(
    ("fields", "password"), [({}, "hunter2"), ({"password": "new-one"}, "new-one"), ({"password": None}, None)]
)
def test_a_password_that_is_not_mentioned_stays(fields: dict[str, Any], password: str | None) -> None:
    plan = reconcile([stored(password="hunter2")], read_entries([entry(**fields)], media_dir=None))
    assert password_of(plan.cameras[0]) == password
