"""The same examples in every run, on one thread: the tensors here are too small for more."""

from __future__ import annotations

import os

# Before anything that reads them is imported, and for the processes that tests start: there are two of these already.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import torch  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

pytest_plugins = ("helpers.commands",)
torch.set_num_threads(1)
settings.register_profile(
    "lipguard", derandomize=True, deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("lipguard")
