"""Networks that are cut: the same function, a larger class of relaxations, and LipSDP's matrix in pieces."""

from __future__ import annotations

import dataclasses
import gc
import weakref

import numpy as np
import pytest
import torch
from helpers.claims import matrix, proposed, smallest_eigenvalue
from helpers.networks import ACTIVATIONS, Residual, Sample, networks, with_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lipguard.certifying.hints import HINTS
from lipguard.proposing.power.options import PowerOptions
from lipguard.proposing.power.run import propose
from lipguard.trusted.layers import Activation
from lipguard.trusted.lmi.scaled import ScaledForm
from lipguard.trusted.network.cutting import cut_behind, pieces_of, subnetwork
from lipguard.trusted.network.graph import Network
from lipguard.trusted.proofs.sparse import is_form_positive_semidefinite
from lipguard.trusted.reading.trace import trace


def chain(activation: nn.Module | None = None) -> Network:
    activation = activation or nn.ReLU()
    layers = [nn.Conv2d(1, 2, 3, padding=1), activation, nn.Conv2d(2, 3, 3), activation, nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(27, 5), activation, nn.Linear(5, 2))
    return trace(with_weights(model, 0), (1, 5, 5))


def residual() -> Network:
    body = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4))
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), Residual(body, nn.Identity()), nn.ReLU(), nn.Linear(4, 2))
    return trace(with_weights(model, 1), (3,))


@given(networks(), st.data())
def test_the_function_is_the_same_and_no_smaller_rho_is_proved(sample: Sample, data: st.DataObject) -> None:
    network = trace(sample.model, sample.input_shape)
    inner = range(1, len(network.nodes) - 1)
    behind = data.draw(st.lists(st.sampled_from(inner), unique=True, max_size=4)) if inner else []
    cut = cut_behind(network, behind)
    x = sample.inputs()
    assert torch.equal(cut.forward(x), network.forward(x))
    assert len(cut.nodes) == len(network.nodes) + len(behind)
    assert (cut.architecture == network.architecture) == (not behind)
    for i in behind:
        assert cut.neurons > network.neurons or network.nodes[i].size == 0


def test_what_cannot_be_cut() -> None:
    network = chain()
    for i in (0, len(network.nodes) - 1, -1, 99):
        with pytest.raises(ValueError, match="Expected nodes between 1 and"):
            cut_behind(network, [1, i])


def test_pieces_are_between_cuts_that_every_path_passes() -> None:
    network = chain()
    assert pieces_of(network) == (tuple(range(len(network.nodes))),)
    first, second, _ = network.activations
    cut = cut_behind(network, [first, second])
    ends = (0, first), (first + 1, second + 1), (second + 2, len(cut.nodes) - 1)
    assert pieces_of(cut) == tuple(tuple(range(start, stop + 1)) for start, stop in ends)
    branched = residual()
    inside = next(i for i in branched.activations if i not in branched.separators)
    assert len(pieces_of(cut_behind(branched, [inside]))) == 1
    assert len(pieces_of(cut_behind(branched, [branched.activations[0]]))) == 2


def test_pieces_are_found_once_and_forgotten_with_their_network() -> None:
    network = cut_behind(chain(), chain().activations[:1])
    assert pieces_of(network) is pieces_of(network)
    gone = weakref.ref(network)
    del network
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("group", [1, 5])
def test_other_activations_with_the_slopes_of_copies_are_none(group: int) -> None:
    """|x|, and groups: what reads them reads no entries of what they read."""
    bent = Activation("bent", -1.0, 1.0, torch.abs, group)
    nodes = tuple(dataclasses.replace(n, layer=bent) if isinstance(n.layer, Activation) else n for n in chain().nodes)
    network = Network(nodes)
    assert pieces_of(network) == (tuple(range(len(nodes))),)
    cut = cut_behind(network, [network.activations[1]])
    assert len(pieces_of(cut)) == 2
    assert [len(piece) for piece in pieces_of(cut)] == [network.activations[1] + 1, len(nodes) - network.activations[1]]


@pytest.mark.parametrize("activation", [make() for make in ACTIVATIONS], ids=str)
def test_the_form_is_the_sum_of_its_pieces(activation: nn.Module) -> None:
    network = chain(activation)
    cut = cut_behind(network, network.activations[:2])
    rng = np.random.default_rng(0)
    t, rho = rng.uniform(0.5, 2.0, cut.neurons), 3.0
    form = ScaledForm(cut, t, rho)
    pieces = form.pieces()
    assert sum(piece.n for piece in pieces) == form.n
    z = torch.from_numpy(rng.standard_normal((4, form.n)))
    # The order of variables is that of execution: inputs of pieces are copies, which come before their activations.
    parts = torch.split(z, [piece.n for piece in pieces], dim=1)

    def value(own: ScaledForm, w: torch.Tensor) -> torch.Tensor:
        scaled = w / torch.from_numpy(own.scale)
        return (scaled * own(scaled)).sum(1)

    total = sum(value(piece, part) for piece, part in zip(pieces, parts, strict=True))
    assert torch.allclose(total, value(form, z), rtol=1e-12)
    magnitudes = sum(
        (w.abs() / torch.from_numpy(p.scale) * p.magnitude(w.abs() / torch.from_numpy(p.scale))).sum(1)
        for p, w in zip(pieces, parts, strict=True)
    )
    whole = z.abs() / torch.from_numpy(form.scale)
    assert torch.allclose(magnitudes, (whole * form.magnitude(whole)).sum(1), rtol=1e-12)


@given(networks(), st.data())
@settings(max_examples=30)
def test_sparse_proofs_of_pieces_agree_with_the_dense_matrix(sample: Sample, data: st.DataObject) -> None:
    network = trace(sample.model, sample.input_shape)
    inner = [i for i in network.separators if 0 < i < len(network.nodes) - 1]
    behind = data.draw(st.lists(st.sampled_from(inner), unique=True, max_size=3)) if inner else []
    cut = cut_behind(network, behind)
    t, rho = proposed(cut)
    if not (0 < rho < np.inf and (t > 0).all()):
        return
    for factor in (1.0, 0.9, 0.5):
        smallest = smallest_eigenvalue(cut, t, rho * factor)
        if abs(smallest) > 1e-9 * np.abs(matrix(cut, t, rho * factor)).sum(axis=1).max():
            assert is_form_positive_semidefinite(ScaledForm(cut, t, rho * factor), HINTS) == (smallest > 0)


def test_a_cut_loses_less_than_a_product_of_parts() -> None:
    network = chain()
    place = network.activations[1]
    options = PowerOptions(tolerance=1e-9)
    whole, cut = propose(network, options).value, propose(cut_behind(network, [place]), options).value
    last = len(network.nodes) - 1
    parts = [propose(subnetwork(network, *ends), options).value for ends in ((0, place), (place, last))]
    assert whole <= cut * (1 + 1e-6)
    assert cut < 0.98 * parts[0] * parts[1]
