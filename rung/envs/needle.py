"""A fact in a long text: the same question at every length (needle in a haystack; Chroma's context-rot report, 2025).

    ... The code of Mira Tolan's bicycle is 48213. ... What is the code of Mira Tolan's bicycle?   ->   48213

Only the filling grows with `length`: task i asks the same about the same needle at every length and with any number
of distractors, so what changes is the length. A distractor is a sentence of the needle's kind about the same person
and another thing, or the same thing and another person. With `wording=other` these sentences and the question are put in
different words. Stay within the context that the model was trained for, or it measures extrapolation.
Changed from the report: all text is made, so that nothing is known by heart and no judge is needed.
"""

from __future__ import annotations

import random

from rung.envs.answers import asker, worked
from rung.envs.environment import Environment
from rung.envs.generated import Problem, example_problem, generated, seeded
from rung.errors import UserError
from rung.rewards.numeric import Numeric

GIVEN = "Mira Ivo Tessa Orla Jonas Petra Silas Nadia Hugo Lena Bruno Vera Anton Greta Felix Iris"
FAMILY = "Tolan Brandt Quill Marsh Vance Okoro Lindt Farrow Sato Keller"
THINGS = "bicycle locker safe garage suitcase cellar boat toolbox"
WORDINGS = {
    "same": "The code of {who}'s {thing} is {code}.",
    "other": "{code} are the digits that open the {thing} which belongs to {who}.",
}
QUESTION = "What is the code of {who}'s {thing}?"
FILLING = (
    "baker|potter|weaver|miller|tailor|cooper|printer|gardener|teacher|painter",
    "carried|mended|counted|forgot|cleaned|sold|painted|borrowed|wrapped|admired",
    "old chair|blue kettle|wooden ladder|heavy coat|round table|small lamp|copper pan|long rope",
    "by the river|behind the church|near the mill|in the market|under the bridge|at the station",
    "before breakfast|late at night|on a rainy day|after the fair|in early spring|without a word",
)


def needle(
    name: str,
    *,
    length: int = 500,
    distractors: int = 0,
    wording: str = "same",
    format: str = "plain",
    seed: int,
    train_size: int | None,
    test_size: int | None,
) -> Environment:
    """`length` is the words of the text, to within a sentence; `distractors` are 0 to 16."""
    if wording not in WORDINGS:
        raise UserError(f"{name}: there is no wording={wording!r}; write same or other")
    if not 0 <= distractors <= 16:
        raise UserError(f"{name}: distractors={distractors} is not between 0 and 16")
    least = 25 * (distractors + 1)  # words: a sentence of the needle's kind and one of the filling
    if not least <= length <= 1_000_000:
        raise UserError(
            f"{name}: length={length} words; the needle, {distractors} distractors and a sentence for each take "
            f"{least} at least, and 1000000 is the most"
        )

    def make(random_: random.Random) -> Problem:
        who, thing, code, others = hidden(random_)
        told = [WORDINGS[wording].format(who=who, thing=thing, code=code)]
        told += [WORDINGS[wording].format(who=w, thing=t, code=c) for w, t, c in others[:distractors]]
        sentences, words = [], sum(len(each.split()) for each in told)
        while words < length:
            sentences.append(filling(random_))
            words += len(sentences[-1].split())
        places = random_.sample(range(len(sentences)), len(told))
        for place, sentence in sorted(zip(places, told, strict=True), reverse=True):
            sentences.insert(place, sentence)
        depth = sentences.index(told[0]) / (len(sentences) - 1)
        question = QUESTION.format(who=who, thing=thing)
        asked = f"Read the text and answer the question about it.\n\n{' '.join(sentences)}\n\n{question}"
        extra = {"length": length, "distractors": distractors, "depth": round(depth, 3)}
        return Problem(asked, code, code, extra, identity=f"{who} {thing} {code}")

    draw, ask = seeded(make), asker(format, name)
    problem = example_problem(draw)
    wrong = str(int(problem.reference) + 1)
    environment = Environment(name, (), (), Numeric(), example=worked(name, problem, format, wrong))
    return generated(environment, draw, ask, seed, train_size, test_size)


def hidden(random_: random.Random) -> tuple[str, str, str, list[tuple[str, str, str]]]:
    """Who, which thing, its code, and 16 distractors, drawn whether they are used or not: all lengths ask alike."""
    people = random_.sample([f"{given} {family}" for given in GIVEN.split() for family in FAMILY.split()], 13)
    things = random_.sample(THINGS.split(), 5)
    codes = [str(code) for code in random_.sample(range(10_000, 100_000), 17)]
    near = [(people[0], thing) for thing in things[1:]]  # 4
    far = [(person, things[0]) for person in people[1:]]  # 12
    turns = [*(pair for both in zip(near, far, strict=False) for pair in both), *far[len(near) :]]
    others = [(who, thing, code) for (who, thing), code in zip(turns, codes[1:], strict=True)]
    return people[0], things[0], codes[0], others


def filling(random_: random.Random) -> str:
    """A sentence without a number that has nothing to do with codes."""
    who, did, what, where, when = (random_.choice(words.split("|")) for words in FILLING)
    return f"The {who} {did} the {what} {where} {when}."
