"""Training once: what is finished is loaded, what was interrupted goes on, what has changed begins anew."""

import os
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest

from covidcxr import training
from covidcxr.errors import CovidcxrError, InputError, ParameterError

EPOCHS = 4


class Feed(keras.utils.PyDataset):
    """Three batches an epoch, other ones in every epoch; `served` notes their epochs.

    Keras asks ahead, also beyond the last epoch.
    """

    served: list[int] = []

    def __init__(self, first_epoch: int):
        super().__init__()
        self.epoch = first_epoch

    def __len__(self):
        return 3

    def __getitem__(self, index):
        Feed.served.append(self.epoch)
        x = np.random.default_rng([self.epoch, index]).normal(size=(8, 4)).astype("float32")
        return x, x.sum(axis=1, keepdims=True)

    def on_epoch_end(self):
        self.epoch += 1


class Stop(keras.callbacks.Callback):
    """Pulls the plug when an epoch begins."""

    def __init__(self, epoch: int):
        super().__init__()
        self.at = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.at:
            raise KeyboardInterrupt


def model(rate=0.01, seed=0):
    training.set_seed(seed)
    net = keras.Sequential([
        keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.BatchNormalization(), keras.layers.Dropout(0.3),
        keras.layers.Dense(1),
    ])
    steps = EPOCHS * len(Feed(0))
    net.compile(keras.optimizers.Adam(training.cosine_rate(rate, steps)), loss="mse", jit_compile=training.jit_compile())
    return net


def train(folder, net=None, epochs=EPOCHS, made_from="here", **options):
    net = net or model()
    Feed.served = []
    history = training.fit_or_load(net, Feed, epochs=epochs, folder=folder, name="net", made_from=made_from, **options)
    Feed.served = [epoch for epoch in Feed.served if epoch < epochs]
    return net, history


def weights(net):
    return [np.array(value) for value in net.get_weights()]


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))


def losses(history):
    return [epoch["loss"] for epoch in history]


def test_a_finished_training_is_loaded_and_not_repeated(tmp_path, capsys, recwarn):
    trained, history = train(tmp_path)
    assert len(history) == EPOCHS and len(capsys.readouterr().out.splitlines()) == EPOCHS
    assert history[-1]["learning_rate"] == pytest.approx(0, abs=1e-6) and history[0]["learning_rate"] > 0.001
    again, same_history = train(tmp_path)
    assert Feed.served == [] and same(trained, again) and same_history == history
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.json", "net.weights.h5"]
    assert not [warning for warning in recwarn if "optimizer" in str(warning.message)]


def test_a_training_that_follows_begins_alike_whether_the_first_was_trained_or_loaded(tmp_path):
    begun = []
    for _ in range(2):
        net, _ = train(tmp_path)
        begun.append([np.array(variable) for variable in net.variables])  # with the dropout's random generator
    assert len(begun[0]) > len(weights(net))
    assert all(np.array_equal(a, b) for a, b in zip(*begun, strict=True))


@pytest.mark.parametrize("stop", [1, 3])
def test_an_interrupted_training_goes_on_to_the_same_end(tmp_path, stop):
    whole, history = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken", callbacks=[Stop(stop)])
    resumed, joined = train(tmp_path / "broken")
    assert set(Feed.served) == set(range(stop, EPOCHS))
    assert same(whole, resumed)
    assert losses(joined) == losses(history)


def test_states_are_kept_as_often_as_asked(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, callbacks=[Stop(3)], save_every=2)
    train(tmp_path, save_every=2)
    assert set(Feed.served) == {2, 3}


@pytest.mark.parametrize("change", [
    {"net": lambda: model(rate=0.02)}, {"net": lambda: model(seed=1)}, {"epochs": EPOCHS + 1}, {"made_from": "elsewhere"},
], ids=["optimizer", "start", "epochs", "data"])
def test_whatever_made_it_has_changed_it_begins_anew(tmp_path, change):
    train(tmp_path)
    options = {key: value() if callable(value) else value for key, value in change.items()}
    _, history = train(tmp_path, **options)
    assert set(Feed.served) == set(range(len(history)))


def test_damaged_files_are_not_taken_up(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, callbacks=[Stop(2)])
    state = tmp_path / "net.progress.npz"
    state.write_bytes(state.read_bytes()[:200])
    _, history = train(tmp_path)
    assert set(Feed.served) == set(range(EPOCHS)) and len(history) == EPOCHS
    (tmp_path / "net.json").write_text("{")
    train(tmp_path)
    assert set(Feed.served) == set(range(EPOCHS))


@pytest.mark.parametrize("damage", [lambda content: content[:-1000], lambda content: bytes([content[0] ^ 1]) + content[1:]])
def test_weights_that_are_not_those_of_the_record_are_made_anew(tmp_path, capsys, damage):
    trained, history = train(tmp_path)
    kept = tmp_path / "net.weights.h5"
    kept.write_bytes(damage(kept.read_bytes()))
    again, same_history = train(tmp_path)
    assert "its weights are damaged or gone; it is trained again" in capsys.readouterr().out
    assert set(Feed.served) == set(range(EPOCHS)) and same(trained, again) and losses(same_history) == losses(history)


def test_weights_tell_what_they_were_made_from_as_long_as_their_record_is_there(tmp_path):
    train(tmp_path, made_from={"from": "here"})
    assert training.made_from(tmp_path / "net.weights.h5") == {"from": "here"}
    for content in ("{", "[]", "{}"):
        (tmp_path / "net.json").write_text(content)
        with pytest.raises(InputError, match=r"net.weights.h5 can't be used without the record of its training, net.json"):
            training.made_from(tmp_path / "net.weights.h5")


def test_a_loss_that_is_not_finite_ends_training_with_its_epoch(tmp_path):
    net = model()
    net.compile(keras.optimizers.SGD(1e30), loss="mse", jit_compile=False)
    with pytest.raises(CovidcxrError, match=r"epoch 1: loss is not finite.*learning rate too high \(it is 1e\+30\)"):
        train(tmp_path, net)
    assert not (tmp_path / "net.json").exists()


def test_a_model_that_is_not_compiled_is_refused(tmp_path):
    with pytest.raises(InputError, match="not compiled"):
        train(tmp_path, keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]))


def test_the_rate_rises_then_falls_along_a_cosine():
    rate = training.cosine_rate(2.0, 100)
    at = [float(rate(step)) for step in range(101)]
    assert at[0] == 0 and at[10] == pytest.approx(2) and at[55] == pytest.approx(1) and at[100] == pytest.approx(0, abs=1e-6)
    assert np.all(np.diff(at[:11]) > 0) and np.all(np.diff(at[10:]) < 0)


# ---- early stopping ----------------------------------------------------------------------------------------------------

MOST = 20


def noisy(count: int, seed: int):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 4)).astype("float32")
    return x, (0.5 * x.sum(axis=1, keepdims=True) + rng.normal(size=(count, 1))).astype("float32")


UNSEEN = noisy(64, 2)  # whose loss sinks at first and rises when noise is learned by heart


def learner():
    training.set_seed(3)
    net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(64, "relu"), keras.layers.Dropout(0.1), keras.layers.Dense(1)])
    rng = np.random.default_rng(0)  # so that every backend starts from the same weights
    net.set_weights([rng.normal(0, 0.1, weights.shape) for weights in net.get_weights()[:4]] + net.get_weights()[4:])
    net.compile(keras.optimizers.Adam(0.02), loss="mse", jit_compile=training.jit_compile())
    return net


class Few(keras.utils.PyDataset):
    """The same eight examples in every batch."""

    def __init__(self, first_epoch: int = 0):
        super().__init__()
        self.x, self.y = noisy(8, 1)

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.x, self.y


def stopped(folder, net=None, **options):
    net = net or learner()
    options = {"patience": 2, **options}
    history = training.fit_or_load(
        net, Few, epochs=MOST, folder=folder, name="net", made_from=0, validation=UNSEEN, **options
    )
    return net, history


def watched(history):
    return [epoch["val_loss"] for epoch in history]


@pytest.mark.parametrize("restore", [False, True])
@pytest.mark.parametrize("patience", [1, 3])
def test_stops_where_keras_stops_with_the_weights_keras_keeps(tmp_path, patience, restore):
    theirs = learner()
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=patience, restore_best_weights=restore)
    expected = theirs.fit(
        Few(), epochs=MOST, validation_data=UNSEEN, callbacks=[stopping], shuffle=False, verbose=0
    ).history["val_loss"]
    ours, history = stopped(tmp_path, patience=patience, restore_best=restore)
    np.testing.assert_allclose(watched(history), expected, rtol=1e-6)
    assert same(ours, theirs)
    best = int(np.argmin(expected))
    assert 0 < best == len(history) - 1 - patience and len(history) < MOST
    at_end = float(ours.evaluate(*UNSEEN, verbose=0))
    assert at_end == pytest.approx(min(expected) if restore else expected[-1], rel=1e-5)


def test_what_stopped_early_is_loaded_as_it_was(tmp_path, capsys):
    trained, history = stopped(tmp_path, restore_best=True)
    capsys.readouterr()
    again, same_history = stopped(tmp_path, restore_best=True)
    assert f"trained before ({len(history)} epochs)" in capsys.readouterr().out
    assert same(trained, again) and same_history == history


@pytest.mark.parametrize("restore", [False, True])
@pytest.mark.parametrize("from_the_end", [0, 1, 3])
def test_one_that_goes_on_stops_where_it_would_have_stopped(tmp_path, restore, from_the_end):
    """Also where it is interrupted when the last epoch is done (0) or in one that waits for a lower loss."""
    whole, history = stopped(tmp_path / "whole", restore_best=restore)
    at = len(history) - 1 - from_the_end

    class Unplug(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == at:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped(tmp_path / "broken", restore_best=restore, callbacks=[Unplug()])
    resumed, joined = stopped(tmp_path / "broken", restore_best=restore)
    assert same(whole, resumed) and watched(joined) == watched(history)
    assert sorted(path.name for path in (tmp_path / "broken").iterdir()) == ["net.json", "net.weights.h5"]


@pytest.mark.parametrize(("change", "more"), [({"patience": 3}, 1), ({"restore_best": True}, 0), ({"patience": None}, None)])
def test_another_rule_of_stopping_is_another_training(tmp_path, capsys, change, more):
    _, first = stopped(tmp_path)
    capsys.readouterr()
    _, history = stopped(tmp_path, **change)
    assert "loaded" not in capsys.readouterr().out
    assert len(history) == (MOST if more is None else len(first) + more)


def test_the_seconds_of_validation_are_told_apart(tmp_path):
    _, history = stopped(tmp_path)
    assert all(0 < epoch["validation_seconds"] < epoch["seconds"] for epoch in history)
    _, without = train(tmp_path / "without")
    assert not any("validation_seconds" in epoch for epoch in without)


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"patience": 0, "validation": UNSEEN}, ParameterError, "patience must be at least 1"),
    ({"patience": 1}, InputError, "give validation too"),
    ({"restore_best": True, "validation": UNSEEN}, ParameterError, "give a patience too"),
])
def test_a_rule_of_stopping_that_can_not_be_followed_is_refused(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        train(tmp_path, **options)


@pytest.fixture
def as_before():
    yield
    training.set_up()


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_networks_compute_in_the_precision_that_was_asked_for_and_another_one_is_another_training(tmp_path, as_before, precision):
    train(tmp_path)
    training.set_up(precision)
    net = model()
    assert net.layers[0].compute_dtype == precision.removeprefix("mixed_") and net.layers[0].kernel.dtype == "float32"
    assert isinstance(net.optimizer, keras.optimizers.LossScaleOptimizer) == (precision == "mixed_float16")
    _, history = train(tmp_path, net)
    assert Feed.served and np.isfinite(losses(history)).all()
    train(tmp_path, model())
    assert not Feed.served


def test_a_training_in_float16_that_was_interrupted_ends_as_one_that_was_not(tmp_path, as_before):
    training.set_up("mixed_float16")
    whole, _ = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", callbacks=[Stop(2)])
    parts, _ = train(tmp_path / "parts")
    assert Feed.served and min(Feed.served) == 2 and same(whole, parts)


def test_compiling_is_switched_on_and_off(as_before):
    for jit, expected in (("always", True), ("never", False)):
        training.set_up(jit=jit)
        training.set_seed(0)
        assert training.jit_compile() is expected and model().jit_compile is expected


def test_several_devices_are_refused_where_they_can_not_share_a_batch(as_before):
    if keras.backend.backend() != "jax":
        with pytest.raises(ParameterError, match="only on Keras' JAX backend; this is .*KERAS_BACKEND=jax"):
            training.set_up(devices=2)
    else:
        with pytest.raises(ParameterError, match="devices is 99, but JAX sees"):
            training.set_up(devices=99)
    with pytest.raises(ParameterError, match="at least 1"):
        training.set_up(devices=0)


SHARED = """
    import sys, jax, keras, numpy as np
    sys.path.insert(0, "tests")
    from pathlib import Path
    import test_training as here
    from covidcxr import training

    nets, folder = {}, Path(sys.argv[1])
    for devices in (1, 2):
        training.set_up(devices=devices)
        nets[devices], _ = here.train(folder / str(devices))
        shards = nets[devices].layers[0].kernel.value.sharding.num_devices
        assert shards == devices, shards
    for one, two in zip(here.weights(nets[1]), here.weights(nets[2])):
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)
    try:
        here.train(folder / "two", here.model(), callbacks=[here.Stop(2)])
    except KeyboardInterrupt:
        pass
    resumed, _ = here.train(folder / "two")
    assert min(here.Feed.served) == 2 and here.same(resumed, nets[2])
"""


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="Keras distributes a batch on JAX only")
def test_two_devices_that_share_a_batch_learn_what_one_learns(tmp_path):
    flags = "--xla_force_host_platform_device_count=2"  # two devices of one processor
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SHARED), str(tmp_path)], env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True, text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
