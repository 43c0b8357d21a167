"""Orders of elimination for matrices that come from no network."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from lipguard.planning.orders.elimination import eliminate
from lipguard.planning.orders.sites import SiteGraph
from lipguard.trusted.layers import Indices, Matrix
from lipguard.trusted.proofs.order import Elimination


def elimination_for(A: Matrix, site: Indices | None = None) -> Elimination:
    """Of a matrix whose pattern is that of A and its transpose; every variable is a site, or as `site` says."""
    site = np.arange(A.shape[0]) if site is None else site
    entries = (abs(A) + abs(A).T).tocoo()
    rows, columns = site[entries.row], site[entries.col]
    off = rows != columns
    sites = int(site.max()) + 1
    meets = sp.csr_array((np.ones(off.sum(), dtype=np.int8), (rows[off], columns[off])), shape=(sites, sites))
    return eliminate(SiteGraph(site, meets))


def elimination_for_norm(W: Matrix) -> Elimination:
    """Of [[s I, W'], [W, s I]]."""
    return elimination_for(sp.csr_array(sp.block_array([[None, abs(W).T], [abs(W), None]])))
