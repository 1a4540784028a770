"""Servers for tests: in a thread of this process, over the tiny model or over a script."""

import socket
import threading
import time
from contextlib import contextmanager

import torch

from rung.data.tokens import token_policy
from rung.envs.tool_calls import parse
from rung.models.hub import load_tokenizer
from rung.models.load import load_model
from rung.rollouts.answering import Served
from rung.rollouts.engine import Engine
from rung.rollouts.request import Completion
from rung.rollouts.uvicorn_server import Server
from rung.rollouts.worker import Worker

NAME = "tiny"


class Script:
    """A sampler that writes what it is told, a token a step, or fails when told to."""

    def __init__(self, model, token_ids=(), seconds=0.0):
        self.model, self.token_ids, self.seconds = model, list(token_ids), seconds
        self.rows, self.failures = [], 0

    @property
    def busy(self):
        return bool(self.rows)

    def submit(self, prompt_ids, sampling):
        self.rows.append(Completion(tuple(prompt_ids), sampling))
        return self.rows[-1]

    def abort(self, completion):
        completion.finish = completion.finish or "abort"
        self.rows = [row for row in self.rows if row is not completion]

    def step(self):
        time.sleep(self.seconds)
        if self.failures:
            self.failures -= 1
            raise RuntimeError("no memory left")
        for row in list(self.rows):
            row.token_ids.append(self.token_ids[len(row.token_ids) % len(self.token_ids)])
            row.policy_logprob.append(-1.0)
            if row.token_ids[-1] in row.sampling.stop_ids:
                row.finish = "stop"
            elif len(row.token_ids) == row.sampling.max_tokens:
                row.finish = "length"
            if row.finish:
                self.rows.remove(row)


def peaked(folder, path):
    """The tiny model with sharper opinions, so that a last bit changes no token."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(8)
    model.save_pretrained(path)
    load_tokenizer(str(folder)).save_pretrained(path)
    return path


@contextmanager
def serving(folder, sampler=None, grace=5.0, **options):
    """`(address, Served, Server)` while the block runs."""
    tokenizer = load_tokenizer(str(folder))
    if sampler is None:
        sampler = Engine(load_model(str(folder)), slots=8, tokenizer=tokenizer)
    context = sampler.model.config.context
    served = Served(
        worker=Worker(sampler), tokenizer=tokenizer, policy=token_policy(tokenizer), name=NAME,
        context=context, read_calls=parse, **options,
    )  # fmt: skip
    listener = socket.create_server(("127.0.0.1", 0))
    listening = threading.Event()
    server = Server(served, grace, listening.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    port = listener.getsockname()[1]
    thread.start()
    assert listening.wait(20)
    try:
        yield f"http://127.0.0.1:{port}", served, server
    finally:
        server.should_exit = True
        thread.join(20)
        served.worker.stop()
        assert not thread.is_alive()


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
