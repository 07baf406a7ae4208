"""Plain text in columns, for people and for grep."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def in_columns(lines: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> str:
    """Lines of cells as text, two spaces between columns; those with an index in `right` are aligned to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
