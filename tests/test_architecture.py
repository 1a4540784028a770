"""The architecture, tested: imports point downward only, the front door is light, a file is a page or so."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rung"

# Room -> height. A room may import the rooms below it and itself; rooms of one height are strangers, but for
# the ground, whose single files are one room together.
ROOMS = {
    **dict.fromkeys(["errors", "batch", "settings", "settings_preference", "settings_rl", "schema"], 0),
    **dict.fromkeys(["settings_self_training"], 0),
    **dict.fromkeys(["settings_ppo", "settings_online_dpo"], 0),
    **dict.fromkeys(["settings_reward"], 0),
    **dict.fromkeys(["settings_distill"], 0),
    **dict.fromkeys(["keys", "config", "metrics", "run", "progress", "endpoint", "settings_judge"], 0),
    **dict.fromkeys(["trackers", "publish", "machine", "memory", "interrupt", "dist"], 0),
    **dict.fromkeys(["kernels", "methods", "advantages", "merge", "optimizer", "sandbox"], 1),
    **dict.fromkeys(["data", "models", "rewards"], 2),
    **dict.fromkeys(["rollouts", "train", "envs"], 3),
    **dict.fromkeys(["checkpoint", "sources", "eval", "diagnose"], 4),
    **dict.fromkeys(["pipelines", "studies", "studio", "quickstart"], 5),
    **dict.fromkeys(["commands"], 6),
    **dict.fromkeys(["cli"], 7),
    **dict.fromkeys(["__main__"], 8),
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module of rung that runs when the code runs, inside functions too; not what only types need."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "write absolute imports: a reader should see the room"
            if node.module == "rung":
                yield from (f"rung.{name.name}" for name in node.names)
            else:
                yield node.module or ""
        else:
            yield from imported(node)


def violations(path: Path, source: str) -> list[str]:
    here = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if here == "__init__":
        return [name for name in imported(ast.parse(source)) if name.startswith("rung.")]
    targets = [name.split(".")[1] for name in imported(ast.parse(source)) if name.startswith("rung.")]
    targets = [name for name in targets if not name.startswith("__version")]
    return [
        f"{path.name} in {here} (height {ROOMS[here]}) imports {there} (height {ROOMS[there]})"
        for there in targets
        if there != here and not (ROOMS[there] < ROOMS[here] or ROOMS[there] == ROOMS[here] == 0)
    ]


def test_every_file_stands_in_a_room():
    rooms = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in FILES} - {"__init__"}
    assert rooms - ROOMS.keys() == set(), "give the new room its height in ROOMS"


def test_imports_point_downward():
    assert [line for path in FILES for line in violations(path, path.read_text())] == []


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("train.py", "from rung.sources.demonstrations import x"),
        ("train.py", "def f():\n    import rung.pipelines.sft"),
        ("data/pack.py", "from rung.models.hub import x"),
        ("models/load.py", "from rung.data import rows"),
        ("methods/nll.py", "try:\n    from rung.kernels.attention import x\nfinally:\n    pass"),
        ("run.py", "from rung import optimizer"),
        ("commands/sft.py", "from rung.cli import main"),
        ("__init__.py", "from rung.batch import Batch"),
    ],
)
def test_the_check_itself_sees_an_upward_import(place, source):
    assert len(violations(PACKAGE / place, source)) == 1


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("run.py", "from rung.errors import UserError"),
        ("data/pack.py", "from rung.data.rows import x\nfrom rung.batch import Batch"),
        ("cli.py", "from rung import __version__\nfrom rung.commands import COMMANDS"),
        ("pipelines/sft.py", "if TYPE_CHECKING:\n    from rung.commands.sft import Sft"),
    ],
)
def test_the_check_itself_lets_downward_imports_pass(place, source):
    assert violations(PACKAGE / place, source) == []


def test_a_file_is_a_unit_of_understanding():
    limits = {path: 250 if path == PACKAGE / "train.py" else 400 for path in FILES}
    assert [path for path, limit in limits.items() if len(path.read_text().splitlines()) >= limit] == []


def test_the_front_door_imports_nothing_heavy_or_optional():
    """rung, its configuration, run folders and every command's settings, as a fresh interpreter sees them."""
    commands = [f"rung.commands.{path.stem}" for path in (PACKAGE / "commands").glob("[!_]*.py")]
    front = ["rung", "rung.cli", "rung.config", "rung.run", "rung.metrics", "rung.settings", *commands]
    heavy = ["torch", "transformers", "datasets", "matplotlib", "wandb", "mlflow", "trackio", "tensorboard"]
    code = f"import sys, {', '.join(front)}; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
