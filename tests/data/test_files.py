"""Reading rows: forms of files, origins, weights, digests, and everything that can be wrong with a file."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rung.data.files import file_digest, read_rows, scan, split_weight, weights_of
from rung.errors import UserError


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_jsonl_origins_count_lines_and_skip_blank_ones(tmp_path):
    spec = write(tmp_path / "a.jsonl", '{"text": "é"}\n\n{"text": "b"}')
    assert list(read_rows(spec)) == [({"text": "é"}, f"{spec}:1"), ({"text": "b"}, f"{spec}:3")]


def test_json_parquet_and_a_folder_of_them(tmp_path):
    write(tmp_path / "b.json", json.dumps([{"text": "1"}, {"text": "2"}]))
    pq.write_table(pa.Table.from_pylist([{"text": "3"}]), tmp_path / "c.parquet")
    write(tmp_path / "a.jsonl", '{"text": "0"}\n')
    write(tmp_path / "notes.txt", "not data")
    rows = list(read_rows(str(tmp_path)))
    assert [row["text"] for row, _ in rows] == ["0", "1", "2", "3"]
    assert rows[2][1] == f"{tmp_path / 'b.json'}:2"
    assert rows[3][1] == f"{tmp_path / 'c.parquet'}:1"


def test_weights(tmp_path, monkeypatch):
    assert split_weight("a.jsonl:0.3") == ("a.jsonl", 0.3)
    assert split_weight("owner/name:main:test") == ("owner/name:main:test", None)
    assert weights_of(["a.jsonl:3", "b.jsonl:1"]) == [3.0, 1.0]
    assert weights_of(["a.jsonl", "b.jsonl"]) is None
    for spec in ("a.jsonl:0", "a.jsonl:-1", "a.jsonl:nan", "a.jsonl:inf"):
        with pytest.raises(UserError, match="positive number"):
            split_weight(spec)
    with pytest.raises(UserError, match=r"b.jsonl has no weight"):
        weights_of(["a.jsonl:3", "b.jsonl"])
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "odd:7", "")
    assert split_weight("odd:7") == ("odd:7", None)


def test_digest_follows_content_and_not_weight(tmp_path):
    spec = write(tmp_path / "a.jsonl", '{"text": "a"}\n')
    before = file_digest(spec)
    assert file_digest(spec + ":0.5") == before
    write(tmp_path / "a.jsonl", '{"text": "b"}\n')
    assert file_digest(spec) != before


BAD = {
    "broken.jsonl": ('{"text": "a"}\n{"text": \n', "broken.jsonl:2: broken JSON"),
    "array.jsonl": ('["a"]\n', "array.jsonl:1: the row is not a JSON object"),
    "empty.jsonl": ("\n\n", "holds no rows"),
    "empty.json": ("", "holds no rows"),
    "object.json": ('{"text": "a"}', "holds dict, not a list"),
    "lines.json": ('{"a": 1}\n{"a": 2}\n', "name it .jsonl"),
    "number.json": ("[3]", "number.json:1: the row is not"),
    "not.parquet": ("text", "not a readable Parquet file"),
    "table.csv": ("a,b", "'.csv' are not read"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(tmp_path, name):
    text, message = BAD[name]
    with pytest.raises(UserError, match=message):
        list(read_rows(write(tmp_path / name, text)))


def test_not_utf8(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes('{"text": "é"}\n'.encode("latin-1"))
    with pytest.raises(UserError, match=r"latin.jsonl:1: not UTF-8"):
        list(read_rows(str(tmp_path / "latin.jsonl")))


def test_missing_files_and_empty_folders(tmp_path, monkeypatch):
    for name in ("no.jsonl", "no/such/deep/path", "a/b.csv"):
        with pytest.raises(UserError, match="there is no file"):
            list(read_rows(str(tmp_path / name)))
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"there is no file data/misspelt; check the path"):
        list(read_rows("data/misspelt"))
    with pytest.raises(UserError, match=r"there is no file a/b.csv"):
        list(read_rows("a/b.csv"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no .jsonl"):
        list(read_rows(str(tmp_path / "empty")))


def test_scan_goes_on_after_a_broken_row(tmp_path):
    spec = write(tmp_path / "a.jsonl", '{"text": "a"}\nbroken\n{"text": "b"}\n')
    kinds = [isinstance(row, UserError) for row, _ in scan(spec)]
    assert kinds == [False, True, False]


def test_a_hub_id_without_the_library_says_the_one_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'rung\[hub\]'"):
        list(read_rows("owner/name"))


def test_a_hub_id_reads_configuration_split_and_origin(monkeypatch):
    import datasets

    asked = []

    def load(name, config, split):
        asked.append((name, config, split))
        return [{"text": "a"}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert list(read_rows("owner/name:main:test:0.5")) == [({"text": "a"}, "owner/name:main:test:1")]
    assert list(read_rows("owner/name")) == [({"text": "a"}, "owner/name:1")]
    assert asked == [("owner/name", "main", "test"), ("owner/name", None, "train")]


def test_a_hub_that_cannot_be_reached(monkeypatch):
    import datasets

    def load(name, config, split):
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(UserError, match=r"could not be loaded.*offline.*hf download owner/name"):
        list(read_rows("owner/name"))
