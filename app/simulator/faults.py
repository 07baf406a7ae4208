"""What a simulated camera can be told to do wrong: a closed list."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from enum import Enum

from app.simulator.errors import FaultError
from app.simulator.rtp import FRAME_HEADER_BYTES, RTP_HEADER_BYTES, RtpBurst


class FaultKind(str, Enum):
    """The closed list. `close`, `eof` and `jump` happen once and leave the camera `ok`."""

    OK = "ok"  # ends every other fault
    STALL = "stall"  # no media; the TCP connection stays and RTSP is answered
    CLOSE = "close"  # drop the clients now; the next connect works
    REFUSE = "refuse"  # drop the clients; answer 503
    UNAUTHORIZED = "unauthorized"  # drop the clients; answer 401 whatever the credentials
    MISSING = "missing"  # drop the clients; answer 404
    MUTE = "mute"  # accept TCP, answer nothing, send nothing
    DROP = "drop"  # drop=P: lose each RTP packet with probability P
    CORRUPT = "corrupt"  # corrupt=P: flip bytes in each RTP payload with probability P
    GARBAGE = "garbage"  # random bytes in place of RTP packets
    EOF = "eof"  # RTCP BYE, then close
    FLAP = "flap"  # flap=SECONDS: drop the clients every SECONDS
    RESOLUTION = "resolution"  # resolution=CLIP: go on with another clip, without a reconnect
    JUMP = "jump"  # jump=SECONDS: RTP timestamps jump once, forwards or backwards


_PROBABILITIES = frozenset({FaultKind.DROP, FaultKind.CORRUPT})
_DURATIONS = frozenset({FaultKind.FLAP, FaultKind.JUMP})
_MOMENTARY = frozenset({FaultKind.CLOSE, FaultKind.EOF, FaultKind.JUMP})
_CORRUPT_BYTES = 8


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault and its argument. Build it with `parse`; `str()` gives the text back."""

    kind: FaultKind
    amount: float = 0.0  # a probability (drop, corrupt) or seconds (flap, jump)
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
        if kind is FaultKind.RESOLUTION:
            if not argument:
                raise FaultError("fault resolution needs the name of a clip: resolution=NAME")
            return cls(kind, clip=argument)
        if kind in _PROBABILITIES or kind in _DURATIONS:
            return cls(kind, amount=_amount(kind, argument))
        if has_argument:
            raise FaultError(f"fault {name} takes no argument, not {argument!r}")
        return cls(kind)

    @property
    def is_momentary(self) -> bool:
        """Whether the fault is over as soon as it has happened."""
        return self.kind in _MOMENTARY

    def __str__(self) -> str:
        if self.kind is FaultKind.RESOLUTION:
            return f"{self.kind.value}={self.clip}"
        if self.kind in _PROBABILITIES or self.kind in _DURATIONS:
            return f"{self.kind.value}={self.amount:g}"
        return str(self.kind.value)


OK = Fault(FaultKind.OK)


def _amount(kind: FaultKind, argument: str) -> float:
    try:
        amount = float(argument)
    except ValueError:
        amount = math.nan
    if kind in _PROBABILITIES and 0.0 <= amount <= 1.0:
        return amount
    if kind is FaultKind.FLAP and 0.0 < amount < math.inf:
        return amount
    if kind is FaultKind.JUMP and math.isfinite(amount) and amount != 0.0:
        return amount
    wanted = {FaultKind.FLAP: "seconds above 0", FaultKind.JUMP: "seconds other than 0"}.get(kind, "0 to 1")
    raise FaultError(f"fault {kind.value} needs a number ({wanted}), not {argument!r}: {kind.value}=NUMBER")


def damage(fault: Fault, burst: RtpBurst, rng: random.Random) -> RtpBurst:
    """Do to the packets of one picture what `fault` asks for. Pure, given `rng`'s state."""
    if fault.kind is FaultKind.DROP:
        return burst.keep([rng.random() >= fault.amount for _ in burst.offsets])
    if fault.kind is FaultKind.CORRUPT:
        return _corrupt(burst, fault.amount, rng)
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
