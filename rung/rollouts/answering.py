"""Requests to answers: prompts become tokens, rows are sampled, and what comes is put into OpenAI's shapes.

Knows nothing of HTTP: `prepare` takes a body, `whole` gives a JSON object, `events` a stream's lines.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import jinja2

from rung.data.tokens import TokenPolicy, decode, encode
from rung.errors import UserError
from rung.rollouts.answer import Answer, Token, chat_logprobs, text_logprobs
from rung.rollouts.detokenise import TokenNames
from rung.rollouts.engine import sample_seed
from rung.rollouts.openai_request import ApiError, Ask, read_chat, read_completion, refuse
from rung.rollouts.request import Sampling, check
from rung.rollouts.worker import Failed, Stopped, Top, Worker


@dataclass(frozen=True)
class Served:
    """A model and how it is offered. `read_calls` finds tool calls in a text: `rung.envs.tool_calls.parse`."""

    worker: Worker
    tokenizer: Any
    policy: TokenPolicy
    name: str
    context: int
    read_calls: Callable[[str], Any]
    api_key: str = ""
    max_requests: int = 64
    max_body_bytes: int = 4_000_000


@dataclass(frozen=True)
class Work:
    """A request ready to be sampled: its prompts as tokens and one sampling for each answer."""

    ask: Ask
    chat: bool
    prompts: list[list[int]]
    rows: list[tuple[list[int], Sampling]]

    @property
    def answers(self) -> int:
        return len(self.prompts) * self.ask.n


class Answering:
    """Answers requests to one model."""

    def __init__(self, served: Served):
        self.served, self.names = served, TokenNames(served.tokenizer)
        # Templates and tokenizers are not for several threads at once, and too slow for the event loop.
        self.texts = ThreadPoolExecutor(1, "rung texts")

    async def prepare(self, body: dict[str, Any], chat: bool) -> Work:
        ask = read_chat(body) if chat else read_completion(body)
        loop = asyncio.get_running_loop()
        tokenise = self._chat_ids if chat else self._text_ids
        prompts = await loop.run_in_executor(self.texts, tokenise, ask)
        rows = []
        for i, prompt in enumerate(prompts):
            sampling = self._sampling(ask, len(prompt), chat)
            try:  # a prompt that is only scored needs no room behind it
                room, least = self.served.context + (sampling is None), Sampling(max_tokens=1)
                check([prompt], sampling or least, context=room, vocabulary=self._vocabulary)
            except UserError as error:
                refuse(None, str(error))
            if sampling is None:
                continue
            seeds = [sample_seed(sampling.seed, i, j) for j in range(ask.n)]  # as Engine.generate throws them
            rows += [(prompt, replace(sampling, seed=seed)) for seed in seeds]
        return Work(ask, chat, prompts, rows)

    @property
    def _vocabulary(self) -> int:
        return self.served.worker.model.config.vocabulary

    def _chat_ids(self, ask: Ask) -> list[list[int]]:
        tokenizer, template = self.served.tokenizer, ask.template
        if not tokenizer.chat_template:
            refuse("messages", "This model has no chat template; use /v1/completions.")
        taken = set(template) & set(inspect.signature(tokenizer.apply_chat_template).parameters)
        if taken:
            refuse("chat_template_kwargs", f"'chat_template_kwargs' cannot set {min(taken)!r}.")
        try:  # a template is a program of the model's author, the names are a stranger's
            ids = tokenizer.apply_chat_template(
                list(ask.messages), tools=ask.tools and list(ask.tools), add_generation_prompt=True,
                return_dict=False, **template,
            )  # fmt: skip
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            refuse("messages", f"The model's chat template refuses the conversation: {error}")
        return [list(ids)]

    def _text_ids(self, ask: Ask) -> list[list[int]]:
        texts = iter(encode(self.served.tokenizer, [p for p in ask.prompts if isinstance(p, str)]))
        return [self.served.policy.begin(next(texts)) if isinstance(p, str) else list(p) for p in ask.prompts]

    def _sampling(self, ask: Ask, prompt_tokens: int, chat: bool) -> Sampling | None:
        """The request's sampling for a prompt of this length; None where no token is asked for."""
        where = "messages" if chat else "prompt"
        if not prompt_tokens:
            refuse(where, "The prompt is empty: there is no token to continue from.")
        room = self.served.context - prompt_tokens
        wanted = min(room, room if chat else 16) if ask.max_tokens is None else ask.max_tokens
        if wanted > room or (room < 1 and ask.max_tokens is None):
            refuse(
                where,
                f"This model's maximum context length is {self.served.context} tokens. However, you requested "
                f"{prompt_tokens + max(wanted, 1)} tokens ({prompt_tokens} in the {where}, {max(wanted, 1)} in "
                "the completion). Please reduce their length.",
                "context_length_exceeded",
            )
        if not wanted:
            return None
        return replace(
            ask.sampling,
            max_tokens=wanted,
            stop_ids=self.served.policy.stop_ids,
            top_logprobs=min(ask.logprobs or 0, self._vocabulary),
        )

    # -- sampling ------------------------------------------------------------------------------------------

    def _blank(self, work: Work) -> list[Answer]:
        return [
            Answer(
                self.served.tokenizer,
                stop_ids=self.served.policy.stop_ids,
                stop_strings=work.ask.sampling.stop_strings,
                read_calls=self.served.read_calls if work.ask.tools else None,
                one_call=work.ask.one_call,
            )
            for _ in range(work.answers)
        ]

    async def _grow(
        self, work: Work, answers: Sequence[Answer]
    ) -> AsyncIterator[tuple[int, str, list[Token]]]:
        """`(index of the answer, text that is new, tokens that are new)` until all are whole."""
        async with aclosing(self.served.worker.sample(work.rows)) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                answer = answers[piece.number]
                text, tokens = answer.push(piece)
                if answer.finish and not piece.finish:
                    self.served.worker.abort(piece.completion)
                yield piece.number, text, tokens

    async def whole(self, work: Work) -> dict[str, Any]:
        answers, ask = self._blank(work), work.ask
        heads: list[tuple[str, list[Token]]] = [("", [])] * len(work.prompts)
        try:
            if ask.echo:
                heads = await self._echoes(work)
            async with aclosing(self._grow(work, answers)) as steps:  # type: ignore[type-var]
                async for _ in steps:
                    pass
        except (Failed, Stopped) as error:
            raise _failure(error) from error
        choices = [
            self._message(i, answer, ask) if work.chat else self._text(i, answer, work, *heads[i // ask.n])
            for i, answer in enumerate(answers)
        ]
        return self._frame(work, choices=choices, usage=_usage(work, answers))

    async def _echoes(self, work: Work) -> list[tuple[str, list[Token]]]:
        """Each prompt as text and, where log-probs are asked for, as scored tokens."""
        ask, tokenizer = work.ask, self.served.tokenizer
        texts = [
            given if isinstance(given, str) else decode(tokenizer, ids[self._bos(ids) :])
            for given, ids in zip(ask.prompts, work.prompts, strict=True)
        ]
        if ask.logprobs is None:
            return [(text, []) for text in texts]
        scores = await self.served.worker.score(work.prompts, ask.logprobs)
        heads = []
        for text, ids, scored in zip(texts, work.prompts, scores, strict=True):
            tops: Sequence[Top | None] = scored.top or [None] * len(scored.logprob)
            rest = map(Token, ids[1:], scored.logprob, tops)
            heads.append((text, [Token(ids[0], None, None), *rest]))
        return heads

    def _bos(self, ids: Sequence[int]) -> int:
        """1 where the first token is a beginning that no text spells out."""
        policy = self.served.policy
        return int(policy.text_has_bos and list(ids[:1]) == [policy.bos_id])

    async def events(self, work: Work) -> AsyncIterator[str]:
        """The answers as server-sent events; the headers are out, so a failure is an event too."""
        answers, ask = self._blank(work), work.ask
        frame = self._frame(work, **({"usage": None} if ask.usage else {}))
        offsets = [0] * len(answers)

        def event(index: int, delta: Any, tokens: Sequence[Token] = (), finish: str | None = None) -> str:
            choice = {"index": index, ("delta" if work.chat else "text"): delta, "logprobs": None}
            if tokens and ask.logprobs is not None:
                if work.chat:
                    choice["logprobs"] = chat_logprobs(tokens, self.names, ask.logprobs)
                else:
                    choice["logprobs"] = text_logprobs(tokens, self.names, ask.logprobs, offsets[index])
                    offsets[index] += sum(self.names[token.id].letters for token in tokens)
            return _event({**frame, "choices": [choice | {"finish_reason": finish}]})

        for index in range(len(answers) if work.chat else 0):
            yield event(index, {"role": "assistant", "content": ""})
        try:
            async with aclosing(self._grow(work, answers)) as steps:  # type: ignore[type-var]
                async for index, text, tokens in steps:
                    if text or (tokens and ask.logprobs is not None):
                        yield event(index, {"content": text} if work.chat else text, tokens)
                    if answers[index].finish and tokens:
                        if calls := answers[index].calls:
                            numbered = [{"index": i, **call} for i, call in enumerate(calls)]
                            yield event(index, {"tool_calls": numbered})
                        yield event(index, {} if work.chat else "", finish=answers[index].finish)
        except (Failed, Stopped) as error:
            yield _event(_failure(error).body)
            return
        if ask.usage:
            yield _event({**frame, "choices": [], "usage": _usage(work, answers)})
        yield "data: [DONE]\n\n"

    # -- shapes --------------------------------------------------------------------------------------------

    def _frame(self, work: Work, **more: Any) -> dict[str, Any]:
        kind = (
            ("chat.completion.chunk" if work.ask.stream else "chat.completion")
            if work.chat
            else "text_completion"
        )
        id = f"{'chatcmpl' if work.chat else 'cmpl'}-{uuid.uuid4().hex}"
        return {"id": id, "object": kind, "created": int(time.time()), "model": self.served.name, **more}

    def _message(self, index: int, answer: Answer, ask: Ask) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": answer.shown, "refusal": None}
        if answer.calls:
            message |= {"content": answer.shown.strip() or None, "tool_calls": answer.calls}
        logprobs = None if ask.logprobs is None else chat_logprobs(answer.tokens, self.names, ask.logprobs)
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": answer.finish}

    def _text(self, index: int, answer: Answer, work: Work, echoed: str, head: list[Token]) -> dict[str, Any]:
        logprobs, k = None, work.ask.logprobs
        if k is not None:
            begin = self._bos([token.id for token in head[:1]])
            logprobs = text_logprobs([*head, *answer.tokens], self.names, k, begin=begin)
        finish = answer.finish or "length"  # no token was asked for
        return {"index": index, "text": echoed + answer.shown, "logprobs": logprobs, "finish_reason": finish}


def _usage(work: Work, answers: Sequence[Answer]) -> dict[str, int]:
    read, written = sum(map(len, work.prompts)), sum(len(answer.tokens) for answer in answers)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _failure(error: Failed | Stopped) -> ApiError:
    if isinstance(error, Stopped):
        return ApiError(503, "The server is shutting down.", kind="server_error")
    return ApiError(500, "The model failed; the server's log says why.", kind="server_error")


def _event(value: Any) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False, allow_nan=False)}\n\n"
