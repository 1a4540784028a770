"""What the recipes' small models read first is in the form in which they are asked later, token for token."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from rung.data.examples import load_examples
from rung.data.tokens import decode, token_policy
from rung.models.small import write_small_model
from rung.rewards.score import Attempt
from rung.rewards.user import load_file
from rung.rollouts.episodes import Theatre
from rung.rollouts.request import Sampling

RECIPES = Path(__file__).parents[2] / "recipes"


def script(name):
    return load_file(str(RECIPES / f"{name}.py"))


class Unused:
    """A sampler nobody asks: prompts are rendered before it is."""

    context, version = 256, 0


CORPORA = {
    "R1-Zero": ("countdown_small", lambda module: list(module.corpus(40, 0.5, 3))),
    "search": ("countdown_search", lambda module: list(module.corpus(20, 0.5, 3))),
    "primed": ("countdown_search", lambda module: module.priming(20, 3)),
}


@pytest.mark.parametrize("name", CORPORA)
def test_an_answer_follows_exactly_what_a_sampler_s_prompt_ends_with(tmp_path, name):
    file, rows_of = CORPORA[name]
    module = script(file)
    rows = rows_of(module)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = write_small_model(
        tmp_path / "model",
        module.CHARACTERS,
        layers=1,
        width=8,
        heads=1,
        phrases=getattr(module, "PHRASES", ()),
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    environment = module.environment()
    theatre = Theatre(Unused(), environment, tokenizer, token_policy(tokenizer), Sampling())
    examples = load_examples([str(tmp_path / "rows.jsonl")], tokenizer, max_length=256).examples
    assert len(examples) == len(rows)
    task = environment.train[0]
    [(_, asked)] = theatre.prompts([task])
    for row, example in zip(rows, examples, strict=True):
        question = type(task)("row", tuple(row["messages"][:-1]))
        [(_, prompt)] = theatre.prompts([question])
        ids, trained = example.token_ids.tolist(), example.trained.tolist()
        assert ids[: len(prompt)] == prompt and trained.index(True) == len(prompt)
        assert ids[len(prompt) - 1] == asked[-1], "the token before an answer is another than the sampler's"
        answer = decode(tokenizer, ids[len(prompt) :])
        assert answer == row["messages"][-1]["content"] + tokenizer.eos_token


def test_the_share_of_right_attempts_is_what_was_asked_for_and_none_is_marked():
    module = script("countdown_small")
    rows = list(module.corpus(400, 1.0, 3))
    scores = []
    for index, row in enumerate(rows):
        numbers, _, target = module.drawn(index, 3 + 1_000_003)
        reference = {"numbers": numbers, "target": target}
        assert row["messages"][0]["content"] == module.question(numbers, target)
        scores.append(module.right(Attempt((), row["messages"][1]["content"], reference)).value)
    assert all(scores)
    by_luck = [module.right(Attempt((), row["messages"][1]["content"], {"numbers": n, "target": t})).value
               for index, row in enumerate(module.corpus(400, 0.0, 3))
               for n, _, t in [module.drawn(index, 3 + 1_000_003)]]  # fmt: skip
    assert 0 < sum(by_luck) < 200
