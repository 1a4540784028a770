"""Do two models mean the same by a token id? Compared by the tokens' own strings, before any weights are loaded.

same      every id stands for the same token, and the embeddings have as many rows
padded    every id stands for the same token, one embedding has more rows: the others stand for nothing
refused   anything else, with the first difference: a teacher that reads other ids answers another question
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rung.errors import UserError


@dataclass(frozen=True)
class Vocabulary:
    """`size` is how many rows of either head are compared."""

    kind: Literal["same", "padded"]
    size: int


def common_vocabulary(
    student: Mapping[str, int], teacher: Mapping[str, int], student_rows: int, teacher_rows: int
) -> Vocabulary:
    """How the two go together. The maps are from tokens to ids, added tokens included. Raises UserError."""
    if student != teacher:
        raise UserError(
            f"The teacher's tokens are not the student's: {difference(student, teacher)}. {REMEDY}"
        )
    if student_rows == teacher_rows:
        return Vocabulary("same", student_rows)
    return Vocabulary("padded", max(student.values()) + 1)


REMEDY = (
    "Per-token distillation compares the two models id by id. Take a teacher with the student's tokenizer, or learn "
    "from its text: sample answers with `rung rft --model TEACHER` and train on them with `rung sft`."
)


def difference(student: Mapping[str, int], teacher: Mapping[str, int]) -> str:
    """The first thing in which two vocabularies differ, in words."""
    only_student = sorted(student.keys() - teacher.keys(), key=student.__getitem__)
    only_teacher = sorted(teacher.keys() - student.keys(), key=teacher.__getitem__)
    if only_student or only_teacher:
        parts = [
            f"{len(tokens):,} tokens only the {who} has, such as {tokens[0]!r}"
            for who, tokens in (("student", only_student), ("teacher", only_teacher))
            if tokens
        ]
        return " and ".join(parts)
    moved = sorted((token for token in student if student[token] != teacher[token]), key=student.__getitem__)
    return (
        f"they are the same strings in another order, {len(moved):,} of {len(student):,} under other ids; "
        f"{moved[0]!r} is {student[moved[0]]} for the student and {teacher[moved[0]]} for the teacher"
    )


def tokens_of(tokenizer: Any) -> dict[str, int]:
    return {str(token): int(id) for token, id in tokenizer.get_vocab().items()}
