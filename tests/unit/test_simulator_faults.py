"""Which faults there are, how they are written, and what they do to packets."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.simulator.errors import FaultError
from app.simulator.faults import OK, Fault, FaultKind, Reordering, damage
from app.simulator.rtp import RtpBurst, RtpStream, media_frame


def burst_of(packets: int, *, payload: int = 100) -> RtpBurst:
    frame = media_frame(
        [b"\x80\x60" + bytes(10) + bytes([number % 256]) * payload for number in range(packets)],
        decode_ticks=0,
        present_ticks=0,
        is_key=True,
    )
    return RtpStream(ssrc=7, first_sequence=0, first_timestamp=0).stamp(frame, 0)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("ok", OK),
        ("stall", Fault(FaultKind.STALL)),
        (" close ", Fault(FaultKind.CLOSE)),
        ("drop=0.05", Fault(FaultKind.DROP, amount=0.05)),
        ("corrupt=1", Fault(FaultKind.CORRUPT, amount=1.0)),
        ("flap=2.5", Fault(FaultKind.FLAP, amount=2.5)),
        ("jump=-10", Fault(FaultKind.JUMP, amount=-10.0)),
        ("resolution=wide=er", Fault(FaultKind.RESOLUTION, clip="wide=er")),
        ("codec=wide", Fault(FaultKind.CODEC, clip="wide")),
        ("restart=2", Fault(FaultKind.RESTART, amount=2.0)),
        ("skew=-7200", Fault(FaultKind.SKEW, amount=-7200.0)),
        ("drift=-0.02", Fault(FaultKind.DRIFT, amount=-0.02)),
    ],
)
def test_fault_is_read_from_text(text: str, fault: Fault) -> None:
    assert Fault.parse(text) == fault


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "fault '' is unknown; there are ok, stall, close"),
        ("Stall", "fault 'Stall' is unknown"),
        ("stall=3", "fault stall takes no argument, not '3'"),
        ("stall=", "fault stall takes no argument, not ''"),
        ("drop", "fault drop needs a number (0 to 1), not ''"),
        ("drop=1.5", "fault drop needs a number (0 to 1), not '1.5'"),
        ("drop=nan", "fault drop needs a number (0 to 1), not 'nan'"),
        ("corrupt=much", "fault corrupt needs a number (0 to 1), not 'much'"),
        ("flap=0", "fault flap needs a number (seconds above 0), not '0'"),
        ("flap=inf", "fault flap needs a number (seconds above 0), not 'inf'"),
        ("jump=0", "fault jump needs a number (seconds other than 0), not '0'"),
        ("resolution=", "fault resolution needs the name of a clip: resolution=NAME"),
        ("recode", "fault recode needs the name of a clip: recode=NAME"),
        ("truncate=2", "fault truncate needs a number (0 to 1), not '2'"),
        ("restart=-1", "fault restart needs a number (seconds above 0), not '-1'"),
        ("wrap", "fault wrap needs a number (seconds above 0), not ''"),
        ("drift=0.6", "fault drift needs a number (-0.5 to 0.5, not 0), not '0.6'"),
        ("drift=nan", "fault drift needs a number (-0.5 to 0.5, not 0), not 'nan'"),
    ],
)
def test_bad_fault_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(FaultError) as refusal:
        Fault.parse(text)
    assert sentence in str(refusal.value)


@given(st.sampled_from(FaultKind), st.floats(0.001, 0.5))
def test_text_of_a_fault_reads_back(kind: FaultKind, amount: float) -> None:
    amount = float(f"{amount:g}")
    try:
        fault = Fault.parse(kind.value)
    except FaultError as refusal:
        fault = Fault(kind, clip="wide") if "name of a clip" in str(refusal) else Fault(kind, amount=amount)
    assert Fault.parse(str(fault)) == fault


def test_drop_loses_its_share_of_packets_and_leaves_the_others_whole() -> None:
    burst = burst_of(2000)
    sent = {bytes(datagram) for datagram in burst.datagrams()}
    kept = [bytes(datagram) for datagram in damage(Fault.parse("drop=0.25"), burst, random.Random(1)).datagrams()]
    assert 0.70 < len(kept) / 2000 < 0.80
    assert sent.issuperset(kept)


def test_drop_of_everything_leaves_nothing_to_send() -> None:
    lost = damage(Fault.parse("drop=1"), burst_of(5), random.Random(1))
    assert (bytes(lost.wire), list(lost.datagrams())) == (b"", [])


def test_same_seed_drops_the_same_packets() -> None:
    first, again, other = (
        damage(Fault.parse("drop=0.5"), burst_of(100), random.Random(seed)).wire for seed in (1, 1, 2)
    )
    assert first == again != other


def test_corrupt_changes_payloads_but_no_headers() -> None:
    before = [bytes(datagram) for datagram in burst_of(50).datagrams()]
    after = [
        bytes(datagram) for datagram in damage(Fault.parse("corrupt=1"), burst_of(50), random.Random(1)).datagrams()
    ]
    assert [packet[:12] for packet in before] == [packet[:12] for packet in after]
    assert all(old != new for old, new in zip(before, after, strict=True))


def test_garbage_is_as_long_as_the_packets_but_none_of_them() -> None:
    burst = burst_of(3)
    garbage = damage(Fault.parse("garbage"), burst, random.Random(1))
    assert len(garbage.wire) == len(burst.wire)
    assert garbage.offsets == ()
    assert garbage.on_channel(4) is garbage.wire
    assert [len(datagram) for datagram in garbage.datagrams()] == [len(burst.wire)]


def datagrams(burst: RtpBurst) -> list[bytes]:
    return [bytes(datagram) for datagram in burst.datagrams()]


def test_truncated_packets_are_shorter_and_still_rtp() -> None:
    before = datagrams(burst_of(200))
    after = datagrams(damage(Fault.parse("truncate=0.5"), burst_of(200), random.Random(1)))
    cut = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert 70 < len(cut) < 130
    assert all(old.startswith(new) and 12 < len(new) < len(old) for old, new in cut)


def test_truncation_leaves_a_packet_alone_that_has_nothing_to_spare() -> None:
    tiny = burst_of(3, payload=0)
    assert datagrams(damage(Fault.parse("truncate=1"), tiny, random.Random(1))) == datagrams(burst_of(3, payload=0))


def test_duplicates_follow_their_packet() -> None:
    before = datagrams(burst_of(100))
    after = datagrams(damage(Fault.parse("duplicate=0.3"), burst_of(100), random.Random(1)))
    assert 115 < len(after) < 145
    assert list(dict.fromkeys(after)) == before


def test_a_reordered_packet_comes_behind_the_first_one_of_the_next_picture() -> None:
    reordering, rng = Reordering(), random.Random(1)
    first, second, third = (burst_of(3), burst_of(2), burst_of(2))
    assert datagrams(reordering.pass_through(first, 1.0, rng)) == datagrams(first)[:2]
    assert datagrams(reordering.pass_through(second, 0.0, rng)) == [
        datagrams(second)[0],
        datagrams(first)[2],
        datagrams(second)[1],
    ]
    assert datagrams(reordering.pass_through(third, 0.0, rng)) == datagrams(third)


def test_reordering_loses_nothing_of_pictures_of_one_packet() -> None:
    reordering, rng = Reordering(), random.Random(1)
    sent = [reordering.pass_through(burst_of(1), 0.5, rng) for _ in range(100)]
    assert 99 <= sum(len(datagrams(burst)) for burst in sent) <= 100


def test_timestamps_wrap_when_they_are_told_to() -> None:
    stream = RtpStream(ssrc=7, first_sequence=0, first_timestamp=12345)
    frame = media_frame([b"\x80\x60" + bytes(11)], decode_ticks=0, present_ticks=0, is_key=True)
    stream.wrap(500_000, in_ticks=90_000)
    stamps = [
        int.from_bytes(datagrams(stream.stamp(frame, ticks))[0][4:8], "big") for ticks in (500_000, 589_999, 590_000)
    ]
    assert stamps == [2**32 - 90_000, 2**32 - 1, 0]


@pytest.mark.parametrize("text", ["ok", "stall", "flap=3", "resolution=wide", "jump=5", "vanish", "skew=60"])
def test_other_faults_leave_packets_alone(text: str) -> None:
    burst = burst_of(3)
    assert damage(Fault.parse(text), burst, random.Random(1)) is burst
