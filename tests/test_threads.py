"""The number of threads of torch."""

from __future__ import annotations

import torch

from gemsbench.threads import torch_threads


def test_the_number_of_threads_is_put_back() -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
