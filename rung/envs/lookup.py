"""Questions whose answers stand only in a small corpus: the worked example of search.

    In which town does the neighbour of Mira Tolan work?   ->   search("Mira Tolan"), search("Ivo Brandt")   ->   Elmwick

Two hundred made-up people, each with a trade, a town and a neighbour. Nobody can know them, so right answers
come from searching. Half of the questions need two looks. `lookup?tools=search` is the whole environment;
without the tool it measures what guessing is worth.
"""

from __future__ import annotations

import random
from functools import cache

from rung.envs.answers import asker, worked
from rung.envs.environment import Environment
from rung.envs.generated import Problem, example_problem, generated, seeded
from rung.envs.toolbox import search
from rung.envs.tools import Tool
from rung.rewards.matching import Exact

PEOPLE = 200
GIVEN = "Mira Ivo Tessa Orla Jonas Petra Silas Nadia Hugo Lena Bruno Vera Anton Greta Felix Iris Oskar Dora Emil Rosa"
FAMILY = "Tolan Brandt Quill Marsh Vance Okoro Lindt Farrow Sato Keller"
TRADES = "potter baker weaver tailor cooper mason glazier farrier printer saddler"
TOWNS = "Elmwick Brenport Astley Corvale Dunmere Fenholm Garth Hollin Ironby Kestrel Lowell Marrow"
QUESTIONS = (
    ("What is the trade of {name}?", "trade", False),
    ("In which town does {name} work?", "town", False),
    ("What is the trade of the neighbour of {name}?", "trade", True),
    ("In which town does the neighbour of {name} work?", "town", True),
)


def lookup(
    name: str, *, format: str = "plain", seed: int, train_size: int | None, test_size: int | None
) -> Environment:
    """The corpus is one and the same for every seed; questions are drawn."""
    people = corpus()

    def make(random_: random.Random) -> Problem:
        who = random_.choice(sorted(people))
        question, wanted, far = random_.choice(QUESTIONS)
        answer = people[people[who]["neighbour"] if far else who][wanted]
        return Problem(question.format(name=who), answer, answer)

    draw, ask = seeded(make), asker(format, name)
    example = worked(name, example_problem(draw), format, wrong="I do not know")
    environment = Environment(name, (), (), Exact(ignore_case=True), example=example)
    return generated(environment, draw, ask, seed, train_size, test_size)


@cache
def corpus() -> dict[str, dict[str, str]]:
    random_ = random.Random("lookup corpus")
    names = [f"{given} {family}" for given in GIVEN.split() for family in FAMILY.split()][:PEOPLE]
    neighbours = random_.sample(names, len(names))  # a ring, so that nobody is their own neighbour
    after = dict(zip(neighbours, [*neighbours[1:], neighbours[0]], strict=True))
    return {
        name: {
            "trade": random_.choice(TRADES.split()),
            "town": random_.choice(TOWNS.split()),
            "neighbour": after[name],
        }
        for name in names
    }


def lookup_tool() -> Tool:
    """Search over the corpus."""
    documents = {
        name: f"{name} is a {facts['trade']} in {facts['town']}. The neighbour of {name} is {facts['neighbour']}."
        for name, facts in corpus().items()
    }
    return search(documents)
