import json
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from nanochat.atomic import sha256_of
from nanochat.errors import EnvironmentFault
from nanochat.eval.bundle import CORE_TASKS, load_bundle
from nanochat.eval.bundle_files import fetch_bundle, own_bundle
from nanochat.paths import default_paths


@pytest.fixture
def served(tmp_path):
    """A folder, and the address it is served at."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_bundle_is_fetched_once_and_unpacked(served):
    folder, address = served
    with zipfile.ZipFile(folder / "bundle.zip", "w") as archive:
        archive.writestr("eval_bundle/core.yaml", "icl_tasks: []\n")
        archive.writestr("eval_bundle/eval_meta_data.csv", "Eval Task,Random baseline\n")
        archive.writestr("eval_bundle/eval_data/a/b.jsonl", "{}\n")
        archive.writestr("__MACOSX/._x", "")
    paths = default_paths()
    bundle = fetch_bundle(paths, f"{address}/bundle.zip")
    assert bundle == paths.eval_bundle
    assert (bundle / "eval_data" / "a" / "b.jsonl").is_file()
    assert load_bundle(bundle) == []
    assert [path.name for path in paths.base.glob("[!.]*")] == ["eval_bundle"]
    (folder / "bundle.zip").unlink()
    assert fetch_bundle(paths, f"{address}/bundle.zip") == bundle


@pytest.mark.parametrize("content", [b"<html>gone</html>", None])
def test_what_cannot_be_had_leaves_nothing_behind(served, content):
    folder, address = served
    if content:
        (folder / "bundle.zip").write_bytes(content)
    with pytest.raises(EnvironmentFault):
        fetch_bundle(default_paths(), f"{address}/bundle.zip")
    assert not default_paths().eval_bundle.exists()


@pytest.mark.slow
def test_the_real_bundle(shared_data):
    tasks = load_bundle(shared_data / "eval_bundle")
    assert len(tasks) == 14
    assert {task.label for task in tasks} < set(CORE_TASKS)
    assert len(CORE_TASKS) == len(set(CORE_TASKS)) == 22
    by_label = {task.label: task for task in tasks}
    assert by_label["commonsense_qa"].baseline == pytest.approx(0.403)
    assert by_label["arc_easy"].delimiter == "\nAnswer: "
    assert (by_label["winograd"].shots, by_label["winograd"].delimiter) == (0, " ")
    assert len(by_label["bigbench_qa_wikidata"].items) == 20321


ENTRY = {
    "label": "birds",
    "dataset_uri": "a/birds.jsonl",
    "num_fewshot": [1],
    "icl_task_type": "multiple_choice",
    "has_categories": False,
}
ITEM = {"query": "Which?", "choices": ["this", "that"], "gold": 1}


@pytest.fixture
def make_bundle(tmp_path):
    """A bundle of one task with three items, except for the given parts."""

    def make(listing=None, items=None, baseline="50", **entry):
        folder = tmp_path / "bundle"
        (folder / "eval_data" / "a").mkdir(parents=True)
        if listing is None:
            listing = yaml.safe_dump({"icl_tasks": [ENTRY | entry]})
        (folder / "core.yaml").write_text(listing)
        (folder / "eval_meta_data.csv").write_text(f"Eval Task,Random baseline\nbirds,{baseline}\n")
        lines = [json.dumps(ITEM)] * 3 if items is None else items
        (folder / "eval_data" / "a" / "birds.jsonl").write_text("\n".join(lines))
        return folder

    return make


def test_a_task_is_read(make_bundle):
    [task] = load_bundle(make_bundle())
    assert (task.label, task.shots, task.delimiter, task.baseline) == ("birds", 1, " ", 0.5)
    assert task.items == [ITEM] * 3


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"listing": "- a\n- b\n"}, "core.yaml has no list of tasks under icl_tasks"),
        ({"listing": "icl_tasks: 3\n"}, "core.yaml has no list of tasks under icl_tasks"),
        ({"listing": "icl_tasks: [3]\n"}, "core.yaml, entry 1: CoreEntry: expected the fields"),
        ({"listing": "a: b: c\n  d"}, "core.yaml is not YAML"),
        ({"listing": "[" * 5000}, "core.yaml is not YAML"),
        ({"listing": "!!python/object/apply:os.getcwd []"}, "core.yaml is not YAML"),
        (
            {"listing": "icl_tasks: [{label: birds}]"},
            "entry 1: CoreEntry: missing dataset_uri, icl_task_type",
        ),
        ({"label": 5}, "entry 1: CoreEntry.label: expected str, got 5"),
        ({"icl_task_type": "essay"}, "entry 1: CoreEntry.icl_task_type: 'essay' is none of"),
        ({"num_fewshot": 10}, "entry 1: CoreEntry.num_fewshot: expected a list, got 10"),
        ({"num_fewshot": []}, "entry 1: num_fewshot must begin with a number of examples"),
        ({"num_fewshot": [-1]}, "entry 1: num_fewshot must begin with a number of examples"),
        ({"num_fewshot": [3]}, "birds.jsonl holds 3 items, too few for 3 examples"),
        (
            {"dataset_uri": "../../secrets.jsonl"},
            "core.yaml: the data of 'birds', '../../secrets.jsonl', lies outside",
        ),
        ({"dataset_uri": "/etc/passwd"}, "core.yaml: the data of 'birds', '/etc/passwd', lies outside"),
        ({"dataset_uri": "a\0b"}, "lies outside"),
        ({"label": "fish"}, "eval_meta_data.csv has no baseline for 'fish'"),
        ({"baseline": "100"}, "eval_meta_data.csv, line 2: each row needs"),
        ({"baseline": "half"}, "eval_meta_data.csv, line 2: each row needs"),
        ({"items": [json.dumps(ITEM), "{"]}, "birds.jsonl, line 2 is not JSON"),
        (
            {"items": [json.dumps(ITEM), "", "[" * 100_000]},
            "birds.jsonl, line 3 is not JSON: nested more than",
        ),
        ({"items": ["[1]"]}, "birds.jsonl, line 1: a multiple_choice item has query, choices, gold"),
        ({"items": [json.dumps(ITEM | {"gold": 2})]}, "line 1: a multiple_choice item has"),
        ({"items": [json.dumps(ITEM | {"choices": ["this", 2]})]}, "line 1: a multiple_choice item has"),
        ({"items": []}, "birds.jsonl holds 0 items"),
    ],
)
def test_a_faulty_bundle_is_one_clear_line(make_bundle, changes, line):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        load_bundle(make_bundle(**changes))
    assert line in str(error.value)


def test_a_link_out_of_the_bundle_is_refused(make_bundle, tmp_path):
    bundle = make_bundle(dataset_uri="a/link.jsonl")
    (tmp_path / "secrets.jsonl").write_text(json.dumps(ITEM))
    (bundle / "eval_data" / "a" / "link.jsonl").symlink_to(tmp_path / "secrets.jsonl")
    with pytest.raises(ValueError, match=r"^[^\n]*the data of 'birds', 'a/link.jsonl', lies outside[^\n]*$"):
        load_bundle(bundle)


def test_a_bundle_may_itself_be_a_link(make_bundle, tmp_path):
    (tmp_path / "linked").symlink_to(make_bundle())
    assert [task.label for task in load_bundle(tmp_path / "linked")] == ["birds"]


def archive_of(folder, path, *, prefix="some/bundle"):
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*"):
            archive.write(file, f"{prefix}/{file.relative_to(folder)}")
    return path


def test_an_archive_of_one_s_own_is_unpacked_once(make_bundle, tmp_path, capsys):
    archive = archive_of(make_bundle(), tmp_path / "mine.zip")
    folder = own_bundle(archive, default_paths())
    assert [task.label for task in load_bundle(folder)] == ["birds"]
    shown = capsys.readouterr().err
    assert f"mine.zip: sha256 {sha256_of(archive)} (unpinned" in shown
    assert own_bundle(archive, default_paths()) == folder
    assert capsys.readouterr().err == ""
    assert own_bundle(tmp_path / "bundle", default_paths()) == tmp_path / "bundle"


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (
            ["a/core.yaml", "b/core.yaml"],
            "a bundle has one core.yaml, and it has 2 of them (a/core.yaml, b/core.yaml)",
        ),
        (["a/other.yaml"], "a bundle has one core.yaml, and it has none"),
        (None, "it is not a zip archive"),
    ],
)
def test_an_archive_that_is_no_bundle_leaves_nothing_behind(tmp_path, names, line):
    path = tmp_path / "odd.zip"
    if names is None:
        path.write_bytes(b"PK\x03\x04 and nothing else")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "icl_tasks: []")
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        own_bundle(path, default_paths())
    assert str(error.value).startswith(f"{path}: {line}")
    assert not (default_paths().base / "bundles").exists()


def test_a_damaged_archive_is_one_clear_line(tmp_path):
    path = tmp_path / "odd.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("core.yaml", "icl_tasks: []\n" * 50)
    whole, said = path.read_bytes(), []
    for at in range(30 + len("core.yaml"), len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            own_bundle(path, default_paths())
        except ValueError as error:
            said.append(str(error))
    assert said  # some bytes do not matter
    assert all(line.startswith(f"{path}: ") and "\n" not in line for line in said)


def test_an_archive_cannot_write_outside_its_folder(make_bundle, tmp_path):
    archive = archive_of(make_bundle(), tmp_path / "evil.zip")
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("../../../evil.txt", "out")
        file.writestr("/evil.txt", "out")
    own_bundle(archive, default_paths())
    assert not [path for path in tmp_path.rglob("evil.txt") if "bundles" not in path.parts]
