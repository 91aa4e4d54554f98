"""Replaced runs and reports are kept."""

from nanochat.paths import Paths
from nanochat.report.archive import move_to_archive


def test_every_earlier_run_is_kept(paths: Paths) -> None:
    folders = {"checkpoints": paths.checkpoints("baserun"), "runs": paths.metrics("baserun").parent}
    assert move_to_archive(paths, "baserun", folders) is None
    for number in (1, 2):
        paths.checkpoints("baserun").mkdir(parents=True)
        (paths.checkpoints("baserun") / "weights").write_text(str(number))
        assert move_to_archive(paths, "baserun", folders) == paths.base / "archive" / f"baserun-{number}"
        assert not paths.checkpoints("baserun").exists()
    kept = [path.read_text() for path in sorted((paths.base / "archive").glob("*/checkpoints/weights"))]
    assert kept == ["1", "2"]
