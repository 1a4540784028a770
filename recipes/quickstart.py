"""The quickstart: a real model learns to add in minutes, on a laptop, and a page shows how and how well.

1. How well does SmolLM2-135M add? Held-out chain sums, temperature 1, with a 95 % interval.
2. Supervised fine-tuning on a few worked answers teaches it the form (`rung sft`).
3. GRPO with a verifier makes right answers likelier, from nothing but right or wrong (`rung grpo`).
4. Again on the held-out sums: accuracy and pass@k before and after, three rollouts, the curves, one HTML page.

    make quickstart          or, in an installed checkout:   python recipes/quickstart.py [OUT]
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rung.machine import share_cores

share_cores()  # before torch is imported

from rich.console import Console

from rung.data.tokens import token_texts
from rung.envs.environment import Task
from rung.envs.load import load_environment
from rung.eval.paired import Comparison
from rung.eval.report import comparison_line, curve_table, plot_curves, tally_table
from rung.eval.tally import compare_samples
from rung.models.hub import load_tokenizer
from rung.pipelines.evaluate import Evaluation, evaluate
from rung.pipelines.rl import rl
from rung.pipelines.sft import sft
from rung.rewards.score import Score
from rung.rollouts.columns import Graded
from rung.rollouts.store import RolloutStore
from rung.run import Run
from rung.settings import Optimizer, Sft
from rung.settings_rl import Rl
from rung.studio.page import Page

MODEL = "smollm2-135m"
SUMS = "reasoning-gym/chain_sum?min_terms=2&max_terms=3&min_digits=1&max_digits=2&partial=false"
DEMONSTRATIONS, ROUNDS = 256, 20
ANSWER_TOKENS = 40  # enough for every worked answer
TASKS, SAMPLES = 100, 8  # held out, and how many answers to each

console = Console(highlight=False)


def worked_answer(expression: str) -> str:
    """The sum written out term by term: `4 + 3 = 7`, `7 - 5 = 2`, then the answer on its own line."""
    first, *rest = re.findall(r"[+-]?\d+", expression.replace(" ", ""))
    total, lines = int(first), []
    for term in rest:
        after = total + int(term)
        lines.append(f"{total} {term[0]} {term[1:]} = {after}")
        total = after
    return "\n".join([*lines, f"Answer: {total}"])


def write_demonstrations(tasks: Sequence[Task], path: Path) -> None:
    rows = [
        {
            "messages": [
                *task.messages,
                {"role": "assistant", "content": worked_answer(task.reference["metadata"]["expression"])},
            ]
        }
        for task in tasks
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def fine_tune(data: Path, out: Path) -> Path:
    return sft(
        Sft(
            data=(str(data),), model=MODEL, out=str(out), step_documents=16, epochs=1,
            optimizer=Optimizer(learning_rate=3e-4, warmup=0.1),
        )
    )  # fmt: skip


def reinforce(model: Path, out: Path) -> Path:
    return rl(
        Rl(
            env=SUMS, model=str(model), out=str(out), rounds=ROUNDS, prompts=16, group=8,
            max_tokens=ANSWER_TOKENS, slots=128, test_tasks=0, seed=1,
            optimizer=Optimizer(learning_rate=2e-5, schedule="constant", warmup=0),
        ),
        "grpo",
    )  # fmt: skip


def three_rollouts(run: Path) -> list[tuple[str, Graded]]:
    """From the last round: a right answer that was rare in its group, a wrong one, the most uncertain."""
    store = RolloutStore(run)
    records = store.read(store.rounds()[-1])
    values = [r.verdict.value if isinstance(r.verdict, Score) else None for r in records]
    right = [record for record, value in zip(records, values, strict=True) if value == 1]
    wrong = [record for record, value in zip(records, values, strict=True) if value == 0]
    unsure = max(records, key=lambda record: float(record.rollout.entropy[record.rollout.by_model].mean()))
    chosen = [("the least certain of its words", unsure)]
    if wrong:
        chosen.insert(0, ("wrong", wrong[0]))
    if right:
        rare = max(right, key=lambda record: float(record.advantage.max(initial=0.0)))
        chosen.insert(0, ("right where few were", rare))
    return chosen


def draw_training(run: Path, path: Path) -> None:
    """Reward, length and entropy of every round."""
    from rung.commands.plots import plot_runs

    plot_runs({"GRPO": Run.open(run)}, ("reward", "response_length", "rollout_entropy", "dead_groups"), path)


def write_page(
    folder: Path, found: Mapping[str, Evaluation], compared: Comparison, grpo: Path, seconds: float
) -> Path:
    base, tuned, final = found.values()
    page = Page(
        f"{MODEL} learns to add",
        f"{TASKS} held-out chain sums, temperature 1, on this machine in {seconds / 60:.1f} minutes",
    )
    page.numbers([(name, *accuracy(one)) for name, one in found.items()])
    page.text(comparison_line("SFT", "GRPO", compared))
    page.heading("What can be done in k attempts")
    page.picture(folder / "pass-at-k.png", "pass@k before and after GRPO")
    page.text(
        "At k = 1 stands accuracy. Curves that meet at the right say that reinforcement made likelier what the "
        "model could already do; a gap that stays says that it can do more.",
        soft=True,
    )
    page.heading("While it learned")
    page.picture(folder / "training.png", "reward, length, entropy and dead groups by step")
    page.heading("Three rollouts of the last round")
    page.text("The darker a token, the less likely it was to the model that wrote it.", soft=True)
    tokenizer = load_tokenizer(str(grpo))
    for why, record in three_rollouts(grpo):
        rollout, verdict = record.rollout, record.verdict
        page.rollout(
            asked=tokenizer.decode(rollout.prompt_ids.tolist(), skip_special_tokens=True).strip(),
            tokens=token_texts(tokenizer, rollout.token_ids.tolist()),
            logprobs=rollout.policy_logprob.tolist(),
            facts=[
                ("", why),
                ("reward", f"{verdict.value:g}" if isinstance(verdict, Score) else str(verdict)),
                ("advantage", f"{record.advantage[rollout.by_model][0]:+.2f}"),
            ],
        )
    page.heading("Every number again")
    page.command(
        f"rung eval show {base.path}\nrung eval show {tuned.path}\nrung eval show {final.path}\n"
        f"rung runs show {grpo}\nrung rollouts {grpo}\nrung chat {grpo}"
    )
    return page.write(folder / "index.html")


def accuracy(one: Evaluation) -> tuple[str, str]:
    known = one.tally.accuracy
    if known is None:
        return "-", "nothing was scored"
    return f"{known.value:.1%}", f"95 % interval {known.low:.1%} to {known.high:.1%}"


def main(out: str) -> None:
    began = time.perf_counter()
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    sums = load_environment(SUMS, train_size=DEMONSTRATIONS)
    write_demonstrations(sums.train, folder / "demonstrations.jsonl")
    found: dict[str, Evaluation] = {}

    def measure(name: str, model: str | Path, samples: int) -> None:
        clock = time.perf_counter()
        found[name] = evaluate(
            model, SUMS, out=folder / f"eval-{name.lower()}", samples=samples, tasks=TASKS,
            max_tokens=ANSWER_TOKENS, slots=128,
        )  # fmt: skip
        share, interval = accuracy(found[name])
        console.print(f"  {name}: {share}   {interval}   ({time.perf_counter() - clock:.0f} s)")

    console.print(f"[bold]1.[/bold] {MODEL} as it comes, on {TASKS} held-out sums")
    measure("base", MODEL, 1)
    console.print(f"[bold]2.[/bold] supervised fine-tuning on {DEMONSTRATIONS} worked answers")
    tuned = fine_tune(folder / "demonstrations.jsonl", folder / "sft")
    measure("SFT", tuned, SAMPLES)
    console.print("[bold]3.[/bold] GRPO: right or wrong is all it is told")
    reinforced = reinforce(tuned, folder / "grpo")
    console.print(f"[bold]4.[/bold] after {ROUNDS} rounds")
    measure("GRPO", reinforced, SAMPLES)

    compared = compare_samples(found["SFT"].result.samples, found["GRPO"].result.samples)
    curves = {name: one.tally.pass_at for name, one in found.items() if one.tally.pass_at and name != "base"}
    plot_curves(curves, folder / "pass-at-k.png")
    draw_training(reinforced, folder / "training.png")
    console.print("\n" + tally_table({name: one.tally for name, one in found.items()}))
    console.print(comparison_line("SFT", "GRPO", compared) + "\n\npass@k\n" + curve_table(curves))
    page = write_page(folder, found, compared, reinforced, time.perf_counter() - began)
    console.print(f"\npage   {page}\nmodel  {reinforced}\ntalk   .venv/bin/rung chat {reinforced}")
    console.print(f"done in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else f"runs/quickstart-{time.strftime('%Y%m%d-%H%M%S')}")
