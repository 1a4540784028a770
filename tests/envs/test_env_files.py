"""Tasks from files: columns, splits, duplicates, and rows that cannot be used."""

import json
from pathlib import Path

import pytest

from rung.envs.load import load_environment
from rung.envs.play import play
from rung.errors import UserError
from rung.rewards.score import Score


def write(path: Path, rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def problems(start: int, stop: int) -> list:
    return [{"question": f"{i} plus one?", "answer": f"easy\n#### {i + 1:,}"} for i in range(start, stop)]


def test_a_folder_keeps_the_split_of_its_owner_but_for_rows_in_both(tmp_path):
    write(
        tmp_path / "train.jsonl", [*problems(0, 50), {"question": "1200  plus one?", "answer": "#### 1,201"}]
    )
    write(tmp_path / "test.jsonl", problems(1200, 1210))
    environment = load_environment(f"gsm8k:{tmp_path}")
    assert len(environment.train) == 50 and len(environment.test) == 10
    assert environment.train[7].key == "gsm8k:train:7" and environment.test[0].reference == "1201"
    assert play(environment, environment.test[0], ["so it is 1,201"])[1].value == 1
    assert play(environment, environment.test[0], ["Answer: 1200"])[1].value == 0
    small = load_environment(f"gsm8k:{tmp_path}", train_size=5, test_size=2)
    assert len(small.train) == 5 and len(small.test) == 2


def test_one_file_is_split_by_its_prompts_whatever_their_order(tmp_path):
    rows = problems(0, 100)
    forward = load_environment(f"gsm8k:{write(tmp_path / 'a.jsonl', rows)}", test_size=20)
    backward = load_environment(f"gsm8k:{write(tmp_path / 'b.jsonl', rows[::-1])}", test_size=20)
    prompts = [{str(t.messages) for t in e.test} for e in (forward, backward)]
    assert prompts[0] == prompts[1] and len(prompts[0]) == 20
    assert len(forward.train) == 80 and not prompts[0] & {str(t.messages) for t in forward.train}
    assert len(load_environment(f"gsm8k:{tmp_path / 'a.jsonl'}").test) == 25  # never more than a quarter


def test_repeated_prompts_stay_on_one_side(tmp_path):
    environment = load_environment(f"gsm8k:{write(tmp_path / 'a.jsonl', problems(0, 40) * 3)}", test_size=10)
    asked = {str(t.messages) for t in environment.test}
    assert asked and not asked & {str(t.messages) for t in environment.train}
    assert len({t.key for t in [*environment.train, *environment.test]}) == len(environment.train) + len(
        environment.test
    )


def test_rows_with_messages_and_further_columns(tmp_path):
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which is it, A or B?"}]
    path = write(
        tmp_path / "a.jsonl",
        [{"prompt": prompt, "answer": "B", "level": 3}, {"prompt": "x", "answer": "A"}],
    )
    environment = load_environment(f"rows:{path}?reward=choice")
    task = environment.train[0]
    assert task.key == "rows/a:train:0" and list(task.messages) == prompt and task.extra["level"] == 3
    assert play(environment, task, ["Answer: (B)"])[1] == Score(1.0)
    tagged = load_environment(f"rows:{path}?reward=choice&format=tags").train[0]
    assert tagged.messages[-1]["content"].startswith("Which is it, A or B?\n\n") and len(tagged.messages) == 2


def test_a_reward_of_the_users_own_grades_rows(tmp_path):
    (tmp_path / "mine.py").write_text("def length(attempt):\n    return len(attempt.answer) / 10\n")
    path = write(tmp_path / "a.jsonl", [{"prompt": "say something", "answer": ""}])
    environment = load_environment(f"rows:{path}?reward={tmp_path}/mine.py:length")
    assert play(environment, environment.train[0], ["12345"])[1] == Score(0.5)


def test_math_takes_the_answer_column_or_the_box(tmp_path):
    rows = [
        {"problem": "Half?", "solution": r"It is \boxed{\frac{1}{2}}."},
        {"problem": "Two?", "answer": "2"},
    ]
    environment = load_environment(f"math:{write(tmp_path / 'm.jsonl', rows)}")
    assert [t.reference for t in environment.train] == [r"\frac{1}{2}", "2"]
    assert play(environment, environment.train[0], ["Answer: 0.5"])[1].value == 1
    assert play(environment, environment.train[0], [r"Answer: \frac{2}{3}"])[1].value == 0


@pytest.mark.parametrize(
    ("spec", "row", "says"),
    [
        ("gsm8k", {"question": "x", "answer": "42"}, "does not end in '#### NUMBER'"),
        ("gsm8k", {"q": "x"}, "no text in question; it has q"),
        ("math", {"problem": "x", "solution": "it is 2"}, "no .*boxed"),
        ("rows", {"prompt": "x"}, "no column `answer`; it has prompt"),
        ("rows", {"prompt": "", "answer": "x"}, "no text in prompt or question"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path, spec, row, says):
    path = write(tmp_path / "bad.jsonl", [row])
    with pytest.raises(UserError, match=f"bad.jsonl:1: .*{says}"):
        load_environment(f"{spec}:{path}")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("rows", "write rows:PATH"),
        ("gsm8k:/nowhere/at/all.jsonl", "no file /nowhere/at/all.jsonl"),
        ("rows:{path}?reward=numerik", "did you mean numeric"),
        ("rows:{path}?reward=nowhere.py:f", "nowhere.py"),
    ],
)
def test_mistakes_in_the_spelling_are_named(tmp_path, spec, says):
    path = write(tmp_path / "a.jsonl", [{"prompt": "x", "answer": "y"}])
    with pytest.raises(UserError, match=says):
        load_environment(spec.format(path=path))


GSM8K = next((p for p in Path(__file__).resolve().parents if (p / "shared/data/gsm8k").is_dir()), None)


@pytest.mark.skipif(GSM8K is None, reason="the real GSM8K files are not beside the checkout")
def test_the_real_gsm8k_is_graded_right_by_its_own_solutions():
    environment = load_environment(f"gsm8k:{GSM8K}/shared/data/gsm8k")
    assert len(environment.train) > 7000 and len(environment.test) == 1000
    for task in environment.test:
        assert play(environment, task, [task.extra["worked"]])[1].value == 1, task.key
