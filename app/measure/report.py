"""A benchmark's result, as JSON and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from app.commands.columns import in_columns
from app.measure.figures import LimitRun, Usage
from app.measure.load import Load
from app.measure.machine import Machine
from app.measure.observation import STAGES, LedgerCheck, ServiceFigures
from app.measure.samples import Sample
from app.types import EngineInfo

# Other programs' share of the cores from which on a measurement is in doubt.
QUIET = 0.03
# The share of dropped frames from which on a paced load is an overload.
FEW = 0.01
DEFINITIONS = {
    "decoded_fps": "frames that came out of the decoders, of all cameras",
    "inferred_fps": "frames whose result was published, of all cameras",
    "latency_ms.total": "from the read of the packet that carries a frame to its result's message",
    "latency_ms.decode": "in the decoder",
    "latency_ms.queue": "from the decoder's output to the batch",
    "latency_ms.preprocess": "scaling and colour of the whole batch; a batch's frames share this and the next two",
    "latency_ms.infer": "in the engine",
    "latency_ms.postprocess": "boxes, scores and suppression",
    "latency_ms.rest": "total less the above: hand-over between threads, order, and H.264's and H.265's parsers, "
    "which see a picture's end by the beginning of the next",
    "cpu_ms_per_frame": "CPU time of this process, with all decoding, per inferred frame",
    "usage": "cores in use, in CPU seconds a second; limit.runs have no simulator",
    "limit.fps": "inferred frames a second of a closed loop of the same decoders and execution contexts without "
    "the service, as long before as after it: a thread a camera decodes the clip from a file at the cameras' rate, a "
    "thread a context preprocesses, infers and postprocesses batches of the newest pictures without a pause; mean",
    "limit.budget_fps": "(cores - decoded_fps x decode_cpu) / infer_cpu: if no core ever waited",
    "ratio": "inferred_fps / limit.fps; it says something of the service only when saturated",
    "ratio_beside_simulator": "the same with a limit less what the cores that the simulator used could infer",
    "saturated": "the cameras delivered more than the limit",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that one run of the benchmark found."""

    load: Load
    batching: Mapping[str, float]
    machine: Machine
    engine: EngineInfo
    service: ServiceFigures
    ledger: LedgerCheck
    limit_runs: tuple[LimitRun, ...]
    limit_fps: float
    budget_fps: float

    @property
    def ratio(self) -> float:
        return self.service.inferred_fps / self.limit_fps

    @property
    def ratio_beside_simulator(self) -> float:
        infer_cpu_s = sum(run.infer_cpu_ms for run in self.limit_runs) / len(self.limit_runs) / 1e3
        return self.service.inferred_fps / (self.limit_fps - self.service.usage.simulator / infer_cpu_s)

    @property
    def others(self) -> float:
        """The most cores that other programs used in any of the measurements; 0 where that is not known."""
        usages = (self.service.usage, *(run.usage for run in self.limit_runs))
        return max(usage.others or 0.0 for usage in usages)

    @property
    def saturated(self) -> bool:
        return self.service.decoded_fps > self.limit_fps


def details(report: Report) -> dict[str, Any]:
    """Everything of one run but the machine, for JSON."""
    engine = asdict(report.engine)
    del engine["classes"]
    load = report.load
    return {
        "load": {**asdict(load), "phases_s": load.phases_s, **report.batching},
        "engine": engine,
        "service": asdict(report.service),
        "ledger": asdict(report.ledger),
        "limit": {
            "fps": report.limit_fps,
            "budget_fps": report.budget_fps,
            "runs": [asdict(run) for run in report.limit_runs],
        },
        "ratio": report.ratio,
        "ratio_beside_simulator": report.ratio_beside_simulator,
        "saturated": report.saturated,
    }


def samples(report: Report) -> dict[str, Sample]:
    """What `vidette compare` may compare of one run."""
    service = report.service
    found = {
        "inferred_fps": _higher(service.inferred_fps, "fps"),
        "decoded_fps": _higher(service.decoded_fps, "fps"),
        "camera_fps.mean": _higher(service.camera_fps.mean, "fps"),
        "camera_fps.min": _higher(service.camera_fps.min, "fps"),
        "fairness": _higher(service.camera_fps.jain, "1"),
        "cpu_ms_per_frame": _lower(service.cpu_ms_per_frame, "ms"),
        "cores": Sample(value=service.usage.process, unit="cores", better="neither"),
        "mean_batch": Sample(value=service.mean_batch, unit="frames", better="neither"),
        "dropped_share": _lower(service.dropped_share, "1"),
        "rss_mib": _lower(service.rss_end_bytes / 2**20, "MiB"),
        "limit_fps": _higher(report.limit_fps, "fps"),
        "ratio": _higher(report.ratio, "1"),
    }
    for stage, of in service.latency_ms.items():
        for name, value in (("p50", of.p50), ("p95", of.p95), ("p99", of.p99)):
            found[f"latency_ms.{stage}.{name}"] = _lower(value, "ms")
    return found


def _higher(value: float, unit: str) -> Sample:
    return Sample(value=value, unit=unit, better="higher")


def _lower(value: float, unit: str) -> Sample:
    return Sample(value=value, unit=unit, better="lower")


def heading(reports: Sequence[Report]) -> list[tuple[str, str]]:
    """What reports of one command have in common, of its last one, and whatever casts doubt on any of them."""
    last = reports[-1]
    broken = sum(not report.ledger.holds for report in reports)
    return [
        ("machine", _machine(last.machine)),
        ("engine", _engine(last.engine)),
        ("cameras", _cameras(last)),
        ("ledgers", f"BROKEN in {broken} of {len(reports)}" if broken else "hold"),
        *_doubts(reports),
    ]


def as_text(report: Report) -> str:
    """What a person wants to see first."""
    service, machine, load = report.service, report.machine, report.load
    share = service.camera_fps
    rates = f"{share.min:.2f} / {share.mean:.2f} / {share.max:.2f} fps (min, mean, max)"
    lines = [
        ("machine", _machine(machine)),
        ("engine", _engine(report.engine)),
        ("load", f"{load.cameras} cameras, {_cameras(report)}; {service.decoded_fps:.1f} fps decoded"),
        ("inferred", f"{service.inferred_fps:.1f} fps in {service.seconds:.1f} s"),
        ("per camera", f"{rates}, fairness {share.jain:.4f}"),
        ("CPU", f"{service.cpu_ms_per_frame:.2f} ms per inferred frame; {_usage(service.usage, machine.cores)}"),
        ("dropped", _counts(service.dropped)),
        ("batches", _counts({f"of {size}": count for size, count in service.batch_sizes.items()})),
        ("ledger", _ledger(report.ledger)),
        ("memory", f"{_mib(service.rss_start_bytes)} at the start, {_mib(service.rss_end_bytes)} at the end"),
        *_limit(report),
        ("ratio", _ratio(report)),
        *_doubts([report]),
    ]
    return f"{in_columns(lines)}\n\n{_latencies(service)}"


def _engine(info: EngineInfo) -> str:
    what = f"{info.model} {info.input_width}x{info.input_height} {info.precision} on {info.backend}"
    return f"{what}, {info.contexts} contexts, batches up to {info.best_batch}"


def _machine(machine: Machine) -> str:
    return f"{machine.cpu}, {machine.cores} cores, {machine.python}, commit {machine.commit or 'unknown'}"


def _cameras(report: Report) -> str:
    service, load = report.service, report.load
    max_fps = "" if load.max_fps is None else f", max_fps {load.max_fps:g}"
    seed = f" of seed {load.seed}" if load.phase == "random" else ""
    what = f"{service.codec} {service.width}x{service.height}, {load.fps:g} fps{max_fps}"
    return f"{what}, {load.mode}, {load.phase} phases{seed}"


def _limit(report: Report) -> list[tuple[str, str]]:
    runs = report.limit_runs
    each = ", ".join(f"{run.inferred_fps:.1f}" for run in runs)
    last = runs[-1]
    cost = f"{last.decode_cpu_ms:.2f} ms per decoded frame, {last.infer_cpu_ms:.2f} ms per inferred frame"
    return [
        ("limit", f"{report.limit_fps:.1f} fps ({each}) without the service; {report.budget_fps:.1f} by CPU time"),
        ("", f"{last.decoded_fps:.1f} fps decoded; {cost}"),
        ("", _usage(last.usage, report.machine.cores)),
    ]


def _latencies(service: ServiceFigures) -> str:
    lines = [("ms", "p50", "p95", "p99")]
    for stage in ("total", *STAGES, "rest"):
        of = service.latency_ms[stage]
        lines.append((stage, f"{of.p50:.1f}", f"{of.p95:.1f}", f"{of.p99:.1f}"))
    return in_columns(lines, right=(1, 2, 3))


def _ratio(report: Report) -> str:
    if report.load.mode == "paced" or report.load.max_fps is not None:
        return f"{report.ratio:.3f} of the limit, which was not asked for"
    if not report.saturated:
        return f"{report.ratio:.3f} of the limit, which the cameras do not reach: more of them would tell what is lost"
    return f"{report.ratio:.3f} of the limit; {report.ratio_beside_simulator:.3f} beside the simulator"


def _doubts(reports: Sequence[Report]) -> list[tuple[str, str]]:
    doubts = []
    others = max(report.others for report in reports)
    if others > QUIET * reports[0].machine.cores:
        doubts.append(("note", f"other programs used up to {others:.2f} cores: measure again when it is quiet"))
    lost = max((report.service.dropped_share for report in reports if report.load.mode == "paced"), default=0.0)
    if lost > FEW:
        doubts.append(("note", f"up to {lost:.1%} of the frames were dropped: too many for a paced load, send fewer"))
    return doubts


def _ledger(check: LedgerCheck) -> str:
    sums = f"{check.decoded} decoded = {check.published} published + {_counts(check.dropped)} dropped"
    return f"{'holds' if check.holds else 'BROKEN'}: {sums} + {check.in_flight_after_stop} in flight"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count) or "none"


def _usage(usage: Usage, cores: int) -> str:
    others = "" if usage.others is None else f", {usage.others:.2f} by others"
    return f"{usage.process:.2f} of {cores} cores used, {usage.simulator:.2f} by the simulator{others}"


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.0f} MiB"
