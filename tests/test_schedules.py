"""Warm-up and decay against the formulas and against transformers' schedules."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from course_lib.schedules import SHAPES, warmup_then_decay

PEERS = {"linear": get_linear_schedule_with_warmup, "cosine": get_cosine_schedule_with_warmup}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("warmup", [0, 1, 7, 29])
def test_it_is_what_transformers_computes(shape, warmup):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    factor = PEERS[shape](optimizer, warmup, 30).lr_lambdas[0]
    for step in range(31):
        assert warmup_then_decay(step, warmup, 30, shape) == pytest.approx(factor(step), abs=1e-12)


@given(
    total=st.integers(1, 200),
    share=st.floats(0, 1),
    step=st.integers(0, 400),
    shape=st.sampled_from(SHAPES),
)
def test_it_rises_to_one_falls_to_zero_and_stays(total, share, step, shape):
    warmup = int(share * total)
    rate = warmup_then_decay(step, warmup, total, shape)
    following = warmup_then_decay(step + 1, warmup, total, shape)
    assert 0 <= rate <= 1
    if step < warmup - 1:
        assert following > rate
    if step >= warmup:
        assert following <= rate
    if step >= total:
        assert rate == 0
    if step == warmup < total:
        assert rate == 1


def test_a_cosine_is_half_way_down_in_the_middle():
    assert warmup_then_decay(60, 20, 100, "cosine") == pytest.approx(0.5)
    assert warmup_then_decay(40, 20, 100, "cosine") == pytest.approx((1 + math.sqrt(0.5)) / 2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((-1, 0, 10), "step must be at least 0, got -1"),
        ((0, 11, 10), "warmup_steps from 0 to total_steps, got 10 and 11"),
        ((0, -1, 10), "got 10 and -1"),
        ((0, 0, 0), "total_steps must be at least 1"),
        ((0, 0, 10, "square"), "linear, cosine, got 'square'"),
        ((float("nan"), 0, 10), "got nan"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        warmup_then_decay(*arguments)
