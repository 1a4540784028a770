"""Tasks that an earlier run shows to be too easy or too hard are left out; what it never tried stays."""

import numpy as np
import pytest

from rung.batch import Rollout
from rung.envs.environment import Environment, Task
from rung.errors import UserError
from rung.pipelines.rl import of_right_difficulty
from rung.rewards.score import Failure, Score
from rung.rollouts.columns import Graded
from rung.rollouts.store import RolloutStore
from rung.settings_rl import Rl

ONE = np.zeros(1, np.float32)


def graded(task, verdict):
    ids = np.ones(1, np.int32)
    rollout = Rollout(task, 0, ids, ids, np.ones(1, bool), ONE, ONE, ONE, ids, "stop")
    return Graded(rollout, verdict, ONE)


def environment():
    tasks = [
        Task(key, ({"role": "user", "content": key},))
        for key in ("easy", "hard", "middling", "untried", "ill")
    ]
    return Environment("four", tasks, tasks, lambda attempt: Score(0.0))


def test_only_what_is_surely_too_easy_or_too_hard_goes(tmp_path):
    outcomes = {"easy": [1.0] * 40, "hard": [0.5] * 40, "middling": [1.0, 0.0] * 20}
    records = [graded(task, Score(value)) for task, values in outcomes.items() for value in values]
    records += [graded("ill", Failure("crash"))] * 40  # says nothing of how hard the task is
    RolloutStore(tmp_path).write(0, records)
    kept = of_right_difficulty(environment(), Rl(difficulty_from=str(tmp_path)))
    assert [task.key for task in kept.train] == ["middling", "untried", "ill"]
    assert len(kept.test) == 5


def test_a_folder_without_rollouts_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no rollouts"):
        of_right_difficulty(environment(), Rl(difficulty_from=str(tmp_path)))
