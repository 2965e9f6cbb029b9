"""Which of several results are worth a look: the Pareto front of score, latency and bytes.

One result *dominates* another when it is not worse in any of the three and better in one:

1. score: higher is better; equal scores are a tie (both are of the same samples);
2. bytes: fewer are better; equal counts are a tie;
3. latency: better when its whole interval lies below the other's; intervals that overlap are a tie, because nothing
   was shown.

A result is left out of the front when one *on the front* dominates it. With intervals that overlap, being dominated
does not carry over from one to the next (a fast result can tie with a middling one, and that with a slow one), so
"dominated by any" would leave out results for ones that are left out themselves. Dominance has no cycles: bytes and
scores cannot get better all the way round, and where they tie throughout, intervals would each have to lie below the
next. So the front is unique: going from few bytes, high score and an early end of the interval to the other end, each
result is kept unless one that was kept before dominates it. Equal results are kept together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """What a result is judged by.

    Attributes:
        score: of the model; more is better.
        low, high: interval of the latency over the original's.
        bytes: of the file.
    """

    score: float
    low: float
    high: float
    bytes: int


def dominates(one: Point, other: Point) -> bool:
    """Whether `one` is not worse than `other` in any respect, and better in one."""
    if one.score < other.score or one.bytes > other.bytes or other.high < one.low:
        return False
    return one.score > other.score or one.bytes < other.bytes or one.high < other.low


def front(points: Sequence[Point]) -> list[bool]:
    """For each point, whether it is on the front."""
    kept: list[Point] = []
    on_front = [False] * len(points)
    for index in sorted(range(len(points)), key=lambda i: (points[i].bytes, -points[i].score, points[i].high)):
        on_front[index] = not any(dominates(point, points[index]) for point in kept)
        if on_front[index]:
            kept.append(points[index])
    return on_front
