"""Which outputs depend on which inputs, found by autograd."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray

from helpers.freed import replaced
from helpers.networks import Sample


def dependence(sample: Sample) -> NDArray[np.bool_]:
    """Whether output i can depend on input k, shape (outputs, inputs).

    Weights are made positive and activations the identity, so that no two paths cancel and none is cut.
    """
    model = copy.deepcopy(sample.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.abs() + 0.1)
    x = torch.zeros(sample.input_shape, dtype=torch.float64)
    with replaced(model, lambda module, a, b: a):
        jacobian = torch.autograd.functional.jacobian(lambda v: model(v[None])[0], x)
    outputs = jacobian.numel() // x.numel()
    return (jacobian.reshape(outputs, x.numel()) != 0).numpy()  # type: ignore[no-any-return]
