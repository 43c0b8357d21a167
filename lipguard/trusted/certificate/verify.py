"""Checking a certificate against a network: no solver, no trust."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from lipguard.errors import CertificateError, ConfigError, UnsupportedLayerError
from lipguard.trusted.certificate.blocks import Block, Partition
from lipguard.trusted.certificate.certificate import Certificate
from lipguard.trusted.layers import Shape
from lipguard.trusted.lmi.freed import FreedNetwork, are_tied
from lipguard.trusted.network.graph import Network
from lipguard.trusted.norms.input_norm import L2, InputNorm
from lipguard.trusted.norms.layers import node_norms
from lipguard.trusted.norms.product import product_bounds
from lipguard.trusted.proofs.claim import Claim, Means
from lipguard.trusted.proofs.hints import Hints
from lipguard.trusted.proofs.kinds import BY_NORMS, DETERMINISTIC, errs, proves, weakest
from lipguard.trusted.proofs.tiles import MERGES, prove_tiles
from lipguard.trusted.regions.bounded import bounded
from lipguard.trusted.regions.region import Domain, are_equal, checked_domain, in_words
from lipguard.trusted.regions.restriction import restricted
from lipguard.trusted.rounding import mul_up, sqrt_up, subnormal_numbers, up

Array = NDArray[np.float64]
_L2 = L2()
CHANCE = 1e-9  # the largest failure probability that is accepted, where nothing else is said


@dataclass(frozen=True)
class ProvedBlock:
    """What is proved of one block.

    Attributes:
        bound: its Lipschitz constant, l2 to l2.
        product: its product of norms, which the bound never exceeds.
        merges: what each merge of its tiles gives.
        form: the diagonal form at its input, if it has one of its own.
    """

    bound: float
    product: float
    merges: dict[str, float] = field(default_factory=dict)
    form: Array | None = None

    @classmethod
    def of_form(cls, claim: Claim, product: float) -> ProvedBlock:
        """Of a claim that was proved."""
        return cls(min(sqrt_up(float(claim.diagonal.max())), product), product, form=claim.diagonal)

    @property
    def by_norms(self) -> bool:
        """Whether the product of norms is all that is proved."""
        return self.bound >= self.product


def total_bound(blocks: Sequence[ProvedBlock], product: float) -> float:
    """Bounds of blocks in a row multiply; the product of all norms is never exceeded."""
    return min(mul_up(*(block.bound for block in blocks)), product)


def bound_in(norm: InputNorm, blocks: Sequence[ProvedBlock], product: float, shape: Shape) -> float:
    """The same for a norm of the input, which only the first block meets."""
    first, *others = blocks
    own = norm.of_l2(first.bound, shape)
    if first.form is not None:
        own = min(own, norm.bound(first.form, shape))
    return min(mul_up(own, *(block.bound for block in others)), norm.of_l2(product, shape))


@subnormal_numbers()
def verify_certificate(
    certificate: Certificate, network: Network, hints: Hints, *, domain: Domain | None = None,
    failure_probability: float = CHANCE, deterministic: bool = False, fresh: bool = False,
    input_norm: InputNorm = _L2,
) -> float:  # fmt: skip
    """Prove the certificate's bound anew, from its multipliers and the network's weights alone; see `lipguard.verify`.

    Returns:
        The certificate's bound, which is one in l2; or what its forms prove in another norm of the input.

    Raises:
        CertificateError: a check failed; the message says which.
        ConfigError: `failure_probability` is no probability, or `domain` no domain.
    """
    numeric = isinstance(failure_probability, (int, float)) and not isinstance(failure_probability, bool)
    if not (numeric and 0 <= failure_probability < 1):
        raise ConfigError(
            f"Expected failure_probability to be at least 0 and below 1, but got {failure_probability!r}."
        )
    _check_domain(certificate, domain)
    if certificate.digest != network.digest:
        raise CertificateError("The certificate belongs to other weights, or to another network (digests differ).")
    if tuple(certificate.input_shape) != network.input_shape:
        raise CertificateError(
            f"The certificate is for inputs of {certificate.input_shape}, not {network.input_shape}."
        )
    if certificate.merge not in MERGES:
        raise CertificateError(f"The certificate names the merge {certificate.merge!r}, which does not exist.")
    network, norms, product = _what_is_bounded(network, certificate.domain, hints)
    plan = certificate.plan
    plan.check(network)
    if not len(plan.blocks) == len(certificate.multipliers) == len(certificate.slacks) == len(certificate.forms):
        raise CertificateError("The certificate has not one entry per block of its plan.")
    _check_labels(certificate, product)
    if not deterministic:
        _check_chance(certificate, failure_probability)
    how = _How(hints, deterministic, os.urandom(32) if fresh else b"")
    proved = [_verified_block(certificate, network, norms, i, how) for i in range(len(plan.blocks))]
    found = total_bound(proved, product)
    if not found <= certificate.bound:
        raise CertificateError(f"The certificate claims {certificate.bound!r}, but proves only {found!r}.")
    if isinstance(input_norm, L2):
        return certificate.bound
    return bound_in(input_norm, proved, product, tuple(certificate.input_shape))


def _check_domain(certificate: Certificate, wanted: Domain | None) -> None:
    """A bound on some inputs may not pass for one on all, or on others."""
    own = certificate.domain
    checked_domain(wanted)
    if own is None or (wanted is not None and are_equal(own, wanted, tuple(certificate.input_shape))):
        return
    asked = "" if wanted is None else f", not on {in_words(wanted)}"
    raise CertificateError(
        f"The certificate holds on {in_words(own)} only{asked}; pass domain=certificate.domain if that is meant."
    )


def _what_is_bounded(network: Network, domain: Domain | None, hints: Hints) -> tuple[Network, list[float], float]:
    """(the network that proofs are about, the norms of its nodes, the product of norms, which is never exceeded)."""
    try:
        if network.steep:
            own = bounded(network, domain, hints)
            norms = node_norms(own, hints)
            return own, norms, product_bounds(own, norms)[-1]
        norms = node_norms(network, hints)
        product = product_bounds(network, norms)[-1]
        if domain is not None:
            network = restricted(network, domain, norms)
            norms = node_norms(network, hints)
    except ConfigError as error:
        raise CertificateError(f"The certificate's domain does not fit the network: {error}") from error
    except UnsupportedLayerError as error:
        raise CertificateError(f"The network has no bound where the certificate holds: {error}") from error
    return network, norms, product


def weakest_proof(plan: Partition, proved: Sequence[bool]) -> str:
    """The proof of a bound, given which blocks rest on an LMI."""
    return weakest(block.proof for block, has in zip(plan.blocks, proved, strict=True) if has)


def _check_labels(certificate: Certificate, product: float) -> None:
    """The certificate says what its blocks' proofs are, and how likely they fail.

    Where the product of norms, which is proved without them, is no larger than the claim, it may say so instead.
    """
    found = weakest_proof(certificate.plan, [bool(parts) for parts in certificate.multipliers])
    probability = certificate.failure_probability
    if certificate.proof != found and not (certificate.proof == BY_NORMS and product <= certificate.bound):
        raise CertificateError(f"The certificate names the proof {certificate.proof!r}, but its blocks have {found!r}.")
    if (probability > 0) != errs(found) or not 0 <= probability < 1:
        raise CertificateError(f"The certificate names the failure probability {probability!r} for a {found} proof.")


def chance_of(certificate: Certificate) -> Fraction:
    """The failure probability of all randomised proofs that a certificate stands on, added up exactly."""
    share = Fraction(share_of_probability(certificate.plan, certificate.failure_probability))
    plan, multipliers = certificate.plan, certificate.multipliers
    blocks = zip(plan.blocks, multipliers, strict=True)
    return share * sum(errs(block.proof) and bool(parts) for block, parts in blocks)


def _check_chance(certificate: Certificate, most: float) -> None:
    chance = chance_of(certificate)
    if chance > Fraction(most):
        enough = float(chance) if Fraction(float(chance)) >= chance else up(float(chance))
        raise CertificateError(
            f"The certificate's proofs fail with a probability of up to {enough!r}, and at most {most!r} is accepted. "
            f"Verify with deterministic=True, or with failure_probability={enough!r} if that is meant."
        )


def share_of_probability(plan: Partition, total: float) -> float:
    """The failure probability of each randomised proof, so that all of them together have at most `total`."""
    count = max(sum(errs(block.proof) for block in plan.blocks), 1)
    share = total / count
    return share if Fraction(share) * count <= Fraction(total) else math.nextafter(share, 0.0)


def block_norms(norms: Sequence[float], block: Block) -> list[float]:
    """The norms of the block's own nodes, its input included, from those of the network's."""
    return [1.0, *norms[block.start + 1 : block.stop + 1]]


def block_product(network: Network, norms: Sequence[float], block: Block) -> float:
    """The product bound of one block, from the norms of the network's nodes."""
    return product_bounds(block.network(network), block_norms(norms, block))[-1]


@dataclass(frozen=True)
class _How:
    """How proofs are done again."""

    hints: Hints
    deterministic: bool
    entropy: bytes


def _verified_block(
    certificate: Certificate, network: Network, norms: Sequence[float], i: int, how: _How
) -> ProvedBlock:
    block, slack = certificate.plan.blocks[i], certificate.slacks[i]
    product = block_product(network, norms, block)
    if not certificate.multipliers[i]:
        return ProvedBlock(product, product)
    parts = block.parts(network)
    multipliers = checked_multipliers(certificate.multipliers[i], parts, f"block {i}")
    if not 0 <= slack < np.inf:
        raise CertificateError(f"Block {i} has the slack {slack}, where a non-negative number was expected.")
    refused = f"The multipliers of block {i} do not prove a bound: its matrix is not positive semidefinite."
    if block.kind == "whole":
        probability = share_of_probability(certificate.plan, certificate.failure_probability)
        kind = DETERMINISTIC if how.deterministic and errs(block.proof) else block.proof
        claim = Claim(multipliers[0], certificate.forms[i], kind, slack, probability)
        if not proves(claim, parts[0], Means(how.hints, entropy=how.entropy)):
            raise CertificateError(refused)
        return ProvedBlock.of_form(claim, product)
    tiling = block.tiling(block.network(network))
    freed = [FreedNetwork.assemble(part) for part in parts]
    found = prove_tiles(tiling, freed, multipliers, slack, certificate.merge)
    if found is None:
        raise CertificateError(refused)
    return ProvedBlock(min(found.bound, product), product, found.merges)


def checked_multipliers(arrays: Sequence[Array], parts: Sequence[Network], where: str) -> list[Array]:
    """One finite, non-negative multiplier per neuron of every part.

    Raises:
        CertificateError: they are not.
    """
    if len(arrays) != len(parts):
        raise CertificateError(f"Expected {len(parts)} arrays of multipliers for {where}, but got {len(arrays)}.")
    for t, part in zip(arrays, parts, strict=True):
        if t.shape != (part.neurons,):
            raise CertificateError(
                f"Expected {part.neurons} multipliers for {where}, but got an array of shape {t.shape}."
            )
        if not (np.isfinite(t).all() and (t >= 0).all()):
            raise CertificateError(f"The multipliers of {where} are not all finite and non-negative.")
        if not are_tied(part, t):
            raise CertificateError(f"The multipliers of {where} differ within a group, which shares one.")
    return list(arrays)
