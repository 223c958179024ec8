"""Sizes that no memory holds."""

import pytest
import torch

from rlcore import memory
from rlcore.errors import InputError
from rlcore.memory import BoundedTensors


@pytest.fixture(autouse=True)
def _ten_thousand_bytes(monkeypatch):
    monkeypatch.setattr(memory, "physical_memory", lambda: 10_000)


@pytest.mark.parametrize("make", [torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn])
def test_a_tensor_larger_than_the_memory_is_refused(make):
    with BoundedTensors():
        assert make(50, 50).shape == (50, 50)
        with pytest.raises(InputError, match="a tensor of 50 x 51 numbers takes"):
            make(50, 51)


def test_only_sizes_count():
    with BoundedTensors():
        assert torch.arange(1_000, 2_000).shape == (1_000,)
        assert torch.full((2,), 1e12).shape == (2,)
