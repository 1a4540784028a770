"""One answer as it grows: the text that may be shown, the tokens with their log-probs, the tool calls.

The stop token is not text, a stop string ends the text before it, and where tools were offered, what may be
a call is held back until the answer is whole and can be read as one.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rung.rollouts.detokenise import Cutter, Detokeniser, TokenNames
from rung.rollouts.worker import Piece, Top

CALL_MARKS = ("<tool_call>", "<|python_tag|>")  # a call without a mark is an answer that begins with {
LEAST_LOGPROB = -9999.0  # JSON has no -inf


@dataclass(frozen=True)
class Token:
    id: int
    logprob: float | None  # None for the first token of a prompt
    top: Top | None


class Answer:
    def __init__(
        self,
        tokenizer: Any,
        *,
        stop_ids: Sequence[int],
        stop_strings: Sequence[str],
        read_calls: Callable[[str], Any] | None = None,
        one_call: bool = False,
    ):
        self.stop_ids, self.read_calls, self.one_call = frozenset(stop_ids), read_calls, one_call
        # A mark of a tool call may be a special token.
        self.detokeniser = Detokeniser(tokenizer, special=read_calls is not None)
        self.stop = Cutter(stop_strings)
        self.marks = Cutter(CALL_MARKS)
        self.whole = self.shown = ""
        self.fed = 0  # how much of the whole text went past the marks
        self.tokens: list[Token] = []
        self.calls: list[dict[str, Any]] = []
        self.finish: str | None = None

    def push(self, piece: Piece) -> tuple[str, list[Token]]:
        """What a piece adds to the text that is shown, and its tokens."""
        if self.finish:  # a stop string was met before the sampler was told
            return "", []
        tops: Sequence[Top | None] = piece.top or [None] * len(piece.token_ids)
        tokens = [Token(*parts) for parts in zip(piece.token_ids, piece.logprob, tops, strict=True)]
        self.tokens += tokens
        ids = piece.token_ids
        if piece.finish == "stop" and ids and ids[-1] in self.stop_ids:
            ids = ids[:-1]
        text = self.stop.push(self.detokeniser.push(ids))
        if piece.finish:
            text += self.stop.push(self.detokeniser.end())
            text += self.stop.end()
        before = len(self.shown)
        self.whole += text
        self.shown += self._show(text)
        if self.stop.found or piece.finish:
            self.finish = "length" if piece.finish == "length" and not self.stop.found else "stop"
            self.shown += self._close()
        return self.shown[before:], tokens

    def _show(self, text: str) -> str:
        """What of the text is certainly no call."""
        if self.read_calls is None:
            return text
        if not self.fed and self.whole.lstrip()[:1] in ("", "{"):
            return ""
        fresh, self.fed = self.whole[self.fed :], len(self.whole)
        return self.marks.push(fresh)

    def _close(self) -> str:
        """Calls, if all of them can be read; otherwise the text that was held back."""
        if self.read_calls is None:
            return ""
        found = self.read_calls(self.whole).calls
        if found and all(hasattr(call, "name") for call in found):
            self.calls = [described(call) for call in found[: 1 if self.one_call else None]]
            self.finish = "tool_calls"
            return ""
        return self.whole[len(self.shown) :]


def described(call: Any) -> dict[str, Any]:
    arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
    function = {"name": call.name, "arguments": arguments}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def chat_logprobs(tokens: Sequence[Token], names: TokenNames, alternatives: int) -> dict[str, Any]:
    """The shape of /v1/chat/completions."""

    def entry(token: int, logprob: float | None) -> dict[str, Any]:
        name = names[token]
        raw = None if name.raw is None else list(name.raw)
        return {"token": name.text, "logprob": finite(logprob), "bytes": raw}

    def others(top: Top | None) -> list[dict[str, Any]]:
        ids, values = top or ([], [])
        return [entry(*pair) for pair in zip(ids[:alternatives], values[:alternatives], strict=True)]

    content = [{**entry(token.id, token.logprob), "top_logprobs": others(token.top)} for token in tokens]
    return {"content": content, "refusal": None}


def text_logprobs(
    tokens: Sequence[Token], names: TokenNames, alternatives: int, offset: int = 0, begin: int = 0
) -> dict[str, Any]:
    """The shape of /v1/completions. The first `begin` tokens are no part of the text."""
    tops: list[dict[str, float | None] | None] = []
    offsets = []
    for place, token in enumerate(tokens):
        offsets.append(offset)
        offset += names[token.id].letters if place >= begin else 0
        if token.logprob is None or not alternatives:
            tops.append(None)
            continue
        ids, values = token.top or ([], [])
        pairs = list(zip(ids[:alternatives], values[:alternatives], strict=True))
        # The likelier of two tokens that read alike comes last and stays; so does the chosen one.
        top = {names[id].text: finite(value) for id, value in reversed(pairs)}
        tops.append(top | {names[token.id].text: finite(token.logprob)})
    return {
        "tokens": [names[token.id].text for token in tokens],
        "token_logprobs": [finite(token.logprob) for token in tokens],
        "top_logprobs": tops if alternatives else None,
        "text_offset": offsets,
    }


def finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LEAST_LOGPROB)
