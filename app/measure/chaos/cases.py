"""Everything that a camera can do wrong, and what the service may say of it. A closed list; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from app.errors import ConfigError, SourceErrorCode
from app.measure.chaos.clips import ClipName
from app.simulator.faults import Fault, FaultKind

# victim: a camera that is there all the time; udp: one whose media come over UDP; guest: one that comes for the
# case and goes with it.
Role: TypeAlias = Literal["victim", "udp", "guest"]
ELSEWHERE = "rtsp://camera.invalid/stream"

_Code = SourceErrorCode
# A peer that drops a connection can be seen as any of these, depending on where in the conversation it happens: FFmpeg
# tells a connection that is reset before the first answer like one that answers something else than RTSP.
_DROPPED = frozenset({_Code.END_OF_STREAM, _Code.CONNECTION_REFUSED, _Code.NO_VIDEO})
_SILENT = frozenset({_Code.READ_TIMEOUT, _Code.CONNECT_TIMEOUT})
_GONE = _SILENT | _DROPPED
_UNREADABLE = frozenset({_Code.DECODE_FAILED, _Code.READ_TIMEOUT, _Code.END_OF_STREAM, _Code.NO_VIDEO})


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One fault, for how long, and what the camera's state may say meanwhile.

    `outage`: frames stop, so the time to recover is measured; otherwise the camera is expected to show pictures when
    the fault is over, and may or may not have failed in between.
    """

    name: str
    about: str
    fault: str = "ok"  # of the simulator; CLIP stands for the other clip of `clip`
    lasts_s: float = 4.0  # 0: it happens once
    codes: frozenset[SourceErrorCode] = frozenset()
    outage: bool = True
    role: Role = "victim"
    clip: ClipName | None = None  # that the fault goes on with, or that a guest shows
    url: str | None = None  # the camera is sent there meanwhile
    fields: dict[str, object] = field(default_factory=dict, hash=False)  # of a guest's registration

    @property
    def kind(self) -> FaultKind:
        return Fault.parse(self.fault).kind


CASES: tuple[Case, ...] = (
    Case(name="stall", about="media stop, RTSP goes on", fault="stall", codes=_SILENT),
    Case(name="vanish", about="half-open TCP: gone without a FIN", fault="vanish", codes=_GONE),
    Case(name="hole", about="the host swallows SYNs", fault="hole", codes=_GONE),
    Case(name="mute", about="TCP is accepted, nothing is answered", fault="mute", codes=_SILENT),
    Case(
        name="trickle", about="answers come a byte at a time", fault="trickle", codes=_SILENT | _DROPPED,
    ),
    Case(name="close", about="the connection breaks", fault="close", lasts_s=0.0, codes=_DROPPED),
    Case(name="eof", about="RTCP BYE, then a close", fault="eof", lasts_s=0.0, codes=_DROPPED),
    Case(name="flap", about="the connection breaks again and again", fault="flap=0.4", codes=_DROPPED),
    Case(name="restart", about="the camera's server restarts", fault="restart=2", lasts_s=2.0, codes=_DROPPED),
    Case(name="refuse", about="503 to everybody", fault="refuse", codes=_DROPPED),
    Case(name="auth", about="401, then good again", fault="unauthorized", codes=_DROPPED | {_Code.AUTH_FAILED}),
    Case(name="missing", about="404", fault="missing", codes=_DROPPED | {_Code.NOT_FOUND}),
    Case(
        name="dns", about="its name is not known, then it is", url=ELSEWHERE,
        codes=frozenset({_Code.DNS_FAILED}),
    ),
    Case(name="audio", about="sound only", fault="audio", codes=_DROPPED),
    Case(name="empty", about="a session without media", fault="empty", codes=_DROPPED),
    Case(name="zero", about="a stream of no length", fault="zero", codes=_DROPPED | _UNREADABLE),
    Case(
        name="garbage", about="random bytes in the connection", fault="garbage",
        codes=_DROPPED | _SILENT | _UNREADABLE,
    ),
    Case(name="corrupt", about="damaged packets", fault="corrupt=0.2", outage=False, codes=_UNREADABLE),
    Case(
        name="truncate", about="NAL units are cut short", fault="truncate=0.3", outage=False, codes=_UNREADABLE,
    ),
    Case(name="drop", about="lost packets", fault="drop=0.1", outage=False, codes=_UNREADABLE),
    Case(
        name="reorder", about="packets overtake each other in TCP", fault="reorder=0.2", outage=False,
        codes=_UNREADABLE,
    ),
    Case(
        name="duplicate", about="packets come twice", fault="duplicate=0.3", outage=False, codes=_UNREADABLE,
    ),
    Case(
        name="resolution", about="another picture size, without a word", fault="resolution=CLIP", clip="small",
        outage=False,
    ),
    Case(
        name="codec", about="H.265 at the next connection, then H.264 again", fault="codec=CLIP", clip="hevc",
        codes=_DROPPED,
    ),
    Case(
        name="codec-mjpeg", about="MJPEG at the next connection, then H.264 again", fault="codec=CLIP",
        clip="mjpeg", codes=_DROPPED,
    ),
    Case(
        name="recode", about="H.265 in a session that promised H.264", fault="recode=CLIP", clip="hevc",
        codes=_DROPPED | _UNREADABLE, lasts_s=6.0,
    ),
    Case(name="jump", about="timestamps jump an hour ahead", fault="jump=3600", lasts_s=0.0, outage=False),
    Case(name="jump-back", about="timestamps jump an hour back", fault="jump=-3600", lasts_s=0.0, outage=False),
    Case(
        name="wrap", about="timestamps wrap at 2**32 a second after connecting", fault="wrap=3", lasts_s=0.0,
        codes=_DROPPED,
    ),
    Case(name="skew", about="its clock is two hours ahead", fault="skew=7200", outage=False),
    Case(name="skew-back", about="its clock is two hours behind", fault="skew=-7200", outage=False),
    Case(name="drift", about="its clock runs 2 % fast", fault="drift=0.02", outage=False),
    Case(name="drift-slow", about="its clock runs 2 % slow", fault="drift=-0.02", outage=False),
    Case(
        name="udp-drop", about="UDP loses a tenth of the packets", fault="drop=0.1", role="udp", outage=False,
        codes=_UNREADABLE,
    ),
    Case(name="udp-reorder", about="UDP reorders", fault="reorder=0.3", role="udp", outage=False, codes=_UNREADABLE),
    Case(
        name="udp-duplicate", about="UDP duplicates", fault="duplicate=0.3", role="udp", outage=False,
        codes=_UNREADABLE,
    ),
    Case(name="udp-stall", about="media over UDP stop", fault="stall", role="udp", codes=_SILENT),
    Case(name="slow", about="a camera of 1 fps comes and goes", role="guest", clip="slow", lasts_s=6.0, outage=False),
    Case(
        name="fast", about="a camera of 120 fps comes and goes", role="guest", clip="fast", outage=False,
        fields={"max_fps": 10},
    ),
    Case(name="large", about="a 4K camera comes and goes", role="guest", clip="large", outage=False),
    Case(
        name="nobody", about="a camera at a port where nobody listens comes and goes", role="guest", outage=False,
        url="rtsp://127.0.0.1:9/stream", codes=frozenset({_Code.CONNECTION_REFUSED}),
    ),
)  # fmt: skip


def chosen(text: str) -> tuple[Case, ...]:
    """The cases that `--faults` names, in their order here: `all`, or names with commas. Raises `ConfigError`."""
    if text == "all":
        return CASES
    known = {case.name: case for case in CASES}
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"--faults: there is no fault {unknown[0]!r}; there are all, {', '.join(known)}")
    return tuple(case for case in CASES if case.name in names)


def roles(cases: Sequence[Case]) -> tuple[Role, ...]:
    """The roles that the cases need cameras for, victims first."""
    needed = {case.role for case in cases}
    return tuple(role for role in ("victim", "udp", "guest") if role in needed)
