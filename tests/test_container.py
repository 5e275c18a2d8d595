"""Layers inside layers: in several places and several models, their forwards kept in step, copies, and threads."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest

import numba_nn as nn
from tests.cases import assert_close, assert_same, gradients
from tests.test_sequential import by_hand, numbers


def separate(model, build):
    """A model of the same structure from layers that share nothing, with equal parameters."""
    return build().load_state_dict(model.state_dict())


# A layer in several places: its parameters' gradients are the sum over its places


def shared_flat():
    a = nn.Linear(5, 5)
    return nn.Sequential(a, nn.Sigmoid(), a, nn.ReLU(), a)


def shared_activation():
    s = nn.Sigmoid()
    return nn.Sequential(nn.Linear(5, 5), s, nn.Linear(5, 5), s, s)


def shared_between_blocks():
    a = nn.Linear(5, 5)
    return nn.Sequential(nn.Sequential(a, nn.Sigmoid()), nn.Sequential(nn.ReLU(), a), a)


def shared_block():
    block = nn.Sequential(nn.Linear(5, 5), nn.Sigmoid(), nn.Linear(5, 5))
    return nn.Sequential(block, nn.ReLU(), block)


def shared_block_at_two_depths():
    block = nn.Sequential(nn.Linear(5, 5), nn.Sigmoid(), nn.Linear(5, 5), nn.ReLU())
    return nn.Sequential(nn.Sequential(nn.Linear(5, 5), nn.ReLU(), block, nn.Linear(5, 5)), block, nn.Sigmoid(), block)


def unshared(model):
    """The same chain with a layer of its own in every place."""
    if isinstance(model, nn.Sequential):
        return nn.Sequential(*map(unshared, model))
    copy = nn.Linear(5, 5) if isinstance(model, nn.Linear) else type(model)()
    return copy.load_state_dict(model.state_dict())


SHARED = [shared_flat, shared_activation, shared_between_blocks, shared_block, shared_block_at_two_depths]


@pytest.mark.parametrize("build", SHARED)
def test_a_shared_layer(build):
    model = build()
    apart = unshared(model)
    x, dy = numbers(3, 5), numbers(3, 5, seed=1)
    for rows in (3, 2, 3):  # buffers of another shape in between
        got, expected = gradients(model, x[:rows], dy[:rows]), gradients(apart, x[:rows], dy[:rows])
        np.testing.assert_array_equal(got["y"], expected["y"])
        assert_close(got["x"], expected["x"])
        for parameter in model.parameters():
            places = [name for name, p in model.named_parameters() if p is parameter]
            assert_close(parameter.grad, sum(expected[name] for name in places))
    np.testing.assert_array_equal(model.eval()(x), apart.eval()(x))


def test_a_layer_shared_by_places_of_different_shape():
    shared = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(shared, nn.MaxPool2d(2), shared, nn.Upsample(scale_factor=3), shared)
    apart = [nn.Conv2d(3, 3, 3, padding=1).load_state_dict(shared.state_dict()) for _ in range(3)]
    chain = [apart[0], nn.MaxPool2d(2), apart[1], nn.Upsample(scale_factor=3), apart[2]]
    x, dy = numbers(2, 3, 8, 6), numbers(2, 3, 12, 9)
    got, expected = gradients(model, x, dy), by_hand(chain, x, dy)
    assert_close(got["x"], expected["x"])
    assert_close(got["0.weight"], sum(expected[f"{i}.weight"] for i in (0, 2, 4)))


@pytest.mark.parametrize("build", SHARED)
def test_siamese_branches(build):
    model = build().reserve((4, 5), calls=2, strict=True)
    one = separate(model, build)
    inputs, dys = [numbers(4, 5, seed=s) for s in (1, 2)], [numbers(4, 5, seed=s) for s in (3, 4)]
    expected = [gradients(one, x, dy) for x, dy in zip(inputs, dys, strict=True)]
    for _ in range(2):
        model.zero_grad()
        outputs = [model.forward(x) for x in inputs]
        for y, dy, by_itself in zip(reversed(outputs), reversed(dys), reversed(expected), strict=True):
            np.testing.assert_array_equal(y, by_itself["y"])
            np.testing.assert_array_equal(model.backward(dy), by_itself["x"])
        for name, parameter in model.named_parameters():
            assert_close(parameter.grad, expected[0][name] + expected[1][name])
        with pytest.raises(nn.BackwardError):
            model.backward(dys[0])


def test_an_encoder_serves_two_models():
    def build():
        nn.manual_seed(1)
        encoder = nn.Sequential(nn.Linear(6, 5), nn.Sigmoid())
        return (
            encoder,
            nn.Sequential(encoder, nn.Linear(5, 6)),
            nn.Sequential(encoder, nn.ReLU(), nn.Linear(5, 2), nn.Sigmoid()),
        )

    x = numbers(4, 6)
    expected = [gradients(build()[i], x, numbers(4, n)) for i, n in enumerate((5, 6, 2))]
    parts = build()
    for part in parts:
        part.reserve((4, 6))
    for _ in range(2):
        for part, want in zip(parts, expected, strict=True):
            assert_same(gradients(part, x, numbers(*want["y"].shape)), want)


# A backward begins only with all that belongs to it


def grads_of(*models):
    return {f"{i}.{name}": p.grad.copy() for i, model in enumerate(models) for name, p in model.named_parameters()}


def test_a_backward_refuses_another_models_forward():
    encoder = nn.Linear(6, 5)
    models = nn.Sequential(encoder, nn.Linear(5, 6)), nn.Sequential(encoder, nn.Sequential(nn.Sigmoid(), nn.Linear(5, 2)))
    inputs, dys = (numbers(4, 6), numbers(4, 6, seed=1)), (numbers(4, 6, seed=2), numbers(4, 2, seed=3))
    alone = [gradients(*three) for three in zip(models, inputs, dys, strict=True)]
    for model, x in zip(models, inputs, strict=True):
        model.zero_grad()
        model.forward(x)
    with pytest.raises(nn.BackwardError, match=r"Linear\(in_features=6.* reverse order of the forwards"):
        models[0].backward(dys[0])
    assert all(not grad.any() for grad in grads_of(*models).values())
    np.testing.assert_array_equal(models[1].backward(dys[1]), alone[1]["x"])
    with pytest.raises(nn.BackwardError, match="calls=n"):  # room for one forward of the encoder
        models[0].backward(dys[0])
    encoder.reserve((4, 6), calls=2)
    encoder.zero_grad()
    for model, x in zip(models, inputs, strict=True):
        model.forward(x)
    for i in (1, 0):
        np.testing.assert_array_equal(models[i].backward(dys[i]), alone[i]["x"])
    assert_close(encoder.weight.grad, alone[0]["0.weight"] + alone[1]["0.weight"])


@pytest.mark.parametrize("build", SHARED)
def test_a_backward_refuses_forwards_of_its_layers_outside(build):
    model, x, dy = build(), numbers(3, 5), numbers(3, 5, seed=1)
    model.forward(x)
    model.zero_grad()
    inner = model[0]
    inner.forward(x)
    with pytest.raises(nn.BackwardError, match="has run outside of this forward"):
        model.backward(dy)
    assert all(not grad.any() for grad in grads_of(model).values())
    expected = gradients(unshared(model), x, dy)["x"]
    assert_close(gradients(model, x, dy)["x"], expected)  # the next forward finds everything in order


@pytest.mark.parametrize("path", [(0,), (1,), (1, 0), (1, 1), (2,)])
def test_a_layer_in_eval_mode_takes_part_in_training(path):
    model = nn.Sequential(nn.Linear(5, 5), nn.Sequential(nn.Linear(5, 5), nn.Sigmoid()), nn.Linear(5, 3))
    layer = model
    for index in path:
        layer = layer[index]
    x, dy = numbers(4, 5), numbers(4, 3, seed=1)
    expected = gradients(model, x, dy)
    layer.eval()
    assert_same(gradients(model, x, dy), expected)
    layer.train()
    model.eval()(x)
    with pytest.raises(nn.BackwardError, match="training mode"):
        model.backward(dy)


@pytest.mark.parametrize("trained", [0, 2, 4, None])
def test_no_gradient_goes_back_beyond_what_is_trained(trained, monkeypatch):
    model = nn.Sequential(
        nn.Linear(5, 4), nn.Sigmoid(), nn.Sequential(nn.Linear(4, 5), nn.ReLU()), nn.Sigmoid(), nn.Linear(5, 3)
    )
    x, dy = numbers(4, 5), numbers(4, 3, seed=1)
    expected = gradients(model, x, dy)
    for i, layer in enumerate(model):
        for parameter in layer.parameters():
            parameter.requires_grad = i == trained
    ran = []
    for i, layer in enumerate(model):
        run = layer._backward
        monkeypatch.setattr(layer, "_backward", lambda *a, i=i, run=run: ran.append((i, a[1] is not None)) or run(*a))
    model.zero_grad()
    model.forward(x)
    assert model.backward(dy, input_gradient=False) is None
    assert ran == ([] if trained is None else [(i, i > trained) for i in range(4, trained - 1, -1)])
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(parameter.grad, expected[name] if int(name[0]) == trained else 0)
    with pytest.raises(nn.BackwardError):
        model.backward(dy)  # every layer has let go of its forward
    model.forward(x)
    np.testing.assert_array_equal(model.backward(dy), expected["x"])


# Copies and threads


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("build", SHARED)
def test_a_copy_shares_nothing(build, clone):
    model = build().reserve((3, 5), calls=2, strict=True)
    x, dy = numbers(3, 5), numbers(3, 5, seed=1)
    expected = gradients(model, x, dy)
    model.forward(x)
    twin = clone(model)
    with pytest.raises(nn.BackwardError):
        twin.backward(dy)
    twin.zero_grad()
    assert len(twin.parameters()) == len(model.parameters())
    assert_same(gradients(twin, x, dy), expected)
    assert len({id(m._workspace) for m in twin.modules()}) == 1
    assert twin._workspace is not model._workspace
    model.zero_grad()
    np.testing.assert_array_equal(model.backward(dy), expected["x"])


@pytest.mark.parametrize("build", SHARED)
def test_a_shared_handle_has_the_same_weights_and_buffers_of_its_own(build):
    model = build().reserve((3, 5), calls=2)
    x, dy = numbers(3, 5), numbers(3, 5, seed=1)
    expected = gradients(model, x, dy)
    twin = model.share()
    assert all(a is b for a, b in zip(twin.parameters(), model.parameters(), strict=True))
    assert twin._workspace is not model._workspace
    model.zero_grad()
    model.forward(x)
    twin.forward(numbers(3, 5, seed=2))  # between a forward and its backward
    np.testing.assert_array_equal(model.backward(dy), expected["x"])
    model.zero_grad()
    assert_same(gradients(twin, x, dy), expected)
    model.parameters()[0].value[...] = 0
    np.testing.assert_array_equal(twin(x), model(x))


def test_two_threads_may_use_two_handles():
    model = nn.Sequential(nn.Linear(5, 64), nn.Sigmoid(), nn.Linear(64, 5)).eval()
    inputs = [numbers(300, 5, seed=s) for s in range(2)]
    expected, results = [model(x) for x in inputs], {}
    handles = [model, model.share()]
    threads = [
        threading.Thread(target=lambda i=i: results.update({i: [handles[i](inputs[i]) for _ in range(20)]})) for i in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        assert len(results[i]) == 20
        assert all(np.array_equal(y, expected[i]) for y in results[i])


def test_two_threads_may_not_share_a_model(monkeypatch):
    inside, leave = threading.Event(), threading.Event()
    model = nn.Sequential(nn.Linear(5, 5), nn.Sequential(nn.Sigmoid()))
    x, errors = numbers(3, 5), []
    model.forward(x)
    original = nn.Sigmoid._forward

    def slow(*arguments):
        inside.set()
        leave.wait(10)
        original(*arguments)

    monkeypatch.setattr(nn.Sigmoid, "_forward", slow)
    thread = threading.Thread(target=model.forward, args=(x,))
    thread.start()
    assert inside.wait(10)
    for call in (
        lambda: model.forward(x),
        lambda: model[0].forward(x),
        lambda: model.backward(x),
        lambda: model.reserve((3, 5)),
    ):
        with pytest.raises(
            nn.ConcurrencyError, match="is in use by another thread; each thread needs one of its own"
        ) as caught:
            call()
        errors.append(str(caught.value))
    leave.set()
    thread.join()
    assert "Sequential" in errors[0]
    np.testing.assert_array_equal(model.backward(x), gradients(model, x, x)["x"])


def test_a_tree_is_walked_by_name():
    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, nn.Sequential(nn.BatchNorm1d(2), shared))
    assert [name for name, _ in model.named_modules()] == ["", "0", "1", "1.0", "1.1"]
    assert list(model.named_children()) == [("0", model[0]), ("1", model[1])]
    seen = []
    assert model.apply(seen.append) is model
    assert seen == [shared, model[1][0], shared, model[1], model]
    statistics = ["1.0.running_mean", "1.0.running_var", "1.0.num_batches_tracked"]
    assert [name for name, _ in model.named_buffers()] == statistics
    assert [id(array) for array in model.buffers()] == [id(getattr(model[1][0], name[4:])) for name in statistics]
    assert dict(model.named_parameters()).keys() | dict(model.named_buffers()).keys() == model.state_dict().keys()
