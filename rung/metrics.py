"""Every number a run may log: what it means, its unit, where it is healthy, which way is better.

The table is the only list of names. The loop, the progress line, `rung runs`, the plots and the doctors of
later work read it; a method that reports something new adds its line here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """`low` and `high` bound the healthy range; None is no bound. `better` is "lower", "higher" or ""."""

    meaning: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    better: str = ""
    machine: bool = False  # depends on clock or machine, so identical runs differ in it


METRICS: dict[str, Metric] = {
    # where the run stands
    "step": Metric("optimizer steps done", "steps", low=0),
    "time": Metric("wall clock", "s since 1970", machine=True),
    "epoch": Metric("passes over the training rows so far", "epochs", low=0),
    "num_tokens": Metric("tokens read so far, trained or not", "tokens", low=0),
    # what is learned
    "loss": Metric("what is minimised, per counted unit", "nats", low=1e-4, high=20, better="lower"),
    "eval_loss": Metric("the loss on held-out rows", "nats", low=1e-4, high=20, better="lower"),
    "entropy": Metric("mean entropy of the next-token distribution", "nats", low=0.01, high=12),
    # how it moves
    "grad_norm": Metric("norm of the whole gradient before clipping", "", low=1e-6, high=100),
    "learning_rate": Metric("learning rate of this step", "", low=0, high=0.1),
    "loss_scale": Metric("factor that keeps float16 gradients from underflow", "", low=1),
    # what the step was made of
    "trained_tokens": Metric("tokens of the step that carried loss", "tokens", low=1),
    "step_tokens": Metric("tokens of the step, trained or not", "tokens", low=1),
    "supervised_share": Metric("trained tokens over all tokens of the step", "share", low=0.01, high=1),
    # what a round of rollouts was like
    "reward": Metric("mean reward of the attempts that got a score", "", better="higher"),
    "reward/": Metric("mean of this part of the reward", "", better="higher"),
    "reward_std": Metric("spread of rewards within a group, mean over groups", "", low=1e-6),
    "reward_failures": Metric("attempts whose grader failed", "share", low=0, high=0.05, better="lower"),
    "reward_abstains": Metric(
        "attempts whose grader could not tell", "share", low=0, high=0.5, better="lower"
    ),
    "solved_groups": Metric("groups whose every attempt got full reward", "share", low=0, high=0.9),
    "dead_groups": Metric("groups without two different rewards: no gradient", "share", 0, 0.7, "lower"),
    "response_length": Metric("mean tokens the model wrote in an attempt", "tokens", low=1),
    "response_length_max": Metric("tokens of the longest attempt", "tokens", low=1),
    "truncated_share": Metric("attempts cut off by the token limit", "share", 0, 0.5, "lower"),
    "repetition": Metric("4-grams of an attempt that occurred in it before", "share", 0, 0.3, "lower"),
    "rollout_entropy": Metric("mean entropy of the policy at its own tokens", "nats", low=0.01, high=12),
    "heldout_score": Metric("mean score of a verifier that is not the reward", "", better="higher"),
    # policy gradients
    "clipped_low": Metric("tokens the clip stopped from falling further", "share", low=0, high=0.5),
    "clipped_high": Metric("tokens the clip stopped from rising further", "share", low=0, high=0.5),
    "ratio_max": Metric("largest ratio of the policy to the one before the updates", low=0, high=100),
    "reference_kl": Metric("KL from the policy to the reference (k3), per token", "nats", 0, 1),
    "base_kl": Metric("KL from the base model to the policy, per token", "nats", 0, 1),
    "decision_share": Metric("tokens that count as decisions", "share", low=0.001, high=0.2),
    # the sampler against the trainer, at the same weights
    "sampler_gap": Metric("size of log p(trainer) - log p(sampler), mean over tokens", "nats", 0, 0.05),
    "sampler_gap_max": Metric("the same, of the worst token", "nats", 0, 2),
    "sampler_kl": Metric("KL from sampler to trainer (k1), per token", "nats", -0.01, 0.02),
    "sampler_kl3": Metric("KL from sampler to trainer (k3), per token", "nats", 0, 0.02),
    "corrected_share": Metric("tokens whose correction was truncated or masked", "share", 0, 0.1),
    "importance_mean": Metric("mean of policy / sampler; 1 in expectation", low=0.9, high=1.1),
    "importance_square": Metric("mean square of policy / sampler", low=0.8, high=2),
    "effective_share": Metric("effective sample size of policy / sampler over tokens", "share", 0.5, 1.0001),
    # mixture of experts
    "router_balance": Metric(
        "load balancing; the chosen experts per token if even", low=0.9, high=16, better="lower"
    ),
    "router_z": Metric("mean squared log-sum-exp of router logits", "", low=0, high=100, better="lower"),
    # what it costs
    "step_seconds": Metric("wall time of the step", "s", better="lower", machine=True),
    "data_seconds": Metric("time waited for rows", "s", better="lower", machine=True),
    "forward_seconds": Metric("time in the forward passes", "s", better="lower", machine=True),
    "backward_seconds": Metric("time in the backward passes", "s", better="lower", machine=True),
    "update_seconds": Metric("time in clipping and the optimizer", "s", better="lower", machine=True),
    "eval_seconds": Metric("time in held-out evaluation", "s", better="lower", machine=True),
    "save_seconds": Metric("time in writing a checkpoint", "s", better="lower", machine=True),
    "tokens_per_second": Metric("tokens of the step over its wall time", "tokens/s", 1, None, "higher", True),
    "mfu": Metric("model arithmetic over the measured matrix peak", "share", 0.05, 1, "higher", True),
    "memory": Metric("peak memory so far, of the device or else of the process", "GB", machine=True),
}


def metric_of(name: str) -> Metric | None:
    """What a name means. A family is one line that ends in a slash: `reward/` stands for `reward/format`."""
    family, slash, member = name.partition("/")
    return METRICS.get(family + slash if member else name)


def derived(means: dict[str, float]) -> dict[str, float]:
    """Numbers that follow from means over a whole step, and are no mean themselves."""
    if not means.get("importance_square"):
        return {}
    return {"effective_share": means["importance_mean"] ** 2 / means["importance_square"]}


def out_of_range(name: str, value: float) -> str:
    """What is unhealthy about a value, in words; empty if nothing is, or if the name has no range."""
    metric = metric_of(name)
    if metric is None:
        return ""
    if value != value:
        return "not a number"
    if metric.low is not None and value < metric.low:
        return f"below {metric.low:g}"
    if metric.high is not None and value > metric.high:
        return f"above {metric.high:g}"
    return ""
