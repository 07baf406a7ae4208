"""Capturing and launching graphs, on a scripted `cuda.bindings.driver`: 12.9 and 13 have the same calls."""

from __future__ import annotations

import logging
from enum import Enum, IntEnum
from typing import Any

import pytest

from app.backends.cuda.driver import OutOfDeviceMemory
from app.backends.cuda.graphs import bindings, capture
from app.errors import DeviceLost, EngineError

TEXTS = {2: "out of memory", 700: "an illegal memory access was encountered", 900: "operation not permitted"}


class CUresult(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_ILLEGAL_ADDRESS = 700
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901


OK = CUresult.CUDA_SUCCESS


class CaptureMode(Enum):
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1


class FakeBindings:
    """`answers` maps a call to the result it gives; everything else succeeds. `calls` is what was called, in order."""

    CUstreamCaptureMode = CaptureMode

    def __init__(self, *, nodes: int = 5, **answers: CUresult) -> None:
        self.nodes = nodes
        self.answers = answers
        self.calls: list[str] = []
        self.capturing = False
        self.graphs = self.executables = 0  # that exist
        self.streams: list[int] = []
        self.modes: list[CaptureMode] = []

    def CUstream(self, init_value: int) -> int:
        return init_value

    def cuStreamBeginCapture(self, hStream: int, mode: CaptureMode) -> tuple[CUresult]:
        self.modes.append(mode)
        result = self._answer("cuStreamBeginCapture")
        self.capturing = not result
        return (result,)

    def cuStreamEndCapture(self, hStream: int) -> tuple[CUresult, Any]:
        assert self.capturing
        self.capturing = False
        result = self._answer("cuStreamEndCapture")
        if result:
            return result, None
        self.graphs += 1
        return result, "graph"

    def cuGraphGetNodes(self, hGraph: str, numNodes: int = 0) -> tuple[CUresult, Any, Any]:
        result = self._answer("cuGraphGetNodes")
        return (result, None, None) if result else (result, [], self.nodes)

    def cuGraphInstantiate(self, hGraph: str, flags: int) -> tuple[CUresult, Any]:
        result = self._answer("cuGraphInstantiate")
        if result:
            return result, None
        self.executables += 1
        return result, "executable"

    def cuGraphLaunch(self, hGraphExec: str, hStream: int) -> tuple[CUresult]:
        assert hGraphExec == "executable"
        self.streams.append(hStream)
        return (self._answer("cuGraphLaunch"),)

    def cuGraphDestroy(self, hGraph: str) -> tuple[CUresult]:
        self.graphs -= 1
        return (self._answer("cuGraphDestroy"),)

    def cuGraphExecDestroy(self, hGraphExec: str) -> tuple[CUresult]:
        self.executables -= 1
        return (self._answer("cuGraphExecDestroy"),)

    def cuGetErrorString(self, error: CUresult) -> tuple[CUresult, bytes | None]:
        text = TEXTS.get(int(error))
        return OK, text.encode() if text else None

    def _answer(self, call: str) -> CUresult:
        self.calls.append(call)
        return self.answers.get(call, OK)


class Stream:
    """A stream with nothing but a handle."""

    def __init__(self, handle: int = 77) -> None:
        self.handle = handle

    def synchronize(self) -> None: ...

    def close(self) -> None: ...


def nothing() -> None: ...


def test_work_is_captured_once_and_launched_often() -> None:
    api, worked = FakeBindings(), []

    def work() -> None:
        assert api.capturing
        worked.append(1)

    graph = capture(work, stream=Stream(), api=api)
    assert graph.nodes == 5 and len(worked) == 1 and not api.capturing
    for handle in (77, 77, 78):
        graph.launch(stream=Stream(handle))
    assert api.streams == [77, 77, 78] and len(worked) == 1
    assert (api.graphs, api.executables) == (0, 1)  # the template is gone at once
    graph.close()
    graph.close()
    assert api.executables == 0


def test_only_this_thread_is_held_to_what_may_be_captured() -> None:
    api = FakeBindings()
    capture(nothing, stream=Stream(), api=api)
    assert api.modes == [CaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL]


def test_a_graph_without_nodes_is_an_error() -> None:
    api = FakeBindings(nodes=0)
    with pytest.raises(EngineError, match="nothing was captured"):
        capture(nothing, stream=Stream(), api=api)
    assert (api.graphs, api.executables, api.capturing) == (0, 0, False)


@pytest.mark.parametrize(
    "call", ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphGetNodes", "cuGraphInstantiate"]
)
@pytest.mark.parametrize(
    ("result", "error"),
    [
        (CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, EngineError),
        (CUresult.CUDA_ERROR_OUT_OF_MEMORY, OutOfDeviceMemory),
        (CUresult.CUDA_ERROR_ILLEGAL_ADDRESS, DeviceLost),
    ],
)
def test_every_result_of_a_capture_is_checked(call: str, result: CUresult, error: type[EngineError]) -> None:
    api = FakeBindings(**{call: result})
    with pytest.raises(EngineError, match=TEXTS[int(result)]) as caught:
        capture(nothing, stream=Stream(), api=api)
    assert type(caught.value) is error
    assert (api.graphs, api.executables, api.capturing) == (0, 0, False)


@pytest.mark.parametrize("answers", [{}, {"cuStreamEndCapture": CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED}])
def test_work_that_fails_ends_the_capture_with_its_own_error(answers: dict[str, CUresult]) -> None:
    api = FakeBindings(**answers)

    def work() -> None:
        raise EngineError("the engine refuses")

    with pytest.raises(EngineError, match="the engine refuses"):
        capture(work, stream=Stream(), api=api)
    assert (api.graphs, api.executables, api.capturing) == (0, 0, False)


def test_a_launch_that_is_refused_is_an_error_of_that_launch() -> None:
    api = FakeBindings()
    graph = capture(nothing, stream=Stream(), api=api)
    api.answers["cuGraphLaunch"] = CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
    with pytest.raises(EngineError, match="launching a CUDA graph failed: CUDA error 901"):
        graph.launch(stream=Stream())
    api.answers.clear()
    graph.launch(stream=Stream())
    api.answers["cuGraphLaunch"] = CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(DeviceLost):
        graph.launch(stream=Stream())


def test_closing_on_a_lost_device_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    api = FakeBindings(cuGraphExecDestroy=CUresult.CUDA_ERROR_ILLEGAL_ADDRESS)
    graph = capture(nothing, stream=Stream(), api=api)
    with caplog.at_level(logging.WARNING):
        graph.close()
    assert "could not be freed: an illegal memory access" in caplog.text


def test_the_default_stream_is_refused() -> None:
    api = FakeBindings()
    graph = capture(nothing, stream=Stream(), api=api)
    with pytest.raises(EngineError, match="default stream"):
        graph.launch(stream=Stream(0))
    with pytest.raises(EngineError, match="default stream"):
        capture(nothing, stream=Stream(0), api=api)
    assert not api.streams and not api.capturing


def test_missing_bindings_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cuda.bindings", None)
    with pytest.raises(EngineError, match="CUDA graphs need cuda-bindings, which cannot be imported"):
        bindings()
