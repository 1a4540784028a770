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
    "chat": Command("chat", "Chat", "main", "talk to a model", "use a model"),
    "generate": Command("generate", "Generate", "main", "complete prompts", "use a model"),
    "fetch": Command("fetch", "Fetch", "main", "put a model into the cache", "use a model"),
    "merge-adapter": Command(
        "merge_adapter", "MergeAdapter", "main", "fold a LoRA adapter into its base", "use a model"
    ),
    "data show": Command("data", "DataShow", "show", "rows as tokens, coloured by what is trained", "data"),
    "data check": Command("data", "DataCheck", "check", "what a data file holds and what is wrong", "data"),
    "envs list": Command("envs", "EnvsList", "list_environments", "environments to train and test on", "data"),
    "envs show": Command("envs", "EnvsShow", "show", "a task, its prompt, how answers are graded", "data"),
    "runs list": Command("runs", "RunsList", "list_runs", "the runs in a folder", "runs"),
    "runs show": Command("runs", "RunsShow", "show", "one run: state, metrics, what they mean", "runs"),
    "runs compare": Command("runs", "RunsCompare", "compare", "runs side by side", "runs"),
    "runs plot": Command("runs", "RunsPlot", "plot", "curves of one or more runs, as a PNG", "runs"),
    "doctor": Command("doctor", "Doctor", "main", "what this machine and installation can do", "tools"),
    "bench": Command("bench", "Bench", "main", "measure rung, also against its peers", "tools"),
    "config explain": Command("config", "ConfigExplain", "explain", "what a key means", "tools"),
}
