"""The reasoning path of an answer, on texts whose equations were read off by hand."""

import random

import pytest

from rung.data.paths import equations, path_of, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tom has 3 + 4 = 7. Then 7 x 2 = 14.", ["3+4=7", "7*2=14"]),
        ("It costs $1,200 / 4 = $300 each", ["1200/4=300"]),
        ("50 - 3*4 = 50 - 12 = 38", ["50-3*4=50-12=38"]),
        ("(3+4)×2 = 14", ["(3+4)*2=14"]),
        (r"3 \times 4 = 12 and 12 \div 6 = 2", ["3*4=12", "12/6=2"]),
        ("1. 3+4=7\n2) 7*2=14\n- 5-2=3", ["3+4=7", "7*2=14", "5-2=3"]),
        ("12.5 * 2 = 25.", ["12.5*2=25"]),
        ("2 − 3 = -1", ["2-3=-1"]),
        ("x = 5, so the answer = 12", []),
        ("room 5 = 5", []),
        ("Paris, of course.", []),
        ("3 + 4 = 7 apples = many", ["3+4=7"]),
    ],
)
def test_equations_by_hand(text, expected):
    assert equations(text) == expected


def test_the_same_steps_in_other_words_are_one_path_and_other_steps_are_not():
    one = path_of("Tom has 3 + 4 = 7. Then 7 x 2 = 14.")
    assert one == path_of("First 3+4=7; doubled, 7*2=14!")
    assert one != path_of("Then 7*2=14 after 3+4=7")  # another order
    assert one != path_of("4+3=7, 7*2=14") and one != path_of("3+4=7, 7*2=15")


def test_without_an_equation_the_words_decide():
    assert path_of("Paris, of course.") == path_of("  paris OF\ncourse!") == "paris of course"
    assert path_of("yes") != path_of("no")
    assert path_of("-5") != path_of("5")
    assert path_of("3.5") != path_of("35")


def test_by_text_equations_do_not_merge_and_by_none_only_copies_do():
    first, second = "Add 3+4=7.", "So 3+4=7."
    assert path_of(first) == path_of(second)
    assert path_of(first, "text") != path_of(second, "text")
    assert path_of("Yes.", "text") == path_of("yes", "text")
    assert path_of("Yes.", "none") != path_of("yes", "none")


def test_white_space_and_case_never_matter_for_words():
    dice = random.Random(0)
    for _ in range(50):
        text = "".join(dice.choice("abC 1.-\n") for _ in range(30))
        assert words(text.upper().replace(" ", "  ")) == words(text)


@pytest.mark.parametrize("text", ["1+" * 20_000, "(" * 50_000, "1=1=" * 20_000, "1 " * 20_000, "9" * 50_000])
def test_hostile_texts_take_linear_time(text):
    equations(text)
