"""certify(): what it returns, reuses, falls back to and refuses."""

import dataclasses
import time

import pandas as pd
import pytest
import torch
from torch import nn

import lipguard
from lipguard import DCPConfig, certification
from lipguard.errors import CertificateError, ConfigError, InvalidNetworkError, UnsupportedLayerError
from lipguard.partition import search
from lipguard.partition.cost import CostModel
from lipguard.report import WarmStart
from lipguard.solvers.conic import Proposal

SHAPE = (1, 8, 8)


def cnn(seed: int = 0) -> nn.Module:
    """Two convolutions (tiled), and a dense tail (one LMI)."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 4),
    ).eval()  # fmt: skip


TILES = DCPConfig(partition="tiles", partition_factors=(2, 2))


@pytest.fixture(scope="module")
def report() -> lipguard.Report:
    return lipguard.certify(cnn(), SHAPE, TILES)


def test_a_report_holds_what_the_contract_says(report: lipguard.Report) -> None:
    assert report.lower_bound <= report.bound < report.product_bound
    assert (report.proof, report.failure_probability, report.status) == ("dense", 0.0, "complete")
    assert 0 <= report.relaxation_gap < 0.05
    assert report.tightness == report.lower_bound / report.bound
    assert report.certificate.bound == report.bound
    assert report.certificate.plan == report.plan
    assert report.seconds > 0


def test_details_are_rows_of_a_table_that_multiply_to_the_bound(report: lipguard.Report) -> None:
    rows = pd.DataFrame(report.details())
    assert rows["bound"].prod() == pytest.approx(report.bound, rel=1e-8)
    tiled = next(row for row in report.details() if row["tiles"] == 4)
    assert tiled["bound"] <= tiled["form"] <= tiled["coverage"] <= tiled["sum"]
    for text in ("tiles 2x2", f"{report.bound:.6g}", "complete", "one LMI"):
        assert text in str(report)


def test_the_merges_are_what_each_setting_reports(report: lipguard.Report) -> None:
    tiled = next(row for row in report.details() if row["tiles"] == 4)
    for merge in ("sum", "coverage"):
        other = lipguard.certify(cnn(), SHAPE, dataclasses.replace(TILES, merge=merge))
        row = next(row for row in other.details() if row["tiles"] == 4)
        assert row[merge] == pytest.approx(tiled[merge], rel=1e-9)
        assert row["bound"] == pytest.approx(min(row[merge], row["product"]), rel=1e-9)
        assert row["form"] is None


def test_the_same_seed_plan_and_weights_give_the_same_bound(report: lipguard.Report) -> None:
    again = lipguard.certify(cnn(), SHAPE, TILES)
    assert (again.bound, again.lower_bound, again.product_bound) == (
        report.bound,
        report.lower_bound,
        report.product_bound,
    )


def test_a_warm_start_saves_iterations_and_keeps_the_plan(
    report: lipguard.Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certification, "find_plan", lambda *_: pytest.fail("the plan was searched again"))
    warm = lipguard.certify(cnn(), SHAPE, TILES, warm_start=report)
    cold, again = (sum(row["iterations"] or 0 for row in r.details()) for r in (report, warm))
    assert again < cold
    assert warm.plan is report.plan
    assert warm.bound == pytest.approx(report.bound, rel=0.02)


def test_re_evaluation_runs_no_solver_and_bounds_the_weights_of_now(
    report: lipguard.Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certification, "solve_all", lambda *_: pytest.fail("a solver ran"))
    moved = cnn()
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    again = lipguard.certify(moved, SHAPE, TILES, warm_start=report, optimise=False)
    assert again.status == "reused"
    assert again.warm_start.solver_state.keys() == report.warm_start.solver_state.keys()
    assert again.bound < again.product_bound
    assert lipguard.verify(again.certificate, moved) == again.bound
    with pytest.raises(CertificateError):
        lipguard.verify(report.certificate, moved)


def test_re_evaluation_without_anything_to_reuse_is_the_product_bound() -> None:
    cold = lipguard.certify(cnn(), SHAPE, TILES, optimise=False)
    assert cold.bound == cold.product_bound
    assert cold.proof == "product"
    assert cold.status.startswith("reused (product of norms")


def test_a_warm_start_survives_plain_values(report: lipguard.Report) -> None:
    state = report.warm_start.to_state()
    restored = WarmStart.from_state(state)
    one, other = (lipguard.certify(cnn(1), SHAPE, TILES, warm_start=w) for w in (report, restored))
    assert one.bound == other.bound


def test_a_warm_start_of_another_architecture_is_ignored(report: lipguard.Report) -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    other = lipguard.certify(model, (4,), warm_start=report)
    assert other.bound == lipguard.certify(model, (4,)).bound


def test_a_failed_solve_costs_that_block_only(monkeypatch: pytest.MonkeyPatch, report: lipguard.Report) -> None:
    solve_all = certification.solve_all

    def last_fails(*arguments: object) -> list[Proposal]:
        return [*solve_all(*arguments)[:-1], Proposal(None, float("nan"), "failed (on purpose)")]

    monkeypatch.setattr(certification, "solve_all", last_fails)
    partial = lipguard.certify(cnn(), SHAPE, TILES)
    assert partial.status == "fallback: block 2: failed (on purpose)"
    *others, last = partial.details()
    assert last["bound"] == last["product"]
    assert others == [row | {"seconds": others[i]["seconds"]} for i, row in enumerate(report.details()[:-1])]
    assert report.bound < partial.bound <= partial.product_bound
    with_memory = lipguard.certify(cnn(), SHAPE, TILES, warm_start=report)
    assert with_memory.bound == pytest.approx(report.bound, rel=1e-3)


def test_useless_multipliers_are_never_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        certification, "solve_all",
        lambda jobs, *_: [Proposal(0 * job.problem.unit, 1e-9, "solved") for job in jobs],
    )  # fmt: skip
    report = lipguard.certify(cnn(), SHAPE, TILES)
    assert report.lower_bound <= report.bound <= report.product_bound
    assert lipguard.verify(report.certificate, cnn()) == report.bound


def test_a_budget_that_ends_leaves_a_verified_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "cost_model", lambda: CostModel(1e-15, 2.0))  # the plan believes in the budget
    began = time.monotonic()
    report = lipguard.certify(cnn(), SHAPE, dataclasses.replace(TILES, max_seconds=1e-3))
    assert time.monotonic() - began < 10
    assert "no time left" in report.status
    assert report.bound <= report.product_bound
    assert lipguard.verify(report.certificate, cnn()) == report.bound


def test_contradicting_bounds_are_an_error_never_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certification, "lower_bound", lambda *_: 1e9)
    with pytest.raises(CertificateError, match="Internal contradiction"):
        lipguard.certify(cnn(), SHAPE, TILES, optimise=False)


def test_the_plan_is_had_without_solving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certification, "solve_all", lambda *_: pytest.fail("a solver ran"))
    assert lipguard.plan(cnn(), SHAPE, TILES) == lipguard.certify(cnn(), SHAPE, TILES, optimise=False).plan
    assert "tiles 2x2" in str(lipguard.plan(cnn(), SHAPE, TILES))


def test_a_block_size_that_nothing_fits_in_names_the_smallest_that_would() -> None:
    with pytest.raises(ConfigError, match="the smallest LMI has 16 rows"):
        lipguard.certify(cnn(), SHAPE, DCPConfig(max_block_size=10))
    assert lipguard.certify(cnn(), SHAPE, DCPConfig(max_block_size=16)).proof == "dense"


def test_inference_mode_changes_nothing(report: lipguard.Report) -> None:
    with torch.inference_mode():
        again = lipguard.certify(cnn(), SHAPE, TILES)
        assert lipguard.verify(again.certificate, cnn()) == report.bound
    assert (again.bound, again.lower_bound) == (report.bound, report.lower_bound)


def test_progress_is_shown_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    lipguard.certify(cnn(), SHAPE, TILES, progress=True)
    assert "LMIs" in capsys.readouterr().err
    lipguard.certify(cnn(), SHAPE, TILES)
    assert capsys.readouterr().err == ""


def test_bad_networks_never_yield_a_number() -> None:
    with pytest.raises(UnsupportedLayerError, match=r"1: .*GELU"):
        lipguard.certify(nn.Sequential(nn.Linear(3, 3), nn.GELU()), (3,))
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
