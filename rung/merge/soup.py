"""The greedy soup: models join the average one by one, and only where a validation metric does not suffer.

    order the models by their own metric, best first; the soup begins with the best
    for each next model: put it in; keep it if the metric of the mean of all in the soup is no worse

Source: 2203.05482, recipe 1. Chosen and measured on validation data, which is then no test data any more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Soup:
    members: list[int]  # indices of the models in it, best first
    metric: float
    alone: list[float]  # metric of each model by itself
    tried: list[tuple[tuple[int, ...], float]] = field(default_factory=list)  # every soup that was measured


def greedy_soup(count: int, measure: Callable[[Sequence[int]], float]) -> Soup:
    """`measure(members)` is the metric of the uniform mean of these models; larger is better."""
    alone = [measure([i]) for i in range(count)]
    best, *others = sorted(range(count), key=lambda i: -alone[i])
    members, metric, tried = [best], alone[best], []
    for candidate in others:
        found = measure([*members, candidate])
        tried.append(((*members, candidate), found))
        if found >= metric:
            members, metric = [*members, candidate], found
    return Soup(members, metric, alone, tried)
