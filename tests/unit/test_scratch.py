"""The folder of a command that measures goes, however the command ends."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from app.commands.scratch import scratch_folder


@pytest.mark.parametrize("on_ctrl_c", [signal.default_int_handler, signal.SIG_IGN], ids=["heard", "ignored"])
def test_sigterm_interrupts_also_where_ctrl_c_is_ignored(on_ctrl_c: Callable[..., object] | signal.Handlers) -> None:
    before, sigterm = signal.signal(signal.SIGINT, on_ctrl_c), signal.getsignal(signal.SIGTERM)
    folder: Path | None = None
    try:
        with pytest.raises(KeyboardInterrupt), scratch_folder("test") as folder:
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, before)
    assert folder is not None
    assert not folder.exists()
    assert signal.getsignal(signal.SIGTERM) is sigterm
