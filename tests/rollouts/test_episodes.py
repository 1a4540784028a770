"""Conversations: the model's tokens as sampled, the world's between them, nothing tokenised twice."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rung.data.tokens import token_policy
from rung.envs.environment import Environment, Task
from rung.envs.load import load_environment
from rung.errors import UserError
from rung.models.hub import load_tokenizer
from rung.models.load import load_model
from rung.models.policy import score
from rung.rewards.score import Score
from rung.rollouts.columns import Graded
from rung.rollouts.engine import Engine
from rung.rollouts.episodes import Ask, Theatre
from rung.rollouts.request import Completion, Sampling
from rung.sources.experience import collate_groups

STOP = 2  # <|im_end|> of the tiny tokenizer
OPENING = "<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def tokenizer(tiny_folder):
    return load_tokenizer(str(tiny_folder))


@dataclass
class Scripted:
    """An engine that says what it was told to, the answers of later conversations sooner; asks are kept."""

    tokenizer: object
    lines: dict[str, list[str]]  # the first line of a prompt's user -> the model's turns
    context: int = 400
    version: int = 3
    end: bool = True  # whether a turn ends with the stop token

    def __post_init__(self):
        self.model = SimpleNamespace(config=SimpleNamespace(context=self.context))
        self.asked: list[tuple[list[int], Sampling]] = []
        self.open: list[Completion] = []

    @property
    def busy(self):
        return bool(self.open)

    def submit(self, ids, sampling):
        self.asked.append((list(ids), sampling))
        completion = Completion(tuple(ids), sampling)
        self.open.append(completion)
        return completion

    def step(self):
        turn = self.open.pop()  # the newest first
        text = self.tokenizer.decode(list(turn.prompt_ids))
        name = text.split("user\n")[1].split("<|im_end|>")[0]
        said = self.lines[name][text.count(OPENING) - 1]
        ids = self.tokenizer(said, add_special_tokens=False)["input_ids"] + [STOP] * self.end
        turn.token_ids = ids[: turn.sampling.max_tokens]
        turn.sampler_logprob = [-0.1 * (i + 1) for i in range(len(turn.token_ids))]
        turn.policy_logprob = [-0.2 * (i + 1) for i in range(len(turn.token_ids))]
        turn.entropy = [0.5] * len(turn.token_ids)
        turn.version = [self.version] * len(turn.token_ids)
        turn.finish = "stop" if turn.token_ids == ids and self.end else "length"
        turn.digest = "d"
        return [turn]


def world(reply=None, turns=1, tools=()) -> Environment:
    return Environment("world", (), (), lambda a: Score(0.0), reply=reply, max_turns=turns, tools=tools)


def asking(name: str, **extra) -> Task:
    return Task(f"world:{name}", ({"role": "user", "content": name},), reference=name.upper(), extra=extra)


def theatre(engine, tokenizer, environment, sampling=None, **options) -> Theatre:
    sampling = sampling or Sampling(40, entropy=True)
    return Theatre(engine, environment, tokenizer, token_policy(tokenizer), sampling, **options)


def again(task, messages):
    return (
        None if messages[-1]["content"] == "done" else [{"role": "user", "content": f"more {len(messages)}"}]
    )


def ids_of(tokenizer, text) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_conversation_is_what_the_template_writes_of_it(tokenizer):
    engine = Scripted(tokenizer, {"one": ["hm", "ok", "done"], "two": ["done"]})
    [one, two] = theatre(engine, tokenizer, world(again, 5)).play(
        [Ask(asking("one"), 7, 1), Ask(asking("two"), 8, 2)]
    )
    whole = tokenizer.apply_chat_template(one.messages, tokenize=False).removesuffix("\n")
    assert tokenizer.decode(one.prompt_ids + one.token_ids) == whole
    written = [
        tokenizer.decode([token]) for token, mine in zip(one.token_ids, one.by_model, strict=True) if mine
    ]
    assert "".join(written) == "hm<|im_end|>ok<|im_end|>done<|im_end|>"
    assert [m["content"] for m in one.messages] == ["one", "hm", "more 2", "ok", "more 4", "done"]
    assert [m["content"] for m in two.messages] == ["two", "done"]
    assert one.turns == 3 and two.turns == 1 and one.group == 7


def test_the_worlds_tokens_have_no_numbers_and_the_models_keep_theirs(tokenizer):
    engine = Scripted(tokenizer, {"one": ["hm", "done"]})
    [episode] = theatre(engine, tokenizer, world(again, 5)).play([Ask(asking("one"), 0, 1)])
    rollout = episode.rollout()
    turns = np.flatnonzero(np.diff(rollout.by_model.astype(int)))
    first, between = (
        3,
        len(ids_of(tokenizer, "\n<|im_start|>user\nmore 2<|im_end|>\n<|im_start|>assistant\n")),
    )
    assert turns.tolist() == [first - 1, first + between - 1]
    mine, not_mine = rollout.by_model, ~rollout.by_model
    own = np.float32([-0.1, -0.2, -0.3] + [-0.1 * (i + 1) for i in range(5)])
    assert np.array_equal(rollout.sampler_logprob[mine], own)
    assert np.array_equal(
        rollout.policy_logprob[mine], np.float32([2 * float(x) for x in own.astype(np.float64)])
    )
    for column in (rollout.sampler_logprob, rollout.policy_logprob, rollout.entropy):
        assert not column[not_mine].any()
    assert set(rollout.version) == {3} and rollout.digest == "d" and rollout.finish == "stop"
    assert rollout.text == "done" and rollout.task == "world:one"
    record = Graded(rollout, Score(1.0), np.ones(len(rollout), np.float32))
    batch = collate_groups([[record]], True)
    assert int(batch.trained_N.sum()) == int(mine.sum()) == episode.written


def test_later_turns_continue_the_very_tokens_with_dice_of_their_own(tokenizer):
    engine = Scripted(tokenizer, {"one": ["hm", "ok", "done"]})
    [episode] = theatre(engine, tokenizer, world(again, 5)).play([Ask(asking("one"), 0, 11)])
    everything = episode.prompt_ids + episode.token_ids
    for (ids, sampling), turn in zip(engine.asked, range(3), strict=True):
        assert ids == everything[: len(ids)]
        assert sampling.seed == 11 + (turn << 48)
    assert len({sampling.seed for _, sampling in engine.asked}) == 3


def test_a_turn_is_never_tokenised_again(tokenizer):
    """Two tokens that decode to what no encoder would split so: half a character. They stay two tokens."""
    half = ids_of(tokenizer, "é")  # two bytes, two tokens
    assert len(half) == 2
    engine = Scripted(tokenizer, {"one": ["", "done"]})
    original = engine.step

    def step():
        [turn] = original()
        if len(turn.token_ids) == 1:  # the empty first turn
            turn.token_ids = [half[1], half[0], half[0], STOP]
            turn.sampler_logprob = turn.policy_logprob = turn.entropy = [-1.0] * 4
            turn.version = [3] * 4
        return [turn]

    engine.step = step
    [episode] = theatre(engine, tokenizer, world(again, 3)).play([Ask(asking("one"), 0, 1)])
    assert episode.token_ids[:4] == [half[1], half[0], half[0], STOP]
    assert engine.asked[1][0][: len(episode.prompt_ids) + 4] == episode.prompt_ids + episode.token_ids[:4]
    assert "\ufffd" in episode.messages[1]["content"]


def test_what_a_reward_sees(tokenizer):
    engine = Scripted(tokenizer, {"one": ["hm", "done"]})
    [episode] = theatre(engine, tokenizer, world(again, 5)).play([Ask(asking("one", level=2), 0, 1)])
    attempt = episode.attempt()
    assert attempt.prompt == ({"role": "user", "content": "one"},) and attempt.answer == "done"
    assert [message["content"] for message in attempt.messages] == ["hm", "more 2", "done"]
    assert attempt.tokens == 3 + 5 and not attempt.truncated and attempt.reference == "ONE"
    assert attempt.token_ids == (*ids_of(tokenizer, "done"), STOP)
    assert attempt.task == "world:one" and attempt.extra == {"level": 2}


def test_episodes_end_at_their_own_pace_and_come_in_the_order_asked(tokenizer):
    names = {"a": ["x", "x", "done"], "b": ["done"], "c": ["x", "done"]}
    engine = Scripted(tokenizer, names)
    ended = []
    asks = [Ask(asking(name), group, group) for group, name in enumerate(names)]
    found = theatre(engine, tokenizer, world(again, 5)).play(asks, lambda i, e: ended.append((i, e.task.key)))
    assert [episode.task.key for episode in found] == ["world:a", "world:b", "world:c"]
    assert sorted(ended) == [(0, "world:a"), (1, "world:b"), (2, "world:c")] and ended[0][0] == 2


def test_a_greedy_ask_is_greedy_and_stops_join_the_models_own(tokenizer):
    engine = Scripted(tokenizer, {"one": ["done"]})
    asks = [Ask(asking("one"), 0, 1), Ask(asking("one"), 0, 1, greedy=True)]
    theatre(engine, tokenizer, world(), Sampling(9, 0.7, stop_ids=(55,))).play(asks)
    assert sorted(sampling.temperature for _, sampling in engine.asked) == [0, 0.7]
    assert {sampling.stop_ids for _, sampling in engine.asked} == {(STOP, 55)}


def test_turns_are_counted(tokenizer):
    engine = Scripted(tokenizer, {"one": ["x"] * 9})
    [episode] = theatre(engine, tokenizer, world(again, 4)).play([Ask(asking("one"), 0, 1)])
    assert episode.turns == 4 and episode.by_model[-1] and episode.rollout().finish == "stop"


def test_a_turn_cut_by_its_limit_ends_the_conversation(tokenizer):
    engine = Scripted(tokenizer, {"one": ["far too long for it"] * 3})
    [episode] = theatre(engine, tokenizer, world(again, 4), Sampling(5)).play([Ask(asking("one"), 0, 1)])
    assert episode.turns == 1 and episode.rollout().finish == "length" and episode.attempt().truncated
    assert np.isnan(episode.rollout().entropy).sum() == 0  # the script gave some


@pytest.mark.parametrize("room", range(60, 140, 7))
def test_the_longest_conversation_is_never_outgrown(tokenizer, room):
    engine = Scripted(tokenizer, {"one": ["answer"] * 9})
    [episode] = theatre(engine, tokenizer, world(again, 9), Sampling(10, min_tokens=6), max_length=room).play(
        [Ask(asking("one"), 0, 1)]
    )
    assert len(episode.prompt_ids) + len(episode.token_ids) <= room
    assert all(s.max_tokens >= 1 and s.min_tokens <= s.max_tokens for _, s in engine.asked)
    assert all(len(ids) + s.max_tokens <= room for ids, s in engine.asked)
    assert episode.by_model[-1]  # what the world would have said is not kept where nobody can answer
    assert episode.rollout().finish == "length" and episode.attempt().truncated


def test_prompts_without_room_and_models_without_template_are_refused(tokenizer):
    engine = Scripted(tokenizer, {}, context=20)
    stage = theatre(engine, tokenizer, world())
    with pytest.raises(UserError, match=r"task world:one has \d+ tokens.*may have 20"):
        stage.check([asking("one")])
    with pytest.raises(UserError, match="no room for an answer"):
        stage.play([Ask(asking("one"), 0, 1)])
    bare = SimpleNamespace(chat_template=None)
    with pytest.raises(UserError, match="no chat template"):
        Theatre(engine, world(), bare, token_policy(tokenizer), Sampling()).check([asking("one")])


def test_two_tasks_of_one_key_are_two_prompts(tokenizer):
    engine = Scripted(tokenizer, {"one": ["done"], "two": ["done"]})
    tasks = [replace(asking("one"), key="same"), replace(asking("two"), key="same")]
    found = theatre(engine, tokenizer, world()).play([Ask(task, 0, 1) for task in tasks])
    assert [tokenizer.decode(e.prompt_ids).split("\n")[1] for e in found] == [
        "one<|im_end|>",
        "two<|im_end|>",
    ]


def test_a_calculator_answers_calls_and_the_grade_is_of_the_last_turn(tokenizer):
    environment = load_environment("arithmetic?tools=calculator", train_size=3, test_size=1)
    task, right = environment.example.task, environment.example.right
    assert len(right) == 2  # a call, then the answer
    engine = Scripted(tokenizer, {}, context=3000)
    engine.lines = {task.messages[-1]["content"]: list(right)}
    [episode] = theatre(engine, tokenizer, environment, Sampling(400)).play([Ask(task, 0, 1)])
    roles = [message["role"] for message in episode.messages]
    assert roles[-3:] == ["assistant", "tool", "assistant"] and episode.turns == 2
    result = episode.messages[-2]["content"]
    assert result in tokenizer.decode(
        [t for t, m in zip(episode.token_ids, episode.by_model, strict=True) if not m]
    )
    assert environment.reward(episode.attempt()).value == 1


def test_the_guessing_game_is_won_by_halving(tokenizer):
    environment = load_environment("guess", train_size=3, test_size=1)
    task, right, wrong = environment.example.task, environment.example.right, environment.example.wrong
    for turns, value in ((right, 1), (wrong, 0)):
        engine = Scripted(tokenizer, {task.messages[0]["content"]: list(turns)}, context=3000)
        [episode] = theatre(engine, tokenizer, environment).play([Ask(task, 0, 1)])
        assert environment.reward(episode.attempt()).value == value and episode.turns == len(turns)
        assert not any(
            mine for token, mine in zip(episode.token_ids, episode.by_model, strict=True) if token == 3
        )


# ---- on a real engine ----


def chatter(task, messages):
    return [{"role": "user", "content": "go on " * (len(messages) % 4)}]


def played(model, tokenizer, slots=8, seeds=(1, 2, 3), **options):
    """Conversations of a random model, which would hardly ever stop by itself: a third of the tokens end a turn."""
    engine = Engine(model, slots=slots, version=5, digest="w", batch_invariant=True)
    sampling = Sampling(12, stop_ids=tuple(range(4, 260, 3)), entropy=True, **options)
    stage = theatre(engine, tokenizer, world(chatter, 4), sampling)
    return stage.play([Ask(asking(name), g, 100 * g + s) for g, name in enumerate("abc") for s in seeds])


@torch.no_grad()
def test_the_learner_recomputes_the_models_tokens_to_the_bit(tiny_folder, tokenizer):
    torch.set_num_threads(1)
    model = load_model(tiny_folder)
    episodes = played(model, tokenizer)
    assert max(e.turns for e in episodes) == 4
    groups = [[Graded(e.rollout(), Score(0.0), np.zeros(len(e.token_ids), np.float32)) for e in episodes[i : i + 3]]
              for i in range(0, 9, 3)]  # fmt: skip
    model.batch_invariant = True
    for share in (True, False):
        batch = collate_groups(groups, share)
        assert torch.equal(score(model, batch).logprob_M, batch.column("sampler_logprob"))


def test_what_is_played_does_not_depend_on_what_is_played_beside_it(tiny_folder, tokenizer):
    torch.set_num_threads(1)
    model = load_model(tiny_folder)
    base = played(model, tokenizer)
    for slots in (1, 3, 64):
        for one, two in zip(base, played(model, tokenizer, slots), strict=True):
            assert one.token_ids == two.token_ids and one.sampler_logprob == two.sampler_logprob
            assert one.messages == two.messages and one.by_model == two.by_model
    alone = played(model, tokenizer, seeds=(2,))
    assert [e.token_ids for e in alone] == [e.token_ids for e in base[1::3]]
    assert len({tuple(e.token_ids) for e in base}) == 9
