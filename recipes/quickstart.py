"""The quickstart: teach SmolLM2-135M to add, in minutes, on a laptop, and measure that it learned.

1. Make 1,000 chain-sum tasks with worked answers, and 200 held-out tasks that none of them contains.
2. Measure the model as it comes, sampling at temperature 1.
3. Fine-tune it on the demonstrations (`rung sft`).
4. Measure again, plot, and show a conversation.

    make quickstart          or, in an installed checkout:   python recipes/quickstart.py [OUT]
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

from rung.machine import share_cores

share_cores()  # before torch is imported

import reasoning_gym
import torch
from rich.console import Console

from rung.data.tokens import token_policy
from rung.eval.intervals import wilson
from rung.models.folder import read_generation_config
from rung.models.hub import load_tokenizer, resolve
from rung.models.load import load_model
from rung.pipelines.setup import choose_device, choose_dtype
from rung.pipelines.sft import sft
from rung.rollouts.hf import sampler_for
from rung.rollouts.request import Sampling
from rung.settings import Optimizer, Sft

MODEL = "smollm2-135m"
TASK = {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 2}
TRAIN, TEST = 1000, 200

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


def make_tasks() -> tuple[list[dict], list[dict]]:
    """Training and held-out tasks, with no expression in both."""
    drawn = reasoning_gym.create_dataset("chain_sum", seed=1, size=3 * (TRAIN + TEST), **TASK)
    distinct = {task["metadata"]["expression"]: task for task in drawn}
    tasks = list(distinct.values())[: TRAIN + TEST]
    return tasks[TEST:], tasks[:TEST]


def write_demonstrations(tasks: list[dict], path: Path) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": task["question"]},
                {"role": "assistant", "content": worked_answer(task["metadata"]["expression"])},
            ]
        }
        for task in tasks
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def graded(answer: str, task: dict) -> bool:
    """The last number of the answer is the result. Lenient on form, so that it does not flatter training."""
    numbers = re.findall(r"-?\d+", answer.replace(",", ""))
    return bool(numbers) and int(numbers[-1]) == int(task["answer"])


def measure(name: str, tasks: list[dict]) -> tuple[int, list[str]]:
    """How many held-out tasks one sampled answer each gets right, at temperature 1, and the answers."""
    tokenizer = load_tokenizer(name)
    device = choose_device("auto")
    model = load_model(name, choose_dtype("auto", device), device)
    stop_ids = token_policy(tokenizer, read_generation_config(resolve(name))).stop_ids
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": task["question"]}], add_generation_prompt=True, return_dict=False
        )
        for task in tasks
    ]
    sampling = Sampling(max_tokens=56, temperature=1.0, stop_ids=stop_ids)
    completions = sampler_for(model, slots=100).generate(prompts, sampling)
    answers = [tokenizer.decode(one.token_ids, skip_special_tokens=True) for [one] in completions]
    return sum(map(graded, answers, tasks)), answers


def report(label: str, right: int, seconds: float) -> tuple[float, float, float]:
    low, high = wilson(right, TEST)
    share = right / TEST
    console.print(
        f"  {label:7s} {share:6.1%}   95 % interval {low:.1%} to {high:.1%}   ({right} of {TEST}, {seconds:.0f} s)"
    )
    return share, low, high


def plot(losses: list[float], results: dict[str, tuple[float, float, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    left.plot(range(1, len(losses) + 1), losses, color="#2563eb", linewidth=2)
    left.set(
        xlabel="optimizer step", ylabel="loss (nats per trained token)", title="training", ylim=(0, None)
    )
    for place, (share, low, high) in enumerate(results.values()):
        right.bar(place, share, color=["#94a3b8", "#2563eb"][place], width=0.6)
        right.errorbar(place, share, [[share - low], [high - share]], color="black", capsize=5)
        right.annotate(f"{share:.1%}", (place, high), (0, 4), textcoords="offset points", ha="center")
    right.set(
        xticks=[0, 1],
        xticklabels=list(results),
        ylim=(0, 1.08),
        ylabel="accuracy",
        title=f"{TEST} held-out sums, temperature 1",
    )
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main(out: str) -> None:
    began = time.perf_counter()
    torch.manual_seed(0)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    train, test = make_tasks()
    write_demonstrations(train, folder / "demonstrations.jsonl")
    console.print(
        f"[bold]1.[/bold] {TRAIN} demonstrations in {folder / 'demonstrations.jsonl'}, {TEST} held-out tasks"
    )

    console.print(f"[bold]2.[/bold] {MODEL} before training")
    clock = time.perf_counter()
    right, before = measure(MODEL, test)
    results = {"before": report("before", right, time.perf_counter() - clock)}

    console.print("[bold]3.[/bold] supervised fine-tuning")
    run = folder / "run"
    settings = Sft(
        data=(str(folder / "demonstrations.jsonl"),), model=MODEL, out=str(run), step_documents=16, epochs=1,
        optimizer=Optimizer(learning_rate=3e-4, warmup=0.1),
    )  # fmt: skip
    sft(settings)

    console.print("[bold]4.[/bold] after training")
    clock = time.perf_counter()
    right, after = measure(str(run), test)
    results["after"] = report("after", right, time.perf_counter() - clock)

    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    plot(losses, results, folder / "quickstart.png")
    console.print(
        f"\n[bold]One held-out task[/bold]\n  user    {test[0]['question']}   (right: {test[0]['answer']})"
    )
    for label, answer in (("before", before[0]), ("after", after[0])):
        console.print(f"  {label:7s} {answer.strip()}".replace("\n", "\n          "), markup=False)
    console.print(f"\nplot   {folder / 'quickstart.png'}\nmodel  {run}\ntalk   .venv/bin/rung chat {run}")
    console.print(f"done in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else f"runs/quickstart-{time.strftime('%Y%m%d-%H%M%S')}")
