"""Tasks played to their end: the model's turns sampled, the world's turns laid between them, nothing re-tokenised.

Every episode goes at its own pace. The moment a turn ends, the environment answers, and the next turn joins the
rows that are being sampled; its conversation so far lies in the engine's cache. What the environment says is
rendered by the chat template and appended as tokens the model did not write: they carry no log-prob and never a
gradient. Tokens, once sampled, stay as they are, also where a template would rewrite earlier turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rung.batch import Rollout
from rung.data.tokens import TokenPolicy, encode, encode_continuations
from rung.errors import UserError
from rung.rewards.score import Attempt
from rung.rollouts.request import Completion, Sampling, Stepped

if TYPE_CHECKING:
    from rung.envs.environment import Environment, Task

SENTINEL = "\x02the answer\x03"  # stands for the model's turn while the template is asked what follows one


@dataclass
class Episode:
    """One attempt at a task, growing turn by turn. The lists have one entry per token after the prompt."""

    task: Task
    group: int
    prompt_ids: list[int]
    sampling: Sampling
    messages: list[Mapping[str, Any]]  # the whole conversation, the prompt's messages first
    token_ids: list[int] = field(default_factory=list)
    by_model: list[bool] = field(default_factory=list)
    sampler_logprob: list[float] = field(default_factory=list)
    policy_logprob: list[float] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)
    version: list[int] = field(default_factory=list)
    turns: int = 0
    last_turn: Completion | None = None

    @property
    def written(self) -> int:
        """Tokens of the model so far."""
        return sum(self.by_model)

    def add_turn(self, turn: Completion, text: str) -> None:
        tokens = len(turn.token_ids)
        self.token_ids += turn.token_ids
        self.by_model += [True] * tokens
        self.sampler_logprob += turn.sampler_logprob
        self.policy_logprob += turn.policy_logprob
        self.entropy += turn.entropy or [float("nan")] * tokens
        self.version += turn.version
        self.messages.append({"role": "assistant", "content": text})
        self.turns, self.last_turn = self.turns + 1, turn

    def add_world(self, token_ids: list[int], messages: Sequence[Mapping[str, Any]], version: int) -> None:
        tokens = len(token_ids)
        self.token_ids += token_ids
        self.by_model += [False] * tokens
        for numbers in (self.sampler_logprob, self.policy_logprob, self.entropy):
            numbers += [0.0] * tokens
        self.version += [version] * tokens
        self.messages += messages

    def rollout(self) -> Rollout:
        assert self.last_turn is not None and self.last_turn.finish
        return Rollout(
            task=self.task.key,
            group=self.group,
            prompt_ids=np.array(self.prompt_ids, np.int32),
            token_ids=np.array(self.token_ids, np.int32),
            by_model=np.array(self.by_model, bool),
            sampler_logprob=np.array(self.sampler_logprob, np.float32),
            policy_logprob=np.array(self.policy_logprob, np.float32),
            entropy=np.array(self.entropy, np.float32),
            version=np.array(self.version, np.int32),
            finish=self.last_turn.finish,
            digest=self.last_turn.digest,
            text=self.messages[-1]["content"],
        )

    def attempt(self) -> Attempt:
        """What a reward sees of it."""
        assert self.last_turn is not None
        start = len(self.task.messages)
        return Attempt(
            prompt=self.task.messages,
            answer=self.messages[-1]["content"],
            reference=self.task.reference,
            tokens=self.written,
            truncated=self.last_turn.finish == "length",
            messages=tuple(self.messages[start:]),
            token_ids=tuple(self.last_turn.token_ids),
            task=self.task.key,
            extra=self.task.extra,
        )


@dataclass(frozen=True)
class Ask:
    """One episode to be played: samples of a task in a round share a `group`, each has its own `seed`."""

    task: Task
    group: int
    seed: int
    greedy: bool = False


class Theatre:
    """Where episodes are played: a sampler, an environment, and the tokenizer between text and tokens.

    `sampling.max_tokens` bounds each turn; a conversation also ends where it would outgrow `max_length`.
    """

    def __init__(
        self,
        engine: Stepped,
        environment: Environment,
        tokenizer: Any,
        policy: TokenPolicy,
        sampling: Sampling,
        *,
        max_length: int | None = None,
    ):
        self.engine, self.environment, self.tokenizer, self.policy = engine, environment, tokenizer, policy
        self.sampling = replace(sampling, stop_ids=(*policy.stop_ids, *sampling.stop_ids))
        self.max_length = min(max_length or engine.context, engine.context)

    def play(self, asks: Sequence[Ask], ended: Callable[[int, Episode], None] | None = None) -> list[Episode]:
        """Every episode, in the order asked for. `ended(index, episode)` is called as each one ends."""
        prompts = [ids for _, ids in self.prompts([ask.task for ask in asks])]
        episodes = [self._begin(ask, ids) for ask, ids in zip(asks, prompts, strict=True)]
        index_of: dict[int, int] = {}
        for index, (episode, ids) in enumerate(zip(episodes, prompts, strict=True)):
            index_of[id(self._submit(episode, ids))] = index
        while self.engine.busy:
            for turn in self.engine.step():
                index = index_of.pop(id(turn))
                following = self._end_turn(episodes[index], turn)
                if following is not None:
                    index_of[id(following)] = index
                elif ended is not None:
                    ended(index, episodes[index])
        return episodes

    def check(self, tasks: Sequence[Task]) -> None:
        """Refuse prompts that cannot be rendered or leave no room for an answer, before anything is played."""
        if not self.tokenizer.chat_template:
            raise UserError(
                "The model's tokenizer has no chat template, so tasks cannot be put to it. Train on a chat model, or "
                "add a chat_template to its tokenizer_config.json."
            )
        self.prompts(tasks)

    def _begin(self, ask: Ask, prompt_ids: list[int]) -> Episode:
        temperature = 0.0 if ask.greedy else self.sampling.temperature
        sampling = replace(self.sampling, seed=ask.seed, temperature=temperature)
        return Episode(ask.task, ask.group, prompt_ids, sampling, list(ask.task.messages))

    def _submit(self, episode: Episode, ids: list[int]) -> Completion:
        # Each turn continues the episode's dice; a turn's places start from 0 again, so its seed must differ.
        room = min(episode.sampling.max_tokens, self.max_length - len(ids))
        sampling = replace(
            episode.sampling,
            seed=episode.sampling.seed + (episode.turns << 48),
            max_tokens=room,
            min_tokens=min(episode.sampling.min_tokens, room),
        )
        return self.engine.submit(ids, sampling)

    def _end_turn(self, episode: Episode, turn: Completion) -> Completion | None:
        """The next turn, if there is one."""
        text = self.tokenizer.decode(turn.token_ids, skip_special_tokens=True)
        episode.add_turn(turn, text)
        environment = self.environment
        if environment.reply is None or turn.finish != "stop" or episode.turns >= environment.max_turns:
            return None
        answer = environment.reply(episode.task, episode.messages)
        if answer is None:
            return None
        ids = self._world_ids(episode.messages, answer, ended=turn.token_ids[-1] in self.policy.stop_ids)
        whole = [*episode.prompt_ids, *episode.token_ids, *ids]
        if len(whole) + 1 > self.max_length:
            turn.finish = "length"  # cut off by a limit, as a turn is that grows too long
            return None
        episode.add_world(ids, answer, self.engine.version)
        return self._submit(episode, whole)

    def prompts(self, tasks: Sequence[Task]) -> list[tuple[str, list[int]]]:
        """Each prompt as the template writes it, and its token ids; rendered once per task."""
        distinct = {id(task): task for task in tasks}
        texts = [self._render(list(task.messages), prompt=True) for task in distinct.values()]
        found = dict(zip(distinct, zip(texts, encode(self.tokenizer, texts), strict=True), strict=True))
        for place, (_, ids) in found.items():
            if len(ids) >= self.max_length:
                raise UserError(
                    f"The prompt of task {distinct[place].key} has {len(ids)} tokens, and a conversation may have "
                    f"{self.max_length}: there is no room for an answer. Allow longer conversations or leave it out."
                )
        return [found[id(task)] for task in tasks]

    def _world_ids(
        self, messages: Sequence[Mapping[str, Any]], answer: Sequence[Mapping[str, Any]], *, ended: bool
    ) -> list[int]:
        """What follows the model's turn up to where its next begins, as the template writes it."""
        asked = [*messages[:-1], {"role": "assistant", "content": SENTINEL}, *answer]
        text = self._render(asked, prompt=True)
        _, found, after = text.rpartition(SENTINEL)
        if not found:
            raise UserError(
                "The chat template does not show an assistant's turn, so no environment can answer one."
            )
        [ids] = encode_continuations(self.tokenizer, [after])
        return ids[1:] if ended and ids and ids[0] in self.policy.stop_ids else ids

    def _render(self, messages: Sequence[Mapping[str, Any]], *, prompt: bool) -> str:
        tools = list(self.environment.tools) or None
        return str(
            self.tokenizer.apply_chat_template(
                list(messages), tools=tools, add_generation_prompt=prompt, tokenize=False
            )
        )
