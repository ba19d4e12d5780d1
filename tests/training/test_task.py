"""The course of the learning rate, and clipping."""

import pytest
import torch

from mossrepro.training.task import Task, warm_cosine


def test_schedule_warms_up_and_falls_to_its_floor():
    factors = [warm_cosine(step, 10, 100, 0.01) for step in range(101)]
    assert factors[0] == 0.1 and factors[10] == 1.0 and max(factors) == 1.0
    assert factors[100] == pytest.approx(0.01) and factors[10:] == sorted(factors[10:], reverse=True)


@pytest.mark.parametrize(("limit", "norm"), [(None, 5.0), (1.0, 1.0)])
def test_clipping_is_a_flag(limit, norm):
    task = Task()
    task.weight = torch.nn.Parameter(torch.zeros(2))
    task.weight.grad = torch.tensor([3.0, 4.0])
    task.configure_gradient_clipping(None, limit)
    assert task.weight.grad.norm().item() == pytest.approx(norm, rel=1e-4)
