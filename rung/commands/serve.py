"""`rung serve MODEL`: an OpenAI-compatible server over one model."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import sys
from dataclasses import dataclass
from typing import Any, Literal

import tyro

from rung.errors import UserError

KEY_VARIABLE = "RUNG_API_KEY"


@dataclass(frozen=True)
class Serve:
    """Serve a model to OpenAI's clients: /v1/chat/completions, /v1/completions, /v1/models, /health.

    What is understood and what is refused: docs/server.md.
    """

    model: tyro.conf.Positional[str]
    """A known name, a Hugging Face id, a folder, a run folder or a .gguf file."""
    name: str = ""
    """What clients call the model; empty, MODEL as it was written."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    api_key: str = ""
    """Clients must send this key; empty, the one in the environment's RUNG_API_KEY, and if that is empty, none."""
    slots: int = 16
    """Answers sampled at once; others wait."""
    context: int = 0
    """Longest prompt and answer together, in tokens; 0 is all the model can read."""
    max_requests: int = 64
    """Requests in flight at once; one more is answered 429."""
    max_body_bytes: int = 4_000_000
    """Largest request; a larger one is answered 413."""
    grace: float = 30.0
    """Seconds that requests in flight may take to finish once the server is told to stop."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Of weights and arithmetic; auto is bf16 where the hardware multiplies it natively."""
    device: str = "auto"
    """cpu, cuda, cuda:1; auto takes a GPU if there is one."""


def main(settings: Serve) -> int:
    listener = listen(settings)
    from rung.data.tokens import token_policy
    from rung.envs.tool_calls import parse
    from rung.models.folder import read_generation_config
    from rung.models.hub import load_tokenizer, resolve
    from rung.models.load import load_model
    from rung.pipelines.setup import choose_device, choose_dtype
    from rung.rollouts.answering import Served
    from rung.rollouts.hf import sampler_for
    from rung.rollouts.worker import Worker

    tokenizer = load_tokenizer(settings.model)
    policy = token_policy(tokenizer, read_generation_config(resolve(settings.model)))
    where = choose_device(settings.device)
    model = load_model(settings.model, choose_dtype(settings.precision, where), where)
    model.eval()
    context = settings.context or model.config.context
    if context > model.config.context:
        raise UserError(f"--context {context}: {settings.model} reads {model.config.context} tokens at most.")
    must_fit(model, settings.slots, context)
    sampler = sampler_for(model, slots=settings.slots, tokenizer=tokenizer)
    served = Served(
        worker=Worker(sampler),
        tokenizer=tokenizer,
        policy=policy,
        name=settings.name or settings.model,
        context=context,
        read_calls=parse,
        api_key=settings.api_key or os.environ.get(KEY_VARIABLE, ""),
        max_requests=settings.max_requests,
        max_body_bytes=settings.max_body_bytes,
    )
    return run(served, listener, settings.grace)


def listen(settings: Serve) -> socket.socket:
    """The port, taken before the model is loaded: a wrong setting is a matter of a second."""
    missing = [name for name in ("starlette", "uvicorn") if not importlib.util.find_spec(name)]
    if missing:
        raise UserError(f"rung serve needs {' and '.join(missing)}: pip install 'rung[serve]'")
    if settings.slots < 1 or settings.max_requests < 1 or settings.context < 0 or settings.grace < 0:
        raise UserError("--slots and --max-requests must be at least 1, --context and --grace at least 0.")
    listener = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise UserError(
            f"Cannot listen on {settings.host} port {settings.port}: {error}. Choose another with --host or --port; "
            "--port 0 takes a free one."
        ) from error
    return listener


def must_fit(model: Any, slots: int, context: int) -> None:
    """No request may outgrow the memory there is: better no server than one that dies at its busiest."""
    import psutil
    import torch

    from rung.models.decoder import Decoder

    if not isinstance(model, Decoder):  # transformers keeps its own keys and values, and of some models none
        return
    c, weight = model.config, model.head_weight
    token = 2 * c.layers * c.kv_heads * c.head_width * weight.element_size() * slots
    free = torch.cuda.mem_get_info()[0] if weight.is_cuda else psutil.virtual_memory().available
    if token * context > 0.9 * free:
        raise UserError(
            f"{slots} slots of {context} tokens need {token * context / 1e9:.1f} GB for keys and values, and "
            f"{free / 1e9:.1f} GB are free. Write a smaller --context (at most {int(0.9 * free / token)}) or --slots."
        )


def run(served: Any, listener: socket.socket, grace: float) -> int:
    """Serve until a signal: SIGTERM ends with 0, Ctrl-C with 130. A second Ctrl-C does not wait."""
    from rung.rollouts.uvicorn_server import Server

    server = Server(served, grace, lambda: announce(served, listener))
    signals: list[int] = []

    def told(number: int, frame: Any) -> None:
        signals.append(number)
        server.should_exit = True

    before = {number: signal.signal(number, told) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listener])  # it has handlers of its own, and hands their signals back to ours
    finally:
        served.worker.stop()
        for number, handler in before.items():
            signal.signal(number, handler)
    return 130 if signal.SIGINT in signals else 0


def announce(served: Any, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    where = f"[{host}]" if ":" in host else host
    print(f"{served.name} is served at http://{where}:{port}/v1, Ctrl-C ends it", flush=True)
    if not served.api_key and host not in ("127.0.0.1", "::1"):
        print(
            f"no key is asked for: whoever reaches this port may use it ({KEY_VARIABLE} sets one)",
            file=sys.stderr,
        )
