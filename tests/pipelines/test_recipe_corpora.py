"""What the recipes' small models read first is in the form in which they are asked later, token for token."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from rung.data.examples import load_examples
from rung.data.tokens import decode, encode, token_policy
from rung.envs.play import play
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

    context, version = 1024, 0


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


def test_a_scripted_conversation_with_a_tool_is_what_a_sampler_would_have_written(tmp_path):
    """Turn for turn, the calculator's words included, of which none is trained."""
    module = script("tool_use")
    environment = module.load_environment(module.SUMS, train_size=12)
    module.write_demonstrations(environment, environment.train, tmp_path / "rows.jsonl")
    letters = "".join(chr(c) for c in range(32, 127))
    folder = write_small_model(tmp_path / "model", letters, layers=1, width=8, heads=1, context=1024)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    policy = token_policy(tokenizer)
    theatre = Theatre(Unused(), environment, tokenizer, policy, Sampling())
    examples = load_examples([str(tmp_path / "rows.jsonl")], tokenizer, max_length=1024).examples
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    for task, line, example in zip(environment.train, lines, examples, strict=True):
        call, result, answer = json.loads(line)["messages"][len(task.messages) :]
        [(_, ids)] = theatre.prompts([task])
        ids, by_model = list(ids), [False] * len(ids)
        for message, world in ((call, [result]), (answer, [])):
            [said] = encode(tokenizer, [message["content"] + tokenizer.eos_token])
            ids, by_model = [*ids, *said], [*by_model, *[True] * len(said)]
            if world:
                heard = theatre._world_ids([*task.messages, message], world, ended=True)
                ids, by_model = [*ids, *heard], [*by_model, *[False] * len(heard)]
        assert example.token_ids.tolist() == ids and example.trained.tolist() == by_model
        attempt, verdict = play(environment, task, [call["content"], answer["content"]])
        assert verdict.value == 1 and verdict.parts["tool_calls"] == 1 and not verdict.parts["tool_errors"]
        assert attempt.messages[1] == result


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
