"""certify(): what it returns, reuses, falls back to and refuses."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import lipguard
from lipguard import DCPConfig
from lipguard.certifying import learning, plans, reporting
from lipguard.certifying.attempts import claims, tightening
from lipguard.certifying.warm_start import WarmStart
from lipguard.errors import CertificateError, ConfigError, InvalidNetworkError, UnsupportedLayerError
from lipguard.planning import search, whole
from lipguard.planning.machine import CostModel
from lipguard.proposing.conic import jobs as parallel
from lipguard.proposing.conic.problem import Job
from lipguard.proposing.outcome import SOLVED, End, Outcome
from lipguard.proposing.power import run as power
from lipguard.proposing.proposal import Proposal
from lipguard.trusted.network.graph import Network
from lipguard.trusted.network.tiling import Tiling
from lipguard.trusted.proofs.kinds import proves

SHAPE = (1, 8, 8)


def cnn(seed: int = 0) -> nn.Module:
    """Two convolutions (tiled), and a dense tail (one LMI)."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 4),
    ).eval()  # fmt: skip


TILES = DCPConfig(partition="tiles", partition_factors=(2, 2))
CONFIGS = {"scs": dataclasses.replace(TILES, solver="scs"), "power": TILES, "whole": DCPConfig()}


@pytest.fixture(scope="module", params=CONFIGS)
def config(request: pytest.FixtureRequest) -> DCPConfig:
    return CONFIGS[request.param]


@pytest.fixture(scope="module")
def report(config: DCPConfig) -> lipguard.Report:
    return lipguard.certify(cnn(), SHAPE, config)


@pytest.fixture(scope="module", params=["scs", "power"])
def tiled(request: pytest.FixtureRequest) -> lipguard.Report:
    return lipguard.certify(cnn(), SHAPE, CONFIGS[request.param])


def replace_solvers(monkeypatch: pytest.MonkeyPatch, solve: Callable[[int], Proposal | None]) -> None:
    """Solvers propose `solve(neurons)` for every part; what they really found where that is None."""
    solve_all, propose, propose_tiles = parallel.solve_all, power.propose, power.propose_tiles

    def conic(jobs: list[Job], *others: Any) -> list[Proposal]:
        real = solve_all(jobs, *others)
        return [solve(len(job.problem.K)) or found for job, found in zip(jobs, real, strict=True)]

    def whole(network: Network, *others: Any) -> Proposal:
        return solve(network.neurons) or propose(network, *others)

    def tiles(tiling: Tiling, *others: Any) -> list[Proposal]:
        sizes = [tiling.shape_network(shape).neurons for shape in tiling.shapes]
        return [solve(n) or found for n, found in zip(sizes, propose_tiles(tiling, *others), strict=True)]

    monkeypatch.setattr(parallel, "solve_all", conic)
    monkeypatch.setattr(power, "propose", whole)
    monkeypatch.setattr(power, "propose_tiles", tiles)


def test_a_report_holds_what_the_contract_says(report: lipguard.Report) -> None:
    assert report.lower_bound <= report.bound < report.product_bound
    assert (report.failure_probability, report.status) == (0.0, "complete")
    assert {report.proof} == {block.proof for block in report.plan.blocks if block.kind != "norm"}
    assert 0 <= report.relaxation_gap < 0.05
    assert report.tightness == report.lower_bound / report.bound
    assert report.certificate.bound == report.bound
    assert report.certificate.plan == report.plan.partition
    assert report.seconds > 0


def test_details_are_rows_of_a_table_that_multiply_to_the_bound(tiled: lipguard.Report) -> None:
    rows = pd.DataFrame(tiled.details())
    assert rows["bound"].prod() == pytest.approx(tiled.bound, rel=1e-8)
    row = next(row for row in tiled.details() if row["tiles"] == 4)
    assert row["bound"] <= row["form"] <= row["coverage"] <= row["sum"]
    for text in ("tiles 2x2", f"{tiled.bound:.6g}", "complete", "one LMI"):
        assert text in str(tiled)


def test_the_merges_are_what_each_setting_reports() -> None:
    """A conic solver proposes the same multipliers whatever the merge."""
    row = tile_row("scs", "form")
    for merge in ("sum", "coverage"):
        other = tile_row("scs", merge)
        assert other[merge] == pytest.approx(row[merge], rel=1e-9)
        assert other["bound"] == pytest.approx(min(other[merge], other["product"]), rel=1e-9)
        assert other["form"] is None


def test_the_power_iteration_proposes_for_the_merge_that_is_asked_for() -> None:
    joint, alone = tile_row("power", "form"), tile_row("power", "coverage")
    scs = tile_row("scs", "form")
    assert joint["form"] < scs["form"]
    assert alone["sum"] == pytest.approx(scs["sum"], rel=0.01)
    assert alone["coverage"] < joint["coverage"]


def tile_row(solver: str, merge: str) -> dict[str, Any]:
    found = lipguard.certify(cnn(), SHAPE, dataclasses.replace(TILES, solver=solver, merge=merge))
    return next(row for row in found.details() if row["tiles"] == 4)


def test_the_same_seed_plan_and_weights_give_the_same_bound(report: lipguard.Report, config: DCPConfig) -> None:
    again = lipguard.certify(cnn(), SHAPE, config)
    assert (again.bound, again.lower_bound, again.product_bound) == (
        report.bound,
        report.lower_bound,
        report.product_bound,
    )


def test_a_warm_start_saves_iterations_and_keeps_the_plan(
    report: lipguard.Report, config: DCPConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "find_plan", lambda *_: pytest.fail("the plan was searched again"))
    warm = lipguard.certify(cnn(), SHAPE, config, warm_start=report)
    cold, again = (sum(row["iterations"] or 0 for row in r.details()) for r in (report, warm))
    assert again < cold
    assert warm.plan is report.plan
    assert warm.bound == pytest.approx(report.bound, rel=0.02)


def test_re_evaluation_optimises_nothing_and_bounds_the_weights_of_now(
    report: lipguard.Report, config: DCPConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "solve_all", lambda *_: pytest.fail("a solver ran"))
    moved = cnn()
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    again = lipguard.certify(moved, SHAPE, config, warm_start=report, optimise=False)
    assert again.status == "reused"
    # A few steps bring the multipliers of the power iteration to the new weights.
    assert all((row["iterations"] or 0) <= (0 if config.solver == "scs" else 10) for row in again.details())
    assert again.warm_start.solver_state.keys() == report.warm_start.solver_state.keys()
    assert again.bound < again.product_bound
    assert lipguard.verify(again.certificate, moved) == again.bound
    with pytest.raises(CertificateError):
        lipguard.verify(report.certificate, moved)


def test_re_evaluation_without_anything_to_reuse_is_the_product_bound(config: DCPConfig) -> None:
    cold = lipguard.certify(cnn(), SHAPE, config, optimise=False)
    assert cold.bound == cold.product_bound
    assert cold.proof == "product"
    assert cold.status.startswith("not solved (product of norms")


def test_a_warm_start_survives_plain_values(report: lipguard.Report, config: DCPConfig) -> None:
    state = report.warm_start.to_state()
    restored = WarmStart.from_state(state)
    one, other = (lipguard.certify(cnn(1), SHAPE, config, warm_start=w) for w in (report, restored))
    assert one.bound == other.bound


def test_a_warm_start_of_another_architecture_is_ignored(report: lipguard.Report) -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    other = lipguard.certify(model, (4,), warm_start=report)
    assert other.bound == lipguard.certify(model, (4,)).bound


def test_a_failed_solve_costs_that_block_only(monkeypatch: pytest.MonkeyPatch, tiled: lipguard.Report) -> None:
    config = CONFIGS[tiled.plan.settings["solver"]]
    failed = Proposal.without_multipliers(Outcome(End.FAILED, "on purpose"))
    replace_solvers(monkeypatch, lambda neurons: failed if neurons == 8 else None)  # the dense tail
    partial = lipguard.certify(cnn(), SHAPE, config)
    assert partial.status == "fallback: block 2: failed (on purpose); no proof"
    *others, last = partial.details()
    assert last["bound"] == last["product"]
    assert others == [row | {"seconds": others[i]["seconds"]} for i, row in enumerate(tiled.details()[:-1])]
    assert tiled.bound < partial.bound <= partial.product_bound
    with_memory = lipguard.certify(cnn(), SHAPE, config, warm_start=tiled)
    assert with_memory.bound == pytest.approx(tiled.bound, rel=1e-3)


@pytest.mark.parametrize("value", [1e-9, 1.0])
def test_useless_multipliers_are_never_believed(
    config: DCPConfig, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_solvers(monkeypatch, lambda neurons: Proposal(np.zeros(neurons), value, SOLVED))
    report = lipguard.certify(cnn(), SHAPE, config)
    assert report.lower_bound <= report.bound <= report.product_bound
    assert lipguard.verify(report.certificate, cnn()) == report.bound


def test_a_budget_that_ends_leaves_a_verified_bound(config: DCPConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "cost_model", lambda: CostModel(1e-15, 2.0, 1e20))  # the plan believes in the budget
    began = time.monotonic()
    report = lipguard.certify(cnn(), SHAPE, dataclasses.replace(config, max_seconds=1e-3))
    assert time.monotonic() - began < 10
    assert report.status.startswith("fallback")
    assert report.bound <= report.product_bound
    assert lipguard.verify(report.certificate, cnn()) == report.bound


@pytest.mark.parametrize("failed", [(False,), (True,), (False, True)])
@pytest.mark.parametrize("warm", [False, True])
def test_of_multipliers_by_neuron_and_by_channel_either_may_be_missing(
    failed: tuple[bool, ...], warm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where there was no time for one of them; `failed` says of which, by whether they are tied."""
    cold = lipguard.certify(cnn(), SHAPE, DCPConfig(proof="sparse"))
    propose = power.propose

    def some(network: Network, options: power.PowerOptions, *others: Any) -> Proposal:
        if options.tied in failed:
            return Proposal.without_multipliers(Outcome.no_time(End.FAILED))
        return propose(network, options, *others)

    monkeypatch.setattr(power, "propose", some)
    monkeypatch.setattr(whole, "which_multipliers", lambda *_: "both")
    found = lipguard.certify(
        cnn(), SHAPE, DCPConfig(proof="sparse", max_seconds=100.0), warm_start=cold if warm else None
    )
    assert found.lower_bound <= found.bound <= found.product_bound
    if warm or len(failed) == 1:
        assert found.bound < found.product_bound
    else:
        assert found.bound == found.product_bound
        assert "no time left" in found.status


def test_multipliers_by_channel_do_not_keep_those_by_neuron_from_proving_less(monkeypatch: pytest.MonkeyPatch) -> None:
    cold = lipguard.certify(cnn(), SHAPE, DCPConfig(proof="sparse"))
    monkeypatch.setattr(whole, "which_multipliers", lambda *_: "both")
    both = lipguard.certify(cnn(), SHAPE, DCPConfig(proof="sparse"))
    assert both.bound <= cold.bound * 1.001


def test_contradicting_bounds_are_an_error_never_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "warm_lower_bound", lambda *_: (1e9, torch.zeros(1, *SHAPE)))
    with pytest.raises(CertificateError, match="Internal contradiction"):
        lipguard.certify(cnn(), SHAPE, TILES, optimise=False)


def test_the_plan_is_had_without_solving(config: DCPConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_solvers(monkeypatch, lambda neurons: pytest.fail("a solver ran"))
    plan = lipguard.plan(cnn(), SHAPE, config)
    assert plan == lipguard.certify(cnn(), SHAPE, config, optimise=False).plan
    assert ("tiles 2x2" in str(plan)) == (config.partition == "tiles")


@pytest.mark.parametrize("settings", [{"solver": "scs"}, {"proof": "dense"}], ids=str)
def test_a_block_size_that_nothing_fits_in_names_the_smallest_that_would(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="the smallest LMI has 16 rows"):
        lipguard.certify(cnn(), SHAPE, DCPConfig(max_block_size=10, **settings))
    assert lipguard.certify(cnn(), SHAPE, DCPConfig(max_block_size=16, **settings)).proof == "dense"


def test_a_block_size_does_not_limit_proofs_without_a_dense_matrix() -> None:
    report = lipguard.certify(cnn(), SHAPE, DCPConfig(max_block_size=10))
    assert report.proof == "randomised"
    assert max(report.plan.blocks[0].variables) > 10


def test_inference_mode_changes_nothing(report: lipguard.Report, config: DCPConfig) -> None:
    with torch.inference_mode():
        again = lipguard.certify(cnn(), SHAPE, config)
        assert lipguard.verify(again.certificate, cnn()) == report.bound
    assert (again.bound, again.lower_bound) == (report.bound, report.lower_bound)


def test_progress_is_shown_on_request(config: DCPConfig, capsys: pytest.CaptureFixture[str]) -> None:
    lipguard.certify(cnn(), SHAPE, config, progress=True)
    assert "LMIs" in capsys.readouterr().err
    lipguard.certify(cnn(), SHAPE, config)
    assert capsys.readouterr().err == ""


def test_bad_networks_never_yield_a_number() -> None:
    with pytest.raises(UnsupportedLayerError, match=r"1: .*Hardshrink"):
        lipguard.certify(nn.Sequential(nn.Linear(3, 3), nn.Hardshrink()), (3,))
    with pytest.raises(InvalidNetworkError, match="batch axis"):
        lipguard.certify(cnn(), (1, *SHAPE))
    broken = cnn()
    nn.init.constant_(broken[0].weight, float("nan"))
    with pytest.raises(InvalidNetworkError, match="NaN"):
        lipguard.certify(broken, SHAPE)


@pytest.mark.parametrize("scale", [1e-150, 1e140, 1e200])
def test_weights_of_extreme_size_give_a_bound_or_a_clear_error(scale: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight *= scale
    if scale == 1e200:
        with pytest.raises(InvalidNetworkError, match="not finite"):
            lipguard.certify(model, (3,))
        return
    report = lipguard.certify(model, (3,))
    assert 0 <= report.lower_bound <= report.bound <= report.product_bound


def test_what_is_sought_beyond_a_proof_is_not_learned_as_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    own, observed = tightening.prove, []

    def slowly(*arguments: Any) -> Any:
        monkeypatch.setattr(claims, "proves", lambda *a, **k: time.sleep(0.5) or proves(*a, **k))
        return own(*arguments)

    monkeypatch.setattr(tightening, "prove", slowly)
    monkeypatch.setattr(learning, "learn", observed.append)
    report = lipguard.certify(cnn(), SHAPE, DCPConfig(proof="sparse"))
    (stages,) = observed
    assert report.seconds > 1.0
    assert stages["sparse"][0] < 0.8


def test_a_cost_model_that_cannot_learn_costs_its_learning_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(observed: object) -> None:
        raise OSError("no space left")

    usual = lipguard.certify(cnn(), SHAPE)
    monkeypatch.setattr(learning, "learn", failing)
    report = lipguard.certify(cnn(), SHAPE)
    assert (report.bound, report.status) == (usual.bound, "complete")
    assert report.notes == ("the cost model did not learn from this run: OSError: no space left",)
