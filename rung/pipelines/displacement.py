"""What a preference run did to its two answers, in one sentence at its end."""

from __future__ import annotations

from rung.run import Run

FELL = -0.01  # nats per token: less is noise of the last steps
REMEDIES = {
    "dpo": "Try rung rpo or rung dpop, or rung data ches to drop the pairs behind it.",
    "rpo": "Raise --method.alpha, or drop the pairs behind it with rung data ches.",
    "dpop": "Raise --method.penalty, or drop the pairs behind it with rung data ches.",
    "kto": "Raise --method.desirable-weight or lower the learning rate.",
    "orpo": "Lower --method.weight or the learning rate.",
    "slic": "Raise --method.weight or lower the learning rate.",
}
NAMES = ("chosen_change", "rejected_change", "margin", "pair_accuracy", "both_fall")


def finding(run: Run) -> str:
    """Judged on held-out pairs where there are any, else on the last quarter of the training steps."""
    rows = run.metrics()
    held_out = [row for row in rows if "eval_chosen_change" in row]
    if held_out:
        seen, where = {name: held_out[-1].get(f"eval_{name}") for name in NAMES}, "on held-out rows"
    else:
        last = [row for row in rows if "chosen_change" in row][-max(len(rows) // 4, 1) :]
        where = f"over the last {len(last)} step{'s' * (len(last) != 1)}"
        seen = {name: mean([row[name] for row in last if name in row]) for name in NAMES}
    chosen, rejected = seen["chosen_change"], seen["rejected_change"]
    if chosen is None or rejected is None:
        return ""
    moved = f"per token the chosen answers moved {chosen:+.3f} nats and the rejected {rejected:+.3f} {where}"
    if seen["margin"] is not None and seen["pair_accuracy"] is not None:
        moved += f"; margin {seen['margin']:+.2f}, accuracy {seen['pair_accuracy']:.0%}"
    if chosen >= FELL:
        return f"no likelihood displacement: {moved}."
    both = f", both answers of {seen['both_fall']:.0%} of the pairs" if seen["both_fall"] is not None else ""
    if rejected < chosen:
        remedy = REMEDIES.get(run.config().get("command", ""), REMEDIES["dpo"])
        return (
            "likelihood displacement: the margin grew because the rejected answers fell further, and the chosen "
            f"fell with them{both}; {moved}. {remedy}"
        )
    return (
        f"the chosen answers fell and the rejected did not fall further{both}: {moved}. "
        "The preference was not learned; lower the learning rate or look at the pairs."
    )


def mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
