"""`rung bestofn MODEL`: sample several answers, let a reward model choose, and say what the choice is worth."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from rung.errors import UserError

if TYPE_CHECKING:
    from rung.pipelines.bestofn import Best
    from rung.pipelines.scoring import Scorer


@dataclass(frozen=True)
class BestOfN:
    """Sample n answers to each task of an environment or prompt of a file; keep the one a reward model likes best.

    On an environment its verifier says how good the choices are: best-of-k for every k up to n, without bias,
    beside pass@k, what a perfect judge would choose, and maj@k, the most frequent answer. The samples are an
    evaluation: interrupted, the same command goes on; asked again with another reward model, nothing is sampled anew.
    """

    model: tyro.conf.Positional[str]
    """The policy: a name, folder, run folder, hub id, .gguf file, or the address of an OpenAI-compatible server."""
    reward: tuple[str, ...] = ()
    """Reward models that choose; several are an ensemble. Without one only the verifier chooses."""
    env: str = ""
    """Tasks with a verifier: arithmetic, countdown, gsm8k:PATH, rows:PATH, FILE.py:function, ..."""
    file: str = ""
    """Prompts instead: a JSONL or Parquet file whose rows have `prompt` or `messages`."""
    samples: int = 16
    """Answers to each."""
    tasks: int | None = None
    """The first so many tasks or prompts; null is all of them."""
    out: str = ""
    """A folder for samples and choices; by default under evals/."""
    combine: Literal["mean", "worst", "uncertain"] = "mean"
    """How an ensemble's scores become one; uncertain is the mean less weight times the variance."""
    weight: float = 1.0
    """What disagreement costs, for uncertain."""
    aggregate: Literal["min", "product", "last", "mean"] = "min"
    """How a process reward model's steps become one score."""
    max_tokens: int = 512
    """Longest answer."""
    temperature: float = 1.0
    """Of sampling; at 0 all answers are one."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens with this much probability."""
    seed: int = 0
    """Everything random."""
    slots: int = 64
    """Answers sampled at once."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Of weights and arithmetic, of policy and reward model."""
    device: str = "auto"
    """cpu, cuda, cuda:1; auto takes a GPU if there is one."""


def main(settings: BestOfN) -> int:
    check(settings)
    from rung.pipelines.scoring import open_scorer

    scorer = None
    if settings.reward:
        scorer = open_scorer(
            settings.reward, combine=settings.combine, weight=settings.weight, aggregate=settings.aggregate,
            precision=settings.precision, device=settings.device,
        )  # fmt: skip
        scorer.require_reward()
    from rung.commands.evaluate import slug
    from rung.pipelines.bestofn import write_rows

    what = settings.env or Path(settings.file).stem
    out = Path(
        settings.out or Path("evals", f"best-of-{settings.samples}-{slug(what)}", slug(settings.model))
    )
    found = on_environment(settings, out, scorer) if settings.env else on_prompts(settings, scorer)
    out.mkdir(parents=True, exist_ok=True)
    write_rows(out / "best.jsonl", found.rows)
    report(settings, found, scorer, out)
    return 0


def check(settings: BestOfN) -> None:
    if bool(settings.env) == bool(settings.file):
        raise UserError(
            "rung bestofn: give either --env SPEC, tasks with a verifier, or --file FILE of prompts"
        )
    if settings.file and not settings.reward:
        raise UserError("rung bestofn: prompts of a file have no verifier; say who chooses with --reward RM")
    if settings.samples < 2:
        raise UserError(f"--samples is {settings.samples}, and a choice needs at least 2. Write 16.")
    if not settings.temperature > 0:
        raise UserError(
            "--temperature 0 gives the same answer every time, so there is nothing to choose. Write 1."
        )


def on_environment(settings: BestOfN, out: Path, scorer: Scorer | None) -> Best:
    from rung.pipelines.bestofn import best_of_evaluation
    from rung.pipelines.evaluate import evaluate

    if scorer is not None:
        scorer.require_chats()
    found = evaluate(
        settings.model, settings.env, out=out / "samples", samples=settings.samples, tasks=settings.tasks,
        max_tokens=settings.max_tokens, temperature=settings.temperature, top_p=settings.top_p,
        seed=settings.seed, slots=settings.slots, precision=settings.precision, device=settings.device,
    )  # fmt: skip
    return best_of_evaluation(found, scorer, settings.seed)


def on_prompts(settings: BestOfN, scorer: Any) -> Best:
    from itertools import islice

    from rung.commands.generate import prompts_of
    from rung.pipelines.bestofn import best_of_prompts, sample_answers

    prompts = list(islice(prompts_of(settings.file), settings.tasks))
    answers = sample_answers(
        settings.model, prompts, settings.samples, max_tokens=settings.max_tokens, temperature=settings.temperature,
        top_p=settings.top_p, seed=settings.seed, slots=settings.slots, precision=settings.precision,
        device=settings.device,
    )  # fmt: skip
    return best_of_prompts(prompts, answers, scorer, settings.seed)


def report(settings: BestOfN, found: Best, scorer: Scorer | None, out: Path) -> None:
    from rung.eval.overoptimisation import kl_of_best_of
    from rung.eval.report import aligned, curve_table

    print(f"policy  {settings.model}")
    print(f"chooser {scorer.name if scorer else 'the verifier'}")
    if settings.env:
        print(f"\n{curve_table(found.curves)}\n")
    else:
        [(name, curve)] = found.curves.items()
        rows = [
            [str(k), f"{curve.value[k - 1]:.3f} [{curve.low[k - 1]:.3f}, {curve.high[k - 1]:.3f}]"]
            for k in curve.k
        ]
        print("\n" + aligned([["k", name], *rows]) + "\n")
    kl = kl_of_best_of(settings.samples)
    print(
        f"best of {settings.samples} is {kl:.2f} nats (KL) away from the policy, if no two scores are equal"
    )
    for reason, count in sorted(found.unscored.items(), key=lambda item: -item[1])[:5]:
        print(f"unscored {count}: {reason}", file=sys.stderr)
    print(f"chosen  {out / 'best.jsonl'}")
