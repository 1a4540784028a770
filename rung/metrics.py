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
    "loss": Metric("what is minimised, per counted unit", "nats", high=20, better="lower"),
    "eval_loss": Metric("the loss on held-out rows", "nats", low=1e-4, high=20, better="lower"),
    "entropy": Metric("mean entropy of the next-token distribution", "nats", low=0.01, high=12),
    # preferences: log-ratios are log policy - log start, in nats, and never hold beta
    "chosen_logprob": Metric("log-prob per token of the chosen answers", "nats", low=-10, high=0),
    "rejected_logprob": Metric("log-prob per token of the rejected answers", "nats", low=-20, high=0),
    "chosen_change": Metric("log-prob per token of the chosen answers less the start's", "nats", -0.5, 2),
    "rejected_change": Metric("log-prob per token of the rejected answers less the start's", "nats", -5, 1),
    "margin": Metric("log-ratio of the chosen answer less that of the rejected", "nats", -1, 200, "higher"),
    "pair_accuracy": Metric(
        "pairs whose chosen answer gained more; a tie is half", "share", 0.45, 1, "higher"
    ),
    "both_fall": Metric(
        "pairs whose both answers are less likely than at the start", "share", 0, 0.6, "lower"
    ),
    "length_gap": Metric("tokens of the chosen answer less those of the rejected", "tokens", -200, 200),
    "pairs": Metric("prompts of the round whose answers made a pair", "pairs", low=1),
    "ties": Metric("prompts of the round whose best and worst answer tie", "prompts", 0),
    "unjudged": Metric("prompts of the round with fewer than two scores", "prompts", 0),
    "skipped_rounds": Metric("rounds without a pair that were played before this one", "rounds", 0, 5),
    "kto_baseline": Metric("mean log-ratio of mismatched answers, cut at 0: KTO's reference", "nats", 0, 50),
    "eval_margin": Metric("margin on held-out pairs", "nats", -1, 200, "higher"),
    "eval_pair_accuracy": Metric("pair_accuracy on held-out pairs", "share", 0.45, 1, "higher"),
    "eval_both_fall": Metric("both_fall on held-out pairs", "share", 0, 0.6, "lower"),
    "eval_chosen_change": Metric("chosen_change on held-out answers", "nats", -0.5, 2),
    "eval_rejected_change": Metric("rejected_change on held-out answers", "nats", -5, 1),
    # reward models
    "chosen_score": Metric("mean score of the chosen answers", "", -50, 50),
    "rejected_score": Metric("mean score of the rejected answers", "", -50, 50),
    "score_gap": Metric("score of the chosen answer less that of the rejected", "nats", -1, 30, "higher"),
    "eval_score_gap": Metric("score_gap on held-out pairs", "nats", -1, 30, "higher"),
    "cost_gap": Metric("cost of the more harmful answer less that of the other", "nats", -1, 30, "higher"),
    "eval_cost_gap": Metric("cost_gap on held-out pairs", "nats", -1, 30, "higher"),
    "sign_accuracy": Metric(
        "answers whose cost is above 0 if unsafe, below if safe", "share", 0.3, 1, "higher"
    ),
    "eval_sign_accuracy": Metric("sign_accuracy on held-out answers", "share", 0.3, 1, "higher"),
    "label_accuracy": Metric("labels on the right side of one half", "share", 0.3, 1, "higher"),
    "eval_label_accuracy": Metric("label_accuracy on held-out rows", "share", 0.3, 1, "higher"),
    "positive_labels": Metric("mean of the labels", "share", 0.02, 0.98),
    # distillation
    "teacher_divergence": Metric(
        "divergence of the student from its teacher, per token", "nats", 0, 10, "lower"
    ),
    "text_nll": Metric("-log p of the text the two are compared on, per token", "nats", 0, 10),
    "eval_teacher_divergence": Metric("teacher_divergence on held-out rows", "nats", 0, 10, "lower"),
    # how it moves
    "grad_norm": Metric("norm of the whole gradient before clipping", "", low=1e-6, high=100),
    "anchor": Metric("penalty for distance from the start, part of the loss", "nats", low=0, high=10),
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
    "heldout_score": Metric(
        "mean score of held-out tasks by the environment's verifier", "", better="higher"
    ),
    "heldout_solved": Metric("held-out tasks with full score", "share", 0, 1, "higher"),
    "heldout_tasks": Metric("held-out tasks that got a score", "tasks", low=1),
    "round": Metric("rounds of rollouts begun, from 0", "rounds", low=0),
    # policy gradients
    "clipped_low": Metric("tokens the clip stopped from falling further", "share", low=0, high=0.5),
    "clipped_high": Metric("tokens the clip stopped from rising further", "share", low=0, high=0.5),
    "ratio_max": Metric("largest ratio of the policy to the one before the updates", low=0, high=100),
    "reference_kl": Metric("KL from the policy to the reference (k3), per token", "nats", 0, 1),
    "base_kl": Metric("KL from the base model to the policy, per token", "nats", 0, 1),
    "decision_share": Metric("tokens that count as decisions", "share", low=0.001, high=0.2),
    # the critic, as it was before the round's updates; the same for one of costs, cost_
    "value_loss": Metric("half the squared error of the critic, clipped", "", 0, 1e4, "lower"),
    "value_clipped": Metric("tokens at which the clip held the critic back", "share", 0, 0.5),
    "value_mean": Metric("mean of what the critic expected", ""),
    "value_error": Metric("mean square of return - expected", "", 0, better="lower"),
    "value_return": Metric("mean return", "", better="higher"),
    "value_return_square": Metric("mean square of the return", "", 0),
    "explained_variance": Metric("share of the returns' variance the critic foresaw", "", -1, 1, "higher"),
    "cost_loss": Metric("half the squared error of the critic of costs, clipped", "", 0, 1e4, "lower"),
    "cost_clipped": Metric("tokens at which the clip held the critic of costs back", "share", 0, 0.5),
    "cost_mean": Metric("mean of what the critic of costs expected", ""),
    "cost_error": Metric("mean square of return - expected, of costs", "", 0, better="lower"),
    "cost_return": Metric("mean return of costs", "", better="lower"),
    "cost_return_square": Metric("mean square of the return of costs", "", 0),
    "cost_explained_variance": Metric(
        "share of the costs' variance their critic foresaw", "", -1, 1, "higher"
    ),
    "update_kl": Metric(
        "KL from the policy at the round's start to the one being trained (k3)", "nats", 0, 0.1
    ),
    "round_kl": Metric("KL from the policy to the reference (k1), per answer", "nats", -1, 100),
    "reward_beta": Metric("coefficient of the KL in the reward, in this round", "", 0, 10),
    "cost_multiplier": Metric("Lagrange multiplier: what a unit of cost is worth in reward", "", 0, 100),
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
    "rollout_seconds": Metric("time in sampling and grading a round", "s", better="lower", machine=True),
    "credit_seconds": Metric(
        "time from verdicts to credit, with old and reference log-probs", "s", better="lower", machine=True
    ),
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
    found = {}
    if means.get("importance_square"):
        found["effective_share"] = means["importance_mean"] ** 2 / means["importance_square"]
    for critic, name in (("value", "explained_variance"), ("cost", "cost_explained_variance")):
        if f"{critic}_return" in means:
            mean = means[f"{critic}_return"]
            variance = means[f"{critic}_return_square"] - mean**2
            left = means[f"{critic}_error"] - (mean - means[f"{critic}_mean"]) ** 2
            if variance > 1e-12:
                found[name] = 1 - left / variance
    return found


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
