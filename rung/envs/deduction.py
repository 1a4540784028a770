"""Deduction: who lives where with what, from clues that allow one answer (a zebra puzzle).

    ... The owner of the cat is the one who drinks tea. Mira lives directly left of the owner of the dog. ...   ->   Ivo

One of the tasks on which more thinking can make models worse (arXiv 2507.14417). The clues are drawn from those that
are true until they leave one of all possible streets, and those that can be spared are taken away again, so each of
them is needed; that one street is left was counted, not assumed.
"""

from __future__ import annotations

import random
from functools import cache
from itertools import combinations, permutations, product

import numpy as np

from rung.envs.answers import asker, worked
from rung.envs.environment import Environment
from rung.envs.generated import Problem, example_problem, generated, seeded
from rung.errors import UserError
from rung.rewards.matching import Exact

PEOPLE, PETS = ["Mira", "Ivo", "Tessa", "Orla"], ["cat", "dog", "parrot", "goldfish"]
DRINKS = ["tea", "coffee", "milk", "water"]
Clue = tuple[str, np.ndarray]  # what it says, and in which of all possible streets it is true


def deduction(
    name: str,
    *,
    houses: int = 3,
    format: str = "plain",
    seed: int,
    train_size: int | None,
    test_size: int | None,
) -> Environment:
    """`houses` is 3 or 4: 216 or 13,824 possible streets."""
    if houses not in (3, 4):
        raise UserError(f"{name}: houses={houses} is not 3 or 4")

    def make(random_: random.Random) -> Problem:
        told, street = enough_clues(random_, houses)
        pet = random_.choice(PETS[:houses])
        kinds = f"{words(PEOPLE[:houses])} live in {houses} houses in a row, numbered from left to right"
        kinds += f", one in each. Each has another pet ({words(PETS[:houses])}) and another drink "
        kinds += f"({words(DRINKS[:houses])})."
        [owner] = [who for who in PEOPLE[:houses] if street[who] == street[pet]]
        question = "\n".join([kinds, "", *told, "", f"Who owns the {pet}?"])
        return Problem(question, owner, owner, {"clues": len(told), "houses": houses})

    draw, ask = seeded(make), asker(format, name)
    problem = example_problem(draw)
    wrong = next(who for who in PEOPLE if who != problem.reference)
    example = worked(name, problem, format, wrong)
    environment = Environment(name, (), (), Exact(ignore_case=True), example=example)
    return generated(environment, draw, ask, seed, train_size, test_size)


def words(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


@cache
def streets(houses: int) -> dict[str, np.ndarray]:
    """The house of every person, pet and drink, in each of the (houses!)^3 possible streets."""
    orders = list(permutations(range(houses)))
    every = np.array([np.concatenate(three) for three in product(orders, repeat=3)])
    names = [*PEOPLE[:houses], *PETS[:houses], *DRINKS[:houses]]
    return {name: every[:, i] for i, name in enumerate(names)}


@cache
def clues(houses: int) -> list[Clue]:
    """Everything that can be said, with where it holds."""
    house, found = streets(houses), []
    groups = [
        {who: who for who in PEOPLE[:houses]},
        {pet: f"the owner of the {pet}" for pet in PETS[:houses]},
        {drink: f"the one who drinks {drink}" for drink in DRINKS[:houses]},
    ]
    said = {thing: text for group in groups for thing, text in group.items()}
    for thing, text in said.items():
        for number in range(houses):
            found.append((f"{text} lives in house {number + 1}.", house[thing] == number))
            found.append((f"{text} does not live in house {number + 1}.", house[thing] != number))
    for one, other in combinations(groups, 2):
        for a, b in product(one, other):
            found.append((f"{said[a]} is {said[b]}.", house[a] == house[b]))
            found.append((f"{said[a]} is not {said[b]}.", house[a] != house[b]))
    for a, b in permutations(said, 2):
        found.append((f"{said[a]} lives directly left of {said[b]}.", house[a] + 1 == house[b]))
    return [(text[0].upper() + text[1:], holds) for text, holds in found]


def enough_clues(random_: random.Random, houses: int) -> tuple[list[str], dict[str, int]]:
    """A street, and clues of which none can be spared."""
    house = streets(houses)
    truth = random_.randrange(len(house[PEOPLE[0]]))
    chosen: list[Clue] = []
    left = np.ones(len(house[PEOPLE[0]]), bool)
    for text, holds in random_.sample(clues(houses), len(clues(houses))):
        if holds[truth] and (left & ~holds).any():
            chosen.append((text, holds))
            left &= holds
        if left.sum() == 1:
            break
    for clue in list(chosen):
        others = [each for each in chosen if each is not clue]
        if np.logical_and.reduce([holds for _, holds in others]).sum() == 1:
            chosen = others
    return [text for text, _ in chosen], {name: int(places[truth]) for name, places in house.items()}
