"""Engine files: what is whole is read, everything else is a sentence."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from app.backends.cuda.engine_file import (
    EngineFile,
    Identity,
    Machine,
    building,
    description_path,
    differences,
    engine_name,
    load_plan,
    read_engine_file,
    replace_file,
    require_fit,
    write_engine_file,
)
from app.errors import ModelError
from app.inference.model import ModelSpec, resolve_model
from tests.support.wait import wait_in_thread

ROOT = Path(__file__).resolve().parents[2]
PLAN = bytes(range(256)) * 100
T4 = Identity(
    model_sha256="ab" * 32,
    runtime="tensorrt",
    runtime_version="10.16.1.11",
    gpu="NVIDIA T4",
    compute_capability="7.5",
    precision="fp16",
    min_batch=1,
    opt_batch=8,
    max_batch=16,
    input_width=416,
    input_height=416,
)
RTX_CARDS = replace(T4, runtime="tensorrt_rtx", runtime_version="1.7.1.116", gpu=None, compute_capability="7.5+8.6+8.9")
T4_MACHINE = Machine(runtime="tensorrt", runtime_version="10.16.1.11", gpu="NVIDIA T4", compute_capability="7.5")


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return resolve_model(str(ROOT / "models" / "vidette-demo"), ROOT)


@pytest.fixture
def written(tmp_path: Path, spec: ModelSpec) -> EngineFile:
    return write_engine_file(tmp_path / "demo.engine", PLAN, identity=T4, spec=spec, notes=("agrees with the model",))


def test_what_was_written_is_read_with_all_that_the_model_needs(written: EngineFile, spec: ModelSpec) -> None:
    read = read_engine_file(written.path)
    assert read == written
    assert read.spec == spec  # the ONNX file itself is not needed any more
    assert read.nbytes == len(PLAN)
    assert load_plan(read) == PLAN


def test_an_engine_is_named_by_what_it_is_for() -> None:
    assert engine_name(T4, "YOLOX nano") == "yolox-nano-abababab-tensorrt10.16.1.11-nvidia-t4-fp16-b1-16.engine"
    assert engine_name(RTX_CARDS, "demo") == "demo-abababab-tensorrt_rtx1.7.1.116-sm75-86-89-fp16-b1-16.engine"


def _truncate(engine: EngineFile) -> None:
    engine.path.write_bytes(PLAN[:1000])


def _grow(engine: EngineFile) -> None:
    engine.path.write_bytes(PLAN + b"more")


def _damage(engine: EngineFile) -> None:
    engine.path.write_bytes(PLAN[:-1] + b"x")


def _remove_plan(engine: EngineFile) -> None:
    engine.path.unlink()


def _remove_both(engine: EngineFile) -> None:
    engine.path.unlink()
    description_path(engine.path).unlink()


def _remove_json(engine: EngineFile) -> None:
    description_path(engine.path).unlink()


def _write_garbage_json(engine: EngineFile) -> None:
    description_path(engine.path).write_bytes(b"\xff\x00 not JSON")


def _cut_json(engine: EngineFile) -> None:
    raw = description_path(engine.path).read_bytes()
    description_path(engine.path).write_bytes(raw[: len(raw) // 2])


def _change(engine: EngineFile, section: str, key: str, value: object) -> None:
    description = json.loads(description_path(engine.path).read_text())
    description[section][key] = value
    description_path(engine.path).write_text(json.dumps(description))


def _mistype(engine: EngineFile) -> None:
    _change(engine, "identity", "max_batch", "sixteen")


def _mistype_path(engine: EngineFile) -> None:
    _change(engine, "spec", "path", 7)


def _age(engine: EngineFile) -> None:
    description = json.loads(description_path(engine.path).read_text())
    description_path(engine.path).write_text(json.dumps({**description, "format": 7}))


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (_truncate, "demo.engine is truncated: 1000 bytes instead of 25600"),
        (_grow, "demo.engine is longer than it was built: 25604 bytes instead of 25600"),
        (_damage, "demo.engine is damaged: its bytes are not those that were built"),
        (_remove_plan, "demo.engine cannot be read: No such file or directory"),
        (_remove_both, "demo.engine does not exist"),
        (_remove_json, "has no demo.engine.json beside it, which says what it is"),
        (_write_garbage_json, "demo.engine.json is not what Vidette writes"),
        (_cut_json, "demo.engine.json is not what Vidette writes"),
        (_mistype, "Expected `int`, got `str` - at `$.identity.max_batch`"),
        (_mistype_path, "demo.engine.json is not what Vidette writes"),
        (_age, "demo.engine.json has format 7, this Vidette reads 1"),
    ],
)
def test_what_is_not_whole_is_refused_with_a_sentence(
    written: EngineFile, harm: Callable[[EngineFile], None], sentence: str
) -> None:
    harm(written)
    with pytest.raises(ModelError) as refused:
        read_engine_file(written.path)
    assert sentence in str(refused.value)
    assert str(written.path.parent) in str(refused.value)


def test_a_plan_that_changes_after_it_was_described_is_not_loaded(written: EngineFile) -> None:
    read = read_engine_file(written.path)
    _damage(written)
    with pytest.raises(ModelError, match="is damaged"):
        load_plan(read)


def test_a_new_plan_beside_the_old_description_is_no_engine(written: EngineFile) -> None:
    """What a process leaves that is killed between the two files."""
    replace_file(written.path, PLAN[::-1])
    with pytest.raises(ModelError, match="is damaged"):
        read_engine_file(written.path)


def test_whenever_a_writer_is_killed_the_engine_is_whole_or_refused(written: EngineFile) -> None:
    """Writes over and over, killed at moments that the scheduler chooses."""
    code = (
        "import itertools, sys; from pathlib import Path\n"
        "from app.backends.cuda.engine_file import read_engine_file, write_engine_file\n"
        "engine = read_engine_file(Path(sys.argv[1]))\n"
        "print('writing', flush=True)\n"
        "for number in itertools.count():\n"
        "    plan = bytes([number % 256]) * 4_000_000\n"
        "    write_engine_file(engine.path, plan, identity=engine.identity, spec=engine.spec)\n"
    )
    for pause in (0.001, 0.004, 0.009):
        original = write_engine_file(written.path, PLAN, identity=T4, spec=written.spec)
        command = [sys.executable, "-c", code, str(written.path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline() == b"writing\n"
            wait_in_thread(lambda: written.path.stat().st_size > len(PLAN), every_s=pause)
            process.kill()
            process.wait(20)
        try:
            plan = load_plan(read_engine_file(original.path))
        except ModelError as refused:  # the new plan beside the old description
            assert re.search("is damaged|is longer than it was built", str(refused))
        else:
            assert plan == plan[:1] * 4_000_000
        with building(written.path.parent):
            left = {path.name for path in written.path.parent.iterdir()}
        assert left == {"demo.engine", "demo.engine.json", ".vidette-build.lock"}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "x.engine"
    replace_file(target, b"old")
    with pytest.raises(TypeError):
        replace_file(target, "no bytes")  # type: ignore[arg-type]
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x.engine"]


def test_a_folder_that_cannot_be_written_to_is_a_sentence(tmp_path: Path, spec: ModelSpec) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=r"engine folder .*/file/engines cannot be written to: Not a directory"):
        write_engine_file(tmp_path / "file" / "engines" / "x.engine", PLAN, identity=T4, spec=spec)
    with pytest.raises(ModelError, match="cannot be written to"), building(tmp_path / "file" / "engines"):
        pass


def test_building_removes_what_a_killed_process_left_half_written(tmp_path: Path) -> None:
    (tmp_path / ".vidette-writing-abc").write_bytes(b"half")
    (tmp_path / "other.engine").write_bytes(b"whole")
    with building(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".vidette-build.lock", "other.engine"]


def test_a_second_builder_waits_for_the_first_and_says_so(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with building(tmp_path, on_wait=lambda: order.append("waits")):
            order.append("second")

    thread = threading.Thread(target=second)
    with building(tmp_path, on_wait=lambda: order.append("never")):
        thread.start()
        wait_in_thread(lambda: order == ["waits"])
        order.append("first")
    thread.join()
    assert order == ["waits", "first", "second"]


def test_equal_identities_do_not_differ() -> None:
    assert differences(T4, replace(T4)) == []


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (replace(T4, gpu="NVIDIA L4"), "the GPU is NVIDIA T4, wanted NVIDIA L4"),
        (replace(T4, runtime_version="11.4"), "its version is 10.16.1.11, wanted 11.4"),
        (replace(T4, model_sha256="cd" * 32), f"the model is {'ab' * 32}, wanted {'cd' * 32}"),
        (replace(T4, precision="int8"), "the precision is fp16, wanted int8"),
        (replace(T4, max_batch=8), "the largest batch is 16, wanted 8"),
        (replace(T4, input_width=640), "the input's width is 416, wanted 640"),
        (replace(T4, calibration="ef"), "the set of calibration images is none, wanted ef"),
        (replace(T4, recipe=99), "the recipe is 1, wanted 99"),
    ],
)
def test_a_difference_is_named(wanted: Identity, words: str) -> None:
    assert differences(T4, wanted) == [words]


def test_an_engine_fits_the_machine_that_it_was_built_for(written: EngineFile) -> None:
    require_fit(written, T4_MACHINE)
    for capability in ("7.5", "8.9"):
        machine = replace(
            T4_MACHINE, runtime="tensorrt_rtx", runtime_version="1.7.1.116", gpu="any", compute_capability=capability
        )
        require_fit(replace(written, identity=RTX_CARDS), machine)


@pytest.mark.parametrize(
    ("identity", "machine", "sentence"),
    [
        (T4, replace(T4_MACHINE, gpu="NVIDIA L4", compute_capability="8.9"), "NVIDIA T4, this is NVIDIA L4;"),
        (T4, replace(T4_MACHINE, runtime_version="11.4"), "TensorRT 10.16.1.11, this is TensorRT 11.4;"),
        (
            T4,
            replace(T4_MACHINE, runtime_version="11.4", gpu="NVIDIA L4", compute_capability="8.9"),
            "TensorRT 10.16.1.11 and NVIDIA T4, this is TensorRT 11.4 and NVIDIA L4;",
        ),
        (
            RTX_CARDS,
            replace(
                T4_MACHINE, runtime="tensorrt_rtx", runtime_version="1.7.1.116", gpu="H200", compute_capability="9.0"
            ),
            "compute capability 7.5 or 8.6 or 8.9, this is H200 with compute capability 9.0;",
        ),
        (RTX_CARDS, T4_MACHINE, "TensorRT-RTX 1.7.1.116, this is TensorRT 10.16.1.11;"),
    ],
)
def test_an_engine_of_another_machine_is_refused_by_what_differs(
    written: EngineFile, identity: Identity, machine: Machine, sentence: str
) -> None:
    with pytest.raises(ModelError) as refused:
        require_fit(replace(written, identity=identity), machine)
    assert f"demo.engine was built for {sentence} build it anew from model.onnx" in str(refused.value)
