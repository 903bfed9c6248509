"""Statistics of ratios that were measured in many short rounds. Standard library only."""

import random
import statistics


def interval(ratios):
    """The 95 % confidence interval of their median (bootstrap: Efron 1979)."""
    draws = sorted(statistics.median(random.choices(ratios, k=len(ratios))) for _ in range(1000))
    return draws[25], draws[974]
