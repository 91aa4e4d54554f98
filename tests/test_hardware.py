"""Descriptions of the machine are plain data, and peak rates are found by torch's device names."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from nanochat import hardware
from nanochat.config import json_line, to_json


@pytest.mark.parametrize(
    ("name", "bf16", "fp8"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12, 1978.9e12),
        ("NVIDIA H100 PCIe", 756e12, 1513e12),
        ("NVIDIA H100 NVL", 835.5e12, 1670.5e12),
        ("NVIDIA H200", 989.4e12, 1978.9e12),
        ("NVIDIA H20", 148e12, 296e12),
        ("NVIDIA GH200 480GB", 989.4e12, 1978.9e12),
        ("NVIDIA B200", 2250e12, 4500e12),
        ("NVIDIA A100-SXM4-80GB", 312e12, None),
        ("NVIDIA A100-PCIE-40GB", 312e12, None),
        ("NVIDIA A10G", 70e12, None),
        ("NVIDIA L4", 121e12, 242.5e12),
        ("NVIDIA L40S", 362e12, 733e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12, 330.3e12),
        ("NVIDIA GeForce RTX 3090 Ti", 80e12, None),
        ("NVIDIA GeForce RTX 3090", 71e12, None),
        ("AMD Instinct MI300X", 1307.4e12, 2614.9e12),
        ("NVIDIA Something New", None, None),
        ("", None, None),
    ],
)
def test_peaks_by_device_name(name: str, bf16: float | None, fp8: float | None):
    assert hardware.peak_flops(name, "bf16") == bf16
    assert hardware.peak_flops(name, "fp8") == fp8


def test_the_description_is_plain_data_that_makes_sense():
    described = json.loads(json_line({**to_json(hardware.describe()), **hardware.software()}))
    assert described["cpu"]["model"]
    assert 0 < described["cpu"]["usable"] <= described["cpu"]["threads"]
    assert 0 < described["memory"]["available"] <= described["memory"]["total"]
    assert described["torch"]
    assert described["python"].startswith("3.")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_measured_rate_is_positive(dtype: torch.dtype):
    assert hardware.measure_gemm_flops(dtype, seconds=0.01, size=64) > 1e6


def _cgroup(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content + "\n")


def test_limits_of_a_container(tmp_path: Path):
    _cgroup(tmp_path, cpu_max="150000 100000", memory_max="4000000000", memory_current="1000000000")
    assert hardware.cpu_quota(tmp_path) == 1.5
    assert hardware.memory_limit(tmp_path) == (4_000_000_000, 1_000_000_000)


def test_no_limits(tmp_path: Path):
    assert hardware.cpu_quota(tmp_path) is None
    assert hardware.memory_limit(tmp_path) == (None, 0)
    _cgroup(tmp_path, cpu_max="max 100000", memory_max="max", memory_current="5")
    assert hardware.cpu_quota(tmp_path) is None
    assert hardware.memory_limit(tmp_path) == (None, 0)


def test_the_tightest_of_nested_limits_counts(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(hardware, "_cgroups", lambda root: [root / "a" / "b", root / "a", root])
    _cgroup(tmp_path, cpu_max="400000 100000", memory_max="9000")
    _cgroup(tmp_path / "a", cpu_max="200000 100000", memory_max="5000", memory_current="4900")
    _cgroup(tmp_path / "a" / "b", cpu_max="max 100000", memory_max="2000", memory_current="100")
    assert hardware.cpu_quota(tmp_path) == 2
    assert hardware.memory_limit(tmp_path) == (5000, 4900)


def test_memory_and_cores_respect_the_container(monkeypatch):
    monkeypatch.setattr(hardware, "memory_limit", lambda: (2**20, 2**19))
    monkeypatch.setattr(hardware, "cpu_quota", lambda: 0.5)
    assert hardware.memory() == hardware.Memory(total=2**20, available=2**19)
    assert hardware.cpu().usable == 0.5
    assert hardware.usable_cores() == 1


def test_the_revision_is_the_commit_of_the_checkout(tmp_path: Path):
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    assert hardware.git_revision(tmp_path) is None
    git("init")
    package = tmp_path / "package"
    package.mkdir()
    (package / "module.py").write_text("a = 1\n")
    assert hardware.git_revision(package) is None, (
        "a repository that does not track the package tells nothing"
    )
    git("add", ".")
    git("commit", "-m", "first")
    clean = hardware.git_revision(package)
    assert clean is not None
    assert len(clean) == 12
    (package / "module.py").write_text("a = 2\n")
    assert hardware.git_revision(package) == clean + "+"
