"""`vidette compare` as a user sees it: tables, sentences, exit codes, baselines."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.cli import main
from app.measure.machine import Machine
from app.measure.results import Figure, result

HERE = Machine(
    cpu="A CPU",
    cores=2,
    memory_bytes=24 * 2**30,
    platform="Linux-6.1",
    python="CPython 3.11.7",
    vidette="0.1.0",
    commit="abc",
    versions={"numpy": "2.0"},
)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_logging: None) -> None:
    for name in os.environ:
        if name.startswith("VIDETTE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def write(name: str, *fps: float, kind: str = "bench", machine: Machine = HERE, **details: Any) -> str:
    figures = {
        "inferred_fps": Figure(unit="fps", better="higher", samples=fps),
        "memory": Figure(unit="MiB", better="lower", samples=(100.0,)),
    }
    Path(name).write_text(json.dumps(result(kind, machine, figures, **details)), encoding="utf-8")
    return name


def test_a_table_tells_what_changed_and_a_regression_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    base, new = write("base.json", 100, 101, 99, 100, 100), write("new.json", 80, 81, 79, 80, 80)
    assert main(["compare", base, new]) == 1
    out = capsys.readouterr().out
    assert "inferred_fps  fps    100   80  -20.0 %  WORSE !  5, p 0.031" in out
    assert "1 of 2 figures worse by more than 5 %: inferred_fps" in out
    assert main(["compare", new, base]) == 0
    assert main(["compare", base, new, "--threshold", "25"]) == 0


def test_one_sample_each_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", write("a.json", 100), write("b.json", 99)]) == 0
    out = capsys.readouterr().out
    assert "all figures have one sample each" in out


def test_only_takes_the_figures_that_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    files = [write("a.json", 100), write("b.json", 50)]
    assert main(["compare", *files, "--only", "mem*"]) == 0
    assert "inferred_fps" not in capsys.readouterr().out
    assert main(["compare", *files, "--only", "mem*", "--only", "*_fps"]) == 1
    assert main(["compare", *files, "--only", "nothing"]) == 2
    assert "--only: no figure is called nothing; there are inferred_fps" in capsys.readouterr().err


def test_pairs_in_further_files_are_repetitions(capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [(write(f"a{n}.json", 100 + n), write(f"b{n}.json", 90 + n)) for n in range(5)]
    further = [argument for pair in pairs[1:] for argument in ("--pair", *pair)]
    assert main(["compare", *pairs[0], *further]) == 1
    assert "5, p 0.031" in capsys.readouterr().out


def test_json_holds_the_changes_the_notes_and_the_regressions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", write("a.json", 100), write("b.json", 50), "--json", "--out", "out.json"]) == 1
    whole = json.loads(capsys.readouterr().out)
    assert whole["regressions"] == ["inferred_fps"]
    assert whole["changes"][0]["percent"] == -50
    assert whole == json.loads(Path("out.json").read_text(encoding="utf-8"))


def test_other_hardware_other_software_and_another_load_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    other = replace(HERE, cores=8, commit="def")
    base = write("a.json", 100, load={"cameras": 4})
    assert main(["compare", base, write("b.json", 100, machine=other, load={"cameras": 8})]) == 0
    out = capsys.readouterr().out
    assert "the machines differ, so the changes need not be the code's: cores: 2 -> 8" in out
    assert "not the same was measured: load.cameras: 4 -> 8" in out
    assert "software: commit: abc -> def" in out


def test_results_of_two_kinds_are_not_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", write("a.json", 1), write("b.json", 1, kind="profile")]) == 2
    assert "a.json is a result of bench and b.json one of profile" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "bad.json: there is no such file"),
        ("{", "bad.json: is not JSON"),
        ("[" * 100_000, "bad.json: is not JSON"),
        ("[]", "bad.json: is no result of a measurement"),
        ('{"version": 1, "machine": {}}', "bad.json: is an older Vidette's, in format 1; this one reads 2"),
    ],
)
def test_a_bad_file_is_named_in_one_sentence(
    text: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        Path("bad.json").write_text(text, encoding="utf-8")
    good = write("good.json", 1)
    assert main(["compare", good, "bad.json"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert main(["compare", "bad.json", good]) == 2


def test_a_baseline_is_stored_for_the_machine_and_the_kind_and_compared_with(
    capsys: pytest.CaptureFixture[str],
) -> None:
    new = write("new.json", 100)
    assert main(["compare", new]) == 2
    assert "this machine has no baseline of kind bench" in capsys.readouterr().err
    assert main(["compare", "--save", new]) == 0
    assert len(list(Path("data/baselines").glob("*/bench.json"))) == 1
    assert main(["compare", write("worse.json", 50)]) == 1
    assert main(["compare", write("other.json", 50, kind="profile")]) == 2
    assert main(["compare", new, "--data-dir", "elsewhere"]) == 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["a", "b", "c"], "compare takes one or two files, not 3"),
        (["--save", "a", "b"], "--save takes one file, not 2"),
        (["a", "b", "--threshold", "-1"], "--threshold must be a percentage of at least 0, not -1"),
        (["a", "b", "--threshold", "nan"], "--threshold must be"),
        (["a", "b", "--out", "nowhere/x.json"], "--out: there is no folder nowhere"),
    ],
)
def test_bad_options_are_refused(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *argv]) == 2
    assert message in capsys.readouterr().err
