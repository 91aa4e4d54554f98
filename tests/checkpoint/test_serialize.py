"""Equal contents give equal bytes, however the objects were built; only plain data is accepted."""

import copy
import io
import json
from collections import OrderedDict

import pytest
import torch

from nanochat.checkpoint import serialize


def _write(content) -> tuple[bytes, int, str]:
    file = io.BytesIO()
    size, digest = serialize.write(content, file)
    return file.getvalue(), size, digest


def _read(content: bytes):
    return torch.load(io.BytesIO(content), weights_only=True)


def test_size_and_digest_are_those_of_the_bytes():
    import hashlib

    content, size, digest = _write({"a": torch.arange(1000)})
    assert (size, digest) == (len(content), hashlib.sha256(content).hexdigest())


def test_everything_plain_comes_back_equal():
    content = {
        "tensors": [torch.arange(6).view(2, 3), torch.tensor(1.5, dtype=torch.bfloat16), torch.empty(0, 4)],
        "plain": {
            "text": "cpu",
            "none": None,
            "flag": True,
            "n": -(2**70),
            "rate": 0.1,
            "pair": (1, ("x", 2.0)),
        },
        7: "a number as key",
    }
    back = _read(_write(content)[0])
    pairs = zip(content["tensors"], back["tensors"], strict=True)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)
    assert back["plain"] == content["plain"]
    assert back[7] == content[7]


def test_identity_of_objects_leaves_no_trace():
    """A resumed run's state equals the uninterrupted run's but consists of other objects."""
    text, tensor, row = "bestfit pad", torch.ones(3), [1, 2]
    shared = {
        "a": text,
        "b": text,
        "device": "cpu",
        "t": [tensor, tensor],
        "l": [row, row],
        "p": ((1,), (1,)),
    }
    rebuilt = {
        "a": "bestfit pad",
        "b": " ".join(["bestfit", "pad"]),
        "device": json.loads('"cpu"'),
        "t": (lambda big: [big[2:5], big[5:8].clone()])(torch.ones(100)),
        "l": [[1, 2], [1, 2]],
        "p": (tuple([1]), tuple([1])),  # noqa: C409 - two objects, not one constant
    }
    reference = _write(shared)[0]
    assert _write(rebuilt)[0] == reference
    assert _write(copy.deepcopy(shared))[0] == reference
    assert _write(_read(reference))[0] == reference


def test_a_view_does_not_take_its_whole_storage_along():
    content, *_ = _write({"row": torch.zeros(1000, 1000)[3]})
    assert len(content) < 10_000


def test_strided_and_gradient_tensors_become_plain_ones():
    parameter = torch.nn.Parameter(torch.arange(6.0).view(2, 3))
    back = _read(_write({"p": parameter, "t": parameter.t()})[0])
    assert not back["p"].requires_grad
    assert type(back["p"]) is torch.Tensor
    assert torch.equal(back["t"], parameter.detach().t())


def test_mappings_of_torch_become_plain_ones():
    state = torch.nn.Linear(2, 3).state_dict()
    assert isinstance(state, OrderedDict)
    assert type(_read(_write(state)[0])) is dict


def test_the_memory_of_the_model_is_not_doubled():
    model = torch.zeros(10)
    canonical = serialize._Canonical().of({"a": model})
    assert canonical["a"].data_ptr() == model.data_ptr()


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", torch.float32, torch.nn.Linear(1, 1)])
def test_anything_else_is_refused(value):
    with pytest.raises(TypeError, match="tensors and plain containers only"):
        _write({"a": [value]})


class _FullDisk(io.BytesIO):
    def write(self, block):
        if self.tell() + len(block) > 500:
            raise OSError(28, "No space left on device")
        return super().write(block)


def test_a_failing_disk_is_an_oserror():
    with pytest.raises(OSError, match="No space left"):
        serialize.write({"a": torch.zeros(10_000)}, _FullDisk())
