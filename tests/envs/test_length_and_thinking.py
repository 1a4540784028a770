"""needle, counting, regression, deduction: solved here by other means than they were made, and their options."""

import re
from fractions import Fraction
from itertools import permutations, product

import pytest

from rung.envs.load import load_environment
from rung.envs.needle import filling
from rung.envs.play import play
from rung.errors import UserError

MADE = ["needle?length=150&distractors=4", "counting", "regression", "deduction", "deduction?houses=4"]


def question(task):
    return task.messages[0]["content"].rpartition("\n\nGive the answer")[0]


@pytest.mark.parametrize("spec", MADE)
@pytest.mark.parametrize("format", ["plain", "tags", "think"])
def test_the_worked_example_is_graded_as_it_should(spec, format):
    environment = load_environment(f"{spec}{'&' if '?' in spec else '?'}format={format}")
    example = environment.example
    assert play(environment, example.task, example.right)[1].value == 1
    assert play(environment, example.task, example.wrong)[1].value == 0


@pytest.mark.parametrize("spec", MADE)
def test_training_and_test_never_meet_and_other_seeds_are_other_tasks(spec):
    environment, other = load_environment(spec, test_size=30), load_environment(spec, seed=5, test_size=30)
    test = {question(task) for task in environment.test}
    assert len(test) == 30 and [t.messages for t in other.test] == [t.messages for t in environment.test]
    one, two = ({question(task) for task in each.train[:100]} for each in (environment, other))
    assert not (one | two) & test and len(one) == 100 and len(one & two) < 5


# ---- needle ----


def parts(task):
    _, text, asked = question(task).split("\n\n")
    return text, asked


def test_a_needles_question_is_the_same_at_every_length_with_any_distractors():
    specs = ["length=64", "length=300", "length=300&distractors=4", "length=300&wording=other"]
    sets = [load_environment(f"needle?{spec}", test_size=25).test for spec in specs]
    assert len({tuple((parts(t)[1], t.reference) for t in tasks) for tasks in sets}) == 1
    assert len({parts(tasks[0])[0] for tasks in sets}) == 4


@pytest.mark.parametrize("distractors", [0, 1, 7, 16])
@pytest.mark.parametrize("length", [425, 1000])
def test_a_needle_of_the_length_asked_for_is_found_by_reading(length, distractors):
    for task in load_environment(f"needle?length={length}&distractors={distractors}", test_size=20).test:
        text, asked = parts(task)
        assert length <= len(text.split()) < length + 14
        codes = dict(re.findall(r"The code of (\w+ \w+'s \w+) is (\d+)\.", text))
        subject = re.fullmatch(r"What is the code of (\w+ \w+'s \w+)\?", asked)[1]
        assert codes.pop(subject) == task.reference and len(codes) == distractors
        assert len({*codes.values(), task.reference}) == distractors + 1
        who, thing = subject.split("'s ")
        assert all((each.startswith(who + "'s ")) != each.endswith("'s " + thing) for each in codes)
        assert len(re.findall(r"\d+", text)) == distractors + 1  # the filling has no numbers
        assert task.extra["length"] == length and task.extra["distractors"] == distractors


def test_needles_in_other_words_and_everywhere_in_the_text():
    test = load_environment("needle?length=200&wording=other", test_size=100).test
    for task in test:
        assert "code" not in parts(task)[0]
        assert re.search(rf"{task.reference} are the digits that open the (\w+) which", parts(task)[0])
    depths = sorted(task.extra["depth"] for task in test)
    assert depths[0] < 0.1 and depths[-1] > 0.9 and 0.35 < depths[50] < 0.65
    for task in test:  # the depth is where it stands, counted in sentences
        sentences = parts(task)[0].rstrip(".").split(". ")
        place = next(i for i, sentence in enumerate(sentences) if task.reference in sentence)
        assert task.extra["depth"] == pytest.approx(place / (len(sentences) - 1), abs=0.001)


def test_the_filling_is_not_always_the_same():
    import random

    random_ = random.Random(0)
    assert len({filling(random_) for _ in range(200)}) > 190


# ---- counting ----


def test_counts_are_the_sum_of_the_first_sentence_whatever_stands_between():
    for distractors in (0, 3, 12):
        for task in load_environment(f"counting?distractors={distractors}", test_size=40).test:
            first = question(task).splitlines()[0]
            numbers = [1 if word == "a" else int(word) for word in re.findall(r"\ba\b|\d+", first)]
            assert str(sum(numbers)) == task.reference
            others = question(task).split("\n\n")[0].splitlines()[1:]
            sentences = [line for line in others if re.match(r"[A-Z]|To ", line)]
            assert len(sentences) == distractors


def test_counting_without_distractors_asks_the_same():
    """The control: task i is about the same facts."""
    bare, full = (load_environment(f"counting?distractors={n}", test_size=20).test for n in (0, 5))
    assert [question(t).splitlines()[0] for t in bare] == [question(t).splitlines()[0] for t in full]
    assert [t.reference for t in bare] == [t.reference for t in full]


# ---- regression ----


def test_the_grade_is_the_only_one_that_a_linear_rule_of_all_columns_gives():
    """Solved exactly, in fractions, from the text alone."""
    for rows in (5, 8, 15):
        for task in load_environment(f"regression?rows={rows}", test_size=25).test:
            found = re.findall(r"study (\d+), sleep (\d+), stress (\d+)(?:: grade (\d+))?", question(task))
            *told, asked = [[int(n) if n else None for n in row] for row in found]
            assert len(told) == rows and asked[3] is None
            weights = solve([[1, *row[:3]] for row in told], [row[3] for row in told])
            assert weights[2] == weights[3] == 0 and weights[1] > 0
            assert str(weights[0] + weights[1] * asked[0]) == task.reference
            assert all(abs(study + stress - 20) <= 1 for study, _, stress, _ in told)  # in step
            assert abs(asked[0] + asked[2] - 20) == 6  # and not where it is asked
            assert asked[0] not in [row[0] for row in told] and 0 <= asked[2] <= 20


def solve(rows, values):
    """Gauss, in fractions; fails unless there is one solution and every row agrees with it."""
    table = [[Fraction(x) for x in (*row, value)] for row, value in zip(rows, values, strict=True)]
    for column in range(4):
        pivot = next(i for i in range(column, len(table)) if table[i][column])
        table[column], table[pivot] = table[pivot], table[column]
        table[column] = [x / table[column][column] for x in table[column]]
        for i, row in enumerate(table):
            if i != column:
                table[i] = [x - row[column] * y for x, y in zip(row, table[column], strict=True)]
    assert all(not any(row) for row in table[4:])
    return [row[4] for row in table[:4]]


# ---- deduction ----


def streets(houses, lists):
    for three in product(permutations(range(1, houses + 1)), repeat=3):
        yield {
            thing: n
            for things, order in zip(lists, three, strict=True)
            for thing, n in zip(things, order, strict=True)
        }


def holds(clue, street):
    """The clue's meaning, read from its words."""

    def place(text):
        return street[text.removeprefix("the owner of the ").removeprefix("the one who drinks ").lower()]

    clue = clue[0].lower() + clue[1:-1]
    for verb, true in (
        (" does not live in house ", lambda a, b: place(a) != int(b)),
        (" lives in house ", lambda a, b: place(a) == int(b)),
        (" lives directly left of ", lambda a, b: place(a) + 1 == place(b)),
        (" is not ", lambda a, b: place(a) != place(b)),
        (" is ", lambda a, b: place(a) == place(b)),
    ):
        if verb in clue:
            return true(*clue.split(verb))
    raise AssertionError(clue)


@pytest.mark.parametrize(("houses", "tasks"), [(3, 40), (4, 2)])
def test_clues_leave_one_street_and_each_of_them_is_needed(houses, tasks):
    kinds = set()
    for task in load_environment(f"deduction?houses={houses}", test_size=tasks).test:
        intro, clues, asked = question(task).split("\n\n")
        listed = [one or other for one, other in re.findall(r"^(.*?) live|\((.*?)\)", intro.lower())]
        lists = [re.split(", | and ", names) for names in listed]
        clues = clues.splitlines()
        every = [[holds(clue, street) for clue in clues] for street in streets(houses, lists)]
        [solution] = [s for s, truths in zip(streets(houses, lists), every, strict=True) if all(truths)]
        for i in range(len(clues)):
            assert sum(all(truths[:i] + truths[i + 1 :]) for truths in every) > 1, clues[i]
        pet = re.fullmatch(r"Who owns the (\w+)\?", asked)[1]
        assert solution[task.reference.lower()] == solution[pet] and task.extra["clues"] == len(clues)
        kinds |= {
            next(v for v in ("not live", "lives in", "left of", "is not", " is ") if v in c) for c in clues
        }
    assert len(kinds) == 5 or tasks < 10


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("needle?distractors=17", "not between 0 and 16"),
        ("needle?length=40&distractors=2", "take 75 at least"),
        ("needle?wording=loud", "write same or other"),
        ("counting?distractors=-1", "not between 0 and 12"),
        ("regression?rows=4", "not between 5 and 15"),
        ("deduction?houses=5", "is not 3 or 4"),
    ],
)
def test_what_cannot_be_made_is_refused(spec, says):
    with pytest.raises(UserError, match=says):
        load_environment(spec)
