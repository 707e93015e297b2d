"""Numbers of bytes as people read them."""

from __future__ import annotations


def size(count: int) -> str:
    """Return a number of bytes as text, such as ``4.6 MiB``: powers of 1024."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"
