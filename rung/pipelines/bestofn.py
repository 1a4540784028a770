"""Best-of-n from a policy to a curve: sample, score every answer, keep the best of each task.

On an environment the samples are an evaluation, kept and resumable like any other (`pipelines.evaluate`); its
verifier says what the choice is worth. Prompts of a file have no verifier, and the value is the score itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.data.tokens import TokenPolicy, encode, token_policy
from rung.errors import UserError
from rung.eval.bestofn import best_curve, best_index
from rung.eval.passk import Curve
from rung.eval.records import attempt_of
from rung.models.folder import read_generation_config
from rung.models.hub import load_tokenizer, resolve
from rung.models.load import load_model
from rung.pipelines.evaluate import Evaluation
from rung.pipelines.scoring import Scorer, as_messages
from rung.pipelines.setup import choose_device, choose_dtype
from rung.rewards.reward_model import followed
from rung.rewards.score import Abstain, Score, Verdict
from rung.rollouts.hf import sampler_for
from rung.rollouts.request import Sampling
from rung.run import write_atomically


@dataclass(frozen=True)
class Best:
    """Curves over k, and the best answer of each task as a row."""

    curves: dict[str, Curve]
    rows: list[dict[str, Any]]
    unscored: dict[str, int]  # why the reward model gave no score -> how often


def best_of_evaluation(found: Evaluation, scorer: Scorer | None, seed: int = 0) -> Best:
    """The reward model's choice beside the verifier's own (pass@k) and the most frequent answer."""
    result = found.result
    prompts = {prompt.task: prompt for prompt in result.prompts}
    samples: dict[str, list[Any]] = {task: [] for task in prompts}
    for sample in result.samples:
        samples[sample.task].append(sample)
    right = {
        task: [s.verdict.value if isinstance(s.verdict, Score) else None for s in many]
        for task, many in samples.items()
    }
    curves: dict[str, Curve] = {}
    proxy, unscored = right, {}
    if scorer is not None:
        flat = [(prompts[task], sample) for task, many in samples.items() for sample in many]
        asked = [(as_messages(p.messages), as_messages(followed(attempt_of(p, s)))) for p, s in flat]
        verdicts = iter(scorer.verdicts(asked))
        scored = {task: [next(verdicts) for _ in many] for task, many in samples.items()}
        proxy = {task: [value_of(v) for v in many] for task, many in scored.items()}
        unscored = reasons([v for many in scored.values() for v in many])
        curves["best by reward model"] = best_curve(proxy, right, seed)
    if found.tally.pass_at is not None:
        curves["best by verifier (pass@k)"] = found.tally.pass_at
    if found.majority is not None:
        curves["most frequent (maj@k)"] = found.majority
    rows = [
        {
            "task": task,
            "prompt": list(prompts[task].messages),
            "completion": samples[task][best].answer,
            "score": proxy[task][best],
            "verdict": right[task][best],
            "scores": proxy[task],
        }
        for task in prompts
        if (best := best_index(proxy[task])) is not None
    ]
    return Best(curves, rows, unscored)


def best_of_prompts(
    prompts: Sequence[Any], answers: Sequence[Sequence[str]], scorer: Scorer, seed: int = 0
) -> Best:
    """`prompts` are texts or messages, `answers` n of each."""
    asked = []
    for prompt, many in zip(prompts, answers, strict=True):
        text = isinstance(prompt, str)
        for answer in many:
            side: Any = answer if text else ({"role": "assistant", "content": answer},)
            asked.append((prompt if text else as_messages(prompt), side))
    verdicts = scorer.verdicts(asked)
    each = iter(verdicts)
    scores = {str(i): [value_of(next(each)) for _ in many] for i, many in enumerate(answers)}
    rows = [
        {"prompt": prompt, "completion": many[best], "score": scores[str(i)][best], "scores": scores[str(i)]}
        for i, (prompt, many) in enumerate(zip(prompts, answers, strict=True))
        if (best := best_index(scores[str(i)])) is not None
    ]
    return Best({"score of the best": best_curve(scores, scores, seed)}, rows, reasons(verdicts))


def value_of(verdict: Verdict) -> float | None:
    return verdict.value if isinstance(verdict, Score) else None


def reasons(verdicts: Sequence[Verdict]) -> dict[str, int]:
    found: dict[str, int] = {}
    for verdict in verdicts:
        if not isinstance(verdict, Score):
            why = verdict.reason if isinstance(verdict, Abstain) else verdict.detail
            found[why] = found.get(why, 0) + 1
    return found


def write_rows(out: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_atomically(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def sample_answers(
    model: str, prompts: Sequence[Any], samples: int, *, max_tokens: int, temperature: float, top_p: float,
    seed: int, slots: int, precision: str, device: str,
) -> list[list[str]]:  # fmt: skip
    """`samples` answers to each prompt: messages through the policy's chat template, texts as they stand."""
    tokenizer = load_tokenizer(model)
    policy = token_policy(tokenizer, read_generation_config(resolve(model)) or None)
    if not tokenizer.chat_template and not all(isinstance(prompt, str) for prompt in prompts):
        raise UserError(
            f"{model} has no chat template, so messages cannot be put to it. Write prompts as texts."
        )
    ids = [prompt_ids(prompt, tokenizer, policy) for prompt in prompts]
    where = choose_device(device)
    sampler = sampler_for(
        load_model(model, choose_dtype(precision, where), where), slots=slots, tokenizer=tokenizer
    )
    sampling = Sampling(max_tokens, temperature, top_p, stop_ids=policy.stop_ids, seed=seed)
    groups = sampler.generate(ids, sampling, samples)
    return [[str(tokenizer.decode(c.token_ids, skip_special_tokens=True)) for c in group] for group in groups]


def prompt_ids(prompt: Any, tokenizer: Any, policy: TokenPolicy) -> list[int]:
    if isinstance(prompt, str):
        return policy.begin(encode(tokenizer, [prompt])[0])
    return list(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False))
