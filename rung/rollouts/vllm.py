"""Sampling through vLLM: in a process of its own, under a Python of its own, with the engine's interface.

The worker holds a copy of the weights. `push` sends it the trainer's: in the type vLLM computes in, through a
file in memory, with their digest, which the worker computes again from what arrived. Every request names the
version and the digest it is meant for, and a worker that holds others refuses it. vLLM's kernels are not the
decoder's, so its log-probs differ from the trainer's by rounding; `rung` measures that gap and can correct it.

The dice are vLLM's: one seed gives other tokens here than in the engine, though the same ones each time.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

import rung.models.fingerprint
from rung.errors import UserError
from rung.models.fingerprint import fingerprint
from rung.models.hub import resolve
from rung.models.lora import adapted_layers
from rung.rollouts.engine import sample_seed
from rung.rollouts.request import Completion, Sampling, check
from rung.rollouts.vllm_options import options_of
from rung.rollouts.vllm_process import WorkerProcess

WORKER = Path(__file__).parent / "vllm_worker" / "serve.py"
USUAL_PYTHON = Path(".venv-vllm/bin/python")
KINDS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
SILENCE_SECONDS = 600.0
LOST = ("lora_A", "lora_B")


class VllmSampler:
    """vLLM on the model in a folder. Close it, or use it in a `with`; it ends with this process in any case.

    `python` is the interpreter vLLM is installed for. `cache_gb` is memory for keys and values; on a GPU that
    the trainer shares, set it. `eager` starts faster and samples slower. `seconds` bounds the silence between
    two signs of life, loading and compiling included.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        python: str | Path | None = None,
        dtype: torch.dtype = torch.bfloat16,
        slots: int = 64,
        max_length: int | None = None,
        cache_gb: float | None = None,
        eager: bool = False,
        seconds: float = SILENCE_SECONDS,
    ):
        self.dtype, self.slots = dtype, slots
        folder = resolve(str(model))
        options: dict[str, Any] = {"max_num_seqs": slots, "enforce_eager": eager}
        if max_length is not None:
            options["max_model_len"] = max_length + 1
        if cache_gb is not None:
            options["kv_cache_memory_bytes"] = int(cache_gb * 1e9)
        self.waiting: list[Completion] = []
        self.in_flight: dict[int, Completion] = {}
        self._aborted: list[int] = []
        self._asked = 0
        self.process = WorkerProcess("vLLM's worker", find_python(python), WORKER, seconds)
        try:
            facts = self.process.ask(
                "open", model=str(folder), dtype=str(dtype).removeprefix("torch."), options=options,
                fingerprint=rung.models.fingerprint.__file__,
            )  # fmt: skip
        except BaseException:
            self.process.close()
            raise
        # One token of room is kept: an answer whose log-probs are looked up once more counts as a prompt.
        self.context: int = facts["context"] - 1
        self.vocabulary = facts["vocabulary"]
        self.eos, self.has_tokenizer = facts["eos"], facts["tokenizer"]
        self.versions = {"vllm": facts["vllm"], "torch": facts["torch"]}
        self.version = 0
        self.digest = self.weights_digest = facts["digest"]

    # -- asking --------------------------------------------------------------------------------------------

    def submit(self, prompt_ids: Sequence[int], sampling: Sampling, key: Any = None) -> Completion:
        """Queue a prompt; the completion that comes back is filled by the step that returns it."""
        check([prompt_ids], sampling, context=self.context, vocabulary=self.vocabulary)
        self._options(sampling)
        completion = Completion(tuple(map(int, prompt_ids)), sampling, key)
        self.waiting.append(completion)
        return completion

    def abort(self, completion: Completion) -> None:
        """End a completion. What vLLM had sampled of it is lost."""
        if completion.finish:
            return
        completion.finish = "abort"
        self.waiting = [one for one in self.waiting if one is not completion]
        for number, one in list(self.in_flight.items()):
            if one is completion:
                del self.in_flight[number]
                self._aborted.append(number)

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.in_flight)

    def step(self) -> list[Completion]:
        """Let vLLM sample until an answer ends, or for about a second. Returns those that ended."""
        if not self.busy:
            return []
        try:
            answers = self._step()
        except BaseException:  # what ended meanwhile is not known here: nobody could wait for the rest
            for completion in [*self.waiting, *self.in_flight.values()]:
                self.abort(completion)
            raise
        return [self._ended(answer) for answer in answers]

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, n: int = 1
    ) -> list[list[Completion]]:
        """n answers to each prompt, each with a seed of its own."""
        check(prompts, sampling, context=self.context, vocabulary=self.vocabulary)
        answers = [
            [self.submit(prompt, replace(sampling, seed=sample_seed(sampling.seed, i, j))) for j in range(n)]
            for i, prompt in enumerate(prompts)
        ]
        try:
            while not all(one.finish for group in answers for one in group):
                self.step()
        finally:  # after an interruption nobody waits for them
            for group in answers:
                for one in group:
                    self.abort(one)
        return answers

    def _step(self) -> list[dict[str, Any]]:
        requests = []
        for completion in self.waiting:
            self._asked += 1
            self.in_flight[self._asked] = completion
            requests.append(
                {
                    "id": self._asked,
                    "prompt": completion.prompt_ids,
                    "top": completion.sampling.top_logprobs,
                    "options": self._options(completion.sampling),
                }
            )
        self.waiting = []
        return self._ask("step", held=[self.version, self.weights_digest], requests=requests)["ended"]

    def _ask(self, do: str, **content: Any) -> dict[str, Any]:
        aborted, self._aborted = self._aborted, []
        return self.process.ask(do, abort=aborted, **content)

    def _ended(self, answer: dict[str, Any]) -> Completion:
        completion = self.in_flight.pop(answer["id"])
        tokens, sampling = answer["token_ids"], completion.sampling
        completion.token_ids += tokens
        certain = sampling.temperature == 0
        completion.sampler_logprob += [0.0] * len(tokens) if certain else answer["sampler_logprob"]
        completion.policy_logprob += answer["policy_logprob"]
        completion.top += [(ids, logprobs) for ids, logprobs in answer.get("top", ())]
        completion.version += [self.version] * len(tokens)
        completion.digest = self.digest
        completion.finish = answer["finish"]
        return completion

    def _options(self, sampling: Sampling) -> dict[str, Any]:
        return options_of(sampling, vocabulary=self.vocabulary, eos=self.eos, tokenizer=self.has_tokenizer)

    # -- weights -------------------------------------------------------------------------------------------

    def push(self, model: torch.nn.Module, version: int, digest: str = "") -> None:
        """Give the worker `model`'s weights as they are now; adapters are added into what they correct.

        `digest` is what completions carry; by default the fingerprint of the weights as they were sent, which
        for a decoder in vLLM's own type is `fingerprint(model)`.
        """
        if self.busy:
            raise UserError("Answers are in flight. Step until they end, or abort them, before a push.")
        tensors = weights_of(model, self.dtype)
        sent = fingerprint(_named(tensors))
        with memory_file() as file:
            write_tensors(file, tensors)
            said = self._ask("push", file=file, version=version, digest=sent)
        assert said["digest"] == sent  # or the worker would have refused
        self.version, self.weights_digest, self.digest = version, sent, digest or sent

    # -- the end -------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the worker. Answers in flight are aborted."""
        for completion in [*self.waiting, *self.in_flight.values()]:
            self.abort(completion)
        self.process.close()

    def __enter__(self) -> VllmSampler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def find_python(asked: str | Path | None) -> str:
    """The interpreter that has vLLM."""
    if asked is not None:
        if not Path(asked).is_file():
            raise UserError(
                f"There is no Python at {asked}. Name the interpreter that vLLM is installed for."
            )
        return str(Path(asked).absolute())  # not resolved: a virtual environment is known by its link
    if USUAL_PYTHON.is_file():
        return str(USUAL_PYTHON.absolute())
    if importlib.util.find_spec("vllm") is not None:
        return sys.executable
    raise UserError(
        f"vLLM is neither installed here nor in {USUAL_PYTHON.parent.parent}. Give it an environment of its own "
        "(`python -m venv .venv-vllm`, then `.venv-vllm/bin/pip install vllm`), or name its python."
    )


@torch.no_grad()
def weights_of(model: torch.nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors under the names of a checkpoint, adapters added into their base, in `dtype` on the CPU."""
    adapted = adapted_layers(model)
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        owner, _, leaf = name.rpartition(".")
        if owner in adapted and leaf in LOST:
            continue
        layer = adapted.get(owner.removesuffix(".base"))
        if layer is not None:
            name = f"{owner.removesuffix('.base')}.{leaf}"
            if leaf == "weight":
                correction_OD = layer.lora_B.float() @ layer.lora_A.float()
                tensor = tensor.float() + layer.scale * correction_OD
        tensors[name] = tensor.detach().to("cpu", dtype).contiguous()
    return tensors


def _named(tensors: dict[str, Tensor]) -> torch.nn.Module:
    """What `fingerprint` needs of a module."""
    return cast(torch.nn.Module, SimpleNamespace(named_parameters=tensors.items))


def write_tensors(file: str, tensors: dict[str, Tensor]) -> None:
    """As safetensors: eight bytes of length, a JSON header, the bits. (The library's own writer makes a second
    file beside it first, and beside a file in memory there is no place.)"""
    header, place = dict[str, Any](), 0
    for name, tensor in tensors.items():
        kind, shape = KINDS[tensor.dtype], list(tensor.shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [place, place + tensor.nbytes]}
        place += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(file, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            out.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


@contextmanager
def memory_file() -> Iterator[str]:
    """The path of a file that another process of ours can open and that is gone with us, whatever happens."""
    if not hasattr(os, "memfd_create"):  # not Linux
        with tempfile.TemporaryDirectory(prefix="rung-push-") as folder:
            yield str(Path(folder) / "weights.safetensors")
        return
    descriptor = os.memfd_create("rung-push")
    try:
        yield f"/proc/{os.getpid()}/fd/{descriptor}"
    finally:
        os.close(descriptor)
