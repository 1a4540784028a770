"""A teacher with two modes and a student that can have one: what each way of distilling makes of it.

The teacher says of a number from 0 to 60 that it lies about 18 or, a little less often, about 42. The student can only
say "about m, give or take s": its logits are a parabola. Nobody can be both modes at once, so the direction of the
divergence decides. Forward KL pays for every answer of the teacher that the student would never give: it covers both modes
and, with them, the gap between, where the teacher hardly ever goes. Reverse KL pays for every answer of the student that the
teacher would never give: it takes one mode and leaves the other. Sequence-level distillation, which is likelihood of
the teacher's own samples, is an estimate of forward KL and behaves so; it does not seek a mode. Forward KL is convex
here, so the start does not matter; reverse KL is not, and which mode it takes depends on where the student comes from.

On-policy distillation, with the student's samples and log teacher - log student of each as its credit, is an
estimate of reverse KL. REINFORCE on the teacher's log-prob alone narrows further: its optimum is a single number.

    python recipes/bimodal_distillation.py [OUT.png]

Takes seconds. `tests/methods/test_bimodal.py` holds every curve to what is said here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rung.advantages.teacher import reverse_kl, teacher_score
from rung.kernels.linear_divergence import Live, Measure, TopK, linear_divergence, top_k_and_tail
from rung.kernels.linear_logprob import linear_nll_sum
from rung.kernels.linear_logprob_torch import Head

NUMBERS = 61
MODES, SPREAD, SHARE = (18.0, 42.0), 2.0, 0.55
x_V = torch.arange(NUMBERS, dtype=torch.float64)
# A head whose rows are (x, x^2) of each number, in units that keep the two alike: the student's hidden state
# is two numbers, and whatever they are, its logits are a parabola.
FEATURES = torch.stack([(x_V - 30) / 5, ((x_V - 30) / 5) ** 2], dim=1)
START = (-0.6, -0.5)  # about 27, give or take 5: a student with an opinion of its own


def teacher_logits() -> Tensor:
    bumps = [torch.exp(-(((x_V - mode) / SPREAD) ** 2) / 2) for mode in MODES]
    return (SHARE * bumps[0] + (1 - SHARE) * bumps[1]).log()


@dataclass(frozen=True)
class Fit:
    """What a student came to say, and its moments."""

    p_V: Tensor

    @property
    def mean(self) -> float:
        return float((self.p_V * x_V).sum())

    @property
    def spread(self) -> float:
        return float(((self.p_V * x_V.square()).sum() - self.mean**2).sqrt())

    def near(self, mode: float) -> float:
        """How often it answers within two spreads of a mode."""
        return float(self.p_V[(x_V - mode).abs() <= 2 * SPREAD].sum())

    @property
    def between(self) -> float:
        """How often it answers where the teacher hardly ever does, halfway."""
        return float(self.p_V[(x_V - 30).abs() <= 4].sum())


def fitted(loss: Callable[[Tensor, int], Tensor], steps: int = 500, rate: float = 0.3) -> Fit:
    """A student trained from the start by `loss(hidden_1D, step)`, averaged over its last tenth."""
    hidden = torch.tensor([START], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([hidden], lr=rate)
    said = torch.zeros(NUMBERS, dtype=torch.float64)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        optimizer.zero_grad()
        loss(hidden, step).backward()
        optimizer.step()
        if step >= 9 * steps // 10:
            said += torch.softmax(FEATURES @ hidden[0].detach(), 0)
    return Fit(said / said.sum())


def head() -> Head:
    return Head(FEATURES)


def teacher() -> Live:
    """Its hidden state is its logits, its head the identity."""
    return Live(teacher_logits()[None], Head(torch.eye(NUMBERS, dtype=torch.float64)))


def by_divergence(measure: Measure, k: int = 0) -> Fit:
    said: Live | TopK = teacher()
    if k:
        said = top_k_and_tail(teacher().hidden_ND, teacher().head, k)
    nobody = torch.zeros(1, dtype=torch.int64)
    return fitted(
        lambda hidden, _: linear_divergence(hidden, head(), nobody, said, measure).divergence_N.sum()
    )


def by_teachers_samples(samples: int = 64, seed: int = 0) -> Fit:
    """SeqKD: each step the likelihood of fresh samples of the teacher."""
    dice, p_V = torch.Generator().manual_seed(seed), torch.softmax(teacher_logits(), 0)

    def loss(hidden: Tensor, _: int) -> Tensor:
        drawn = torch.multinomial(p_V, samples, replacement=True, generator=dice)
        return linear_nll_sum(hidden.expand(samples, -1), FEATURES, drawn)[0] / samples

    return fitted(loss)


def by_own_samples(credit: str, samples: int = 64, seed: int = 0) -> Fit:
    """On-policy: the student draws, the teacher's log-probs are its credit."""
    dice, logp_V = torch.Generator().manual_seed(seed), torch.log_softmax(teacher_logits(), 0)

    def loss(hidden: Tensor, _: int) -> Tensor:
        logq_V = torch.log_softmax(FEATURES @ hidden[0], 0)
        drawn = torch.multinomial(logq_V.detach().exp(), samples, replacement=True, generator=dice)
        student, said = logq_V.detach()[drawn].numpy(), logp_V[drawn].numpy()
        if credit == "reverse_kl":
            advantage = reverse_kl(student, said, np.ones(samples, bool))
            advantage = (
                advantage - advantage.mean()
            )  # one baseline for one prompt: less noise, the same gradient
        else:
            own = [np.ones(1, bool)] * samples
            advantage = np.concatenate(teacher_score([s[None] for s in said], own, np.zeros(samples)))
        return -(torch.from_numpy(advantage.astype(np.float64)) * logq_V[drawn]).mean()

    return fitted(loss)


def all_fits() -> dict[str, Fit]:
    return {
        "forward KL": by_divergence(Measure("forward_kl")),
        "teacher's samples (SeqKD)": by_teachers_samples(),
        "reverse KL": by_divergence(Measure("reverse_kl")),
        "own samples, log teacher - log student": by_own_samples("reverse_kl"),
        "Jensen-Shannon, beta 0.1": by_divergence(Measure("jensen_shannon", 0.1)),
        "Jensen-Shannon, beta 0.9": by_divergence(Measure("jensen_shannon", 0.9)),
        "own samples, teacher's score only": by_own_samples("teacher_score"),
    }


PANELS = [
    ("cover", ["forward KL", "teacher's samples (SeqKD)"]),
    ("seek", ["reverse KL", "own samples, log teacher - log student"]),
    ("between", ["Jensen-Shannon, beta 0.1", "Jensen-Shannon, beta 0.9"]),
    ("score alone", ["own samples, teacher's score only"]),
]


def draw(fits: dict[str, Fit], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    p_V = torch.softmax(teacher_logits(), 0)
    figure, axes = plt.subplots(1, len(PANELS), figsize=(13, 3.1), layout="constrained", sharey=True)
    for axis, (title, names) in zip(axes, PANELS, strict=True):
        axis.fill_between(x_V, p_V, color="#d8d8d8", linewidth=0, label="teacher")
        for name, color, line in zip(names, ("#2a6fbb", "#d9702c"), ("-", "--"), strict=False):
            axis.plot(x_V, fits[name].p_V, color=color, linestyle=line, linewidth=1.8, label=name)
        axis.set(title=title, xlabel="answer", ylim=(0, 0.23))
        axis.legend(frameon=False, fontsize=7.5, loc="upper right")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("probability")
    figure.savefig(path, dpi=150)


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "bimodal-distillation.png")
    fits = all_fits()
    print(f"{'':42} mean  spread  near 18  near 42  between")
    for name, fit in fits.items():
        shares = f"{fit.near(MODES[0]):8.2f} {fit.near(MODES[1]):8.2f} {fit.between:8.2f}"
        print(f"{name:42} {fit.mean:5.1f} {fit.spread:6.1f} {shares}")
    draw(fits, out)
    print(f"plot   {out}")


if __name__ == "__main__":
    main()
