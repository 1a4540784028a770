"""Which teachers may teach which students, by their tokens."""

import pytest

from rung.data.vocabulary import Vocabulary, common_vocabulary
from rung.errors import UserError

STUDENT = {"<end>": 0, "a": 1, "b": 2, "c": 3}


def test_the_same_and_the_padded():
    assert common_vocabulary(STUDENT, dict(reversed(STUDENT.items())), 4, 4) == Vocabulary("same", 4)
    assert common_vocabulary(STUDENT, STUDENT, 8, 8) == Vocabulary("same", 8)  # padded alike
    assert common_vocabulary(STUDENT, STUDENT, 4, 64) == Vocabulary("padded", 4)
    assert common_vocabulary(STUDENT, STUDENT, 64, 5) == Vocabulary("padded", 4)
    assert common_vocabulary({"a": 0, "b": 5}, {"a": 0, "b": 5}, 6, 8) == Vocabulary(
        "padded", 6
    )  # ids with a gap


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        ({"<end>": 0, "a": 2, "b": 1, "c": 3}, "another order, 2 of 4 .* 'a' is 1 for the student and 2 for the teacher"),
        ({"<end>": 0, "a": 1, "b": 2, "c": 4}, "another order, 1 of 4 .* 'c' is 3 .* and 4"),
        ({"<end>": 0, "a": 1, "b": 2, "d": 3}, "1 tokens only the student has, such as 'c' and 1 .* such as 'd'"),
        ({**STUDENT, "e": 4, "f": 5}, "2 tokens only the teacher has, such as 'e'"),
        ({"<end>": 0, "a": 1}, "2 tokens only the student has, such as 'b'"),
    ],
)  # fmt: skip
def test_the_refused_are_told_why(teacher, said):
    with pytest.raises(UserError, match=said) as error:
        common_vocabulary(STUDENT, teacher, 4, 4)
    assert "rung rft --model TEACHER" in str(error.value)
