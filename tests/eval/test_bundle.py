import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nanochat.errors import EnvironmentFault
from nanochat.eval.bundle import CORE_TASKS, fetch_bundle, load_bundle
from nanochat.paths import default_paths


@pytest.fixture
def served(tmp_path):
    """A folder, and the address it is served at."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
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
