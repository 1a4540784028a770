"""A model on this machine that answers questions, many at once: judge, critic or writer without a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import jinja2

from rung.data.tokens import token_policy
from rung.errors import UserError
from rung.models.folder import read_generation_config
from rung.models.hub import load_tokenizer, resolve
from rung.models.load import load_model
from rung.pipelines.evaluate_local import weights_digest
from rung.pipelines.setup import choose_device, choose_dtype
from rung.rewards.asking import Answered, Ended, Question, Reply, Unanswered
from rung.rewards.asking_endpoint import logprobs_of_options
from rung.rollouts.engine import Engine
from rung.rollouts.hf import sampler_for
from rung.rollouts.request import Completion, Sampling

TOP = 100  # tokens among which an option is looked for


class LocalModel:
    """`slots` answers at once. Its name holds the digest of its weights: other weights, other answers."""

    remote = False

    def __init__(self, name: str, *, slots: int = 32, precision: str = "auto", device: str = "auto"):
        self.tokenizer = load_tokenizer(name)
        if not self.tokenizer.chat_template:
            raise UserError(
                f"{name} has no chat template, so it cannot be asked anything. Name a model trained to answer"
            )
        where = choose_device(device)
        self.model = load_model(name, choose_dtype(precision, where), where)
        self.model.eval()
        self.policy = token_policy(self.tokenizer, read_generation_config(resolve(name)) or None)
        self.sampler = sampler_for(self.model, slots=slots, tokenizer=self.tokenizer)
        self.slots = slots
        self.name = f"{name} {weights_digest(name)[:16]}"

    def answer(self, questions: Sequence[Question], ended: Ended, refuse: Callable[[], str]) -> None:
        """A few times `slots` questions are in the sampler, so that an interruption loses no more than those."""
        todo = iter(enumerate(questions))
        if not isinstance(self.sampler, Engine):
            for which, question in todo:
                for completion in self._submitted(which, question, ended, refuse):
                    [[done]] = self.sampler.generate([completion.prompt_ids], completion.sampling)
                    ended(which, self._reply(question, done))
            return
        under_way: dict[int, tuple[int, Completion]] = {}
        try:
            while True:
                while len(under_way) < 2 * self.slots and (following := next(todo, None)):
                    for asked in self._submitted(*following, ended, refuse):
                        completion = self.sampler.submit(asked.prompt_ids, asked.sampling)
                        under_way[id(completion)] = (following[0], completion)
                if not under_way:
                    return
                for completion in self.sampler.step():
                    which, _ = under_way.pop(id(completion))
                    ended(which, self._reply(questions[which], completion))
        finally:  # after an interruption nobody waits for them
            for _, completion in under_way.values():
                self.sampler.abort(completion)

    def _submitted(
        self, which: int, question: Question, ended: Ended, refuse: Callable[[], str]
    ) -> Iterator[Completion]:
        """The question as tokens and sampling; nothing where it cannot be put, which is then its answer."""
        if reason := refuse():
            ended(which, Unanswered(reason))
            return
        try:  # a template is a program of the model's author
            ids = self.tokenizer.apply_chat_template(
                list(question.messages), add_generation_prompt=True, return_dict=False
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            ended(which, Unanswered(f"the chat template refuses the question: {error}", again=False))
            return
        context = self.model.config.context
        if len(ids) >= context:
            ended(
                which,
                Unanswered(f"the question has {len(ids)} tokens, and the model reads {context}", again=False),
            )
            return
        sampling = Sampling(
            min(question.max_tokens, context - len(ids)),
            question.temperature,
            stop_ids=self.policy.stop_ids,
            seed=question.seed,
            top_logprobs=min(TOP, self.model.config.vocabulary) if question.options else 0,
        )
        yield Completion(tuple(ids), sampling)

    def _reply(self, question: Question, completion: Completion) -> Answered:
        text = self.tokenizer.decode(completion.token_ids, skip_special_tokens=True)
        likeliest = []
        if question.options and completion.top:
            ids, logprobs = completion.top[0]
            likeliest = [(self.tokenizer.decode([i]), value) for i, value in zip(ids, logprobs, strict=True)]
        return Reply(
            text,
            len(completion.prompt_ids),
            len(completion.token_ids),
            "length" if completion.finish == "length" else "stop",
            logprobs_of_options(question.options, likeliest),
        )
