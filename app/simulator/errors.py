"""What can be wrong with the simulator's input. Every message is a sentence for its user."""

from __future__ import annotations

from app.errors import ConfigError


class SimulatorError(ConfigError):
    """The simulator was asked for something that it does not have, or cannot start."""


class ClipError(SimulatorError):
    """A file cannot serve as a clip."""


class FaultError(SimulatorError):
    """A fault is unknown, or its argument is missing, superfluous or out of range."""
