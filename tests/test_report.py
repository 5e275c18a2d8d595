"""The report: figures that add up, and instruments that see what they are there to see."""

from __future__ import annotations

import math

import numpy as np
import pytest

import numba_nn as nn
from numba_nn.config import machine
from numba_nn.core.layer import Array, Call
from numba_nn.core.peak import measure_peak
from numba_nn.report import Profile, layer_label, markdown_table, median_ms, profile, render_markdown
from numba_nn.report.instruments import counted_step, timed_step
from numba_nn.report.measuring.allocations import Count

X_SHAPE = (3, 2, 8, 8)


class Wasteful(nn.ReLU):
    """Allocates an array on its way, and leaves one behind."""

    def _forward(self, call: Call, y: Array, x: Array, saved: dict[str, Array]) -> None:
        np.empty(100_000, np.uint8)
        self.kept = np.empty(50_000, np.uint8)
        super()._forward(call, y, x, saved)


def small_model(activation: nn.Layer | None = None) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), activation or nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))


@pytest.fixture(scope="module")
def measured() -> Profile:
    return profile(small_model(), X_SHAPE, rounds=3, peak_gflops=100.0)


def test_shares_add_up(measured: Profile) -> None:
    assert math.isclose(sum(p.share for p in measured.phases), 1)
    assert math.isclose(sum(row.share for row in measured.layers), 1)
    assert math.isclose(sum(p.ms for p in measured.phases), measured.step_ms)
    assert [p.name for p in measured.phases] == ["forward", "loss", "backward", "update", "overhead"]


def test_times_are_positive(measured: Profile) -> None:
    assert all(row.ms > 0 for row in measured.layers)
    assert all(p.ms > 0 for p in measured.phases if p.name != "overhead")


def test_layers_take_less_than_the_model(measured: Profile) -> None:
    for direction, phase in (("forward", measured.phases[0]), ("backward", measured.phases[2])):
        times = [row.ms for row in measured.layers if row.direction == direction]
        assert len(times) == (2 if direction == "forward" else 3)  # the first convolution does the ReLU in its epilogue
        assert max(times) < phase.ms * 1.5  # medians of different rounds: not exactly less


def test_flops_are_twice_the_multiply_adds(measured: Profile) -> None:
    macs = 3 * 8 * 8 * 2 * 4 * 9
    flops = {(row.name, row.direction): row.flops for row in measured.layers}
    assert flops["0 Conv2d 2->4 + ReLU", "forward"] == flops["2 Conv2d 4->2", "forward"] == 2 * macs
    assert flops["0 Conv2d 2->4", "backward"] == 2 * macs  # no input gradient
    assert flops["2 Conv2d 4->2", "backward"] == 4 * macs
    assert flops["1 ReLU", "backward"] == 0


def test_rates_follow_from_flops_and_times(measured: Profile) -> None:
    for row in measured.layers:
        if row.flops:
            assert row.gflops is not None
            assert math.isclose(row.gflops, row.flops / (row.ms * 1e-3) / 1e9)
            assert row.peak_share == row.gflops / 100
        else:
            assert row.gflops is row.peak_share is None


def test_saved_bytes_are_the_inputs_that_backward_reads(measured: Profile) -> None:
    saved = {row.name: row.saved_bytes for row in measured.layers}
    assert saved == {"0 Conv2d 2->4 + ReLU": 0, "0 Conv2d 2->4": 0, "1 ReLU": 3 * 4 * 64 * 4, "2 Conv2d 4->2": 3 * 4 * 64 * 4}


def test_layers_allocate_nothing(measured: Profile) -> None:
    for row in measured.layers:
        assert (row.allocations, row.nbytes) == (0, 0), row.name


def test_an_allocation_is_seen() -> None:
    rows = profile(small_model(Wasteful()), X_SHAPE, rounds=1, peak_gflops=1.0).layers
    (wasteful,) = [row for row in rows if row.name == "1 Wasteful" and row.direction == "forward"]
    assert (wasteful.allocations, wasteful.nbytes) == (2, 150_000)


def test_an_allocation_of_numbas_runtime_is_seen() -> None:
    import numba

    @numba.njit
    def wasteful(n):  # type: ignore[no-untyped-def]
        return np.empty(n).sum() + np.empty(n + 1).sum()

    class Compiled(nn.ReLU):
        def _forward(self, call: Call, y: Array, x: Array, saved: dict[str, Array]) -> None:
            wasteful(1000)
            super()._forward(call, y, x, saved)

    rows = profile(small_model(Compiled()), X_SHAPE, rounds=1, peak_gflops=1.0).layers
    assert [row.allocations for row in rows if row.direction == "forward"] == [0, 2, 0]


def test_nothing_of_the_instruments_stays() -> None:
    model = small_model()
    step = nn.TrainStep(model, nn.MSELoss(), nn.optim.SGD(model.parameters()), X_SHAPE)
    x = np.zeros(X_SHAPE, np.float32)
    before = [dict(vars(owner)) for owner in (model, *model, step.loss, step.optimizer)]
    owners = {**model.children(), "model": model, "loss": step.loss, "optimizer": step.optimizer}
    assert timed_step(step, owners, x, x)["2", "forward"] > 0
    assert isinstance(counted_step(step, owners, x, x)["2", "forward"], Count)
    after = [dict(vars(owner)) for owner in (model, *model, step.loss, step.optimizer)]
    assert [set(state) for state in after] == [set(state) for state in before]


def test_weights_and_mode_stay() -> None:
    model = small_model().eval()
    before = model.state_dict()
    profile(model, X_SHAPE, rounds=1, peak_gflops=1.0)
    assert all(value.tobytes() == before[name].tobytes() for name, value in model.state_dict().items())
    assert not model.training


def test_markdown_is_aligned_and_complete(measured: Profile) -> None:
    assert markdown_table(["a", "bb"], [["ccc", "1"]]) == "| a   | bb |\n| --- | -: |\n| ccc |  1 |"
    text = render_markdown(measured)
    assert all(row.name in text for row in measured.layers)
    assert "100.0%" in text


def test_labels() -> None:
    assert layer_label(nn.Linear(3, 5)) == "Linear 3->5"
    assert layer_label(nn.MaxPool2d(2)) == "MaxPool2d"


def test_median_ignores_an_outlier() -> None:
    calls: list[int] = []
    assert median_ms(lambda: calls.append(0), rounds=5, warm_up=2) >= 0
    assert len(calls) == 7


def test_peak_and_machine() -> None:
    assert measure_peak(rounds=1) > 0
    here = machine()
    assert here["threads"] >= 1
    assert here["cpu"]
    assert here["numba"].startswith("0.")
