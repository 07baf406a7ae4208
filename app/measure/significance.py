"""Whether a difference between repeated pairs is more than chance. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# With fewer pairs even the clearest result has a chance of more than 5 %: 4 pairs of one sign come up 1 time in 16.
ENOUGH_PAIRS = 5
ALPHA = 0.05
_MOST_EXACT = 16
_DRAWS = 1 << _MOST_EXACT


def chance(differences: Sequence[float]) -> float:
    """How likely pairs that differ by chance alone would show a mean difference at least this far to its side.

    The sign-flip permutation test (Fisher, The Design of Experiments, 1935): if both measurements of a pair come from
    one distribution, each difference could as well have the other sign. All 2^n ways to choose the signs are looked at,
    so nothing is assumed of the distribution; from 17 pairs on, 65,536 ways drawn from a fixed seed. One-sided: the
    side is the observed one. Of at least one finite difference.
    """
    values = np.asarray(differences, dtype=np.float64)
    observed = abs(float(values.sum()))
    if len(values) <= _MOST_EXACT:
        signs = 1.0 - 2.0 * ((np.arange(1 << len(values))[:, None] >> np.arange(len(values))) & 1)
    else:
        signs = np.random.default_rng(0).choice((-1.0, 1.0), size=(_DRAWS, len(values)))
    sums = signs @ values
    # The sums of one set of numbers in two orders differ in their last digits.
    return float(np.mean(sums >= observed - 1e-9 * float(np.abs(values).sum())))
