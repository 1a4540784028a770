"""Every command of `rung` in one table; a command's module is imported only when it is called.

A module's settings classes stand at its top, above anything heavy, so that `--help` and a misspelt key are
answered before torch is loaded.
"""

from typing import NamedTuple


class Command(NamedTuple):
    module: str  # under rung.commands
    settings: str  # the settings class in it
    function: str  # called with the settings, returns the exit status or None for 0
    help: str  # one line
    group: str  # the heading in `rung --help`


COMMANDS: dict[str, Command] = {
    "sft": Command("sft", "Sft", "main", "train on demonstrations", "train"),
    "dpo": Command("preference", "Dpo", "main", "train on pairs: direct preference optimisation", "train"),
    "ipo": Command("preference", "Ipo", "main", "train on pairs: DPO towards a fixed margin", "train"),
    "dpop": Command(
        "preference", "Dpop", "main", "train on pairs: DPO that keeps the chosen likely", "train"
    ),
    "rpo": Command("preference", "Rpo", "main", "train on pairs: DPO and likelihood of the chosen", "train"),
    "apo": Command("preference", "Apo", "main", "train on pairs: each answer anchored by itself", "train"),
    "hinge": Command("preference", "Hinge", "main", "train on pairs: DPO with a hinge", "train"),
    "slic": Command(
        "preference", "Slic", "main", "train on pairs: likelihood calibration, no reference", "train"
    ),
    "simpo": Command(
        "preference", "Simpo", "main", "train on pairs: log-prob per token, no reference", "train"
    ),
    "orpo": Command(
        "preference", "Orpo", "main", "train on pairs: SFT and odds ratio, no reference", "train"
    ),
    "kto": Command("preference", "Kto", "main", "train on thumbs up and down", "train"),
    "reward": Command("reward", "Reward", "main", "train a reward model of pairs or judged answers", "train"),
    "ppo": Command("ppo", "Ppo", "main", "learn from rewards with a critic", "train"),
    "online-dpo": Command(
        "online_dpo", "OnlineDpo", "main", "learn from pairs of the policy's own answers", "train"
    ),
    "rl": Command("rl", "Rl", "main", "learn from verifiable rewards", "train"),
    "grpo": Command("rl", "Grpo", "grpo", "the same by group relative policy optimization", "train"),
    "rft": Command("rft", "Rft", "main", "a model's own right answers as data for sft", "train"),
    "ssd": Command("rft", "Ssd", "main", "a model's own answers, unverified, as data for sft", "train"),
    "distill": Command(
        "distill", "Distill", "main", "learn what a teacher says of every next token", "train"
    ),
    "distill-on-policy": Command(
        "distill", "DistillOnPolicy", "on_policy", "the student writes, a teacher judges each token", "train"
    ),
    "cai": Command("cai", "Cai", "cai", "make SFT rows and pairs by critique and revision", "make data"),
    "rlaif": Command("cai", "Rlaif", "rlaif", "make pairs that a judge has labelled", "make data"),
    "self-train": Command(
        "self_train", "SelfTrain", "main", "rft and sft in turn, under a collapse guard", "train"
    ),
    "chat": Command("chat", "Chat", "main", "talk to a model", "use a model"),
    "generate": Command("generate", "Generate", "main", "complete prompts", "use a model"),
    "serve": Command("serve", "Serve", "main", "serve a model to OpenAI's clients", "use a model"),
    "fetch": Command("fetch", "Fetch", "main", "put a model into the cache", "use a model"),
    "merge": Command("merge", "Merge", "main", "average or combine models of one start", "use a model"),
    "merge sweep": Command(
        "merge", "MergeSweep", "sweep", "gain against forgetting between two models", "use a model"
    ),
    "merge-adapter": Command(
        "merge_adapter", "MergeAdapter", "main", "fold a LoRA adapter into its base", "use a model"
    ),
    "eval": Command("evaluate", "Eval", "main", "measure models on test tasks, with intervals", "measure"),
    "score": Command("score", "Score", "main", "a reward model's scores on rows; keep the best", "measure"),
    "bestofn": Command("bestofn", "BestOfN", "main", "let a reward model choose among n answers", "measure"),
    "eval show": Command(
        "evaluations", "EvalShow", "show", "a result again, or one of its samples", "measure"
    ),
    "eval rescore": Command(
        "evaluations", "EvalRescore", "rescore", "count a result again, or judge its answers anew", "measure"
    ),
    "eval diff": Command(
        "evaluations", "EvalDiff", "diff", "the first thing in which two results differ", "measure"
    ),
    "eval winrate": Command(
        "evaluate_winrate", "EvalWinrate", "winrate", "win rates and Elo by a judge", "measure"
    ),
    "eval text": Command("evaluate_text", "EvalText", "text", "perplexity of text, KL to a base", "measure"),
    "eval contamination": Command(
        "evaluate_text",
        "EvalContamination",
        "contamination",
        "look for test tasks in training data",
        "measure",
    ),
    "data show": Command("data", "DataShow", "show", "rows as tokens, coloured by what is trained", "data"),
    "data check": Command("data", "DataCheck", "check", "what a data file holds and what is wrong", "data"),
    "envs list": Command(
        "envs", "EnvsList", "list_environments", "environments to train and test on", "data"
    ),
    "envs show": Command("envs", "EnvsShow", "show", "a task, its prompt, how answers are graded", "data"),
    "data generate": Command(
        "data_generate", "DataGenerate", "main", "tasks and answers from a few seed tasks", "data"
    ),
    "data filter": Command("data_filter", "DataFilter", "main", "keep what is worth training on", "data"),
    "data steps": Command(
        "steps", "DataSteps", "main", "label the steps of solutions by completing them", "data"
    ),
    "data rubrics": Command("data_rubrics", "DataRubrics", "main", "write each row a rubric", "data"),
    "data ches": Command("ches", "DataChes", "main", "pairs that would make DPO lower both answers", "data"),
    "runs list": Command("runs", "RunsList", "list_runs", "the runs in a folder", "runs"),
    "runs show": Command("runs", "RunsShow", "show", "one run: state, metrics, what they mean", "runs"),
    "runs compare": Command("runs", "RunsCompare", "compare", "runs side by side", "runs"),
    "runs plot": Command("runs", "RunsPlot", "plot", "curves of one or more runs, as a PNG", "runs"),
    "rollouts": Command(
        "rollouts", "Rollouts", "main", "what a run's model wrote, and what it got for it", "runs"
    ),
    "diagnose": Command("diagnose", "Diagnose", "main", "what went wrong in a run, and what to do", "runs"),
    "pipeline run": Command("pipeline", "PipelineRun", "run", "run a recipe of several stages", "pipelines"),
    "pipeline plan": Command(
        "pipeline", "PipelinePlan", "plan", "what a recipe would do, in memory and time", "pipelines"
    ),
    "pipeline report": Command(
        "pipeline", "PipelineReport", "report", "one HTML page over a pipeline", "pipelines"
    ),
    "study puzzles": Command(
        "study", "StudyPuzzles", "puzzles", "pass@k on twenty puzzles, language by language", "measure"
    ),
    "languages": Command(
        "languages", "Languages", "main", "what the sandbox can run on this machine", "tools"
    ),
    "advise": Command(
        "advise", "Advise", "main", "which method for which signal, and what it takes", "tools"
    ),
    "doctor": Command("doctor", "Doctor", "main", "what this machine and installation can do", "tools"),
    "bench": Command("bench", "Bench", "main", "measure rung, also against its peers", "tools"),
    "config explain": Command("config", "ConfigExplain", "explain", "what a key means", "tools"),
}
