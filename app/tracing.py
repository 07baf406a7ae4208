"""OpenTelemetry: a span for each batch and for each attempt to connect a camera.

Nothing in the pipeline knows of it: where tracing is configured, the detector and the sources are wrapped, and where it
is not, nothing is. The variables are OpenTelemetry's own (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_SERVICE_NAME`,
`OTEL_TRACES_SAMPLER`, ...); the packages are those of the extra `otel`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic

import anyio

from app import __version__
from app.cameras.source import DecodeEffort, FrameSource, SourceRequest
from app.errors import AppError, ConfigError, SourceError
from app.inference.detector import Detector
from app.threads import in_daemon_thread
from app.types import Detections, EngineInfo, Frame, S, SourceFrame, StreamInfo

logger = logging.getLogger("vidette.tracing")
BATCH, CONNECT = "batch", "camera.connect"
# Batches come by the hundred in a second and are alike; connections are few, and each has its own reason.
BATCH_SHARE = 0.01
CLOSE_S = 2.0
_GRPC = "opentelemetry.exporter.otlp.proto.grpc.trace_exporter"
_HTTP = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


class Tracing:
    """Makes spans with a `TracerProvider` of the OpenTelemetry SDK, which it owns."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("vidette", __version__)

    def detector(self, detector: Detector[S]) -> Detector[S]:
        """The same detector, with a span around each batch."""
        return _TracedDetector(detector, self._span)

    def sources(
        self, open_source: Callable[[SourceRequest], FrameSource[S]]
    ) -> Callable[[SourceRequest], FrameSource[S]]:
        """The same sources, with a span from each opening to its first frame or its failure."""

        def opened(request: SourceRequest) -> FrameSource[S]:
            span = self._span(CONNECT, {"vidette.camera": request.camera_id, "vidette.transport": request.transport})
            try:
                return _TracedSource(open_source(request), span)
            except BaseException as exc:
                span.failed(exc)
                raise

        return opened

    async def aclose(self) -> None:
        """Send what is left, for `CLOSE_S` at most: no collector holds up the end of the service."""
        with anyio.move_on_after(CLOSE_S) as scope:
            await in_daemon_thread("tracing", self._provider.shutdown)
        if scope.cancelled_caught:
            logger.warning("the last spans could not be sent within %g s", CLOSE_S)

    def _span(self, name: str, attributes: Mapping[str, Any]) -> _Span:
        return _Span(self._tracer.start_span(name, attributes=attributes))


class _Span:
    """A span that ends once; whatever ends it later is too late. One thread at a time."""

    def __init__(self, span: Any) -> None:
        self._span = span
        self._ended = False

    @property
    def recording(self) -> bool:
        return not self._ended and bool(self._span.is_recording())

    def done(self, attributes: Mapping[str, Any] | None = None) -> None:
        if not self._ended:
            self._ended = True
            self._span.set_attributes(attributes or {})
            self._span.end()

    def failed(self, error: BaseException) -> None:
        """End with an error. Only our own sentences are shown: they are known to hold no secret."""
        if not self._ended:
            trace = import_module("opentelemetry.trace")
            kind = error.code.value if isinstance(error, SourceError) else type(error).__name__
            self._span.set_attribute("error.type", kind)
            self._span.set_status(
                trace.Status(trace.StatusCode.ERROR, str(error) if isinstance(error, AppError) else kind)
            )
            self.done()


class _TracedDetector(Generic[S]):
    def __init__(self, detector: Detector[S], span: Callable[[str, Mapping[str, Any]], _Span]) -> None:
        self._detector = detector
        self._span = span

    @property
    def info(self) -> EngineInfo:
        return self._detector.info

    async def detect(self, frames: Sequence[Frame[S]], *, min_scores: Sequence[float]) -> list[Detections]:
        span = self._span(BATCH, {"vidette.batch_size": len(frames)})
        try:
            found = await self._detector.detect(frames, min_scores=min_scores)
        except BaseException as exc:
            span.failed(exc)
            raise
        span.done(_batch_attributes(self._detector.info, found) if span.recording else None)
        return found

    async def aclose(self) -> None:
        await self._detector.aclose()


def _batch_attributes(info: EngineInfo, found: Sequence[Detections]) -> dict[str, Any]:
    stages = found[0].stages  # the batch's: every frame waited for all of it
    return {
        "vidette.cameras": [each.camera_id for each in found],
        "vidette.detections": sum(map(len, found)),
        "vidette.model": info.model,
        "vidette.preprocess_s": stages.preprocess_s,
        "vidette.infer_s": stages.infer_s,
        "vidette.postprocess_s": stages.postprocess_s,
    }


class _TracedSource(Generic[S]):
    def __init__(self, source: FrameSource[S], span: _Span) -> None:
        self._source = source
        self._connecting = span

    @property
    def info(self) -> StreamInfo | None:
        return self._source.info

    def frames(self) -> Iterator[SourceFrame[S]]:
        frames = self._source.frames()
        try:
            first = next(frames, None)
        except BaseException as exc:
            self._connecting.failed(exc)
            raise
        self._connecting.done(_stream_attributes(self._source.info))
        if first is not None:
            yield first
            yield from frames

    def pace(self, max_fps: float | None, effort: DecodeEffort = DecodeEffort.FULL) -> None:
        self._source.pace(max_fps, effort)

    def interrupt(self) -> None:
        self._source.interrupt()

    def close(self) -> None:
        self._connecting.done()  # stopped before it was asked for a frame
        self._source.close()


def _stream_attributes(info: StreamInfo | None) -> dict[str, Any]:
    if info is None:
        return {}
    return {
        "vidette.codec": info.codec,
        "vidette.width": info.width,
        "vidette.height": info.height,
        "vidette.decoder": info.decoder,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What the variables ask for."""

    exporter: str  # otlp, console
    protocol: str  # http/protobuf, grpc
    sampler: str | None  # None: ours


def _wish(variables: Mapping[str, str]) -> _Wish | None:
    """None where nothing asks for traces. Raises `ConfigError` for an exporter that is not known."""
    given = {name: value.strip() for name, value in variables.items() if value.strip()}
    exporters = given.get("OTEL_TRACES_EXPORTER", "").lower()
    endpoint = given.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or given.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if given.get("OTEL_SDK_DISABLED", "").lower() == "true" or exporters == "none" or not (exporters or endpoint):
        return None
    exporter = exporters or "otlp"
    if exporter not in ("otlp", "console"):
        raise ConfigError(f"OTEL_TRACES_EXPORTER: must be otlp, console or none, not {exporters!r}")
    protocol = given.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or given.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol not in (None, "http/protobuf", "grpc"):
        raise ConfigError(f"OTEL_EXPORTER_OTLP_PROTOCOL: must be http/protobuf or grpc, not {protocol!r}")
    return _Wish(exporter=exporter, protocol=protocol or "http/protobuf", sampler=given.get("OTEL_TRACES_SAMPLER"))


def open_tracing(variables: Mapping[str, str], *, load: Callable[[str], Any] = import_module) -> Tracing | None:
    """Tracing as the `OTEL_` variables want it; None where they want none, or where the packages are missing.

    Blocking: imports the SDK. A missing package is a warning, since traces are no reason not to watch cameras; a
    variable that means nothing is a `ConfigError`.
    """
    wish = _wish(variables)
    if wish is None:
        return None
    try:
        exporter = _exporter(wish, load)
        export = load("opentelemetry.sdk.trace.export")
        provider = _provider(wish, load)
    except ImportError as exc:
        package = "opentelemetry-exporter-otlp-proto-grpc" if wish.protocol == "grpc" else "vidette[otel]"
        logger.warning("OTEL_ variables ask for traces, but there are none: %s (pip install '%s')", exc, package)
        return None
    provider.add_span_processor(export.BatchSpanProcessor(exporter))
    logger.info("tracing to %s", "the console" if wish.exporter == "console" else f"OTLP, {wish.protocol}")
    return Tracing(provider)


def _exporter(wish: _Wish, load: Callable[[str], Any]) -> Any:
    if wish.exporter == "console":
        return load("opentelemetry.sdk.trace.export").ConsoleSpanExporter()
    return load(_GRPC if wish.protocol == "grpc" else _HTTP).OTLPSpanExporter()


def _provider(wish: _Wish, load: Callable[[str], Any]) -> Any:
    sdk, resources = load("opentelemetry.sdk.trace"), load("opentelemetry.sdk.resources")
    resource = resources.Resource.create()
    named = not str(resource.attributes.get("service.name", "unknown_service")).startswith("unknown_service")
    ours = {"service.version": __version__, **({} if named else {"service.name": "vidette"})}
    # The SDK itself reads OTEL_TRACES_SAMPLER when it is given no sampler. Its own exit hook would wait without bound.
    sampler = None if wish.sampler else default_sampler(load)
    return sdk.TracerProvider(
        resource=resource.merge(resources.Resource(ours)), sampler=sampler, shutdown_on_exit=False
    )


def default_sampler(load: Callable[[str], Any] = import_module) -> Any:
    """One batch of a hundred, and every connection. A class of the SDK's kind, made late, when the SDK is there."""
    sampling = load("opentelemetry.sdk.trace.sampling")
    batches, others = sampling.TraceIdRatioBased(BATCH_SHARE), sampling.ALWAYS_ON

    class OneBatchInAHundred(sampling.Sampler):  # type: ignore[misc, name-defined]
        def should_sample(self, parent_context: Any, trace_id: int, name: str, *args: Any, **options: Any) -> Any:
            chosen = batches if name == BATCH else others
            return chosen.should_sample(parent_context, trace_id, name, *args, **options)

        def get_description(self) -> str:
            return f"OneBatchInAHundred{{{BATCH_SHARE:g}}}"

    return OneBatchInAHundred()
