"""Evaluation of a tiny model: what is sampled, judged and kept, judged itself by an engine that plays alone."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from rung.envs.load import load_environment
from rung.errors import UserError
from rung.eval.records import Prompt
from rung.eval.results import read, rescore
from rung.models.load import load_model
from rung.pipelines.evaluate import ballot, evaluate, majority, opened, prompts_digest, reward_identity
from rung.pipelines.evaluation_report import crossing, labelled, summary, thinking_lines
from rung.pipelines.think import FORCED, with_budget
from rung.rewards.score import Failure, Score
from rung.rewards.user import load_reward
from rung.rollouts.engine import Engine, sample_seed
from rung.rollouts.hf import HfSampler
from rung.rollouts.request import Completion, Sampling

ENV = Path(__file__).with_name("eval_env.py")
SMALL = {"max_tokens": 6, "device": "cpu", "precision": "fp32"}


def spec(kind="letters", **options):
    return f"{ENV}:make?kind={kind}" + "".join(f"&{key}={value}" for key, value in options.items())


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


@pytest.fixture(scope="module")
def strict(tiny_folder, tmp_path_factory):
    """Five tasks, three answers each, one row sampled at a time."""
    out = tmp_path_factory.mktemp("evals") / "one"
    return evaluate(tiny_folder, spec(), out=out, samples=3, strict=True, slots=1, **SMALL)


# ---- what is sampled and judged ----


def test_every_answer_is_the_one_its_seed_gives_alone(strict, tiny_folder):
    """Not through a Theatre: the template by transformers, each row in an engine of its own."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    model = load_model(tiny_folder)
    for task, prompt in enumerate(strict.result.prompts):
        text = f"<|im_start|>user\n{prompt.messages[0]['content']}<|im_end|>\n<|im_start|>assistant\n"
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert (prompt.text, list(prompt.token_ids)) == (text, ids)
        for index in range(3):
            sampling = Sampling(6, stop_ids=(2,), seed=sample_seed(0, task, index))
            engine = Engine(model, slots=1, batch_invariant=True)
            expected = engine.submit(ids, sampling)
            engine.run()
            sample = strict.result.samples[task * 3 + index]
            assert sample.key == (prompt.task, index)
            assert list(sample.token_ids) == expected.token_ids
            assert (sample.finish, sample.tokens) == (expected.finish, len(expected.token_ids))
            assert sample.answer == tokenizer.decode(expected.token_ids, skip_special_tokens=True)
            letters = sum(c.isalpha() for c in sample.answer)
            assert sample.verdict == Score(float(letters > prompt.reference["letters"]))


def test_the_numbers_are_those_of_the_samples(strict):
    right = [sample.verdict.value for sample in strict.result.samples]
    assert 0 < sum(right) < 15, "the test would see nothing otherwise"
    assert strict.tally.accuracy.value == pytest.approx(sum(right) / 15)
    assert strict.tally.pass_at.value[2] == pytest.approx(
        sum(max(right[i : i + 3]) for i in range(0, 15, 3)) / 5
    )
    assert opened(strict.path).tally.accuracy == strict.tally.accuracy


def test_strict_answers_are_the_same_bytes_with_eight_rows_side_by_side(strict, tiny_folder, tmp_path):
    evaluate(tiny_folder, spec(), out=tmp_path / "eight", samples=3, strict=True, slots=8, **SMALL)
    assert files(tmp_path / "eight") == files(strict.path)


def test_fewer_samples_of_fewer_tasks_are_the_first_of_more(strict, tiny_folder, tmp_path):
    few = evaluate(tiny_folder, spec(), out=tmp_path / "few", samples=2, tasks=3, strict=True, **SMALL)
    wanted = {(f"letters:{i}", j) for i in range(3) for j in range(2)}
    assert {s.key: s for s in few.result.samples} == {
        s.key: s for s in strict.result.samples if s.key in wanted
    }


def test_another_seed_is_another_sample(strict, tiny_folder, tmp_path):
    other = evaluate(tiny_folder, spec(), out=tmp_path / "o", samples=3, strict=True, seed=1, **SMALL)
    pairs = zip(other.result.samples, strict.result.samples, strict=True)
    assert sum(a.token_ids != b.token_ids for a, b in pairs) > 10


def test_a_grader_that_fails_is_counted_and_is_no_zero(tiny_folder, tmp_path):
    found = evaluate(tiny_folder, spec("broken"), out=tmp_path / "r", samples=2, **SMALL)
    assert found.tally.failures == {"exception": 4} and found.tally.scored == 6
    assert isinstance(found.result.samples[2].verdict, Failure)
    assert "4 exception" in summary([found])


@pytest.mark.parametrize("kind", ["letters", "talk"])
def test_a_stored_answer_is_judged_again_as_it_was_judged(kind, tiny_folder, tmp_path):
    """Also of several turns: their messages and token counts are all there."""
    long = {"samples": 6, "max_tokens": 60} if kind == "talk" else {}  # so that some turns end by themselves
    found = evaluate(tiny_folder, spec(kind), out=tmp_path / "r", **SMALL | long)
    assert rescore(found.path, load_environment(spec(kind)).reward).changed == ()
    if kind == "talk":
        longest = max(found.result.samples, key=lambda s: len(s.messages))
        turns = len(longest.messages)
        assert turns >= 3
        assert [m["role"] for m in longest.messages] == (["assistant", "user"] * 3)[:turns]
        assert longest.verdict.value == pytest.approx(turns + longest.tokens / 1000)
        assert longest.tokens > len(longest.token_ids), "of all turns, not of the last"


def test_other_families_play_through_transformers(tmp_path, tiny_folder):
    torch.manual_seed(0)
    sizes = dict(
        vocab_size=260, n_embd=32, n_layer=2, n_head=4, n_positions=256, bos_token_id=1, eos_token_id=2
    )
    AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **sizes)).save_pretrained(tmp_path / "gpt2")
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (tiny_folder / file).exists():
            shutil.copy(tiny_folder / file, tmp_path / "gpt2")
    found = evaluate(tmp_path / "gpt2", spec(), out=tmp_path / "r", samples=2, slots=4, **SMALL)
    assert found.result.header.engine["name"] == "transformers"
    model = load_model(tmp_path / "gpt2")
    for task, prompt in enumerate(found.result.prompts):
        for index in range(2):
            sampling = Sampling(6, stop_ids=(2,), seed=sample_seed(0, task, index))
            sampler = HfSampler(model, slots=1)
            expected = sampler.submit(prompt.token_ids, sampling)
            sampler.step()
            assert found.result.samples[2 * task + index].token_ids == tuple(expected.token_ids)
    talk = evaluate(tmp_path / "gpt2", spec("talk"), out=tmp_path / "t", **SMALL)
    assert talk.tally.scored == 5
    with pytest.raises(UserError, match="batch"):
        evaluate(tmp_path / "gpt2", spec(), out=tmp_path / "s", strict=True, **SMALL)


def test_without_a_chat_template_it_says_so(tiny_folder, tmp_path):
    folder = tmp_path / "plain"
    shutil.copytree(tiny_folder, folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="has no chat template"):
        evaluate(folder, spec(), out=tmp_path / "r", **SMALL)
    assert not (tmp_path / "r.partial").exists()


# ---- killed, resumed, repeated ----

KILLED = """
import os, sys
from rung.pipelines.evaluate import evaluate
def die(done, total):
    if done >= 4:
        os.kill(os.getpid(), 9)
evaluate(sys.argv[1], sys.argv[2], out=sys.argv[3], samples=3, strict=True, slots=2, max_tokens=6,
         device="cpu", precision="fp32", progress=die)
"""


def test_killed_and_resumed_it_is_as_if_never_killed(tiny_folder, tmp_path):
    note = tmp_path / "note"
    out, env = tmp_path / "r", spec(note=note)
    dead = subprocess.run(
        [sys.executable, "-c", KILLED, str(tiny_folder), env, str(out)], capture_output=True
    )
    assert dead.returncode == -9, dead.stderr.decode()
    kept = [json.loads(line) for line in (tmp_path / "r.partial/samples.jsonl").read_text().splitlines()]
    assert 4 <= len(kept) < 15 and not out.exists()
    note.unlink()
    evaluate(tiny_folder, env, out=out, samples=3, strict=True, slots=8, **SMALL)
    judged = [json.loads(line) for line in note.read_text().splitlines()]
    assert len(judged) == 15 - len(kept), "each missing answer once, and none that was kept"
    note.unlink()
    evaluate(tiny_folder, env, out=tmp_path / "whole", samples=3, strict=True, slots=8, **SMALL)
    assert files(out) == files(tmp_path / "whole")


def test_what_is_finished_is_read_and_not_sampled_again(tiny_folder, tmp_path, monkeypatch):
    found = evaluate(tiny_folder, spec(), out=tmp_path / "r", **SMALL)
    before = files(tmp_path / "r")
    monkeypatch.setattr(Engine, "step", lambda self: pytest.fail("it sampled"))
    again = evaluate(tiny_folder, spec(), out=tmp_path / "r", **SMALL)
    assert again.result == found.result and files(tmp_path / "r") == before
    with pytest.raises(UserError, match=r"differs in sampling\.temperature: 1\.0 against 0\.5"):
        evaluate(tiny_folder, spec(), out=tmp_path / "r", temperature=0.5, **SMALL)
    with pytest.raises(UserError, match=r"differs in engine\.slots"):
        evaluate(tiny_folder, spec(), out=tmp_path / "r", slots=3, **SMALL)


def test_what_cannot_be_is_refused_before_anything_is_written(tiny_folder, tmp_path):
    for options, message in [
        ({"tasks": 0}, "at least one"),
        ({"think_tokens": -1}, "thinking budget"),
        ({"max_tokens": 0}, "at least 1 token"),
    ]:
        with pytest.raises(UserError, match=message):
            evaluate(tiny_folder, spec(), out=tmp_path / "r", **SMALL | options)
    assert not (tmp_path / "r").exists()


# ---- who made it ----


def test_the_header_says_which_weights_whatever_they_are_computed_in(tiny_folder, tmp_path):
    digests = [
        evaluate(tiny_folder, spec(), out=tmp_path / p, **SMALL | {"precision": p}).result.header.model[
            "digest"
        ]
        for p in ("fp32", "bf16")
    ]
    assert digests[0] == digests[1] and len(digests[0]) == 64
    first, second = read(tmp_path / "fp32").header, read(tmp_path / "bf16").header
    assert (first.engine["dtype"], second.engine["dtype"]) == ("float32", "bfloat16")


def test_the_data_digest_is_of_what_is_asked_and_what_is_right():
    prompt = Prompt("t:0", [{"role": "user", "content": "1 + 1"}], "<u>1 + 1", [1, 2], "2")
    assert prompts_digest([prompt]) == prompts_digest([replace(prompt, text="[u]1 + 1", token_ids=[3])])
    for change in ({"reference": "3"}, {"messages": ({"role": "user", "content": "1+1"},)}, {"task": "t:1"}):
        assert prompts_digest([prompt]) != prompts_digest([replace(prompt, **change)])


def test_a_reward_is_known_by_its_settings_and_a_users_by_its_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def f(attempt): return 1.0\n")
    mine = load_reward(f"{file}:f")
    before = reward_identity(mine)
    file.write_text("def f(attempt): return 0.0\n")
    assert before.startswith("mine.py:f ") and reward_identity(mine) != before
    assert " at 0x" not in reward_identity(lambda attempt: 0.0)


# ---- majority ----


@pytest.mark.parametrize(
    ("answer", "reference", "vote"),
    [
        ("so it is 1,000.0", "1000", "1000"),
        ("Answer: 1000", "1000", "1000"),
        ("I cannot say", "1000", None),
        ("<answer>Paris </answer>", "Paris", "paris"),
        ("it is Paris", "Paris", None),
        ("<think>7</think>Answer: 8", 8, "8"),
    ],
)
def test_ballots_that_mean_the_same_are_the_same(answer, reference, vote):
    assert ballot(answer, reference) == vote


def test_no_majority_where_nothing_can_be_compared(strict):
    assert strict.majority is None


def told(evaluation, verdicts, answers=None):
    """The same evaluation, had its samples come out like this."""
    samples = evaluation.result.samples
    new = [replace(s, verdict=Score(v)) for s, v in zip(samples, verdicts, strict=True)]
    if answers:
        new = [replace(s, answer=a) for s, a in zip(new, answers, strict=True)]
    return replace(evaluation, result=replace(evaluation.result, samples=tuple(new)))


def test_the_crossing_is_of_the_second_over_the_first(strict):
    none, all_ = told(strict, [0.0] * 15), told(strict, [1.0] * 15)
    assert crossing(none, all_).at_one[0] == 1.0 and crossing(none, all_).only_rl == 5


def test_equal_numbers_vote_together(strict):
    """Of 7, 7.0 and 8 the seven wins, which no two equal texts would have said."""
    verdicts, answers = [1.0, 1.0, 0.0] * 5, ["it is 7", "Answer: 7.0", "8"] * 5
    result = told(strict, verdicts, answers).result
    result = replace(result, prompts=tuple(replace(p, reference="7") for p in result.prompts))
    curve = majority(result)
    assert curve.value[[0, 2]] == pytest.approx([2 / 3, 1.0])


def test_a_report_of_two_pairs_tasks_and_finds_the_crossing(strict, tiny_folder, tmp_path):
    other = evaluate(
        tiny_folder, spec(), out=tmp_path / "hot", samples=3, temperature=3.0, strict=True, **SMALL
    )
    text = summary([strict, other])
    assert "of 5" in text and "pass@k of" in text and "self-BLEU" in text
    assert list(labelled([strict, other])) == [str(strict.path), str(other.path)], "one model twice"
    assert crossing(strict, strict).at_most[0] == 0
    assert "after Holm" in summary([strict, other, replace(strict, path=Path("third"))])


def at_budget(evaluation, budget, written, value):
    """The same evaluation, had it been forced to that budget."""
    new = told(evaluation, [value] * 15)
    header = replace(new.result.header, sampling={**new.result.header.sampling, "think_tokens": budget})
    samples = tuple(replace(sample, tokens=written) for sample in new.result.samples)
    return replace(new, result=replace(new.result, header=header, samples=samples))


def test_a_report_of_two_budgets_says_what_thinking_did(strict):
    """All right with 8 tokens, all wrong with 32: one half less for each doubling, in all five tasks."""
    short, long = at_budget(strict, 4, 8, 1.0), at_budget(strict, 16, 32, 0.0)
    [line] = thinking_lines([long, short])
    assert "at most 4, 16 tokens" in line and "by -0.5 [-0.5, -0.5]" in line and "inverse scaling" in line
    assert line in summary([short, long])
    assert thinking_lines([short]) == thinking_lines([strict, short]) == []  # one budget; and none
    other = replace(long, result=replace(long.result, header=replace(long.result.header, data={"name": "x"})))
    assert thinking_lines([short, other]) == []  # other tasks
    failed = [replace(s, verdict=Failure("crash")) for s in long.result.samples[:15]]
    unscored = replace(long, result=replace(long.result, samples=tuple(failed)))
    assert thinking_lines([short, unscored]) == []  # what has no score is no zero


# ---- thinking ----


class Scripted:
    """An engine that says what it is told, one submission after the other."""

    def __init__(self, said):
        self.said, self.asked, self.waiting = list(said), [], []

    @property
    def busy(self):
        return bool(self.waiting)

    def submit(self, ids, sampling):
        completion = Completion(tuple(ids), sampling)
        self.asked.append(completion)
        self.waiting.append(completion)
        return completion

    def step(self):
        completion = self.waiting.pop(0)
        text, completion.finish = self.said.pop(0)
        completion.token_ids = [ord(c) for c in text]
        return [completion]


class Characters:
    """One token a character."""

    def __call__(self, texts, **options):
        return {"input_ids": [[ord(c) for c in text] for text in texts]}

    def decode(self, ids, **options):
        return "".join(map(chr, ids))


def think(said, budget=10, room=100, seed=5):
    ended = []
    engine = Scripted(said)
    theatre = SimpleNamespace(
        engine=engine, sampling=Sampling(7, stop_ids=(0,)), max_length=room, tokenizer=Characters(),
        environment=SimpleNamespace(name="e", reply=None), prompts=lambda tasks: [("Q", [ord("Q")])] * len(tasks),
    )  # fmt: skip
    with_budget(theatre, [(None, seed)], budget, lambda which, parts: ended.append(parts))
    assert len(ended) == 1 and not engine.said
    return ended[0], engine.asked


def test_a_thought_that_ends_is_followed_by_an_answer():
    parts, asked = think([("hm</think>", "stop"), ("4", "stop")])
    assert (parts["answer"], parts["tokens"], parts["finish"]) == ("hm</think>4", 11, "stop")
    assert [a.sampling.max_tokens for a in asked] == [10, 7]
    assert asked[0].sampling.stop_strings == ("</think>",) and asked[1].sampling.stop_strings == ()
    assert asked[1].prompt_ids == tuple(map(ord, "Qhm</think>"))
    assert asked[0].sampling.seed == 5 != asked[1].sampling.seed


def test_a_thought_over_its_budget_is_closed_and_what_was_forced_is_not_its_own():
    parts, _ = think([("hmhmhmhmhm", "length"), ("4", "length")])
    assert (parts["answer"], parts["tokens"], parts["finish"]) == (f"hmhmhmhmhm{FORCED}4", 11, "length")


def test_an_answer_without_a_thought_is_an_answer():
    parts, _ = think([("4", "stop")])
    assert (parts["answer"], parts["tokens"]) == ("4", 1)


def test_no_budget_is_no_thought():
    parts, asked = think([("4", "stop")], budget=0)
    assert (parts["answer"], parts["tokens"], len(asked)) == (f"{FORCED}4", 1, 1)


def test_a_thought_that_fills_the_room_leaves_no_answer():
    parts, _ = think([("hmhm", "length")], room=5)
    assert (parts["finish"], parts["tokens"]) == ("length", 4)


def test_a_budget_reaches_the_model(tiny_folder, tmp_path):
    found = evaluate(tiny_folder, spec(), out=tmp_path / "r", think_tokens=3, strict=True, **SMALL)
    assert all("</think>" in s.answer for s in found.result.samples if s.finish == "length")
    assert max(s.tokens for s in found.result.samples) == 9
    assert found.result.header.sampling["think_tokens"] == 3
    with pytest.raises(UserError, match="several turns"):
        evaluate(tiny_folder, spec("talk"), out=tmp_path / "t", think_tokens=3, **SMALL)
