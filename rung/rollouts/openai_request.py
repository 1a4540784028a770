"""What OpenAI's clients ask, read and checked: a JSON body becomes an `Ask`, or an `ApiError` in their shape.

Every known parameter is either obeyed or refused by name; none is ignored that would change an answer. Beyond
OpenAI's own there are `top_k`, `min_p`, `repetition_penalty` and `chat_template_kwargs`, named as vLLM does.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from rung.data.messages import parse_messages, parse_tools
from rung.errors import UserError
from rung.rollouts.request import Sampling

INVALID = "invalid_request_error"
MOST_ROWS = 1024  # answers to one request
MOST_LOGPROBS = 20
LEAST_TEMPERATURE = 1e-5  # below it the division overflows, and greedy is what is meant

# These say nothing about the answer.
IDLE = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
# These would change the answer in ways that are not built: only the value that asks for nothing is taken.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "modalities": (["text"],),
    "reasoning_effort": (),
    "verbosity": (),
    "prediction": (),
    "audio": (),
    "web_search_options": (),
    "functions": (),
    "function_call": (),
}
COMMON = {"model", "n", "stream", "stream_options", "seed", "stop", "temperature", "top_p", "top_k", "min_p"}
COMMON |= {"repetition_penalty", "logit_bias", "max_tokens", "logprobs"}
CHAT = COMMON | {"messages", "max_completion_tokens", "top_logprobs", "tools", "tool_choice"}
CHAT |= {"parallel_tool_calls", "chat_template_kwargs"}
TEXT = COMMON | {"prompt", "echo", "best_of"}


class ApiError(Exception):
    """An answer of OpenAI's error shape."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass(frozen=True)
class Ask:
    """One request. `prompts` for plain text, `messages` for a chat."""

    sampling: Sampling  # but for max_tokens and stop_ids, which the model has a say in
    max_tokens: int | None
    n: int
    stream: bool
    usage: bool  # in a stream, a last chunk with the usage
    logprobs: int | None  # how many alternatives; None for no log-probs at all
    prompts: tuple[str | tuple[int, ...], ...] = ()
    echo: bool = False
    messages: tuple[dict, ...] = ()
    tools: tuple[dict, ...] | None = None
    one_call: bool = False  # of a tool at most
    template: Mapping[str, Any] = field(default_factory=dict)  # more names for the chat template


def refuse(param: str | None, message: str, code: str | None = None) -> NoReturn:
    raise ApiError(400, message, param=param, code=code)


def read_json(raw: bytes) -> dict[str, Any]:
    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    try:
        body = json.loads(raw, parse_constant=constant)
    except (ValueError, RecursionError) as error:  # also bytes that are not UTF-8
        refuse(None, f"We could not parse the JSON body of your request: {error}")
    if not isinstance(body, dict):
        refuse(None, "The body of your request must be a JSON object.")
    return {name: value for name, value in body.items() if value is not None}


def read_chat(body: Mapping[str, Any]) -> Ask:
    _known(body, CHAT)
    _present(body, "messages")
    alternatives = _integer(body, "top_logprobs", None, 0, MOST_LOGPROBS)
    logprobs = _flag(body, "logprobs")
    if alternatives is not None and not logprobs:
        refuse("top_logprobs", "'top_logprobs' needs 'logprobs': true.")
    limit = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    try:
        messages = parse_messages(body["messages"], "request", "messages")
        tools = parse_tools(body.get("tools"), "request")
    except UserError as error:
        refuse("messages", str(error))
    choice = body.get("tool_choice", "auto")
    if choice not in ("auto", "none"):
        refuse("tool_choice", "'tool_choice' can be 'auto' or 'none': a call cannot be forced.")
    template = body.get("chat_template_kwargs", {})
    if not isinstance(template, dict):
        refuse("chat_template_kwargs", "'chat_template_kwargs' must be an object.")
    return Ask(
        **_common(body),
        max_tokens=_integer(body, limit, None, 1),
        logprobs=(alternatives or 0) if logprobs else None,
        messages=tuple(_system(message) for message in messages),
        tools=tools if choice == "auto" else None,
        one_call=not _flag(body, "parallel_tool_calls", True),
        template=template,
    )


def read_completion(body: Mapping[str, Any]) -> Ask:
    _known(body, TEXT)
    _present(body, "prompt")
    common, prompts = _common(body), _prompts(body["prompt"])
    n, best_of = common["n"], _integer(body, "best_of", common["n"], 1)
    if best_of != n:
        refuse("best_of", "'best_of' must equal 'n': all samples are returned.", "unsupported_value")
    if len(prompts) * n > MOST_ROWS:
        refuse(
            "n", f"{len(prompts)} prompts with n = {n} ask for more than {MOST_ROWS} answers in one request."
        )
    echo = _flag(body, "echo")
    if echo and _flag(body, "stream"):
        refuse("echo", "'echo' cannot be streamed here; leave out 'stream'.", "unsupported_value")
    return Ask(
        **common,
        max_tokens=_integer(body, "max_tokens", None, 0),
        logprobs=_integer(body, "logprobs", None, 0, MOST_LOGPROBS),
        prompts=prompts,
        echo=echo,
    )


def _known(body: Mapping[str, Any], names: set[str]) -> None:
    for name, value in body.items():
        if name in NEUTRAL:
            if value not in NEUTRAL[name]:
                refuse(name, f"Unsupported value: '{name}' is not supported here.", "unsupported_value")
        elif name not in names and name not in IDLE:
            refuse(name, f"Unknown parameter: '{name}'.", "unknown_parameter")


def _present(body: Mapping[str, Any], name: str) -> None:
    if name not in body:
        refuse(name, f"Missing required parameter: '{name}'.", "missing_required_parameter")


def _common(body: Mapping[str, Any]) -> dict[str, Any]:
    temperature = _number(body, "temperature", 1.0, 0, 100)
    options = body.get("stream_options", {})
    if not isinstance(options, dict) or not isinstance(options.get("include_usage", False), bool):
        refuse("stream_options", "'stream_options' must be an object such as {\"include_usage\": true}.")
    return {
        "n": _integer(body, "n", 1, 1, 128),
        "stream": _flag(body, "stream"),
        "usage": bool(options.get("include_usage")),
        "sampling": Sampling(
            temperature=0.0 if temperature < LEAST_TEMPERATURE else temperature,
            top_p=_number(body, "top_p", 1.0, 0, 1, above=True),
            top_k=max(_integer(body, "top_k", 0, -1, 1 << 20) or 0, 0),  # -1 is how vLLM says all
            min_p=_number(body, "min_p", 0.0, 0, 1),
            repetition_penalty=_number(body, "repetition_penalty", 1.0, 0.01, 100),
            logit_bias=_logit_bias(body.get("logit_bias", {})),
            stop_strings=_stops(body.get("stop", [])),
            seed=_integer(body, "seed", None, -(1 << 63), 1 << 64) if "seed" in body else secrets.randbits(63),
        ),
    }  # fmt: skip


def _flag(body: Mapping[str, Any], name: str, default: bool = False) -> bool:
    value = body.get(name, default)
    if not isinstance(value, bool):
        refuse(name, f"Invalid type for '{name}': expected a boolean.", "invalid_type")
    return value


def _integer(body: Mapping[str, Any], name: str, default: Any, low: int, high: int = 1 << 40) -> Any:
    value = body.get(name, default)
    if value is default:
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        refuse(name, f"Invalid type for '{name}': expected an integer.", "invalid_type")
    if not low <= value <= high:
        refuse(name, f"Invalid '{name}': {_short(value)} is not between {low} and {high}.", "invalid_value")
    return value


def _number(
    body: Mapping[str, Any], name: str, default: float, low: float, high: float, above: bool = False
) -> float:
    value = body.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        refuse(name, f"Invalid type for '{name}': expected a number.", "invalid_type")
    if not low <= value <= high or (above and value == low) or not math.isfinite(value):
        refuse(name, f"Invalid '{name}': {_short(value)} is not between {low} and {high}.", "invalid_value")
    return float(value)


def _short(value: int | float) -> str:
    """A number may have thousands of digits, more than Python prints."""
    return str(value) if abs(value) < 1 << 64 else "a number of more than 64 bits"


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(
        isinstance(stop, str) and 0 < len(stop) <= 1000 for stop in stops
    ):
        refuse("stop", "'stop' must be a string or a list of strings, none of them empty.", "invalid_type")
    if len(stops) > 16:
        refuse("stop", "'stop' can hold 16 strings at most.", "invalid_value")
    return tuple(stops)


def _logit_bias(value: Any) -> tuple[tuple[int, float], ...]:
    try:
        bias = {int(token): added for token, added in value.items()}
    except (ValueError, AttributeError):
        refuse("logit_bias", "'logit_bias' must be an object from token ids to numbers.", "invalid_type")
    for name in bias:
        _number({"logit_bias": bias[name]}, "logit_bias", 0, -100, 100)
    if len(bias) > MOST_ROWS:
        refuse("logit_bias", f"'logit_bias' can name {MOST_ROWS} tokens at most.", "invalid_value")
    return tuple((token, float(added)) for token, added in bias.items())


def _prompts(value: Any) -> tuple[str | tuple[int, ...], ...]:
    """One or several, each text or token ids."""
    several = isinstance(value, list) and not _ids(value)
    prompts = value if several else [value]
    if not prompts or not all(isinstance(prompt, str) or _ids(prompt) for prompt in prompts):
        refuse("prompt", "'prompt' must be a text, a list of token ids, or a list of either.", "invalid_type")
    return tuple(prompt if isinstance(prompt, str) else tuple(prompt) for prompt in prompts)


def _ids(value: Any) -> bool:
    def number(item: Any) -> bool:
        return isinstance(item, int) and not isinstance(item, bool)

    return isinstance(value, list) and bool(value) and all(map(number, value))


def _system(message: Mapping[str, Any]) -> dict[str, Any]:
    """`developer` is OpenAI's newer word for `system`; templates know the older one."""
    return {**message, "role": "system"} if message["role"] == "developer" else dict(message)
