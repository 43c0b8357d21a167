"""As many threads as help: on small matrices more of them wait for each other, most of all on a busy machine."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

from lipguard.planning.prices.passes import multiplications
from lipguard.trusted.network.graph import Network

# Rows of LipSDP's matrix, and multiplications of a forward pass, up to which a second thread helps little, and hurts by
# a factor of ten where other work keeps the cores busy.
_SMALL_MATRIX, _SMALL_PASS = 1024, 1e7


@contextlib.contextmanager
def few_threads(network: Network) -> Iterator[None]:
    """One thread for torch and BLAS while a small network is worked on; afterwards as many as before, in any case.

    Only in the main thread: elsewhere, what another thread computes at the same time would change. numpy's BLAS is
    limited where threadpoolctl is installed (as it is with scikit-learn); it has no switch of its own.
    """
    if not _is_small(network) or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = torch.get_num_threads()
    with contextlib.ExitStack() as stack:
        if before > 1:
            stack.callback(torch.set_num_threads, before)
            torch.set_num_threads(1)
        stack.enter_context(_blas_alone())
        yield


def _is_small(network: Network) -> bool:
    return network.neurons + network.nodes[0].size <= _SMALL_MATRIX and multiplications(network) <= _SMALL_PASS


def _blas_alone() -> contextlib.AbstractContextManager[object]:
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return contextlib.nullcontext()
    limits: contextlib.AbstractContextManager[object] = threadpool_limits(1, user_api="blas")
    return limits
