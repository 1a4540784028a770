"""vLLM, stepped request by request, with both log-probs of every token and weights that can be replaced.

vLLM tells one log-prob of each token, by choice before or after the options are applied. Here it tells the one
after them, under the distribution the token was drawn from. Where the model's own differs, the finished answer
goes through the model once more as a prompt, whose log-probs no option touches.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class Vllm:
    """vLLM in this very process, stepped by us."""

    def __init__(self, settings):
        # One process: it can be killed as one, and the weights can be handed over without being pickled.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        import torch
        import vllm

        model = settings["model"]
        tokenizer = any((Path(model) / name).exists() for name in ("tokenizer.json", "tokenizer_config.json"))
        llm = vllm.LLM(
            model,
            dtype=settings["dtype"],
            seed=0,
            skip_tokenizer_init=not tokenizer,
            generation_config="vllm",  # no option that the model's folder has an opinion on
            logprobs_mode="processed_logprobs",
            max_logprobs=-1,
            enable_prefix_caching=True,
            **settings["options"],
        )
        self.vllm, self.llm, self.engine = vllm, llm, llm.llm_engine
        self.asked: dict[str, dict] = {}  # request id -> request
        self.sampled: dict[
            str, dict
        ] = {}  # request id -> its answer, while the model's own log-probs of it are looked up
        config = self.engine.model_config
        self.tied = bool(getattr(config.hf_text_config, "tie_word_embeddings", False))
        self._must_tell_processed_logprobs()
        self.facts = {
            "vllm": vllm.__version__,
            "torch": torch.__version__,
            "context": config.max_model_len,
            "vocabulary": config.get_vocab_size(),
            "eos": llm.get_tokenizer().eos_token_id if tokenizer else None,
            "tokenizer": tokenizer,
        }

    @property
    def busy(self):
        return self.engine.has_unfinished_requests()

    def submit(self, request):
        name, options = str(request["id"]), dict(request["options"])
        options["logit_bias"] = {int(token): bias for token, bias in options["logit_bias"]} or None
        own = options.pop("own_logprobs_as_sampled")
        parameters = self._parameters(
            **options, logprobs=request["top"] if own else 0, ignore_eos=True, skip_special_tokens=False,
            detokenize=bool(options["stop"]),
        )  # fmt: skip
        self.engine.add_request(name, {"prompt_token_ids": request["prompt"]}, parameters)
        self.asked[name] = {**request, "own": own}

    def _parameters(self, **options):
        kind = self.vllm.sampling_params.RequestOutputKind.FINAL_ONLY
        return self.vllm.SamplingParams(output_kind=kind, **options)

    def abort(self, one):
        name = str(one)
        if self.asked.pop(name, None) is not None:
            self.engine.abort_request([name, f"{name} once more"])
            self.sampled.pop(name, None)

    def step(self):
        """One step of vLLM; the answers that ended with it."""
        ended = []
        for output in self.engine.step():
            name = output.request_id.removesuffix(" once more")
            if not output.finished or name not in self.asked:
                continue
            request = self.asked[name]
            if name in self.sampled:
                answer = self.sampled.pop(name)
                start = len(request["prompt"])
                own, tokens = output.prompt_logprobs[start:], answer["token_ids"]
            else:
                answer, own, tokens = self._answer(request, output.outputs[0])
                if own is None:
                    self._look_up_own(name, request, answer)
                    continue
            answer["policy_logprob"] = [row[token].logprob for row, token in zip(own, tokens, strict=True)]
            if request["top"]:
                answer["top"] = [likeliest(row, request["top"]) for row in own]
            del self.asked[name]
            ended.append(answer)
        return ended

    def _answer(self, request, output):
        tokens = list(output.token_ids)
        logprobs = [row[token].logprob for row, token in zip(output.logprobs, tokens, strict=True)]
        answer = {
            "id": request["id"],
            "token_ids": tokens,
            "sampler_logprob": logprobs,
            "finish": output.finish_reason,
        }
        return answer, output.logprobs if request["own"] else None, tokens

    def _look_up_own(self, name, request, answer):
        self.sampled[name] = answer
        whole = [*request["prompt"], *answer["token_ids"]]
        parameters = self._parameters(
            max_tokens=1, temperature=0.0, prompt_logprobs=request["top"], detokenize=False
        )
        self.engine.add_request(f"{name} once more", {"prompt_token_ids": whole}, parameters)

    def load(self, tensors):
        """New weights into the running model, and nothing kept that the old ones computed."""
        model = self.engine.model_executor.driver_worker.worker.model_runner.get_model()
        packed = {name: module.cpu_linear for name, module in model.named_modules() if is_packed(module)}
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": list(tensors.items())})
        for name, module in model.named_modules():
            # A head that is the embedding has no weights of its own to wait for: vLLM keeps its packed copy.
            if is_packed(module) and module.cpu_linear is packed.get(name):
                module.quant_method.process_weights_after_loading(module)
                if module.cpu_linear is packed[name]:
                    raise RuntimeError(f"vLLM still computes {name} with a packed copy of its old weights")
        wrong = [name for name, tensor in tensors.items() if not took(model, name, tensor)]
        if wrong:
            raise RuntimeError(f"vLLM did not take over {len(wrong)} weights, such as {wrong[0]}")
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not forget the prefixes it computed with the old weights")

    def _must_tell_processed_logprobs(self):
        """A bias can make a token certain; a vLLM that says otherwise tells another log-prob than we ask for."""
        parameters = self._parameters(
            temperature=1.0, logit_bias={0: 1e4}, max_tokens=1, logprobs=0, detokenize=False
        )
        self.engine.add_request("probe", {"prompt_token_ids": [0]}, parameters)
        finished: list[Any] = []
        while self.busy:
            finished += self.engine.step()
        [row] = finished[0].outputs[0].logprobs
        [entry] = row.values()
        if abs(entry.logprob) > 1e-6:
            raise RuntimeError(
                f"vLLM {self.vllm.__version__} reports log-prob {entry.logprob} of a certain token: not that of the "
                "distribution it draws from. Use a version whose logprobs_mode has processed_logprobs."
            )


def likeliest(row, count):
    found = sorted(((entry.logprob, token) for token, entry in row.items()), reverse=True)[:count]
    return [token for _, token in found], [logprob for logprob, _ in found]


def is_packed(module):
    return hasattr(module, "cpu_linear") and hasattr(module, "quant_method")


def took(model, name, tensor):
    """Whether the model's parameter of that name, if it has one it can be read from, is the tensor to the bit."""
    try:
        parameter = model.get_parameter(name)
    except AttributeError:  # fused with others, or held packed
        return True
    if parameter.ndim != tensor.ndim or parameter.shape[1:] != tensor.shape[1:]:
        return True  # packed, or laid out in vLLM's own way
    rows = len(tensor)  # vLLM pads vocabularies
    return len(parameter) < rows or bool((parameter[:rows].cpu() == tensor.to(parameter.dtype)).all())
