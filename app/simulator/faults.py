"""What a simulated camera can be told to do wrong: a closed list."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from enum import Enum

from app.simulator.errors import FaultError
from app.simulator.rtp import FRAME_HEADER_BYTES, RTP_HEADER_BYTES, RtpBurst


class FaultKind(str, Enum):
    """The closed list. Those in `_MOMENTARY` happen once and leave the camera `ok`."""

    OK = "ok"  # ends every other fault
    STALL = "stall"  # no media; the TCP connection stays and RTSP is answered
    CLOSE = "close"  # drop the clients now; the next connect works
    REFUSE = "refuse"  # drop the clients; answer 503
    UNAUTHORIZED = "unauthorized"  # drop the clients; answer 401 whatever the credentials
    MISSING = "missing"  # drop the clients; answer 404
    MUTE = "mute"  # accept TCP, answer nothing, send nothing
    VANISH = "vanish"  # half-open: read, answer and send nothing more, without a FIN; `ok` resets what is left open
    TRICKLE = "trickle"  # answer one byte at a time
    HOLE = "hole"  # the whole server vanishes; its port takes SYNs and answers none
    RESTART = "restart"  # restart=SECONDS: the whole server goes away, and comes back on its port
    DROP = "drop"  # drop=P: lose each RTP packet with probability P
    CORRUPT = "corrupt"  # corrupt=P: flip bytes in each RTP payload with probability P
    TRUNCATE = "truncate"  # truncate=P: cut each RTP payload short with probability P
    REORDER = "reorder"  # reorder=P: send each picture's last packet behind the next one's first with probability P
    DUPLICATE = "duplicate"  # duplicate=P: send each RTP packet twice with probability P
    GARBAGE = "garbage"  # random bytes in place of RTP packets
    EOF = "eof"  # RTCP BYE, then close
    ZERO = "zero"  # drop the clients; PLAY is answered, and the stream ends at once
    AUDIO = "audio"  # drop the clients; offer sound only
    EMPTY = "empty"  # drop the clients; offer no media at all
    FLAP = "flap"  # flap=SECONDS: drop the clients every SECONDS
    RESOLUTION = "resolution"  # resolution=CLIP: go on with another clip, without a reconnect
    CODEC = "codec"  # codec=CLIP: drop the clients; go on with another clip, of any codec
    RECODE = "recode"  # recode=CLIP: the same without a reconnect, so that packets are not what was agreed on
    JUMP = "jump"  # jump=SECONDS: RTP timestamps jump once, forwards or backwards
    WRAP = "wrap"  # wrap=SECONDS: drop the clients; RTP timestamps wrap at 2**32 in SECONDS
    SKEW = "skew"  # skew=SECONDS: sender reports are off by SECONDS
    DRIFT = "drift"  # drift=SHARE: RTP timestamps run faster than time by SHARE, or slower


_PROBABILITIES = frozenset(
    {FaultKind.DROP, FaultKind.CORRUPT, FaultKind.TRUNCATE, FaultKind.REORDER, FaultKind.DUPLICATE}
)
_DURATIONS = frozenset({FaultKind.FLAP, FaultKind.RESTART, FaultKind.WRAP})
_OFFSETS = frozenset({FaultKind.JUMP, FaultKind.SKEW, FaultKind.DRIFT})
_AMOUNTS = _PROBABILITIES | _DURATIONS | _OFFSETS
CLIP_FAULTS = frozenset({FaultKind.RESOLUTION, FaultKind.CODEC, FaultKind.RECODE})
_MOMENTARY = frozenset({FaultKind.CLOSE, FaultKind.EOF, FaultKind.RESTART, FaultKind.JUMP, FaultKind.WRAP})
_CORRUPT_BYTES = 8
_FASTEST_DRIFT = 0.5


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault and its argument. Build it with `parse`; `str()` gives the text back."""

    kind: FaultKind
    amount: float = 0.0  # a probability (drop), seconds (flap, jump), or a share of time (drift)
    clip: str = ""  # a clip's name (resolution)

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read `stall`, `drop=0.05`, `flap=3`, `resolution=wide`, `jump=-10` and so on; raise `FaultError`."""
        name, has_argument, argument = text.strip().partition("=")
        try:
            kind = FaultKind(name)
        except ValueError:
            known = ", ".join(kind.value for kind in FaultKind)
            raise FaultError(f"fault {name!r} is unknown; there are {known}") from None
        if kind in CLIP_FAULTS:
            if not argument:
                raise FaultError(f"fault {name} needs the name of a clip: {name}=NAME")
            return cls(kind, clip=argument)
        if kind in _AMOUNTS:
            return cls(kind, amount=_amount(kind, argument))
        if has_argument:
            raise FaultError(f"fault {name} takes no argument, not {argument!r}")
        return cls(kind)

    @property
    def is_momentary(self) -> bool:
        """Whether the fault is over as soon as it has happened."""
        return self.kind in _MOMENTARY

    def __str__(self) -> str:
        if self.kind in CLIP_FAULTS:
            return f"{self.kind.value}={self.clip}"
        if self.kind in _AMOUNTS:
            return f"{self.kind.value}={self.amount:g}"
        return str(self.kind.value)


OK = Fault(FaultKind.OK)


def _amount(kind: FaultKind, argument: str) -> float:
    try:
        amount = float(argument)
    except ValueError:
        amount = math.nan
    wanted, fits = _range(kind, amount)
    if not fits:
        raise FaultError(f"fault {kind.value} needs a number ({wanted}), not {argument!r}: {kind.value}=NUMBER")
    return amount


def _range(kind: FaultKind, amount: float) -> tuple[str, bool]:
    """What a fault's number may be, and whether this one is that. NaN never is."""
    if kind in _PROBABILITIES:
        return "0 to 1", 0.0 <= amount <= 1.0
    if kind in _DURATIONS:
        return "seconds above 0", 0.0 < amount < math.inf
    if kind is FaultKind.DRIFT:
        return f"-{_FASTEST_DRIFT:g} to {_FASTEST_DRIFT:g}, not 0", 0.0 < abs(amount) <= _FASTEST_DRIFT
    return "seconds other than 0", math.isfinite(amount) and amount != 0.0


def damage(fault: Fault, burst: RtpBurst, rng: random.Random) -> RtpBurst:
    """Do to the packets of one picture what `fault` asks for. Pure, given `rng`'s state."""
    if fault.kind is FaultKind.DROP:
        return burst.keep([rng.random() >= fault.amount for _ in burst.offsets])
    if fault.kind is FaultKind.CORRUPT:
        return _corrupt(burst, fault.amount, rng)
    if fault.kind is FaultKind.TRUNCATE:
        return RtpBurst.of([_truncated(packet, fault.amount, rng) for packet in burst.packets()])
    if fault.kind is FaultKind.DUPLICATE:
        return RtpBurst.of([packet for packet in burst.packets() for _ in range(1 + (rng.random() < fault.amount))])
    if fault.kind is FaultKind.GARBAGE:
        return RtpBurst(bytearray(rng.randbytes(len(burst.wire))), ())
    return burst


def _corrupt(burst: RtpBurst, probability: float, rng: random.Random) -> RtpBurst:
    """Flip bytes behind the RTP headers, so that what arrives is still RTP. Works in place: a burst is a fresh copy."""
    ends = (*burst.offsets[1:], len(burst.wire))
    for start, end in zip(burst.offsets, ends, strict=True):
        if rng.random() < probability:
            payload = start + FRAME_HEADER_BYTES + RTP_HEADER_BYTES
            for _ in range(_CORRUPT_BYTES):
                burst.wire[rng.randrange(payload, end)] ^= rng.randrange(1, 256)
    return burst


def _truncated(packet: bytes, probability: float, rng: random.Random) -> bytes:
    """Keep at least one byte of payload: an RTP packet without any would be ignored, not harm anybody."""
    shortest = RTP_HEADER_BYTES + 1
    if len(packet) <= shortest or rng.random() >= probability:
        return packet
    return packet[: rng.randrange(shortest, len(packet))]


class Reordering:
    """Sends a picture's last packet behind the first one of the next picture, now and then."""

    def __init__(self) -> None:
        self._held: bytes | None = None

    def pass_through(self, burst: RtpBurst, probability: float, rng: random.Random) -> RtpBurst:
        """What is to be sent now: perhaps with a packet that was held back, perhaps without its own last one."""
        packets, held = burst.packets(), self._held
        self._held = packets.pop() if packets and rng.random() < probability else None
        if held is not None:
            packets.insert(min(1, len(packets)), held)
        return RtpBurst.of(packets)
