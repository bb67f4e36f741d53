"""A specification -> the float32 numbers that kernels read at run time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ctr.kernels import layout
from ctr.spec import LABEL_BOUND, Spec

LOGIT_LIMIT = 50.0


def hyper_parameters(spec: Spec) -> NDArray[np.float32]:
    """(N_HYPER,) what the kernels need to know of a specification at run time; see `ctr.kernels.layout`."""
    model, optimizer = spec.model, spec.optimizer
    adagrad, ftrl = optimizer.type == "adagrad", optimizer.type == "ftrl"
    slow, linear_slow = 1 / optimizer.step, 1 / optimizer.linear_step

    def c0(slowness: float, l2: float) -> float:
        return 0.0 if adagrad else optimizer.beta * slowness + l2 if ftrl else slowness

    hyper = np.zeros(layout.N_HYPER, np.float32)
    for at, value in (
        (layout.STEP, optimizer.step), (layout.LINEAR_STEP, optimizer.linear_step),
        (layout.N0, optimizer.n0 if adagrad else 0.0), (layout.START, model.start),
        (layout.HAS_BIAS, model.bias), (layout.HAS_LINEAR, model.linear),
        (layout.C0, c0(slow, optimizer.l2)), (layout.LINEAR_C0, c0(linear_slow, optimizer.linear_l2)),
        (layout.PAIR_C0, c0(slow, 0.0)), (layout.BIAS_C0, c0(linear_slow, 0.0)),
        (layout.C1, slow if adagrad or ftrl else 0.0), (layout.LINEAR_C1, linear_slow if adagrad or ftrl else 0.0),
        (layout.L2, 0.0 if ftrl else optimizer.l2), (layout.LINEAR_L2, 0.0 if ftrl else optimizer.linear_l2),
        (layout.L1, optimizer.l1), (layout.HALF_LIFE_MIN, optimizer.half_life_s / 60),
        (layout.SQUARED, model.loss == "squared"), (layout.LABEL_MIN, model.label_range[0]),
        (layout.LABEL_MAX, model.label_range[1]),
        (layout.LIMIT, LOGIT_LIMIT if model.loss == "logistic" else LABEL_BOUND),
        (layout.SAME_FIELD_PAIRS, model.same_field_pairs),
    ):  # fmt: skip
        hyper[at] = value
    return hyper
