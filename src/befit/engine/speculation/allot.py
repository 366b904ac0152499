"""How many drafts each sequence gets in a step.

A step of S sequences and n tokens takes T(n). With drafts, sequence i expects E_i tokens from it instead of one, and
every sequence waits longer for it. The drafts are chosen so that the sum over sequences of ln(E_i / T) grows the most:
relative gains outweigh relative losses (proportional fairness; Kelly, European Transactions on Telecommunications 8,
1997). For one sequence that is its expected tokens per second. Those who get no drafts only lose, so their losses count
CARE times, and none of them is slowed below 1 / STRETCH of what it has without drafts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heapreplace
from math import log

CARE = 3.0
STRETCH = 1.25


def allot(
    chances: Sequence[Sequence[float]], sequences: int, tokens: int, most: int, seconds: Callable[[int], float]
) -> list[int]:
    """Numbers of drafts, one for each entry of `chances`.

    chances[i][j]: probability that drafts 0 to j of sequence i are all accepted, so falling in j. sequences: S, those
    without drafts included. tokens: n without any draft. most: drafts of the step at most. seconds: T.
    """
    counts, best = [0] * len(chances), [0] * len(chances)
    expected = [1.0] * len(chances)
    # The next draft of each sequence by its relative gain, which falls from one to the next: taking the largest first
    # gives the best choice of every total.
    heap = [(-each[0], i) for i, each in enumerate(chances) if each]
    heapify(heap)
    plain = seconds(tokens)
    gain = best_net = 0.0
    drafting = 0
    for total in range(1, most + 1):
        if not heap:
            break
        value, i = heap[0]
        gain += log(1 - value)
        drafting += not counts[i]
        expected[i] += chances[i][counts[i]]
        counts[i] += 1
        if counts[i] < len(chances[i]):
            heapreplace(heap, (-chances[i][counts[i]] / expected[i], i))
        else:
            heappop(heap)
        stretch = seconds(tokens + total) / plain
        net = gain - (drafting + CARE * (sequences - drafting)) * log(stretch)
        if net > best_net and (drafting == sequences or stretch <= STRETCH):
            best_net, best = net, counts.copy()
    return best
