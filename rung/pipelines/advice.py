"""Which method for which signal: a decision table, one row a method, the first row that fits is the advice.

A row fits where every signal it needs is there and every failure it risks can be afforded. Rows stand in the order
of preference: a verifier before a teacher before people's pairs and thumbs before a reward model before a judge before
demonstrations alone, since a signal that is checked cannot be fooled, and one that comes from a stronger model or a
person can be wrong in ways that training finds. Within a signal the usual method stands first, then those that risk less.

Nothing is trained, read or measured here: `decide` is a function of two sets.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from rung.errors import UserError

SIGNALS = {
    "demonstrations": "rows of prompts with good answers",
    "pairs": "rows of two answers to a prompt, one of them preferred",
    "thumbs": "rows of single answers with a thumb up or down",
    "verifier": "a program that checks an answer: an environment",
    "reward": "a reward model that is trained already: a folder",
    "judge": "a model that says which answer is better",
    "teacher": "a stronger model with the student's tokenizer",
}

# What a signal is good for where the method does not learn from it.
OTHERWISE = {
    "demonstrations": "as replay against forgetting: --data NEW:0.9 DEMONSTRATIONS:0.1",
    "pairs": "a stage of rung dpo afterwards, or a reward model that ranks answers (rung reward, rung bestofn)",
    "thumbs": "a stage of rung kto afterwards, or held out, to see whether what people like got likelier",
    "verifier": "to measure, before and after: rung eval START RUN --env ENV",
    "reward": "to rank answers or rows: rung bestofn, rung score",
    "judge": "to measure: rung eval winrate",
    "teacher": "to measure against: rung eval RUN TEACHER",
}


@dataclass(frozen=True)
class Failure:
    meaning: str
    shown: tuple[str, ...]  # findings of `rung diagnose`, or else the metric, that show it
    how: str  # what to do to see it


FAILURES = {
    "over-optimisation": Failure(
        "what stands for quality rises while quality falls", ("reward hacking", "overfitting"),
        "rung diagnose RUN: the first from held-out scores of a policy that samples, the second from held-out rows",
    ),
    "forgetting": Failure(
        "what the start could do and the data do not ask for is lost", ("forgetting",),
        "rung diagnose RUN where held-out tasks are scored; else rung eval text RUN and rung eval START RUN on old tasks",
    ),
    "displacement": Failure(
        "the margin grows while the chosen answers get less likely", ("likelihood displacement",),
        "rung diagnose RUN; before training rung data ches PAIRS",
    ),
    "entropy-collapse": Failure(
        "the policy becomes sure before it is right, and stops exploring", ("entropy collapse",),
        "rung diagnose RUN, or rollout_entropy in rung runs show RUN",
    ),
    "mode-collapse": Failure(
        "answers become one answer: pass@1 rises, pass@k falls", ("mode collapse",),
        "rung diagnose RUN; rung eval START RUN --samples 16 draws pass@k of both",
    ),
    "sampling": Failure(
        "answers are sampled in every round, which takes most of the time", ("rollout_seconds",),
        "rung runs show RUN",
    ),
}  # fmt: skip

CEILINGS = {
    "demonstrations": "the demonstrations: an imitator is as good as what it imitates",
    "coverage": "the coverage of the pairs: answers unlike both of a pair are moved by chance",
    "thumbs": "the coverage of the judged answers: answers unlike them are moved by chance",
    "pass@k": "the start's pass@k: what it never solves in many tries earns no reward (2504.13837)",
    "taught pass@k": "pass@k of the model after the first stage: that stage can raise it, reinforcement hardly (2504.13837)",
    "teacher": "the teacher",
    "proxy": "Goodhart's law: beyond some distance from the start the reward model is wrong where it is high (2210.10760)",
    "judge": "the judge: what it cannot tell apart is not learnt, and what it wrongly likes is",
}

# What a step is on the command line. {start} is the model so far; other names are what was told.
STEPS = {
    "sft": "sft --model {start} --data {demonstrations} --eval-share 0.05 --eval-every 20 --out {out}/sft",
    "lora": "sft --model {start} --data {demonstrations} --eval-share 0.05 --eval-every 20 --lora.rank 16 "
            "--optimizer.learning-rate 1e-3 --out {out}/sft",
    "dpo": "dpo --model {start} --data {pairs} --eval-share 0.05 --eval-every 20 --out {out}/dpo",
    "rpo": "rpo --model {start} --data {pairs} --eval-share 0.05 --eval-every 20 --out {out}/rpo",
    "ipo": "ipo --model {start} --data {pairs} --eval-share 0.05 --eval-every 20 --out {out}/ipo",
    "kto": "kto --model {start} --data {thumbs} --eval-share 0.05 --eval-every 20 --out {out}/kto",
    "reward": "reward --model {start} --data {pairs} --eval-share 0.1 --eval-every 20 --out {out}/reward",
    "outcome": "reward --kind outcome --model {start} --data {thumbs} --eval-share 0.1 --eval-every 20 --out {out}/reward",
    "ppo": "ppo --model {start} --env rows:{prompts} --reward rm:{out}/reward --critic.start {out}/reward "
           "--missing-end-penalty 1 --out {out}/ppo",
    "best-of-n": "bestofn {start} --file {prompts} --reward {out}/reward --samples 16 --out {out}/best",
    "ppo, scored": "ppo --model {start} --env rows:{prompts} --reward rm:{reward} --critic.start {reward} "
                   "--missing-end-penalty 1 --out {out}/ppo",
    "best, scored": "bestofn {start} --file {prompts} --reward {reward} --samples 16 --out {out}/best",
    "grpo": "grpo --model {start} --env {verifier} --eval-every 10 --out {out}/grpo",
    "dapo": "rl --method dapo --model {start} --env {verifier} --eval-every 10 --out {out}/dapo",
    "online": "online-dpo --model {start} --env {verifier} --eval-every 10 --out {out}/online",
    "online, own": "online-dpo --model {start} --env rows:{prompts} --reward rm:{out}/reward "
                   "--missing-end-penalty 1 --out {out}/online",
    "online, scored": "online-dpo --model {start} --env rows:{prompts} --reward rm:{reward} "
                      "--missing-end-penalty 1 --out {out}/online",
    "online, judged": "online-dpo --model {start} --env rows:{prompts} --reward {judge_file} --out {out}/online",
    "rft": "rft --model {start} --env {verifier} --out {out}/rft",
    "own": "sft --model {start} --data {out}/rft/demonstrations.jsonl --out {out}/own",
    "own, mixed": "sft --model {start} --data {out}/rft/demonstrations.jsonl:0.9 {demonstrations}:0.1 --out {out}/own",
    "on-policy": "distill-on-policy --model {start} --teacher {teacher} --env rows:{prompts} --reward none "
                 "--out {out}/distilled",
    "distill": "distill --model {start} --teacher {teacher} --data {demonstrations} --eval-share 0.05 "
               "--eval-every 20 --out {out}/distilled",
    "ask": "rft --model {teacher} --env rows:{prompts} --select all --samples 1 --out {out}/teacher",
    "ask, checked": "rft --model {teacher} --env {verifier} --out {out}/teacher",
    "taught": "sft --model {start} --data {out}/teacher/demonstrations.jsonl --eval-share 0.05 --eval-every 20 "
              "--out {out}/sft",
    "label": "rlaif {start} --prompts {prompts} --constitution {constitution} --judge {judge} --out {out}/rlaif",
    "labelled": "dpo --model {start} --data {out}/rlaif/pairs.jsonl --eval-share 0.05 --eval-every 20 --out {out}/dpo",
    "revise": "cai {start} --prompts {prompts} --constitution {constitution} --judge {judge} --out {out}/cai",
    "revised": "sft --model {start} --data {out}/cai/sft.jsonl --eval-share 0.05 --eval-every 20 --out {out}/sft",
    "judged": "grpo --model {start} --env rows:{prompts} --reward {judge_file} --out {out}/grpo",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    method: str
    needs: frozenset[str]
    risks: frozenset[str]
    ceiling: str
    steps: tuple[str, ...]
    why: str

    @property
    def samples_teacher(self) -> bool:
        return bool({"ask", "ask, checked"} & set(self.steps))


def row(method: str, needs: str, risks: str, ceiling: str, steps: str, why: str) -> Row:
    return Row(method, words(needs), words(risks), ceiling, tuple(steps.split(" > ")), why)


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


TABLE = (
    #   method, needs, risks, ceiling, steps, why
    row("GRPO after a teacher's checked answers", "verifier teacher", "sampling entropy-collapse forgetting",
        "taught pass@k", "ask, checked > taught > grpo",
        "the teacher adds what the start cannot do, the verifier makes it likely"),
    row("GRPO after SFT", "verifier demonstrations", "sampling entropy-collapse forgetting",
        "taught pass@k", "sft > grpo", "demonstrations show the form and what is new, the verifier makes it likely"),
    row("GRPO", "verifier", "sampling entropy-collapse",
        "pass@k", "grpo", "the answers are the model's own and each is checked"),
    row("DAPO", "verifier", "sampling",
        "pass@k", "dapo", "as GRPO, with a wider upper clip that lets rare tokens grow, and only groups that differ"),
    row("online DPO", "verifier", "sampling displacement",
        "pass@k", "online", "the best and the worst of its own answers are a pair; where they tie nothing is learnt"),
    row("SFT on a teacher's checked answers", "verifier teacher", "forgetting",
        "teacher", "ask, checked > taught", "the teacher is asked once, and only what the verifier accepts is learnt"),
    row("rejection sampling, mixed", "verifier demonstrations", "forgetting",
        "pass@k", "rft > own, mixed", "own checked answers, sampled once; rows that people wrote keep variety up"),
    row("rejection sampling", "verifier", "mode-collapse",
        "pass@k", "rft > own", "own checked answers, sampled once, then plain supervised learning"),
    row("on-policy distillation", "teacher", "sampling mode-collapse",
        "teacher", "on-policy", "the teacher grades every token of what the student itself writes"),
    row("distillation on rows", "teacher demonstrations", "forgetting",
        "teacher", "distill", "the teacher's whole distribution for every token, without sampling"),
    row("SFT on a teacher's answers", "teacher", "forgetting",
        "teacher", "ask > taught", "the teacher is asked once; students with another tokenizer can learn in this way only"),
    row("DPO after SFT", "pairs demonstrations", "displacement over-optimisation forgetting",
        "coverage", "sft > dpo", "demonstrations bring the model near the answers that the pairs compare"),
    row("DPO", "pairs", "displacement over-optimisation",
        "coverage", "dpo", "the usual way from pairs to a policy: no reward model, no sampling"),
    row("RPO", "pairs", "over-optimisation",
        "coverage", "rpo", "as DPO, and the likelihood of the chosen answers is held up by a term of its own"),
    row("IPO", "pairs", "displacement",
        "coverage", "ipo", "as DPO towards a fixed margin, so that sure pairs do not drive the policy without end"),
    row("RLHF", "pairs", "sampling over-optimisation",
        "proxy", "reward > ppo", "a reward model of the pairs judges what the policy writes now, not what was collected"),
    row("online DPO by a reward model", "pairs", "sampling displacement over-optimisation",
        "proxy", "reward > online, own", "as RLHF, but the better of two own answers is learnt at once, without a critic"),
    row("KTO after SFT", "thumbs demonstrations", "over-optimisation forgetting",
        "thumbs", "sft > kto", "demonstrations first; then each answer with its thumb counts alone"),
    row("KTO", "thumbs", "over-optimisation",
        "thumbs", "kto", "each answer counts alone, so no two answers to one prompt are needed"),
    row("best of n by a reward model", "thumbs", "sampling over-optimisation",
        "proxy", "outcome > best-of-n", "no weight of the policy changes; the cost is paid with every answer"),
    row("PPO on a reward model", "reward", "sampling over-optimisation",
        "proxy", "ppo, scored", "the reward model judges what the policy writes now, and a critic says what to expect"),
    row("online DPO on a reward model", "reward", "sampling displacement over-optimisation",
        "proxy", "online, scored", "the better of two own answers is learnt at once, without a critic (2402.04792)"),
    row("best of n by the reward model", "reward", "sampling over-optimisation",
        "proxy", "best, scored", "no weight of the policy changes; the cost is paid with every answer"),
    row("RLAIF: DPO on a judge's pairs", "judge", "displacement over-optimisation",
        "judge", "label > labelled", "the judge is asked once for each pair, then training is offline"),
    row("online DPO with a judge", "judge", "sampling displacement over-optimisation",
        "judge", "online, judged", "the judge compares what the policy writes now: the pairs keep up with it (2402.04792)"),
    row("GRPO with a judge", "judge", "sampling over-optimisation entropy-collapse",
        "judge", "judged", "the judge grades what the policy writes now"),
    row("SFT on revised answers", "judge", "forgetting",
        "judge", "revise > revised", "constitutional AI: answers are criticised and rewritten, then imitated"),
    row("SFT", "demonstrations", "forgetting",
        "demonstrations", "sft", "raise the likelihood of what was shown"),
    row("SFT with LoRA", "demonstrations", "",
        "demonstrations", "lora", "a low-rank change forgets less, and learns less where rows are many"),
)  # fmt: skip


@dataclass(frozen=True)
class Advice:
    chosen: Row
    alternative: Row | None
    extra_risks: frozenset[str]  # failures of the alternative that were not said to be affordable
    unused: tuple[str, ...]  # signals that the method does not learn from
    further: tuple[Row, ...] = ()  # what else these failures and no other signals than the method's allow


def decide(signals: Collection[str], afford: Collection[str] = (), *, served: bool = False) -> Advice:
    """The first row that fits, and the next one. An empty `afford` is any failure; `served`: the teacher is a server.

    Raises UserError for words that are no signal or failure, for no signal at all, and where every method that could
    learn from these signals risks something that cannot be afforded.
    """
    check(signals, afford)
    possible = [row for row in TABLE if row.needs <= set(signals) and not (served and row.samples_teacher)]
    allowed = set(afford) - {"none"} if afford else set(FAILURES)
    fitting = [row for row in possible if row.risks <= allowed]
    if not fitting:
        raise UserError(nothing_fits(signals, possible, allowed))
    chosen = fitting[0]
    others = [row for row in fitting[1:] + possible if row is not chosen]
    other = others[0] if others else None
    unused = tuple(name for name in SIGNALS if name in signals and name not in chosen.needs)
    further = tuple(row for row in fitting[1:] if row is not other and row.needs <= chosen.needs)
    return Advice(chosen, other, other.risks - allowed if other else frozenset(), unused, further)


def check(signals: Collection[str], afford: Collection[str]) -> None:
    for given, known, word in ((signals, SIGNALS, "signal"), (afford, (*FAILURES, "none"), "failure")):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise UserError(f"{unknown[0]!r} is no {word} rung knows; choose among {', '.join(known)}")
    if not signals:
        raise UserError(
            "no signal was named, and without one there is nothing to learn from. Write what there is: "
            + ", ".join(f"--{name}" for name in SIGNALS)
        )
    if "none" in afford and set(afford) != {"none"}:
        raise UserError(
            f"--afford says none and {', '.join(sorted(set(afford) - {'none'}))}. Write none alone, or the failures."
        )


def nothing_fits(signals: Collection[str], possible: Collection[Row], allowed: Collection[str]) -> str:
    lines = [f"  {row.method} risks {', '.join(sorted(row.risks - set(allowed)))}" for row in possible]
    return (
        f"every method that learns from {', '.join(sorted(signals))} risks a failure that --afford does not name:\n"
        + "\n".join(lines)
        + "\nName one of these under --afford, or bring another signal."
    )
