"""What can be said of ratios that were measured in many short rounds. Standard library only."""

import random
import statistics


def interval(ratios):
    """Where their median lies in 95 of 100 draws of as many (bootstrap: Efron 1979)."""
    draws = sorted(statistics.median(random.choices(ratios, k=len(ratios))) for _ in range(1000))
    return draws[25], draws[974]
