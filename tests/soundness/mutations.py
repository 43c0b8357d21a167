"""Errors planted in the trusted code, one at a time: each must fail a test.

    python tests/soundness/mutations.py [--only WORD] [--jobs N]

A mutation replaces a piece of a file of `lipguard` in a copy of the project and runs the tests that watch over it. One
that survives is a term that nothing checks.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TERMS = "soundness/test_error_terms.py"
CHOLESKY = f"{TERMS} trusted/test_cholesky.py"
PROOFS = "contracts/test_proofs.py"
SPARSE = f"{TERMS} trusted/test_sparse_proof.py trusted/test_cut_networks.py trusted/test_unfolding.py {PROOFS}"
RANDOMISED = f"{TERMS} trusted/test_randomised_proof.py {PROOFS}"
NORMS = f"{TERMS} trusted/test_norms.py"
FORM = f"{TERMS} trusted/test_rounding_bounds.py trusted/test_scaled_form.py"
UNDERFLOW = "soundness/test_underflow.py"
VERIFY = "trusted/test_verify.py trusted/test_files.py"
DOMAIN = "trusted/test_domain.py contracts/test_regions.py"
DIGESTS = "trusted/test_digests.py"
MARGINS = "certifying/test_margins.py"
VALUES = "trusted/test_values.py"
CERTIFIED = "integration/test_certified_while_training.py"
PARAMETERS = "trusted/test_activation_parameters.py"
CONTRACT = "contracts/test_layers.py"
FORMS = "contracts/test_forms.py"
READING = "contracts/test_reading.py"
CHOICE = "trusted/test_choice.py"
WRAPPERS = "trusted/test_wrappers.py"
BRANCHES = "trusted/test_branches.py"
OTHER_PROOFS = "certifying/test_other_proofs.py"
AFFINE = "certifying/test_affine.py"
HIDDEN = "trusted/test_hidden_behaviour.py"
CONSTANTS = "trusted/test_constants.py"
CHOICES = "trusted/test_choices.py"
EXCHANGES = "trusted/test_exchanges.py"
REGISTERED = "trusted/test_registered_layers.py"
LOWER = "certifying/test_robustness.py"
BOUNDED = "trusted/test_bounded.py"
CURVES = "trusted/test_curves.py"
GROUPS = "trusted/test_groups.py"
FUSING = "trusted/test_fusing.py"
QUOTIENTS = "trusted/test_quotients.py"
FOLDED = "trusted/test_folded.py"
TILES = "trusted/test_is_tileable.py trusted/test_tile_geometry.py trusted/test_tile_matrices.py"


@dataclass(frozen=True)
class Mutation:
    """`old` becomes `new` in `file`; `tests` are to notice."""

    file: str
    old: str
    new: str
    tests: str


M = Mutation
MUTATIONS = (
    # Scalars that err upward.
    M("trusted/rounding.py", "return math.nextafter(value, math.inf)", "return value", "trusted/test_rounding.py"),
    M("trusted/rounding.py", "div_up(n * UNIT_ROUNDOFF, 1 - n * UNIT_ROUNDOFF)", "n * UNIT_ROUNDOFF",
      "trusted/test_rounding.py"),
    M("trusted/rounding.py", "return up(math.sqrt(value))", "return math.sqrt(value)", "trusted/test_rounding.py"),
    M("trusted/rounding.py", "product = up(product * factor)", "product = product * factor",
      "trusted/test_rounding.py"),
    M("trusted/rounding.py", "if float(narrowed) >= value else", "if True else", "trusted/test_rounding.py"),
    # Dense Cholesky.
    M("trusted/proofs/cholesky.py", "add_up(lost, factorisation_error(n, float(np.trace(B))))", "lost", CHOLESKY),
    M("trusted/proofs/cholesky.py", "add_up(lost, factorisation_error(n, float(np.trace(B))))",
      "factorisation_error(n, float(np.trace(B)))", CHOLESKY),
    M("trusted/proofs/cholesky.py", "np.nextafter(np.diag(B) - shift, -np.inf)", "np.nextafter(np.diag(B) + shift, -np.inf)",
      CHOLESKY),
    M("trusted/proofs/cholesky.py", "np.nextafter(np.diag(B) - shift, -np.inf)", "np.diag(B) - shift", CHOLESKY),
    M("trusted/proofs/cholesky.py", "float(rows.max()), up(1 + gamma_up(n + 2))", "float(rows.mean()), 1.0", CHOLESKY),
    M("trusted/proofs/cholesky.py", "lost = mul_up(float(rows.max()), up(1 + gamma_up(n + 2)))", "lost = float(rows.max())",
      CHOLESKY),
    M("trusted/proofs/cholesky.py", "    g = gamma_up(n + 2)\n", "    g = gamma_up(1)\n", CHOLESKY),
    M("trusted/proofs/cholesky.py", "mul_up(div_up(g, 1 - g), trace, up(1 + gamma_up(n + 2)))", "mul_up(g, trace)", CHOLESKY),
    M("trusted/proofs/cholesky.py", "return add_up(relative, mul_up(8.0 * n * (n + 4), SMALLEST_SUBNORMAL * 2.0**53))",
      "return relative", CHOLESKY),
    M("trusted/proofs/cholesky.py", "widened[np.diag_indices_from(A)] += np.abs(np.diag(A)) * 2.0**-52", "pass", CHOLESKY),
    M("trusted/proofs/cholesky.py", "if is_positive_semidefinite(*minus(bound, G, error)):", "if True:", CHOLESKY),
    # One block.
    M("trusted/proofs/dense.py", "roundings = 2 * freed.form_roundings + freed.n_x + 4", "roundings = 0", TERMS),
    M("trusted/proofs/dense.py", "gamma_up(roundings) * 1.001 * magnitude", "-gamma_up(roundings) * 1.001 * magnitude", TERMS),
    M("trusted/proofs/dense.py", "gamma_up(freed.form_roundings + 2) * 1.001 * magnitude", "0 * magnitude", TERMS),
    M("trusted/proofs/dense.py", "    magnitude[:n, :n] += np.abs(S)\n", "", TERMS),
    M("trusted/proofs/tiles.py", "error = gamma_up(int(cover.sum(axis=0).max()) + 4) * 1.001 * magnitude",
      "error = 0 * magnitude", TERMS),
    M("trusted/proofs/tiles.py", "mul_up(float(count), square) for count", "square for count", TILES + " " + TERMS),
    M("trusted/proofs/tiles.py", "cover[j, absolute] += 1", "cover[j, absolute] = 1", TILES + " " + TERMS),
    M("trusted/lmi/freed.py", "2 * self.roundings + max(self.neurons, len(self.Y)) + 16", "16", FORM),
    M("trusted/lmi/freed.py", "own = max(node.layer.roundings(), len(node.inputs) - 1)", "own = 0", FORM),
    M("trusted/lmi/freed.py", "backward.append(node.layer.adjoint_roundings() + max", "backward.append(max", FORM),
    M("trusted/lmi/freed.py", "sign * ((both * t)[:, None] * K)", "-sign * ((both * t)[:, None] * K)", FORM),
    M("trusted/layers/convolution.py", "return self.weight[0].numel() + self.weight_ulps", "return self.weight_ulps", FORM),
    M("trusted/layers/convolution.py", "return self.weight[0].numel() + self.weight_ulps", "return self.weight[0].numel()",
      FORM + " " + READING),
    M("trusted/layers/weights.py", "        return 1 + self.weight_ulps", "        return 1", FORM),
    M("trusted/lmi/scaled.py", "_OWN_ROUNDINGS = 20", "_OWN_ROUNDINGS = 0", FORM),
    M("trusted/lmi/scaled.py", "torch.nextafter(total, torch.full_like(total, torch.inf))", "total", SPARSE),
    M("trusted/lmi/scaled.py", "onward.append(sign * (self._outward * y))", "onward.append(-sign * (self._outward * y))", FORM),
    # What is written out where it is full, and state that is seen by sums.
    M("trusted/proofs/sparse.py", "full.T @ (weights[:, None] * full)", "full.T @ full", OTHER_PROOFS),
    M("trusted/proofs/sparse.py", "columns[gram.row], columns[gram.col]", "gram.row, gram.col", OTHER_PROOFS),
    M("trusted/lmi/matrices.py", "sp.csr_array(W.toarray() @ value.toarray())", "W", AFFINE),
    M("trusted/reading/faithful.py", "zlib.crc32(sums.data), zlib", "zlib", HIDDEN),
    M("trusted/reading/faithful.py", "zlib.crc32(numbers[end:].data)", "0", HIDDEN),
    # Sparse Cholesky.
    M("trusted/proofs/sparse.py", "shift = add_up(lost, factorisation_error(len(diagonal), float(diagonal.sum())))",
      "shift = lost", SPARSE),
    M("trusted/proofs/sparse.py", "shift = add_up(lost, factorisation_error(len(diagonal), float(diagonal.sum())))",
      "shift = factorisation_error(len(diagonal), float(diagonal.sum()))", SPARSE),
    M("trusted/proofs/sparse.py", "np.nextafter(diagonal - shift, -np.inf)", "np.nextafter(diagonal + shift, -np.inf)", SPARSE),
    M("trusted/proofs/sparse.py", "add_up(rows, sqrt_up(rows), 1.0)", "1.0", SPARSE),
    M("trusted/proofs/sparse.py", "collected = roundings(network) + 16", "collected = 0", SPARSE),
    M("trusted/proofs/sparse.py", "return bool((form.rho >= form.outward).all())", "return True", SPARSE),
    M("trusted/proofs/sparse.py", "    shift = add_up(error, factorisation_error(m + n, mul_up(float(m + n), bound)))",
      "    shift = error", NORMS + " " + SPARSE),
    M("trusted/proofs/sparse.py", "    shift = add_up(error, factorisation_error(m + n, mul_up(float(m + n), bound)))",
      "    shift = factorisation_error(m + n, mul_up(float(m + n), bound))", NORMS + " " + SPARSE),
    M("trusted/proofs/sparse.py", "add_up(error, factorisation_error(n, mul_up(float(n), bound)), mul_up(2 * UNIT_ROUNDOFF, bound))",
      "error", NORMS + " " + SPARSE),
    M("trusted/proofs/sparse.py", "add_up(error, factorisation_error(n, mul_up(float(n), bound)), mul_up(2 * UNIT_ROUNDOFF, bound))",
      "factorisation_error(n, mul_up(float(n), bound))", NORMS + " " + SPARSE),
    M("trusted/proofs/multifrontal.py", "if bool(failed) or not bool(pivots.diagonal().isfinite().all()):", "if bool(failed):",
      "trusted/test_multifrontal.py"),
    M("trusted/proofs/multifrontal.py", "if bool(failed) or not", "if not", "trusted/test_multifrontal.py"),
    M("trusted/proofs/multifrontal.py", ".neg_()", "", "trusted/test_multifrontal.py"),
    # The randomised proof.
    M("trusted/proofs/randomised.py", "eps = 1.01 * (4 / top", "eps = 0 * (4 / top", RANDOMISED),
    M("trusted/proofs/randomised.py", "gamma_up(form.roundings) * lost + gamma_up(16) * clearance", "gamma_up(16) * clearance",
      RANDOMISED),
    M("trusted/proofs/randomised.py", " + 4 * gamma_up(16))", ")", RANDOMISED),
    M("trusted/proofs/randomised.py", "eps * steps * steps / 2 * _GROWTH", "eps * steps", RANDOMISED),
    M("trusted/proofs/randomised.py", "probability ** (1 / vectors) / math.sqrt(2 * n / math.pi)",
      "probability ** (1 / vectors) * 2 / math.sqrt(2 * n / math.pi)", RANDOMISED),
    M("trusted/proofs/randomised.py", "probability ** (1 / vectors)", "probability ** (1 / (2 * vectors))", RANDOMISED),
    M("trusted/proofs/randomised.py", "largest = max(largest, float(", "largest = max(0 * largest, float(", RANDOMISED),
    M("trusted/proofs/randomised.py", "alpha=1 + 2 * clearance / top", "alpha=1 - 2 * clearance / top", RANDOMISED),
    M("trusted/proofs/randomised.py", "return 2 * math.asinh(math.sqrt(clearance / top))",
      "return 4 * math.asinh(math.sqrt(clearance / top))", RANDOMISED),
    M("trusted/proofs/randomised.py", "mul_(2).sub_(before)", "mul_(2).add_(before)", RANDOMISED),
    M("trusted/proofs/randomised.py", "seed = text.encode() + claim.t.tobytes() + means.entropy", "seed = b''", RANDOMISED),
    M("trusted/certificate/verify.py", "share = total / count", "share = total", f"{VERIFY} {TERMS}"),
    # Norms.
    M("trusted/norms/matrices.py", "error = 1.01 * gamma_up(W.shape[1] + 2 * weight_ulps + 4) * np.outer(lengths, lengths) + 2.0**-1000",
      "error = 0 * np.outer(lengths, lengths)", NORMS),
    M("trusted/norms/frequencies.py", "sqrt_up(add_up(largest.bound, lost))", "sqrt_up(largest.bound)", NORMS),
    M("trusted/norms/convolutions.py", "furthest = stride * (output - 1) + reach - before", "furthest = 0", NORMS),
    M("trusted/norms/convolutions.py", "covers *= -(-k // (s // math.gcd(s, d)))", "covers *= 1", NORMS),
    M("trusted/norms/layers.py", "up(1 + gamma_up(layer.weight_ulps))", "1.0", NORMS),
    M("trusted/norms/frequencies.py", "shift = mul_up(4.0, gamma_up(2 * self._n + 4), 2.0 * self._n, bound)", "shift = 0.0", NORMS),
    M("trusted/norms/product.py", "mul_up(norm, add_up(*(bounds[j] for j in network.nodes[i].inputs)))",
      "mul_up(norm, max(bounds[j] for j in network.nodes[i].inputs))", NORMS),
    # Underflow.
    M("trusted/rounding.py", "return scaled if scaled >= SMALLEST_NORMAL else up(scaled)", "return scaled", UNDERFLOW),
    M("trusted/norms/matrices.py", "ldexp_up(min(crude,", "math.ldexp(min(crude,", UNDERFLOW),
    M("trusted/lmi/underflow.py", "if least[-1] >= _SAFE and carried == 0:", "if True:", UNDERFLOW),
    M("trusted/lmi/underflow.py", "least.append(smallest * _CANCELLED if node.layer.roundings() else smallest)",
      "least.append(1.0)", UNDERFLOW),
    M("trusted/lmi/underflow.py", "_gains(layer, shapes)[0], carried", "1.0, carried", UNDERFLOW),
    M("trusted/lmi/underflow.py", "add_up(mul_up(gain, losses[i])", "add_up(mul_up(0.0, losses[i])", UNDERFLOW),
    M("trusted/lmi/underflow.py", "return bool(((weights >= SMALLEST_MULTIPLIER) & (weights <= 1 / SMALLEST_MULTIPLIER)).all()",
      "return bool((weights > 0).all()", UNDERFLOW),
    M("trusted/lmi/underflow.py", " and ordinary.all())", ")", UNDERFLOW),
    M("trusted/lmi/freed.py", "if of_rows.any() or of_output:", "if False:", UNDERFLOW),
    M("trusted/lmi/freed.py", "add_up(16.0 + self.neurons + len(self.Y), 1.001 * columns)", "0.0", UNDERFLOW),
    M("trusted/lmi/freed.py", "len(self.Y), 1.001 * columns)", "len(self.Y))", UNDERFLOW),
    M("trusted/lmi/freed.py", "return slope if slope == 0 or abs(slope) >= SMALLEST_SLOPE else", "return slope if True else",
      UNDERFLOW),
    M("trusted/lmi/scaled.py", "mul_up(float(self.scale.max()), most)", "0.0", UNDERFLOW),
    M("trusted/lmi/scaled.py", "most = add_up(max(backward[i] for i in (0, *network.activations)), max(direct))", "most = max(direct)",
      UNDERFLOW),
    M("trusted/proofs/claim.py", "return is_in_range(self.t, self.diagonal, *slope_ranges(network)) and",
      "return bool((self.diagonal > 0).all()) and", UNDERFLOW),
    M("trusted/proofs/claim.py", "self.diagonal.shape not in ((1,), (network.nodes[0].size,)) or", "", FORMS),
    M("trusted/proofs/dense.py", "M = R - (Q / s) @ Q.T", "M = R - (Q / s.max()) @ Q.T", FORMS),
    M("trusted/proofs/randomised.py", 'for s in claim.diagonal.tolist())', 'for s in claim.diagonal[:1].tolist())',
      "trusted/test_randomised_proof.py"),
    M("trusted/norms/input_norm.py", "return float(form.max())", "return float(form[0])", FORMS),
    M("trusted/norms/input_norm.py", ".max(axis=1).tolist()", ".mean(axis=1).tolist()", FORMS),
    M("trusted/norms/input_norm.py", "div_up(div_up(s, std), std)", "s / std / std", FORMS),
    M("trusted/norms/input_norm.py", "if len(self.std) != shape[0]:", "if False:", FORMS),
    M("trusted/norms/input_norm.py", "return up(math.fsum(form))", "return math.fsum(form)", FORMS),
    M("trusted/norms/input_norm.py", "mul_up(float(form[0]), float(math.prod(shape)))", "float(form[0])", FORMS),
    M("trusted/certificate/verify.py", "norm.of_l2(product, shape))", "product)", FORMS),
    M("trusted/certificate/verify.py", "own = norm.of_l2(first.bound, shape)", "own = first.bound", FORMS),
    M("trusted/proofs/dense.py", "add_up(lost, freed.form_underflow())", "freed.form_underflow()", UNDERFLOW),
    M("trusted/proofs/dense.py", "magnitude + freed.form_underflow()", "magnitude", UNDERFLOW),
    M("trusted/proofs/sparse.py", "underflow = _underflow(form, len(diagonal))", "underflow = 0.0", UNDERFLOW),
    M("trusted/proofs/sparse.py", "row = add_up(float((of_rows * factors).max(initial=0.0)),", "row = add_up(0.0,", UNDERFLOW),
    M("trusted/proofs/sparse.py", "entry = add_up(entry, joint, SMALLEST_NORMAL", "entry = add_up(entry, SMALLEST_NORMAL", UNDERFLOW),
    M("trusted/reading/builder.py", "(found.abs() < _LEAST_QUOTIENT) & (numerator != 0)", "(found.abs() < 0) & (numerator != 0)",
      "trusted/test_refused_networks.py"),
    M("trusted/regions/region.py", "float(lengths(self.halves(shape).reshape(1, -1)))", "float(self.halves(shape).norm())", UNDERFLOW),
    M("trusted/regions/intervals.py", "* grown + terms * SMALLEST_NORMAL).sqrt()", "* grown).sqrt()", UNDERFLOW),
    M("trusted/proofs/randomised.py", "+ UNIT_ROUNDOFF + underflow", "+ UNIT_ROUNDOFF", UNDERFLOW),
    M("trusted/proofs/randomised.py", "if not float(z.norm(dim=1).min()) >= _SHORTEST:", "if False:", UNDERFLOW),
    M("trusted/norms/layers.py", "float(sizes.sum(axis=(1, 2, 3)).max())", "float(sizes.sum(axis=(1, 2, 3)).min())", NORMS),
    M("trusted/norms/layers.py", "float(sizes.sum(axis=(0, 2, 3)).max())", "float(sizes.sum(axis=(0, 2, 3)).min())", NORMS),
    M("trusted/norms/matrices.py", "largest = max(largest, float(sizes.sum(axis=1).max()))", "largest = float(sizes.max())", NORMS),
    M("trusted/norms/layers.py", "norm, late = max(norm, error.bound), True", "late = True", NORMS),
    M("trusted/norms/layers.py", "            if exact:\n                raise\n", "", f"{NORMS} certifying/test_budgets.py"),
    # The verifier.
    M("trusted/certificate/verify.py", "if not found <= certificate.bound:", "if False:", VERIFY),
    M("trusted/certificate/verify.py", "if certificate.digest != network.digest:", "if False:", VERIFY),
    M("trusted/certificate/verify.py", "and (t >= 0).all()", "", VERIFY),
    M("trusted/certificate/verify.py", "    plan.check(network)\n", "", VERIFY),
    M("trusted/certificate/verify.py", "return min(mul_up(*(block.bound for block in blocks)), product)",
      "return min(max(block.bound for block in blocks), product)", f"{VERIFY} soundness/test_sandwich.py"),
    # Domains.
    M("trusted/regions/intervals.py", "moved = plain.linear(*halves) * (1 + 2 * error)", "moved = plain.linear(*halves) * 0.9", DOMAIN),
    M("trusted/regions/intervals.py", "+ terms * SMALLEST_NORMAL).sqrt()", "+ terms * SMALLEST_NORMAL) * 0", DOMAIN),
    M("trusted/regions/intervals.py", "low, high = torch.maximum(low, around_low - away)", "low, high = torch.maximum(low, around_low)",
      DOMAIN),
    M("trusted/regions/region.py", "device=\"cpu\").detach()", "device=\"cpu\").detach().float().double()", DOMAIN),
    M("trusted/regions/restriction.py", "torch.where(beta > alpha, above, 0.0)", "torch.where(beta > alpha, above * 0.9, 0.0)", DOMAIN),
    M("trusted/layers/slopes.py", "(low < right) & (high > left)", "(low < right) & (low > left)", DOMAIN),
    M("trusted/layers/slopes.py", "nearest = torch.where((low <= 0) & (high >= 0), 0.0,", "nearest = torch.where(low > 1e9, 0.0,", DOMAIN),
    M("trusted/certificate/verify.py", "network = restricted(network, domain, norms)", "pass", DOMAIN),
    M("trusted/norms/product.py", "most[source] = float(counts[1:].max())", "most[source] = 1.0", "soundness/test_layer_kinds.py"),
    M("trusted/regions/region.py", "if type(one) is not type(other):", "if False:", DOMAIN),
    M("trusted/regions/region.py", "torch.equal(a.broadcast_to(shape), b.broadcast_to(shape))", "True", DOMAIN),
    # What a certificate says of itself.
    M("trusted/certificate/verify.py", "    _check_domain(certificate, domain)\n", "", DOMAIN),
    M("trusted/certificate/verify.py", "(wanted is not None and are_equal(", "(wanted is not None or are_equal(", DOMAIN),
    M("trusted/certificate/verify.py", "        _check_chance(certificate, failure_probability)\n", "        pass\n", VERIFY),
    M("trusted/certificate/verify.py", "if chance > Fraction(most):", "if chance > 1:", VERIFY),
    M("trusted/certificate/verify.py", 'share * sum(errs(block.proof) and', 'share * any(errs(block.proof) and', VERIFY),
    M("trusted/certificate/verify.py", "<= Fraction(total) else math.nextafter(share, 0.0)", "<= Fraction(total) else share", VERIFY),
    M("trusted/certificate/verify.py", 'certificate.proof == BY_NORMS and product <= certificate.bound', 'certificate.proof == BY_NORMS',
      VERIFY),
    M("trusted/certificate/verify.py", '(probability > 0) != errs(found) or', "", VERIFY),
    M("trusted/certificate/verify.py", "or not 0 <= probability < 1:", "and False:", VERIFY),
    M("trusted/certificate/verify.py", "if not (numeric and 0 <= failure_probability < 1):", "if not numeric:", VERIFY),
    M("trusted/certificate/certificate.py", "if found.domain is not None:", "if False:", VERIFY),
    M("trusted/certificate/certificate.py", "if not 0 <= probability < 1:", "if False:", VERIFY),
    M("certifying/margins.py", "if certificate.digest != network.digest:", "if False:", MARGINS),
    M("certifying/margins.py", "if certificate.domain is not None:", "if False:", MARGINS),
    M("choosing/selection.py", "if not all(0 <= share <= 1 for share", "if not all(True for share", "app/test_select_command.py"),
    M("choosing/selection.py", "failure_probability=failure_probability)", "failure_probability=0.5)", "app/test_select_command.py"),
    # Digests.
    M("trusted/network/digest.py", "all_of((value.func, value.args, value.keywords))", "all_of((value.func, value.args))", DIGESTS),
    M("trusted/network/digest.py", 'return ("float", value.hex())', 'return ("float", f"{value:.6g}")', DIGESTS),
    M("trusted/network/digest.py", "*(all_of(_inside(value)) if _is_local(value) else ())", "", DIGESTS),
    M("trusted/network/digest.py", "*(all_of((*held, *value.__bases__)) if _is_local(value) else ())", "", DIGESTS),
    M("trusted/network/digest.py", "hashlib.sha256(numbers).hexdigest()", "0", DIGESTS),
    M("trusted/network/digest.py", "for name in state if name not in _OWN or name in _FUNCTION_OF", "for name in state if name in _FUNCTION_OF",
      DIGESTS),
    M("trusted/network/digest.py", "    known |= {name: list(state[name].values()) for name in _HOOKS}", "    # no hooks", DIGESTS),
    M("trusted/network/digest.py", "sorted(all_of(value), key=repr)", "all_of(value)", DIGESTS),
    M("trusted/network/graph.py", "found = described(getattr(node.layer, field.name), weights)",
      "found = '' if callable(getattr(node.layer, field.name)) else described(getattr(node.layer, field.name), weights)", DIGESTS),
    # Devices that emulate double precision.
    M("trusted/rounding.py", '(kind == "cuda" and not emulated)', '(kind == "cuda")', "trusted/test_rounding.py"),
    M("trusted/proofs/randomised.py", "if not rounds_as_ieee(form.device):", "if False:", "trusted/test_randomised_proof.py"),
    M("trusted/proofs/randomised.py", 'means.device if rounds_as_ieee(means.device) else "cpu"', "means.device", PROOFS),
    M("trusted/proofs/multifrontal.py", 'device.type != "cuda" or not rounds_as_ieee(device)', 'device.type != "cuda"',
      "trusted/test_multifrontal.py"),
    # Logits.
    M("certifying/radii.py", "gap = _below(gap - _above(off.gather(1, predicted[:, None]) + off))", "gap = _below(gap - off)", MARGINS),
    M("certifying/radii.py", "gap = _below(gap - _above(off.gather(1, predicted[:, None]) + off))",
      "gap = _below(gap - _above(off.gather(1, predicted[:, None])))", MARGINS),
    M("certifying/radii.py", "below = _below(gap.clamp_min(0.0) / constants[predicted])", "below = (gap.clamp_min(0.0) / constants[predicted])",
      MARGINS),
    M("certifying/radii.py", "(values.to(dtype).to(values.dtype) == values) | ~known", "(values != values)", MARGINS),
    M("certifying/radii.py", "or torch.cuda.is_initialized()", "", MARGINS),
    M("metrics/certified_accuracy.py", "found = torch.nextafter(found, torch.zeros_like(found))", "pass",
      "metrics/test_certified_accuracy.py"),
    M("trusted/regions/intervals.py", "lost = error * (plain.linear(*(c.abs() for c in centres)) + bias)", "lost = error * bias", VALUES),
    M("trusted/regions/intervals.py", "lost = error * (plain.linear(*(c.abs() for c in centres)) + bias)",
      "lost = error * plain.linear(*(c.abs() for c in centres))", VALUES),
    M("trusted/regions/intervals.py", "return layer.forward(*centres), moved, lost * (1 + 2 * error) + _TINY",
      "return layer.forward(*centres), moved, lost", VALUES),
    M("trusted/rounding.py", "torch.where(largest > 0, rows / largest, torch.zeros_like(rows))", "rows / 1.0", VALUES),
    M("trusted/rounding.py", "found: Tensor = largest * relative.norm", "found: Tensor = relative.norm", VALUES),
    M("trusted/regions/intervals.py", "return value, lengths(half).expand_as(half), lost", "return value, half, lost", VALUES),
    M("trusted/regions/intervals.py", "lost = slack * (value.abs() + read)", "lost = 0 * (value.abs() + read)", VALUES),
    M("trusted/regions/values.py", "half = _known((moved + lost) * _UP)", "half = _known(lost * _UP)", VALUES),
    M("trusted/regions/values.py", "half = _known((moved + lost) * _UP)", "half = _known(moved * _UP)", VALUES),
    M("trusted/regions/values.py", "(length + lengths(lost.reshape(len(lost), -1))[:, 0]) * _UP", "length * _UP", VALUES),
    M("trusted/regions/values.py", "total * norm + 1e-300", "total + 1e-300", VALUES),
    M("trusted/regions/values.py", "torch.maximum(one.half, other.half)", "torch.minimum(one.half, other.half)", VALUES),
    M("trusted/regions/values.py", "error.nan_to_num(nan=torch.inf, posinf=torch.inf)", "error.nan_to_num(nan=0.0)", VALUES),
    M("trusted/regions/values.py", "x.device if rounds_as_ieee(x.device)", "x.device if True", VALUES),
    M("callbacks/recomputed.py", "lost + _moved_by_rounding(samples.inputs[chosen], constants)[:, None]", "lost",
      "callbacks/test_validated.py"),
    M("callbacks/recomputed.py", "samples.logits.to(torch.float64, copy=True)", "samples.logits.double()",
      "callbacks/test_validated.py"),
    M("callbacks/recomputed.py", "share = max(samples.rounding, ROUNDING_OF_TF32)", "share = 1.0", CERTIFIED),
    M("callbacks/recomputed.py", "error = torch.full_like(logits, torch.inf)", "error = torch.zeros_like(logits)", CERTIFIED),
    M("callbacks/certified.py", 'if network.digest != row["digest"]:', "if False:", CERTIFIED),
    M("callbacks/certified.py", "if not bounded:", "if False:", CERTIFIED),
    # Parameters of activations.
    M("trusted/layers/slopes.py", "    return _outward(torch.minimum(*ends), torch.maximum(*ends))", "    return _outward(*ends)",
      PARAMETERS),
    M("trusted/layers/functions.py", "min(0.0, alpha), max(1.0, alpha)", "0.0, max(1.0, alpha)", PARAMETERS),
    M("trusted/layers/functions.py", "if alpha < 0:", "if alpha < -1e301:", PARAMETERS),
    M("trusted/layers/functions.py", "if alpha < sys.float_info.min:", "if alpha == 0:", PARAMETERS),
    M("trusted/layers/functions.py", "if threshold < _LEAST_THRESHOLD:", "if threshold < 1.5:", PARAMETERS),
    M("trusted/layers/functions.py", "if beta == 0:", "if False:", PARAMETERS),
    M("trusted/layers/functions.py", "note=note if jump > 0 else \"\"", "note=\"\"", PARAMETERS),
    M("trusted/layers/functions.py", "if lambd < 0:", "if False:", PARAMETERS),
    M("trusted/layers/functions.py", "if least > most:", "if False:", PARAMETERS),
    M("trusted/layers/functions.py", "if not math.isfinite(value):", "if False:", PARAMETERS),
    M("trusted/layers/activation.py", "if not -math.inf < self.alpha <= self.beta < math.inf:", "if False:", PARAMETERS),
    M("trusted/layers/activation.py", "(self.alpha, self.beta) != (-1, 1)", "False", PARAMETERS),
    M("trusted/layers/functions.py", "if (min_val, max_val) != (0.0, 6.0):", "if False:", PARAMETERS),
    # What no table knows.
    M("trusted/layers/layer.py", "    @abc.abstractmethod\n    def linear(", "    def linear(", CONTRACT),
    M("trusted/layers/layer.py", "    @abc.abstractmethod\n    def absolute(", "    def absolute(", CONTRACT),
    M("trusted/layers/layer.py", "    @abc.abstractmethod\n    def support(", "    def support(", CONTRACT),
    M("trusted/layers/layer.py", "    @abc.abstractmethod\n    def squared(", "    def squared(", CONTRACT),
    M("trusted/layers/layer.py", "    @abc.abstractmethod\n    def roundings(", "    def roundings(", CONTRACT),
    M("trusted/layers/layer.py", "    @abc.abstractmethod\n    def adjoint_roundings(", "    def adjoint_roundings(", CONTRACT),
    M("trusted/layers/layer.py", "    @abc.abstractmethod\n    def matrix(", "    def matrix(", CONTRACT),
    M("trusted/layers/layer.py", "    @abc.abstractmethod\n    def multiplications(", "    def multiplications(", CONTRACT),
    M("trusted/layers/layer.py", "    @abc.abstractmethod\n    def windows(", "    def windows(", CONTRACT),
    M("trusted/layers/layer.py", "    @abc.abstractmethod\n    def padded(", "    def padded(", CONTRACT),
    M("trusted/layers/layer.py", "    @abc.abstractmethod\n    def on_box(", "    def on_box(", CONTRACT),
    M("trusted/layers/layer.py", "and FACTS & set(vars(cls)):", "and False:", CONTRACT),
    M("trusted/norms/layers.py", "raise no_row(layer, \"norms\")", "return 1.0", CONTRACT),
    M("trusted/layers/weights.py", "scale=(self.scale != 0).to(self.scale)", "scale=self.scale", CONTRACT),
    M("trusted/layers/convolution.py", "weight=self.weight.square(), bias=None", "weight=self.weight.abs(), bias=None",
      CONTRACT),
    M("trusted/layers/convolution.py", "dilation * (taps - 1) + 1", "taps", CONTRACT),
    M("trusted/layers/convolution.py", "befores = (self.padding[2], self.padding[0])",
      "befores = (self.padding[0], self.padding[2])", CONTRACT),
    M("trusted/layers/moves.py", "Window(before=before[2]), Window(before=before[0])", "Window(), Window()", CONTRACT),
    M("trusted/layers/weights.py", "if value is not None and not is_constant(value)", "if False", CONTRACT),
    M("planning/orders/sites.py", "elif isinstance(layer, (Input, Scale, Reshape, Add)) and",
      "elif not isinstance(layer, Linear) and", CONTRACT),
    M("trusted/network/cutting.py", "if isinstance(network.nodes[i].layer, Copies)]",
      "if getattr(network.nodes[i].layer, 'alpha', 0) == -1]",
      "trusted/test_cut_networks.py"),
    M("trusted/network/graph.py", "if field.name == \"note\":", "if False:", "trusted/test_digests.py"),
    # Reading.
    M("trusted/reading/table.py", "if operation in rows:", "if False:", READING),
    M("trusted/reading/table.py", "return rows[cls] if kept else None", "return rows[cls]", "trusted/test_traced_graph.py"),
    M("trusted/reading/lowering.py", "raise refusal(builder.path, name, operation)", "return args[0]",
      "trusted/test_refused_networks.py"),
    M("trusted/reading/lowering.py", "        check_in_place(graph)\n", "        pass\n", "trusted/test_hidden_behaviour.py"),
    M("trusted/reading/checks.py", "if result is not None:", "if False:", "trusted/test_hidden_behaviour.py"),
    M("trusted/reading/pooling.py", "(first + k).clamp(max=n + p) - first", "k", READING),
    M("trusted/reading/arithmetic.py", "return add(builder, x, y, alpha=-alpha)", "return add(builder, x, y, alpha=alpha)",
      READING),
    # Which function is read.
    M("trusted/reading/builder.py", "        raise error\n", "        return Ref(0, self.nodes[0].shape)\n",
      "trusted/test_refused_networks.py"),
    M("trusted/reading/trace.py", "model = in_eval_mode(model)", "model = PrivateCopy(model).module", CHOICE),
    M("trusted/reading/choice.py", "        value = _part(value, step)\n", "        value = _part(value, 0)\n", CHOICE),
    M("trusted/reading/choice.py", "fixed = {named(key): value for key, value in reading.fixed.items()}",
      "fixed = {named(key): value * 0 for key, value in reading.fixed.items()}", CHOICE),
    M("trusted/reading/wrappers.py", "type(module).forward is not kind.forward or", "False or", WRAPPERS),
    M("trusted/reading/wrappers.py", "    own = uncompiled(vars(module).get(\"forward\"))\n    if own is None:\n        return False",
      "    own = None\n    if own is None:\n        return False", WRAPPERS),
    M("trusted/reading/wrappers.py", "if module._forward_hooks or module._forward_pre_hooks:", "if False:", WRAPPERS),
    # Branches on values.
    M("trusted/reading/branches.py", "        if found.digest != network.digest:", "        if False:", BRANCHES),
    M("trusted/reading/branches.py", "        ways += answers.others()\n", "", BRANCHES),
    M("trusted/reading/branches.py", " and _raised(error) == raised", "", BRANCHES),
    M("trusted/reading/branches.py", "    return raised is None and not answering.left and same", "    return raised is None", BRANCHES),
    M("trusted/reading/branches.py", "_SIZES = (1, 2, 4)", "_SIZES = (3,)", BRANCHES),
    M("trusted/reading/branches.py", "        if raised is None:\n            return False\n", "        return True\n", BRANCHES),
    M("trusted/reading/branches.py", "_instruction(trace) == \"RAISE_VARARGS\"", "True", BRANCHES),
    M("trusted/reading/tracer.py", "            raise fx.proxy.TraceError(\"a value is used as a number of Python\")\n", "            pass\n",
      BRANCHES),
    M("trusted/reading/tracer.py", "node.meta[\"varies\"] and _is_ragged(node)", "False", BRANCHES),
    M("trusted/reading/proxies.py", "return repr(self)", "return format(self.node.meta[\"value\"], spec)",
      BRANCHES),
    M("trusted/reading/pooling.py", "if not bool(inside.any(1).all()):", "if False:", "trusted/test_refused_networks.py"),
    M("trusted/reading/constants.py", "return any(source in known for source in _nodes_of(others))", "return False", CONSTANTS),
    M("trusted/reading/constants.py", "if len(constant) != 1 and not alike:", "if False:", CONSTANTS),
    M("trusted/reading/constants.py", "if len({len(shape) for shape in shapes}) > 1:", "if False:", CONSTANTS),
    M("trusted/reading/casting.py", "if dtype is None or dtype in _KEPT or whole:", "if True:",
      "trusted/test_refused_networks.py"),
    M("trusted/reading/lowering.py", "    _check_pending(builder, kind, name, (args, kwargs))\n", "",
      "trusted/test_refused_networks.py"),
    M("trusted/reading/contractions.py", "layers.Conv2d(taps, groups=count(joint))", "layers.Conv2d(taps.flip(1), groups=count(joint))",
      CONSTANTS),
    M("trusted/reading/contractions.py", "joint + summed + columns, (*stack, inner, m)", "joint + columns + summed, (*stack, inner, m)",
      READING),
    M("trusted/reading/contractions.py", "or any(sizes[1].get(c, n) != n", "or any(False", "trusted/test_refused_networks.py"),
    M("trusted/reading/arithmetic.py", "return multiplied(builder, x, y)", "return scaled(builder, x, 1.0)", READING),
    M("trusted/reading/lines.py", "if not bool(np.all(jump == 0)) or (rounded and not plain):", "if rounded and not plain:",
      CHOICES),
    M("trusted/reading/lines.py", "or (rounded and not plain):", "or False:", CHOICES),
    M("trusted/reading/lines.py", "weight_ulps=0 if exact else 1", "weight_ulps=0", CHOICES),
    M("trusted/reading/lines.py", "alpha=alpha, beta=beta, within=None", "within=None", CHOICES),
    M("trusted/reading/choices.py", "if bool((rationals(found) != exactly(rationals(x), rationals(y))).any()):", "if False:",
      CHOICES),
    M("trusted/reading/reflections.py", "node.layer.linear(*(v[1:] for v in read))", "node.layer.forward(*(v[1:] for v in read))",
      CHOICES),
    M("trusted/reading/reflections.py", "_SAMPLED, _ULPS = 2.0**-40", "_SAMPLED, _ULPS = 1e-4", CHOICES),
    M("trusted/reading/maxima.py", "or int(torch.bincount(both).max()) > 1", "or False", EXCHANGES),
    M("trusted/network/exchanging.py", "right = np.array_equal(source, expected) and np.array_equal(", "right = np.array_equal(",
      EXCHANGES),
    M("trusted/network/exchanging.py", "np.array_equal(np.where(source < 0, 0.0, signs), direction)", "True", EXCHANGES),
    M("trusted/network/cutting.py", "bent.alpha >= 0 and bent.beta <= 1", "bent.beta <= 1", EXCHANGES),
    M("trusted/network/cutting.py", "bent.alpha >= 0 and bent.beta <= 1", "bent.alpha >= 0", EXCHANGES),
    M("trusted/network/cutting.py", "bool((turned.scale == -1).all())", "True", EXCHANGES),
    M("trusted/network/exchanging.py", "len(np.unique(all_)) == len(all_)", "True", EXCHANGES),
    M("trusted/network/exchanging.py", "all_.min() >= 0", "True", EXCHANGES),
    M("trusted/network/exchanging.py", "isinstance(sign, Scale) and not sign.weight_ulps", "isinstance(sign, Scale)", EXCHANGES),
    M("trusted/regions/intervals.py", "if ordered is not None and is_relu(network.nodes[ordered.excess].layer)",
      "if ordered is not None", EXCHANGES),
    M("trusted/regions/intervals.py", "torch.minimum(a, b), torch.maximum(a, b)", "torch.maximum(a, b), torch.minimum(a, b)",
      EXCHANGES),
    # Registered layers.
    M("trusted/reading/own.py", "constant, _OWN_MATRIX_ULPS, note)", "constant, 0, note)", REGISTERED),
    M("trusted/reading/own.py", "_EXPONENTS = (600, 300, 100, 60, 30, 0)", "_EXPONENTS = (0,)", REGISTERED),
    M("trusted/reading/own.py", "if derived is not None and bool(", "if derived is not None or bool(", REGISTERED),
    M("trusted/reading/own.py", "_SCALES = (2.0**-20, 1.0, 2.0**20, 2.0**40, 2.0**60)", "_SCALES = (1.0,)", REGISTERED),
    M("trusted/reading/own.py", "allowed = _SAMPLED * size", "allowed = 1e-7 * size", REGISTERED),
    M("trusted/reading/own.py", "if not bool((within & alone).all()):", "if not bool(within.all()):", REGISTERED),
    M("trusted/reading/own.py", "if not bool((within & alone).all()):", "if not bool(alone.all()):", REGISTERED),
    M("trusted/reading/own.py", "for other in (v, torch.where(kept, u, v)):", "for other in (v,):", REGISTERED),
    M("trusted/reading/own.py", "torch.where(size < 0.5, 1.0, 2.0 ** (-60 * (size - 0.5)))", "1.0", REGISTERED),
    M("trusted/reading/own.py", " or not bool(torch.isfinite(y).all()):", ":", REGISTERED),
    # Products, steep functions, groups, and what is one function though it is written out.
    M("trusted/regions/enclosures.py", "torch.nextafter(centre - half, -infinity)", "centre", BOUNDED),
    M("trusted/regions/enclosures.py", "torch.stack(corners).amin(0)", "corners[0]", BOUNDED),
    M("trusted/regions/enclosures.py", "masked_fill(reached > 0, math.inf)", "masked_fill(reached < 0, math.inf)", BOUNDED),
    M("trusted/regions/enclosures.py", "add_up(mul_up(sizes[0], of_b), mul_up(sizes[1], of_a))", "mul_up(sizes[0], of_b)",
      BOUNDED),
    M("trusted/regions/enclosures.py", "slopes[1].abs()).max())", "slopes[1].abs()).min())", BOUNDED),
    M("trusted/regions/enclosures.py", "(rows.sqrt() * columns.sqrt())", "rows.sqrt()", BOUNDED),
    M("trusted/regions/enclosures.py", "if not max(sizes) < _LARGEST:", "if False:", BOUNDED),
    M("trusted/regions/enclosures.py", "if not steepest < _LARGEST:", "if False:", BOUNDED),
    M("trusted/regions/enclosures.py", "torch.where(turns, bottom, least)", "least", BOUNDED),
    M("trusted/regions/enclosures.py", "torch.maximum(low, points[i][0] - away)", "torch.maximum(low, points[i][0])", BOUNDED),
    M("trusted/regions/bounded.py", "self._times(b, *of_a), self._times(a, *of_b)", "self._times(b, *of_b), self._times(a, *of_a)",
      BOUNDED),
    M("trusted/regions/bounded.py", "self._times(b, *of_a), self._times(a, *of_b)", "self._times(b, *of_a), self._times(b, *of_a)",
      BOUNDED),
    M("trusted/regions/bounded.py", "_above(high - low, high > low)[0], 0.0", "_above(high - low, high < low)[0], 0.0", BOUNDED),
    M("trusted/regions/bounded.py", "self._turned(b), matrix_sizes(of_a), n", "self._turned(b), matrix_sizes(of_a) / 99, n", BOUNDED),
    M("trusted/regions/bounded.py", "self._group(a, matrix_sizes(of_b), m)", "self._group(a, matrix_sizes(of_b) / 99, m)", BOUNDED),
    M("trusted/regions/restriction.py", "torch.where(whole, beta, layer.beta)", "torch.where(whole, 0.1 * beta, layer.beta)", GROUPS),
    M("trusted/regions/intervals.py", "layer.forward(a.abs(), s) + layer.forward(r, b.abs() + s)", "layer.forward(a.abs(), s)",
      f"{BOUNDED} {VALUES}"),
    M("trusted/certificate/verify.py", "own = bounded(network, domain, hints)", "own = bounded(network, None, hints)", BOUNDED),
    M("trusted/layers/ranged.py", "if self.has_constant or self.within is None or self.group > 1:", "if self.has_constant:", CURVES),
    M("trusted/layers/slopes.py", "torch.where(met(math.pi), -1.0, alpha)", "alpha", CURVES),
    M("trusted/layers/slopes.py", "torch.where(met(0.0), 1.0, beta)", "beta", CURVES),
    M("trusted/layers/slopes.py", "(exponent % 2 == 1), 0.0, alpha)", "(exponent % 2 == 7), 0.0, alpha)", CURVES),
    M("trusted/layers/slopes.py", "torch.where(apart, alpha, -torch.inf)", "alpha", CURVES),
    M("trusted/layers/slopes.py", "torch.where(low >= 0, beta, torch.inf)", "beta", CURVES),
    M("trusted/layers/curves.py", "turns = (low <= 0) & (high >= 0) & (exponent % 2 == 0)", "turns = low != low", CURVES),
    M("trusted/layers/groups.py", "factor=2.0)), 0.5", "factor=2.0)), 0.4", GROUPS),
    M("trusted/layers/groups.py", "partial(_softmax, factor=2.0)", "partial(_softmax, factor=2.5)", GROUPS),
    M("trusted/layers/groups.py", "root = math.sqrt(size) * _UP", "root = 0.9 * math.sqrt(size)", GROUPS),
    M("trusted/layers/groups.py", "1.0 if order >= 2 else", "1.0 if order >= 1 else", GROUPS),
    M("trusted/layers/groups.py", "rest.clamp_min(0.0) + lost", "rest.clamp_min(0.0) * 0.9", GROUPS),
    M("trusted/layers/groups.py", "((total - nearest) * (1 - 1e-12) - 1e-12 * total).clamp_min(0.0)", "total", GROUPS),
    M("trusted/layers/groups.py", "most = (root / least * (1 + 1e-12)).clamp(max=1.0)", "most = (root / least * 0.5).clamp(max=1.0)",
      GROUPS),
    M("trusted/reading/quotients.py", "(found // group.shape[-1] == of_group).all()", "True", QUOTIENTS),
    M("trusted/reading/quotients.py", "not eps or line.shift or", "not eps or", QUOTIENTS),
    M("trusted/reading/quotients.py", "same(builder, one) != same(builder, other)", "False", QUOTIENTS),
    M("trusted/reading/quotients.py", "(divisor * line.factor * math.sqrt(n))", "(divisor * math.sqrt(n))", QUOTIENTS),
    # Batch axes that are folded with others.
    M("trusted/reading/folding.py", "-1, layer.index + first)", "-1, layer.index)", FOLDED),
    M("trusted/reading/folding.py", "torch.where(layer.index < 0, -1, layer.index + first)", "layer.index + first", FOLDED),
    M("trusted/reading/folding.py", "layer.weight.repeat(k, 1, 1, 1)", "layer.weight.repeat_interleave(k, 0)", FOLDED),
    M("trusted/reading/folding.py", "layer.bias.repeat(k)", "layer.bias.repeat_interleave(k)", FOLDED),
    M("trusted/reading/folding.py", " or _is_registered(layer)", "", FOLDED),
    M("trusted/reading/folding.py", "if len(views) > 1 or", "if", FOLDED),
    M("trusted/reading/folding.py", "or not all(isinstance(value, Folded) for value in values)", "", FOLDED),
    M("trusted/reading/folding.py", "return BATCH * self.parts", "return BATCH", FOLDED),
    M("trusted/reading/arithmetic.py", "x.axis - sum(d < x.axis for d in over)", "x.axis", FOLDED),
    M("trusted/reading/arithmetic.py", "else d + (d < x.axis)", "else d", FOLDED),
    M("trusted/reading/pooling.py", "torch.arange(k) * d - p - before", "torch.arange(k) * d - p", FOLDED),
    M("trusted/reading/moving.py", "-math.inf and min(pad) >= 0", "-math.inf", FOLDED),
    M("trusted/reading/faithful.py", "if scales is not _SCALES[0]:", "if True:", FOLDED),
    M("trusted/reading/lines.py", "max(factor, Fraction(0)), min(factor, Fraction(0))", "abs(factor), Fraction(0)", CHOICES),
    M("trusted/reading/constants.py", "_HIDDEN = -(2.0**100)", "_HIDDEN = -1.0", READING),
    M("trusted/reading/matrices.py", "seen = ~attn_mask if", "seen = attn_mask if", BOUNDED),
    M("trusted/reading/matrices.py", "dtype=torch.bool).tril()", "dtype=torch.bool)", READING),
    M("trusted/reading/values.py", "(type(node.layer).__name__, what, *inputs)", "(type(node.layer).__name__,)", CHOICES),
    M("trusted/reading/fusing.py", "(1,), -line.shift", "(1,), line.shift", READING),
    M("trusted/reading/fusing.py", "known = (line.factor, line.shift) == (1, 3)", "known = True", FUSING),
    M("trusted/reading/fusing.py", "f > 0:", "f != 0:", FUSING),
    M("trusted/reading/composing.py", "(line.factor, line.shift) != (1, 1) or line.ulps", "False", FUSING),
    M("trusted/reading/composing.py", "line.factor > 0 and line.shift >= 0", "line.factor != 0", FUSING),
    M("trusted/reading/composing.py", "not line.factor < 0 or line.shift", "line.factor == 0", FUSING),
    M("trusted/reading/chains.py", "layer.group == 1 and function_of(layer) is function",
      "layer.name == getattr(function, '__name__', '')", FUSING),
    M("trusted/reading/ending.py", "if first == 0 or not torch.equal(", "if first == 0 or torch.equal(", "trusted/test_ending.py"),
    # Lower bounds.
    M("certifying/lower_bound.py", "image * (1 - 1e-9) - error * (1 + 1e-3)", "image * (1 - 1e-9)", LOWER),
    M("certifying/lower_bound.py", "moved[1] + lost + _UNDERFLOW", "moved[1] + lost", LOWER),
    M("certifying/lower_bound.py", " + _SLOPE_ERROR * steepest * _summed(layer, inputs[0][0])", "", LOWER),
    M("certifying/lower_bound.py", "moved = slope.clamp(layer.alpha, layer.beta)", "moved = slope", LOWER),
    M("certifying/lower_bound.py", "_STRAY = 1e-6", "_STRAY = 1e-1", LOWER),
    # Tiles.
    M("trusted/layers/activation.py", "return ITSELF if self.group == 1 else None", "return ITSELF", TILES),
    M("trusted/network/unfolding.py", "len(node.shape) == 3 and node.layer.windows() is not None", "len(node.shape) == 3", TILES),
    M("trusted/network/tiling.py", "alpha=min(layer.alpha, 0.0), beta=max(layer.beta, 0.0)", "alpha=layer.alpha", TILES),
    M("trusted/network/tiling.py", "_pads_zeros(network, axis) for axis", "True for axis", TILES),
    M("trusted/network/boxes.py", "max(read[0], 0), min(read[1], network.nodes[j].shape[1 + axis])", "read[0], read[1]",
      "trusted/test_unfolding.py"),
)  # fmt: skip


def survives(mutation: Mutation) -> str | None:
    """None where a test fails, as it should; or what happened instead."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "project")
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "__pycache__", ".*_cache", "docs"))
        file = copy / "lipguard" / mutation.file
        text = file.read_text()
        if mutation.old not in text:
            return "the code to change is not there"
        file.write_text(text.replace(mutation.old, mutation.new))
        tests = [f"tests/{name}" for name in mutation.tests.split()]
        environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "pytest", "-n0", "-x", "-q", "-p", "no:cacheprovider", *tests]
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 1:
        return None
    return (
        "no test fails" if done.returncode == 0 else f"the tests do not run: {done.stdout[-500:]}{done.stderr[-500:]}"
    )


def main() -> None:
    """Try all; exit with 1 if one survives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="mutations whose file, code or tests contain this")
    parser.add_argument("--jobs", type=int, default=2, help="copies that are tested side by side")
    chosen = parser.parse_args()
    tried = [m for m in MUTATIONS if chosen.only in f"{m.file} {m.old} {m.tests}"]
    survivors = 0
    with ThreadPoolExecutor(chosen.jobs) as pool:
        for mutation, found in zip(tried, pool.map(survives, tried), strict=True):
            if found is not None:
                survivors += 1
                print(f"{mutation.file}: {mutation.old!r} -> {mutation.new!r}: {found}", flush=True)
    print(f"{len(tried) - survivors} of {len(tried)} planted errors are caught")
    sys.exit(survivors > 0)


if __name__ == "__main__":
    main()
