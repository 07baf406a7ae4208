"""CUDA graphs, the one thing that pycuda does not have: captured and launched by cuda-bindings on pycuda's streams."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from app.backends.cuda.driver import Stream
from app.backends.cuda.faults import device_error
from app.errors import EngineError

if TYPE_CHECKING:  # written from the real packages, where `tests/integration/test_api_conformance.py` checks with them
    from cuda.bindings.driver import CUgraph, CUgraphExec, CUresult, CUstream
    from nvidia_modules import CudaBindings

log = logging.getLogger(__name__)


class CapturedGraph:
    """Implements `Graph`. Only one launch of it may be running at a time; belongs to one thread."""

    def __init__(self, api: CudaBindings, executable: CUgraphExec, nodes: int) -> None:
        self._api = api
        self._executable: CUgraphExec | None = executable
        self._nodes = nodes
        self._handle: int | None = None  # of the stream that it was launched on last
        self._stream: Any = None  # the same as the library wants it

    @property
    def nodes(self) -> int:
        return self._nodes

    def launch(self, *, stream: Stream) -> None:
        """Queue the whole graph. Lets go of the GIL. Raises `EngineError`, `DeviceLost`."""
        handle = stream.handle
        if self._handle != handle:
            self._stream = _stream(self._api, handle)
            self._handle = handle
        (result,) = self._api.cuGraphLaunch(self._executable, self._stream)
        if result:
            _check(self._api, result, "launching a CUDA graph")

    def close(self) -> None:
        """Free the graph. Idempotent; on a device that is lost there is nothing left to free."""
        executable, self._executable = self._executable, None
        if executable is not None:
            _discard(self._api, self._api.cuGraphExecDestroy(executable)[0])


def capture(work: Callable[[], None], *, stream: Stream, api: CudaBindings | None = None) -> CapturedGraph:
    """Record what `work` queues on `stream` as a graph, without running it. Blocking, milliseconds.

    Other threads may go on using the device meanwhile: only this one is held to what may be captured. Whatever
    happens, the stream is out of capture mode afterwards. `api` is `cuda.bindings.driver`, or what a test puts in its
    place. Raises `EngineError`, also when nothing was captured, and what `work` raises.
    """
    api = api or bindings()
    handle = _stream(api, stream.handle)
    mode = api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    _check(api, api.cuStreamBeginCapture(handle, mode)[0], "beginning to capture a CUDA graph")
    try:
        work()
    except BaseException:
        _, graph = api.cuStreamEndCapture(handle)
        if graph is not None:
            _discard(api, api.cuGraphDestroy(graph)[0])
        raise
    result, graph = api.cuStreamEndCapture(handle)
    _check(api, result, "capturing a CUDA graph")
    try:
        return _instantiate(api, graph)
    finally:
        _discard(api, api.cuGraphDestroy(graph)[0])  # the executable graph needs it no longer


def bindings() -> CudaBindings:
    """`cuda.bindings.driver`. Raises `EngineError` when it is not installed or does not fit the driver."""
    try:
        from cuda.bindings import driver

        driver.cuDriverGetVersion()  # the library looks the driver's functions up at the first call
    except (ImportError, RuntimeError, OSError) as exc:
        raise EngineError(f"CUDA graphs need cuda-bindings, which cannot be imported: {exc}") from exc
    api: Any = driver
    return api


def _instantiate(api: CudaBindings, graph: CUgraph) -> CapturedGraph:
    result, _, nodes = api.cuGraphGetNodes(graph)  # asked with no room for nodes, it counts them
    _check(api, result, "counting a CUDA graph's nodes")
    if not nodes:
        # What was queued went to another stream, or to another device: a graph like this would "run" in no time.
        raise EngineError("capturing a CUDA graph failed: nothing was captured; the work went to another device")
    result, executable = api.cuGraphInstantiate(graph, 0)
    _check(api, result, f"instantiating a CUDA graph of {nodes} nodes")
    return CapturedGraph(api, executable, int(nodes))


def _stream(api: CudaBindings, handle: int) -> CUstream:
    if not handle:
        raise EngineError("a CUDA graph cannot use the default stream")
    return api.CUstream(handle)


def _check(api: CudaBindings, result: CUresult, doing: str) -> None:
    if int(result):
        raise device_error(doing, _text(api, result), code=int(result))


def _discard(api: CudaBindings, result: CUresult) -> None:
    if int(result):
        log.warning("a CUDA graph could not be freed: %s", _text(api, result))


def _text(api: CudaBindings, result: CUresult) -> str:
    error, text = api.cuGetErrorString(result)
    return text.decode() if not int(error) and text else f"CUDA error {int(result)}"
