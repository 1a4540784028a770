"""Using a tool over several turns: sums too large for the model's head, and a calculator it may call.

1. A few scripted conversations show what a call looks like (`rung sft`): question, call, the tool's result, answer.
2. GRPO on whole conversations (`rung grpo`): what the tool wrote is in the context and never trained.
3. Held-out accuracy before and after, and how often the calculator was called.

    python recipes/tool_use.py [OUT] [--rounds 12] [--demonstrations 128] [--tasks 100]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

from rung.machine import share_cores

share_cores()  # before torch is imported

from rich.console import Console

from rung.envs.environment import Environment, Task
from rung.envs.load import load_environment
from rung.eval.records import Sample
from rung.eval.report import comparison_line, tally_table
from rung.eval.tally import compare_samples
from rung.pipelines.evaluate import evaluate
from rung.pipelines.rl import rl
from rung.pipelines.sft import sft
from rung.rewards.score import Score
from rung.settings import Optimizer, Sft
from rung.settings_rl import Rl

MODEL = "smollm2-135m"
SUMS = "arithmetic?operations=*&digits=3&tools=calculator&max_turns=3"
TURN_TOKENS = 64
console = Console(highlight=False)


def scripted(environment: Environment, task: Task) -> list[dict]:
    """The conversation of someone who calls the calculator and reads its answer."""
    expression = task.messages[-1]["content"].split("What is ")[1].split("?")[0]
    call = json.dumps({"name": "calculator", "arguments": {"expression": expression}})
    messages = [*task.messages, {"role": "assistant", "content": f"<tool_call>{call}</tool_call>"}]
    assert environment.reply is not None
    result = environment.reply(task, messages)
    assert result
    return [
        *map(dict, messages),
        *map(dict, result),
        {"role": "assistant", "content": f"Answer: {task.reference}"},
    ]


def write_demonstrations(environment: Environment, tasks: Sequence[Task], path: Path) -> None:
    rows = [{"messages": scripted(environment, task)} for task in tasks]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def called(samples: Sequence[Sample]) -> str:
    """How often the calculator was called in a conversation, and how often in vain."""
    parts = [sample.verdict.parts for sample in samples if isinstance(sample.verdict, Score)]
    calls, errors = (sum(part[name] for part in parts) for name in ("tool_calls", "tool_errors"))
    return (
        f"{calls / max(len(parts), 1):.2f} calls a conversation, {errors / max(calls, 1):.0%} of them in vain"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", nargs="?", default=f"runs/tool-use-{time.strftime('%Y%m%d-%H%M%S')}")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--demonstrations", type=int, default=128)
    parser.add_argument("--tasks", type=int, default=100, help="held-out tasks, each asked twice")
    options = parser.parse_args()
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    environment = load_environment(SUMS, train_size=options.demonstrations)
    write_demonstrations(environment, environment.train, folder / "demonstrations.jsonl")
    tuned = sft(
        Sft(
            data=(str(folder / "demonstrations.jsonl"),), model=MODEL, out=str(folder / "sft"),
            step_documents=16, epochs=1, optimizer=Optimizer(learning_rate=3e-4, warmup=0.1),
        )
    )  # fmt: skip
    reinforced = rl(
        Rl(
            env=SUMS, model=str(tuned), out=str(folder / "grpo"), rounds=options.rounds, prompts=8, group=8,
            max_tokens=TURN_TOKENS, test_tasks=0, seed=1,
            optimizer=Optimizer(learning_rate=1e-5, schedule="constant", warmup=0),
        ),
        "grpo",
    )  # fmt: skip
    found = {
        name: evaluate(
            model, SUMS, out=folder / f"eval-{name}", samples=2, tasks=options.tasks, max_tokens=TURN_TOKENS
        )
        for name, model in (("base", MODEL), ("sft", tuned), ("grpo", reinforced))
    }
    console.print(tally_table({name: one.tally for name, one in found.items()}))
    for name, one in found.items():
        console.print(f"{name:5} {called(one.result.samples)}")
    compared = compare_samples(found["sft"].result.samples, found["grpo"].result.samples)
    console.print(comparison_line("sft", "grpo", compared))
    console.print(f"conversations   rung rollouts {reinforced}")


if __name__ == "__main__":
    main()
