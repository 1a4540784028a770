"""Credit that a teacher gives to what the student wrote itself. Two forms that are often confused, named apart.

    reverse_kl     A_t = log p_teacher(y_t) - log p_student(y_t)                 each token its own
    teacher_score  A   = r - mean of r over the answers to the same prompt,      one for the whole answer
                   r   = (1/T) sum_t log p_teacher(y_t)

reverse_kl is on-policy distillation as it is used: in expectation over the student's token, A_t grad log p_student
is minus the gradient of KL(student || teacher) at that prefix (the baseline of 1 that the entropy adds has no gradient).
It is 0 where the two agree, and its optimum is the teacher. What a token does to later ones is left out (a discount
of 0; with 1 it is the gradient of the KL of whole answers, as in MiniLLM, 2306.08543).

teacher_score is REINFORCE with the teacher as a judge. It has no term of the student's own log-prob, so nothing in it
holds the student's distribution up: its optimum is the one answer the teacher finds likeliest. Changed from the sum that
is usually written: the mean over tokens, since a sum pays for brevity.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy import ndarray

from rung.advantages.groups import group_mean


def reverse_kl(student: ndarray, teacher: ndarray, by_model: ndarray) -> ndarray:
    """float32 [T] of one rollout from the log-probs of its tokens; 0 where the student did not write."""
    return np.where(by_model, teacher.astype(np.float64) - student, 0.0).astype(np.float32)


def teacher_score(teacher: Sequence[ndarray], by_model: Sequence[ndarray], group_R: ndarray) -> list[ndarray]:
    """float32 [T] of each rollout; an answer without others to the same prompt has nothing to be compared with: 0."""
    score_R = np.array(
        [float(said[own].mean(dtype=np.float64)) for said, own in zip(teacher, by_model, strict=True)]
    )
    advantage_R = np.nan_to_num(group_mean(score_R, group_R), nan=0.0)
    return [
        np.where(own, value, 0.0).astype(np.float32) for own, value in zip(by_model, advantage_R, strict=True)
    ]
