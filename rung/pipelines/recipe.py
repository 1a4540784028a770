"""From settings to a recipe: the method's name, the parts that were set, and what cannot go together.

A part that would change nothing is refused: whoever set it believes that it does something.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rung.advantages.recipes import RECIPES, Recipe
from rung.config import to_dict
from rung.errors import UserError
from rung.rollouts.columns import Graded
from rung.settings_rl import Rl

GROUPED = ("leave_one_out", "group_mean", "group_normalized", "group_mean_batch_std")
BLIND = ("reinforce", "rloo", "remax", "reason_maxxer")  # losses that look at no ratio
UNCLIPPED = (*BLIND, "cispo")  # losses without a clipped surrogate
CLIPS = ("clip_low", "clip_high", "dual_clip")


def recipe_of(settings: Rl) -> Recipe:
    """The recipe of the method's name with the parts that were set."""
    recipe = RECIPES[settings.method]
    if recipe.offline and settings.rounds != 1:
        raise UserError(
            f"--method {settings.method} draws its answers once, from the model it starts from, and --rounds "
            f"{settings.rounds} would draw again. Write --rounds 1, with --prompts for the tasks, --updates for the "
            "optimizer steps and --epochs for the times the answers are gone through."
        )
    parts = {name: value for name, value in to_dict(settings.parts).items() if value is not None}
    loss = {name: value for name, value in to_dict(settings.loss).items() if value is not None}
    recipe = replace(recipe, **parts, loss_options={**recipe.loss_options, **loss})
    if settings.group is not None:
        recipe = replace(recipe, group_size=settings.group)
    fixed = recipe.loss_options.get("aggregation", "fixed" if recipe.loss == "dr_grpo" else "") == "fixed"
    _check_loss(settings.method, recipe, loss, fixed)
    _check_parts(settings, recipe, parts)
    _check_sizes(settings, recipe)
    recipe = _with_ratio(settings, recipe, loss)
    if fixed:
        recipe = replace(recipe, loss_options={"max_length": settings.max_tokens, **recipe.loss_options})
    return recipe


def _with_ratio(settings: Rl, recipe: Recipe, given: Mapping[str, Any]) -> Recipe:
    """The ratio starts from the sampler's log-probs where another sampler than rung's drew, and nothing else corrects."""
    corrected = recipe.loss_options.get("correction", "none") != "none"
    if given.get("ratio_from") == "sampler":
        if recipe.loss in BLIND:
            raise UserError(
                f"--loss.ratio-from sampler changes nothing: --method {settings.method} looks at no ratio. Write "
                "--loss.correction tis, or choose a method with a ratio, such as grpo."
            )
        if corrected:
            raise UserError(
                f"--loss.ratio-from sampler and --loss.correction {given['correction']} would make up for the "
                "sampler twice. Leave one of them out."
            )
    if settings.sampler == "engine" or corrected or recipe.loss in BLIND or "ratio_from" in given:
        return recipe
    return replace(recipe, loss_options={**recipe.loss_options, "ratio_from": "sampler"})


def compared(recipe: Recipe, graded: Sequence[Graded]) -> Sequence[Graded]:
    """A round, grouped by what is compared: where no group's mean is the baseline, all of it is one group."""
    if recipe.estimator in GROUPED:
        return graded
    return [replace(record, rollout=replace(record.rollout, group=0)) for record in graded]


def _check_loss(method: str, recipe: Recipe, given: Mapping[str, Any], fixed: bool) -> None:
    options = recipe.loss_options
    for name in CLIPS:
        if name in given and recipe.loss in UNCLIPPED:
            raise UserError(
                f"--loss.{name.replace('_', '-')} {given[name]} changes nothing: --method {method} clips no ratio. "
                "Leave it out or choose a method with a clipped surrogate, such as grpo or dapo."
            )
    if "max_length" in given and not fixed:
        raise UserError(
            f"--loss.max-length {given['max_length']} changes nothing unless the loss is divided by it. "
            "Leave it out or write --loss.aggregation fixed."
        )
    if "kl" in given and not options.get("beta"):
        raise UserError(
            f"--loss.kl {given['kl']} changes nothing: the pull towards the reference is off. "
            "Leave it out or write for example --loss.beta 0.01."
        )
    for name in ("correction_level", "correction_max"):
        if name in given and options.get("correction", "none") == "none":
            raise UserError(
                f"--loss.{name.replace('_', '-')} {given[name]} changes nothing: nothing is corrected. "
                "Leave it out or write --loss.correction tis."
            )


def _check_parts(settings: Rl, recipe: Recipe, given: Mapping[str, Any]) -> None:
    if given.get("reward_beta") and recipe.kl_in_reward == "none":
        raise UserError(
            f"--parts.reward-beta {recipe.reward_beta} changes nothing: no KL is subtracted from the reward. "
            "Leave it out or write --parts.kl-in-reward token."
        )
    if given.get("kl_in_reward", "none") != "none" and not recipe.reward_beta:
        raise UserError(
            f"--parts.kl-in-reward {recipe.kl_in_reward} changes nothing with a coefficient of 0. "
            "Write for example --parts.reward-beta 0.01 with it."
        )
    grouped = recipe.estimator in GROUPED or recipe.dynamic_sampling
    if recipe.group_size < 2 and grouped:
        raise UserError(
            f"--method {settings.method} compares answers to one prompt, and --group {recipe.group_size} leaves none "
            "to compare with. Write --group 2 or more, or --parts.estimator batch_mean."
        )


def _check_sizes(settings: Rl, recipe: Recipe) -> None:
    updates = settings.updates if settings.updates is not None else recipe.updates
    sizes = {
        "rounds": settings.rounds,
        "prompts": settings.prompts,
        "group": recipe.group_size,
        "updates": updates,
    }
    sizes |= {"epochs": settings.epochs, "waves": settings.waves, "micro-tokens": settings.micro_tokens}
    for name, size in (sizes | {"slots": settings.slots}).items():
        if size < 1:
            raise UserError(f"--{name} is {size}, and it is a number of things to do. Write 1 or more.")
    if updates % settings.epochs:
        raise UserError(
            f"{updates} updates a round cannot go through it {settings.epochs} times evenly. "
            f"Write --updates {updates // settings.epochs * settings.epochs or settings.epochs} or --epochs 1."
        )
    answers, parts = settings.prompts * recipe.group_size, updates // settings.epochs
    if answers < parts:
        raise UserError(
            f"{settings.prompts} prompts x {recipe.group_size} answers are too few for {parts} updates: some would "
            f"have none. Write --updates {answers} or fewer, or --prompts {-(-parts // recipe.group_size)} or more."
        )
    if settings.staleness < 0:
        raise UserError(f"--staleness is {settings.staleness}. Write 0 for none, or 1 for one round ahead.")
    if not settings.temperature > 0:
        raise UserError(
            f"--temperature {settings.temperature} would give every answer to a prompt alike, from which nothing "
            "is learned. Write 1, or a number above 0."
        )
