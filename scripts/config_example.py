"""Writes config.example.yml from the settings themselves: every key with its unit, default and bounds.

python scripts/config_example.py > config.example.yml     (a test holds the file equal to this)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from app.cli.options import allowed
from app.settings import leaves

HEAD = """\
# Every setting of Vidette, with its default. Copy what you change to vidette.yml, or name the file with --config.
# Precedence: command line (--batching.max_size 8), environment (VIDETTE_BATCHING__MAX_SIZE=8),
# /run/secrets (a file named vidette_metrics__token), this file, defaults.
"""


# As comments: where one is absent is a value of its own, and copying the whole file must choose nothing.
UNSAID = frozenset({"auth.mode"})


def render() -> str:
    """The whole file."""
    lines, section = [HEAD], ""
    for key, field in leaves():
        parent, _, leaf = key.rpartition(".")
        if parent != section:
            lines.append(f"\n{parent}:" if parent else "")
            section = parent
        indent = "  " if parent else ""
        bounds = f" ({limits})" if (limits := allowed(field)) else ""
        lines.append(f"{indent}# {field.description}{bounds}")
        lines.append(f"{indent}{'# ' if key in UNSAID else ''}{leaf}: {_yaml(field.default)}")
    return "\n".join(lines) + "\n"


def _yaml(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if value == ():
        return "[]"
    if isinstance(value, Path):
        return f"./{value}"
    return str(value)


if __name__ == "__main__":
    print(render(), end="")
