"""Optimisers, clipping and training steps on the GPU, simulated, against the CPU."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from simulated_cuda import simulated

import numba_nn as nn
from numba_nn.core.device import CPU, CUDA
from numba_nn.core.errors import DeviceError

RNG = np.random.default_rng(0)
X, T = RNG.standard_normal((12, 6)).astype(np.float32), RNG.integers(0, 3, 12)


@pytest.fixture(autouse=True)
def gpu():
    with simulated(), warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


OPTIMIZERS = {
    "SGD": lambda p: nn.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "plain SGD": lambda p: nn.optim.SGD(p, lr=0.1, maximize=True),
    "Adam": lambda p: nn.optim.Adam(p, lr=0.1, weight_decay=0.01, amsgrad=True),
    "AdamW": lambda p: nn.optim.AdamW(p, lr=0.1),
}
each_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def parameters():
    """Of both dtypes, one longer than a task of the GPU's, one frozen."""
    shapes = [((3, 4), np.float32), ((5,), np.float64), ((2, 1100), np.float32), ((7,), np.float32)]
    params = [nn.Parameter(np.random.default_rng(i).standard_normal(s).astype(d)) for i, (s, d) in enumerate(shapes)]
    params[-1].requires_grad = False
    return params


def set_gradients(params, step):
    for i, p in enumerate(params):
        gradient = np.random.default_rng((i, step)).standard_normal(p.value.shape).astype(p.value.dtype)
        p.device.assign(p.grad, gradient)


def moved(params, device=CUDA):
    for p in params:
        p.move(device)
    return params


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert isinstance(found[name], np.ndarray)
        np.testing.assert_allclose(found[name], array, rtol=2e-6, atol=1e-6, err_msg=name)


def everything(params, optimizer):
    return {str(i): p.device.to_host(p.value) for i, p in enumerate(params)} | optimizer.state_dict()


# Optimisers


@each_optimizer
def test_an_optimizer_follows_its_parameters(make):
    here, there = parameters(), parameters()
    ours, theirs = make(here), make(there)
    for step, device in enumerate((CPU, CUDA, CUDA, CPU, CUDA)):
        moved(there, device)
        for params, optimizer in ((here, ours), (there, theirs)):
            set_gradients(params, step)
            optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
            optimizer.step()
        assert_close(everything(there, theirs), everything(here, ours))
    theirs.zero_grad()
    assert not any(p.grad.copy_to_host().any() for p in there)


def test_a_state_dict_is_taken_up_on_the_gpu():
    here, there = parameters(), moved(parameters())
    ours, theirs = OPTIMIZERS["Adam"](here), OPTIMIZERS["Adam"](there)
    set_gradients(here, 0)
    ours.step()
    theirs.load_state_dict(ours.state_dict())
    assert_close(theirs.state_dict(), ours.state_dict())


def test_parameters_on_two_devices_are_refused():
    params = parameters()
    optimizer = nn.optim.SGD(params)
    params[0].move(CUDA)
    with pytest.raises(DeviceError, match=r"live on \['cpu', 'cuda'\]"):
        optimizer.step()


@pytest.mark.parametrize("order", [2.0, 1.0, 3.0, np.inf])
@pytest.mark.parametrize("most", [0.5, 1e6])
def test_clipping_by_norm(order, most):
    here, there = parameters(), moved(parameters())
    norms = []
    for params in (here, there):
        set_gradients(params, 1)
        norms.append(nn.optim.ClipNorm(params, most, order)())
    assert norms[1].copy_to_host()[0] == pytest.approx(norms[0], rel=1e-6)
    for one, other in zip(here, there, strict=True):
        np.testing.assert_allclose(other.grad.copy_to_host(), one.grad, rtol=1e-5)


def test_a_norm_that_is_not_finite_is_refused_where_asked():
    params = moved(parameters())
    CUDA.assign(params[0].grad, np.nan)
    with pytest.raises(nn.NonFiniteError):
        nn.optim.ClipNorm(params, 1.0, error_if_nonfinite=True)()


def test_clipping_by_value():
    params = moved(parameters())
    set_gradients(params, 1)
    nn.optim.clip_grad_value_(params, 0.5)
    assert np.abs(params[2].grad.copy_to_host()).max() == 0.5


# Training steps


def model(*more):
    nn.manual_seed(0)
    return nn.Sequential(*more, nn.ReLU(), nn.Flatten())


def scales():
    """A model of what needs no matrix product."""
    return model(nn.BatchNorm1d(6))


def steps(build, make=OPTIMIZERS["Adam"], loss=nn.CrossEntropyLoss, clips=True, rows=12):
    """The same training step on the CPU and on the GPU."""
    for device in ("cpu", "cuda"):
        net = build().to(device)
        clip = nn.optim.ClipNorm(net.parameters(), 0.1) if clips else None
        yield nn.TrainStep(net, loss(), make(net.parameters()), (rows, 6), clip)


def captures(step):
    return [c for c in step._on_gpu._captures.values() if c is not None]


def assert_alike(here, there):
    for one, other in ((here.model, there.model), (here.optimizer, there.optimizer)):
        for name, array in one.state_dict().items():
            np.testing.assert_allclose(other.state_dict()[name], array, rtol=1e-4, atol=1e-5, err_msg=name)


@each_optimizer
def test_a_captured_step_is_the_step(make):
    here, there = steps(scales, make)
    for number in range(5):
        losses = []
        for step, as_given in ((here, np.array), (there, CUDA.from_host if number % 2 else np.array)):
            step.optimizer.param_groups[0]["lr"] = 0.1 / (number + 1)
            losses.append(step(as_given(X + np.float32(number)), as_given(T)))
        assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    (capture,) = captures(there)
    assert capture._graph.launches == 4
    np.testing.assert_allclose(there.output.copy_to_host(), here.output, rtol=1e-4, atol=1e-5)
    assert_alike(here, there)


def test_a_smaller_batch_is_another_capture():
    here, there = steps(scales)
    for rows in (12, 12, 5, 5, 12, 5):
        assert there(X[:rows], T[:rows]) == pytest.approx(here(X[:rows], T[:rows]), rel=1e-5)
    assert [c._graph.launches for c in captures(there)] == [2, 2]
    assert_alike(here, there)


def test_losses_are_summed_on_the_gpu():
    here, there = steps(scales)
    expected = []
    for number in range(4):
        expected.append(here(X + np.float32(number), T))
        there.run(X + np.float32(number), T)
    assert there.mean_loss() == pytest.approx(np.mean(expected), rel=1e-5)
    assert np.isnan(there.mean_loss())
    assert here.mean_loss() == pytest.approx(np.mean(expected))  # a step whose loss was asked for counts as well
    here.run(X, T)
    assert here.mean_loss() == pytest.approx(float(here._loss[0]))


def test_freezing_is_seen_and_forgotten():
    here, there = steps(scales)
    for number in range(8):
        for step in (here, there):
            step.model.parameters()[0].requires_grad = number not in (3, 4)
            step(X, T)
    assert len(captures(there)) == 2
    assert_alike(here, there)


def test_masks_change_from_replay_to_replay():
    here, there = steps(lambda: model(nn.BatchNorm1d(6), nn.Dropout(0.5)))
    for step in (here, there):
        nn.manual_seed(1)
        losses = [step(X, T) for _ in range(4)]
        nn.manual_seed(2)
        losses += [step(X, T) for _ in range(3)]
        step.losses = losses
    np.testing.assert_allclose(there.losses, here.losses, rtol=1e-5)
    assert len(captures(there)) == 2


def test_buffers_that_grow_meanwhile_spoil_no_capture():
    here, there = steps(scales)
    for step, device in ((here, CPU), (there, CUDA)):
        for number in range(5):
            if number == 3:
                step.model.eval()(device.from_host(np.tile(X, (5, 1))))
                step.model.train()
            step(X, T)
    assert_alike(here, there)


def run_of(capturing):
    """Losses, outputs and everything that is kept after six steps, that are captured or go launch by launch."""
    nn.manual_seed(4)
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.3), nn.Linear(5, 3)).to("cuda")
    optimizer = nn.optim.AdamW(net.parameters(), lr=0.1)
    step = nn.TrainStep(net, nn.CrossEntropyLoss(), optimizer, (12, 6), nn.optim.ClipNorm(net.parameters(), 0.5))
    step._on_gpu._records = capturing
    found = []
    for number in range(6):
        optimizer.param_groups[0]["lr"] = 0.1 / (number + 1)
        found += [step(X + np.float32(number), T), CUDA.to_host(step.output)]
    assert len(captures(step)) == capturing
    return [*found, net.state_dict(), optimizer.state_dict(), step.mean_loss()]


def test_a_captured_step_has_the_bits_of_the_step_launch_by_launch():
    np.testing.assert_equal(run_of(capturing=True), run_of(capturing=False))


def table():
    """A model that chooses rows."""
    nn.manual_seed(0)
    return nn.Sequential(nn.Embedding(5, 3, padding_idx=2), nn.Flatten(), nn.BatchNorm1d(18))


def test_a_step_that_chooses_rows_is_captured():
    here, there = steps(table, OPTIMIZERS["SGD"])
    indices = [np.random.default_rng(i).integers(0, 5, (12, 6)) for i in range(5)]
    for x in indices:
        assert there(x, T) == pytest.approx(here(x, T), rel=1e-4)
    (capture,) = captures(there)
    assert capture._graph.launches == 4
    assert_alike(here, there)


class Foreign:
    def __init__(self, optimizer):
        self.zero_grad, self.step = optimizer.zero_grad, optimizer.step


@pytest.mark.parametrize(
    ("make", "clip", "reason"),
    [
        (lambda p: Foreign(nn.optim.SGD(p)), None, r"no refresh\(\)"),
        (nn.optim.SGD, lambda p: nn.optim.ClipNorm(p, 1.0, error_if_nonfinite=True), "a copy to the host"),
        (nn.optim.SGD, lambda p: lambda: nn.optim.clip_grad_norm_(p, 1.0), "an allocation|a copy from the host"),
    ],
)
def test_what_cannot_be_captured_runs_launch_by_launch_and_says_why(make, clip, reason):
    net = scales().to("cuda")
    step = nn.TrainStep(net, nn.CrossEntropyLoss(), make(net.parameters()), (12, 6), clip and clip(net.parameters()))
    losses = [step(X, T)]
    with pytest.warns(RuntimeWarning, match=reason):
        losses.append(step(X, T))
    losses += [step(X, T) for _ in range(2)]
    assert captures(step) == []
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == 4


def test_a_step_whose_model_moved_is_refused():
    _, step = steps(scales)
    step.model.to("cpu")
    with pytest.raises(DeviceError, match="moved to 'cpu'"):
        step(X, T)


def test_bad_batches_are_refused():
    _, step = steps(scales)
    for x, target, error in [
        (X.tolist(), T, nn.DTypeError), (X[:, :5], T, nn.ShapeError), (np.tile(X, (2, 1)), T, nn.ReserveError),
        (X, T.tolist(), nn.DTypeError), (X, np.array(1), nn.ShapeError), (X, np.tile(T, 2), nn.ReserveError),
        (X.astype(np.float64), T, nn.DTypeError), (X, T[:5], nn.ShapeError),
    ]:  # fmt: skip
        with pytest.raises(error):
            step(x, target)
    step(X, T)


def test_an_optimizer_refuses_a_half_moved_model_again_and_again():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    optimizer = nn.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model[0].to("cuda")
    for _ in range(2):
        with pytest.raises(DeviceError, match=r"several|live on"):
            optimizer.step()
    model.to("cuda")
    optimizer.step()
    model.to("cpu")
    optimizer.step()


def test_arrays_of_the_host_are_refused_by_a_layer_on_the_gpu():
    layer = nn.BatchNorm1d(3).to("cuda")
    x = np.ones((4, 3), np.float32)
    layer(CUDA.from_host(x))
    with pytest.raises(DeviceError, match="x lives on 'cpu', the layer on 'cuda'"):
        layer(x)
    relu = nn.ReLU()
    relu(CUDA.from_host(x))
    assert isinstance(relu(x), np.ndarray)  # without parameters a layer goes where its input is


def test_a_part_of_a_model_lives_where_the_model_does():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()).to("cuda").eval()
    assert model[:1](CUDA.zeros((2, 3), np.float32)).shape == (2, 3)
