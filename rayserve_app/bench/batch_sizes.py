"""How a report puts sizes of batches together: 1, 2, 3-4, 5-8, 9-16, ..."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping


def up_to_powers(batches: Mapping[int, int]) -> Counter[int]:
    """Return batches by the power of two that their size does not exceed: 1, 2, 4, 8, ..."""
    found: Counter[int] = Counter()
    for size, count in sorted(batches.items()):
        found[1 << (size - 1).bit_length()] += count
    return found


def size_range(power: int) -> str:
    """Return the sizes that stand together with a power of two."""
    return str(power) if power <= 2 else f"{power // 2 + 1}-{power}"
