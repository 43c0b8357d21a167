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
CHOLESKY = f"{TERMS} certificate/test_cholesky.py"
SPARSE = f"{TERMS} certificate/test_sparse_proof.py network/test_cut_networks.py partition/test_unfolding.py"
RANDOMISED = f"{TERMS} certificate/test_randomised_proof.py"
NORMS = f"{TERMS} certificate/test_norms.py"
FORM = f"{TERMS} network/test_rounding_bounds.py network/test_scaled_form.py"
VERIFY = "certificate/test_verify.py certificate/test_files.py"
DOMAIN = "certificate/test_domain.py"
TILES = "partition/test_is_tileable.py partition/test_tile_geometry.py partition/test_tile_matrices.py"


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
    M("certificate/rounding.py", "return math.nextafter(value, math.inf)", "return value", "certificate/test_rounding.py"),
    M("certificate/rounding.py", "div_up(n * UNIT_ROUNDOFF, 1 - n * UNIT_ROUNDOFF)", "n * UNIT_ROUNDOFF",
      "certificate/test_rounding.py"),
    M("certificate/rounding.py", "return up(math.sqrt(value))", "return math.sqrt(value)", "certificate/test_rounding.py"),
    M("certificate/rounding.py", "product = up(product * factor)", "product = product * factor",
      "certificate/test_rounding.py"),
    M("certificate/rounding.py", "if float(narrowed) >= value else", "if True else", "certificate/test_rounding.py"),
    # Dense Cholesky.
    M("certificate/cholesky.py", "add_up(lost, factorisation_error(n, float(np.trace(B))))", "lost", CHOLESKY),
    M("certificate/cholesky.py", "add_up(lost, factorisation_error(n, float(np.trace(B))))",
      "factorisation_error(n, float(np.trace(B)))", CHOLESKY),
    M("certificate/cholesky.py", "np.nextafter(np.diag(B) - shift, -np.inf)", "np.nextafter(np.diag(B) + shift, -np.inf)",
      CHOLESKY),
    M("certificate/cholesky.py", "np.nextafter(np.diag(B) - shift, -np.inf)", "np.diag(B) - shift", CHOLESKY),
    M("certificate/cholesky.py", "float(rows.max()), up(1 + gamma_up(n + 2))", "float(rows.mean()), 1.0", CHOLESKY),
    M("certificate/cholesky.py", "lost = mul_up(float(rows.max()), up(1 + gamma_up(n + 2)))", "lost = float(rows.max())",
      CHOLESKY),
    M("certificate/cholesky.py", "    g = gamma_up(n + 2)\n", "    g = gamma_up(1)\n", CHOLESKY),
    M("certificate/cholesky.py", "mul_up(div_up(g, 1 - g), trace, up(1 + gamma_up(n + 2)))", "mul_up(g, trace)", CHOLESKY),
    M("certificate/cholesky.py", "return add_up(relative, mul_up(8.0 * n * (n + 4), SMALLEST_SUBNORMAL * 2.0**53))",
      "return relative", CHOLESKY),
    M("certificate/cholesky.py", "widened[np.diag_indices_from(A)] += np.abs(np.diag(A)) * 2.0**-52", "pass", CHOLESKY),
    M("certificate/cholesky.py", "if is_positive_semidefinite(*minus(bound, G, error)):", "if True:", CHOLESKY),
    # One block.
    M("certificate/blocks.py", "roundings = 2 * freed.form_roundings + freed.n_x + 4", "roundings = 0", TERMS),
    M("certificate/blocks.py", "gamma_up(roundings) * 1.001 * magnitude", "-gamma_up(roundings) * 1.001 * magnitude", TERMS),
    M("certificate/blocks.py", "gamma_up(freed.form_roundings + 2) * 1.001 * magnitude", "0 * magnitude", TERMS),
    M("certificate/blocks.py", "    magnitude[:n, :n] += np.abs(S)\n", "", TERMS),
    M("certificate/blocks.py", "error = gamma_up(int(cover.sum(axis=0).max()) + 4) * 1.001 * magnitude",
      "error = 0 * magnitude", TERMS),
    M("certificate/blocks.py", "mul_up(float(count), square) for count", "square for count", TILES + " " + TERMS),
    M("certificate/blocks.py", "cover[j, absolute] += 1", "cover[j, absolute] = 1", TILES + " " + TERMS),
    M("network/linearised.py", "2 * self.roundings + max(self.neurons, len(self.Y)) + 16", "16", FORM),
    M("network/linearised.py", "own = max(node.layer.roundings(), len(node.inputs) - 1)", "own = 0", FORM),
    M("network/linearised.py", "backward.append(node.layer.adjoint_roundings() + max", "backward.append(max", FORM),
    M("network/linearised.py", "sign * ((both * t)[:, None] * K)", "-sign * ((both * t)[:, None] * K)", FORM),
    M("network/layers.py", "return self.weight[0].numel() + self.weight_ulps", "return self.weight_ulps", FORM),
    M("network/layers.py", "return self.weight[0].numel() + self.weight_ulps", "return self.weight[0].numel()",
      FORM + " network/test_supported_operations.py"),
    M("network/layers.py", "        return 1 + self.weight_ulps", "        return 1", FORM),
    M("network/form.py", "_OWN_ROUNDINGS = 20", "_OWN_ROUNDINGS = 0", FORM),
    M("network/form.py", "torch.nextafter(total, torch.full_like(total, torch.inf))", "total", SPARSE),
    M("network/form.py", "onward.append(sign * (self._outward * y))", "onward.append(-sign * (self._outward * y))", FORM),
    # Sparse Cholesky.
    M("certificate/sparse.py", "shift = add_up(lost, factorisation_error(len(diagonal), float(diagonal.sum())))",
      "shift = lost", SPARSE),
    M("certificate/sparse.py", "shift = add_up(lost, factorisation_error(len(diagonal), float(diagonal.sum())))",
      "shift = factorisation_error(len(diagonal), float(diagonal.sum()))", SPARSE),
    M("certificate/sparse.py", "np.nextafter(diagonal - shift, -np.inf)", "np.nextafter(diagonal + shift, -np.inf)", SPARSE),
    M("certificate/sparse.py", "add_up(rows, sqrt_up(rows), 1.0)", "1.0", SPARSE),
    M("certificate/sparse.py", "collected = roundings(network) + 16", "collected = 0", SPARSE),
    M("certificate/sparse.py", "return bool((form.rho >= form.outward).all())", "return True", SPARSE),
    M("certificate/sparse.py", "    shift = add_up(error, factorisation_error(m + n, mul_up(float(m + n), bound)))",
      "    shift = error", NORMS + " " + SPARSE),
    M("certificate/sparse.py", "    shift = add_up(error, factorisation_error(m + n, mul_up(float(m + n), bound)))",
      "    shift = factorisation_error(m + n, mul_up(float(m + n), bound))", NORMS + " " + SPARSE),
    M("certificate/sparse.py", "add_up(error, factorisation_error(n, mul_up(float(n), bound)), mul_up(2 * UNIT_ROUNDOFF, bound))",
      "error", NORMS + " " + SPARSE),
    M("certificate/sparse.py", "add_up(error, factorisation_error(n, mul_up(float(n), bound)), mul_up(2 * UNIT_ROUNDOFF, bound))",
      "factorisation_error(n, mul_up(float(n), bound))", NORMS + " " + SPARSE),
    M("certificate/multifrontal.py", "if bool(failed) or not bool(pivots.diagonal().isfinite().all()):", "if bool(failed):",
      "certificate/test_multifrontal.py"),
    M("certificate/multifrontal.py", "if bool(failed) or not", "if not", "certificate/test_multifrontal.py"),
    M("certificate/multifrontal.py", ".neg_()", "", "certificate/test_multifrontal.py"),
    # The randomised proof.
    M("certificate/randomised.py", "eps = 1.01 * (4 / top", "eps = 0 * (4 / top", RANDOMISED),
    M("certificate/randomised.py", "gamma_up(form.roundings) * lost + gamma_up(16) * margin", "gamma_up(16) * margin",
      RANDOMISED),
    M("certificate/randomised.py", " + 4 * gamma_up(16))", ")", RANDOMISED),
    M("certificate/randomised.py", "eps * steps * steps / 2 * _GROWTH", "eps * steps", RANDOMISED),
    M("certificate/randomised.py", "probability ** (1 / vectors) / math.sqrt(2 * n / math.pi)",
      "probability ** (1 / vectors) * 2 / math.sqrt(2 * n / math.pi)", RANDOMISED),
    M("certificate/randomised.py", "probability ** (1 / vectors)", "probability ** (1 / (2 * vectors))", RANDOMISED),
    M("certificate/randomised.py", "largest = max(largest, float(", "largest = max(0 * largest, float(", RANDOMISED),
    M("certificate/randomised.py", "alpha=1 + 2 * margin / top", "alpha=1 - 2 * margin / top", RANDOMISED),
    M("certificate/randomised.py", "return 2 * math.asinh(math.sqrt(margin / top))",
      "return 4 * math.asinh(math.sqrt(margin / top))", RANDOMISED),
    M("certificate/randomised.py", "mul_(2).sub_(before)", "mul_(2).add_(before)", RANDOMISED),
    M("certificate/blocks.py", "seed = text.encode() + claim.t.tobytes() + entropy", "seed = b''", RANDOMISED),
    M("certificate/verify.py", "return total / max(", "return total + 0 * max(", f"{VERIFY} {TERMS}"),
    # Norms.
    M("certificate/norms.py", "error = 1.01 * gamma_up(W.shape[1] + 2 * weight_ulps + 4) * np.outer(lengths, lengths) + 2.0**-1000",
      "error = 0 * np.outer(lengths, lengths)", NORMS),
    M("certificate/norms.py", "sqrt_up(add_up(largest.bound, lost))", "sqrt_up(largest.bound)", NORMS),
    M("certificate/norms.py", "furthest = stride * (output - 1) + reach - before", "furthest = 0", NORMS),
    M("certificate/norms.py", "covers *= -(-k // (s // math.gcd(s, d)))", "covers *= 1", NORMS),
    M("certificate/norms.py", "up(1 + gamma_up(layer.weight_ulps))", "1.0", NORMS),
    M("certificate/norms.py", "shift = mul_up(4.0, gamma_up(2 * self._n + 4), 2.0 * self._n, bound)", "shift = 0.0", NORMS),
    M("certificate/norms.py", "mul_up(norm, add_up(*(bounds[j] for j in node.inputs)))",
      "mul_up(norm, max(bounds[j] for j in node.inputs))", NORMS),
    M("certificate/norms.py", "float(sizes.sum(axis=(1, 2, 3)).max())", "float(sizes.sum(axis=(1, 2, 3)).min())", NORMS),
    M("certificate/norms.py", "float(sizes.sum(axis=(0, 2, 3)).max())", "float(sizes.sum(axis=(0, 2, 3)).min())", NORMS),
    M("certificate/norms.py", "largest = max(largest, float(sizes.sum(axis=1).max()))", "largest = float(sizes.max())", NORMS),
    M("certificate/norms.py", "norm, late = max(norm, error.bound), True", "late = True", NORMS),
    M("certificate/norms.py", "            if exact:\n                raise\n", "", f"{NORMS} test_budgets.py"),
    # The verifier.
    M("certificate/verify.py", "if not found <= certificate.bound:", "if False:", VERIFY),
    M("certificate/verify.py", "if certificate.digest != network.digest:", "if False:", VERIFY),
    M("certificate/verify.py", "and (t >= 0).all()", "", VERIFY),
    M("certificate/verify.py", "    plan.check(network)\n", "", VERIFY),
    M("certificate/verify.py", "return min(mul_up(*(block.bound for block in blocks)), product)",
      "return min(max(block.bound for block in blocks), product)", f"{VERIFY} soundness/test_sandwich.py"),
    # Domains.
    M("certificate/domain.py", "half = plain.linear(*halves) + error", "half = plain.linear(*halves) * 0.9 + error", DOMAIN),
    M("certificate/domain.py", "(rows.linear(ones) * grown).sqrt()", "(rows.linear(ones) * grown) * 0", DOMAIN),
    M("certificate/domain.py", "low, high = torch.maximum(low, around_low - away)", "low, high = torch.maximum(low, around_low)",
      DOMAIN),
    M("certificate/domain.py", "device=\"cpu\").detach()", "device=\"cpu\").detach().float().double()", DOMAIN),
    M("certificate/domain.py", "torch.where(beta > alpha, above, 0.0)", "torch.where(beta > alpha, above * 0.9, 0.0)", DOMAIN),
    M("network/slopes.py", "(low < right) & (high > left)", "(low < right) & (low > left)", DOMAIN),
    M("network/slopes.py", "nearest = torch.where((low <= 0) & (high >= 0), 0.0,", "nearest = torch.where(low > 1e9, 0.0,", DOMAIN),
    M("certificate/verify.py", "network = _on_domain(network, certificate.domain)", "pass", DOMAIN),
    M("certificate/norms.py", "most[source] = float(counts[1:].max())", "most[source] = 1.0", "soundness/test_layer_kinds.py"),
    # Tiles.
    M("partition/tiling.py", "alpha=min(layer.alpha, 0.0), beta=max(layer.beta, 0.0)", "alpha=layer.alpha", TILES),
    M("partition/tiling.py", "_pads_zeros(network, axis) for axis", "True for axis", TILES),
    M("partition/unfolding.py", "max(read[0], 0), min(read[1], piece.nodes[j].shape[1 + axis])", "read[0], read[1]",
      "partition/test_unfolding.py"),
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
    parser.add_argument("--only", default="", help="mutations whose file or code contains this")
    parser.add_argument("--jobs", type=int, default=2, help="copies that are tested side by side")
    chosen = parser.parse_args()
    tried = [m for m in MUTATIONS if chosen.only in f"{m.file} {m.old}"]
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
