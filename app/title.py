"""What `ps` shows of a process: its command line, without what is secret in it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import setproctitle

from app.auth.tokens import without_secrets
from app.cameras.urls import concealed

# A list of arguments is public: /proc/PID/cmdline is for every user of the machine.
_SECRET_OPTION = re.compile(r"--?(?:[\w.-]*[._-])?(?:password|passwd|pass|pwd|token|secret)", re.IGNORECASE)
# argparse takes every beginning of an option that is clear.
_ABBREVIATED = tuple(f"--{name}"[:length] for name in ("metrics.token", "password") for length in range(4, 15))
_HIDDEN = "***"


def process_title(program: str, arguments: Sequence[str]) -> str:
    """The title of a process that was started with these arguments. Pure."""
    return " ".join((program, *shown(arguments)))


def shown(arguments: Sequence[str]) -> list[str]:
    """The arguments without what is secret in them. Pure."""
    words, hide_next = [], False
    for argument in arguments:
        option, equals, _ = argument.partition("=")
        secret = option.startswith("-") and (_SECRET_OPTION.fullmatch(option) or option in _ABBREVIATED)
        if hide_next:
            words.append(_HIDDEN)
        elif secret and equals:
            words.append(f"{option}={_HIDDEN}")
        else:
            words.append(concealed(argument) if "://" in argument else without_secrets(argument))
        hide_next = bool(secret) and not equals and not hide_next
    return words


def name_process(program: str, arguments: Sequence[str]) -> None:
    """Give this process its title. The earlier, the shorter its arguments can be read."""
    setproctitle.setproctitle(process_title(program, arguments))
