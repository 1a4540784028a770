"""The page over a pipeline folder, made from what real stages and a killed one leave behind."""

import json

import pytest

from rung.commands.pipeline import PipelineReport, report
from rung.commands.pipeline_page import stage_row, told, write_page
from rung.errors import UserError
from rung.run import Run


@pytest.fixture
def root(tmp_path):
    stages = [
        {"name": "teach", "command": "sft", "key": "k1", "needs": [], "file": ""},
        {"name": "rows", "command": "/a/b/make.py", "key": "k2", "needs": ["teach"], "file": "rows.jsonl"},
        {"name": "later", "command": "dpo", "key": "k3", "needs": ["rows"], "file": ""},
    ]
    manifest = {
        "recipe": "x/mine.yaml",
        "about": "Says <why>.",
        "command": "rung pipeline run x",
        "stages": stages,
    }
    (tmp_path / "pipeline.json").write_text(json.dumps(manifest))
    (tmp_path / "pipeline").mkdir()
    run = Run.create(tmp_path / "teach-k1", {"command": "sft"})
    for step in range(1, 5):
        run.log(step, {"loss": 2.0 / step, "eval_loss": 3.0 / step})
    run.finish("did all of it")
    (tmp_path / "rows-k2").mkdir()
    (tmp_path / "rows-k2" / "rows.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    settings = {"data": ["d.jsonl"], "epochs": 1.0, "optimizer.learning_rate": 0.5}
    record(tmp_path, "teach-k1", command="sft", settings=settings, seconds=61.0, peak_memory=3.25)
    more = {"script": "00ff", "from": ["<k1.model>"]}
    record(
        tmp_path,
        "rows-k2",
        command="script",
        settings=more,
        stages={"teach": "k1"},
        output="rows-k2/rows.jsonl",
    )
    return tmp_path


def record(root, name, **facts):
    base = {"name": name.split("-")[0], "key": name.split("-")[1], "state": "finished", "output": name}
    content = base | {"seconds": 1.0, "peak_memory": 0.1} | facts
    (root / "pipeline" / f"{name}.json").write_text(json.dumps(content))


def test_the_page_tells_every_stage_its_settings_its_last_numbers_and_how_to_go_on(root):
    text = write_page(root, root / "index.html").read_text()
    assert "2 of 3 stages done in 1:02" in text and "Says &lt;why&gt;." in text
    assert "Held out: eval_loss 0.75" in text
    assert "finished: did all of it" in text
    assert "2 lines" in text and "wrote nothing yet" in text
    assert text.count("data:image/png") == 1
    assert "rung pipeline run x" in text and "make.py" in text and "/a/b/make.py" not in text


def test_only_what_the_recipe_changed_is_shown_and_keys_are_read_as_names(root):
    first = json.loads((root / "pipeline" / "teach-k1.json").read_text())
    assert told(first) == [["data", "d.jsonl"], ["optimizer.learning_rate", "0.5"]]
    second = json.loads((root / "pipeline" / "rows-k2.json").read_text())
    assert told(second) == [["from", "<teach.model>"]]


def test_a_stage_that_has_not_begun_has_no_time(root):
    row = {"name": "later", "script": "dpo", "state": "not begun", "needs": ["rows"]}
    assert stage_row(row) == ["later", "dpo", "not begun", "", "", "rows"]


def test_a_scripts_own_table_is_shown(root):
    table = {"title": "What it found", "rows": [["who", "how much"], ["me", 7]], "notes": ["me - you: +3"]}
    (root / "later-k3").mkdir()
    (root / "later-k3" / "table.json").write_text(json.dumps(table))
    text = write_page(root, root / "index.html").read_text()
    assert "<h2>What it found</h2>" in text and "<td>7</td>" in text
    assert "me - you: +3" in text.partition("What it found")[2].partition("<h2>")[0].partition("</table>")[2]


def test_another_folder_is_refused(tmp_path, root, capsys):
    with pytest.raises(UserError, match="is no pipeline folder"):
        report(PipelineReport(tmp_path / "pipeline"))
    assert report(PipelineReport(root, out=str(root / "mine.html"))) == 0
    assert (root / "mine.html").exists()
