"""reasoning-gym by name: its own answers get 1, wrong ones less, its settings are checked, its quirks contained."""

import subprocess
import sys

import pytest

from rung.envs.load import load_environment
from rung.envs.play import play
from rung.envs.reasoning_gym import HASH_DEPENDENT, UNREPEATABLE, OwnGrade, datasets_by_kind
from rung.errors import UserError
from rung.rewards.score import Attempt, Failure, Score

# At least one of every kind that the package knows.
NAMES = [
    "complex_arithmetic",
    "polynomial_equations",
    "simple_equations",
    "base_conversion",
    "caesar_cipher",
    "letter_counting",
    "number_sorting",
    "spell_backward",
    "word_sorting",
    "rotate_matrix",
    "arc_1d",
    "basic_arithmetic",
    "chain_sum",
    "gcd",
    "decimal_arithmetic",
    "prime_factorization",
    "bf",
    "number_sequence",
    "figlet_font",
    "countdown",
    "mini_sudoku",
    "n_queens",
    "simple_geometry",
    "shortest_path",
    "largest_island",
    "list_functions",
    "knights_knaves",
    "syllogism",
    "coin_flip",
    "game_of_life_halting",
    "graph_color",
    "rubiks_cube",
]


@pytest.mark.parametrize("name", NAMES)
def test_its_own_answers_are_right_and_others_are_not(name):
    environment = load_environment(f"reasoning-gym/{name}", train_size=3, test_size=0)
    example = environment.example
    assert play(environment, example.task, example.right)[1] == Score(1.0)
    wrong = play(environment, example.task, example.wrong)[1]
    assert isinstance(wrong, Score) and 0 <= wrong.value < 1
    empty = play(environment, example.task, [""])[1]
    assert isinstance(empty, Score) and 0 <= empty.value < 1
    for task in environment.train:
        answer = task.reference["answer"]
        if answer is not None:
            assert play(environment, task, [f"<answer>{answer}</answer>"])[1].value == 1


def test_the_names_cover_every_kind():
    kinds = datasets_by_kind()
    covered = {kind for kind, names in kinds.items() if set(names) & set(NAMES)}
    assert kinds.keys() - covered <= {"induction", "cognition"} and len(NAMES) >= 20


def test_options_reach_the_generator():
    environment = load_environment(
        "reasoning-gym/chain_sum?min_terms=2&max_terms=2&min_digits=3&max_digits=3"
    )
    for task in environment.train[:20]:
        assert task.reference["metadata"]["num_terms"] == 2 and task.reference["metadata"]["num_digits"] == 3
    assert environment.train[4].key == (
        "reasoning-gym/chain_sum?max_digits=3&max_terms=2&min_digits=3&min_terms=2:train:0:4"
    )


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("reasoning-gym/chain_sun", "did you mean chain_sum"),
        ("reasoning-gym/composite", "no data set 'composite'"),
        ("reasoning-gym/chain_sum?max_term=3", "did you mean max_terms"),
        ("reasoning-gym/chain_sum?max_terms=many", "max_terms='many' is not of the kind int"),
        ("reasoning-gym/chain_sum?max_terms=1", "refuses these options: max_terms must be >= min_terms"),
        ("reasoning-gym/chain_sum?partial=maybe", "partial='maybe' is not of the kind bool"),
        ("reasoning-gym/chain_sum?seed=1", "no option 'seed'"),
        (f"reasoning-gym/{UNREPEATABLE[0]}", "not the same when it is made again"),
    ],
)
def test_mistakes_are_named(spec, says):
    with pytest.raises(UserError, match=says.replace("?", r"\?")):
        load_environment(spec)


def test_dashes_in_a_name_are_underscores():
    assert load_environment("reasoning-gym/chain-sum").name == "reasoning-gym/chain_sum"


def test_sets_that_hang_on_the_hash_seed_need_it_fixed():
    code = "from rung.envs.load import load_environment as load; print(load('reasoning-gym/ransom_note').train[3].key)"
    refused, made = (
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, text=True, capture_output=True
        )
        for seed in "10"
    )
    assert "ransom_note" in HASH_DEPENDENT and "PYTHONHASHSEED=0" in refused.stderr
    assert made.stdout.strip() == "reasoning-gym/ransom_note:train:0:3"


def attempt(name: str, said: str, **changed) -> Attempt:
    entry = load_environment(f"reasoning-gym/{name}", train_size=1).train[0].reference
    return Attempt((), said, {**entry, **changed})


def test_a_grader_that_trips_over_the_models_words_is_no_failure():
    """prime_factorization raises on letters; an answer that avoids its 0 by being unreadable must not leave its group."""
    verdict = OwnGrade("prime_factorization", ())(attempt("prime_factorization", "Answer: two times three"))
    assert verdict == Score(0.0, {"unreadable": 1.0})


def test_a_grader_that_trips_over_its_own_answer_has_failed():
    broken = attempt("prime_factorization", "Answer: two times three", answer=None)
    verdict = OwnGrade("prime_factorization", ())(broken)
    assert isinstance(verdict, Failure) and verdict.kind == "exception"


def test_nonsense_is_not_right_where_the_grader_asks_for_one_word_only():
    """game_of_life_halting takes all but `True` for `False`."""
    grade, task = OwnGrade("game_of_life_halting", ()), "game_of_life_halting"
    asked = next(
        e for e in load_environment(f"reasoning-gym/{task}").train[:30] if e.reference["answer"] == "False"
    )
    assert [
        grade(Attempt((), said, asked.reference)).value for said in ("Answer: False", "Answer: maybe", "")
    ] == [1, 0, 0]


def test_a_part_of_the_score_is_given_for_what_contains_the_answer_unless_only_whole_ones_count():
    whole, parts = (
        load_environment(f"reasoning-gym/chain_sum{option}", train_size=3, test_size=0)
        for option in ("?partial=false", "")
    )
    assert [task.key for task in whole.train] == [task.key for task in parts.train]
    for task in whole.train:
        right = task.reference["answer"]
        for environment, worth in ((parts, len(right) / len(right + "3")), (whole, 0.0)):
            longer = play(environment, task, [f"Answer: {right}3"])[1]
            assert isinstance(longer, Score) and longer.value == pytest.approx(worth)
            assert play(environment, task, [f"Answer: {right}"])[1] == Score(1.0)


def test_answers_of_several_lines_are_asked_for_in_tags():
    sudoku, number = load_environment("reasoning-gym/mini_sudoku"), load_environment("reasoning-gym/gcd")
    assert "<answer>" in sudoku.train[0].messages[0]["content"]
    assert '"Answer:"' in number.train[0].messages[0]["content"]
