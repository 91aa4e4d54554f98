"""What /metrics says."""

from __future__ import annotations

from nanochat.serve.telemetry import Telemetry


def test_the_depths_of_a_runs_steps_add_up() -> None:
    telemetry = Telemetry()
    older, newer = telemetry.observer("sft"), telemetry.observer("sft")
    older.depth(3, 2)
    newer.depth(1, 0)
    older.depth(2, 0)
    newer.depth(4, 1)
    text = telemetry.exposition().decode()
    assert 'vllm:num_requests_running{model_name="sft"} 6.0' in text
    assert 'vllm:num_requests_waiting{model_name="sft"} 1.0' in text
    older.depth(0, 0)
    newer.depth(0, 0)
    assert 'vllm:num_requests_running{model_name="sft"} 0.0' in telemetry.exposition().decode()
