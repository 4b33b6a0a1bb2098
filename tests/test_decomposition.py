"""The decomposition GAN: losses in closed form, a problem with a known answer, training that is the same however it is cut."""

import gc
import json

import keras
import numpy as np
import pytest
from keras import layers, ops

from covidcxr import feeding, training
from covidcxr.decomposition import losses, networks, trainer
from covidcxr.decomposition.games import BL, VAGAN, Decomposition
from covidcxr.decomposition.input_gradient import input_gradient
from covidcxr.decomposition.players import CriticStep, GeneratorStep
from covidcxr.errors import CovidcxrError, InputError, ParameterError

SIZE = 16
ADDED = 0.7


def slices(count: int, lesioned: bool, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise about -0.5, and a square of 5 x 5 pixels that is 0.7 brighter: float32 (N, 16, 16), and where it lies."""
    rng = np.random.default_rng((seed, lesioned))
    images = rng.normal(-0.5, 0.05, (count, SIZE, SIZE)).astype(np.float32)
    masks = np.zeros(images.shape, bool)
    if lesioned:
        for mask, (row, column) in zip(masks, rng.integers(0, SIZE - 5, (count, 2)), strict=True):
            mask[row : row + 5, column : column + 5] = True
    images[masks] += ADDED
    return images, masks


def game(filters: int = 4, **options) -> Decomposition:
    training.set_seed(0)
    return Decomposition(networks.decomposer(SIZE, filters, 2), networks.critic(SIZE, filters), **options)


def linear_critic(weight: np.ndarray) -> keras.Model:
    image = keras.Input((SIZE, SIZE, 1))
    model = keras.Model(image, layers.Dense(1)(layers.Flatten()(image)))
    model.set_weights([weight.reshape(-1, 1), np.ones(1, np.float32)])
    return model


def tiny(**options) -> Decomposition:
    """A game of few layers, for what is asked of the training and not of the networks: it is compiled in no time."""
    training.set_seed(0)
    weight = np.random.default_rng(4).normal(0, 1 / SIZE, SIZE * SIZE).astype(np.float32)
    return Decomposition(networks.decomposer(SIZE, 2, 1), linear_critic(weight), **options)


def train(folder, one=None, steps=8, **options):
    one = one or tiny()
    normal, lesioned = slices(12, False)[0], slices(10, True)[0]
    options = {"made_from": "noise", "report_every": 2, "save_every": 4, **options}
    return one, trainer.train(one, normal, lesioned, steps=steps, folder=folder, name="net", **options)


def weights(network) -> list[np.ndarray]:
    return [np.array(value) for value in network.get_weights()]


def fill(*nets) -> None:
    """Weights that do not depend on the backend's random numbers."""
    for number, network in enumerate(nets):
        rng = np.random.default_rng(number)
        network.set_weights([rng.normal(0, 0.2, weight.shape).astype(np.float32) for weight in network.get_weights()])


# ---- losses -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0.25, 1.0, 3.0])
def test_the_penalty_of_a_linear_critic_is_that_of_its_weights(length):
    """The gradient of w·x + b is w at every image: the penalty is (|w| - 1)², whatever the images."""
    weight = np.random.default_rng(0).normal(size=SIZE * SIZE).astype(np.float32)
    critic = linear_critic(weight * np.float32(length / np.linalg.norm(weight)))
    images = ops.convert_to_tensor(slices(6, True)[0][..., None])
    penalty = ops.convert_to_numpy(losses.gradient_penalty(critic, images))
    np.testing.assert_allclose(penalty, (length - 1) ** 2, rtol=1e-4, atol=1e-6)


def test_the_penalty_teaches_a_linear_critic_a_gradient_of_length_one():
    """Its derivative with respect to the weights is 2 (|w| - 1) w / |w|: the gradient of a gradient, through Keras' own step."""
    weight = np.random.default_rng(1).normal(size=SIZE * SIZE).astype(np.float32)
    image = np.zeros((4, SIZE, SIZE, 1), np.float32)
    one = game()
    one.critic = linear_critic(weight)
    one.penalty = 1.0
    player = CriticStep(one)
    player.compile(keras.optimizers.SGD(1.0), jit_compile=training.jit_compile())
    made = ops.convert_to_numpy(one.generator(np.concatenate([image, image]))[0])
    player.train_on_batch({"normal": image, "lesioned": image, "share": np.zeros((8, 1, 1, 1), np.float32)})
    length = np.linalg.norm(weight)
    expected = weight - 2 * (length - 1) * weight / length - made.mean(axis=0).ravel()  # and the Wasserstein terms: made - real
    np.testing.assert_allclose(one.critic.get_weights()[0].ravel(), expected, rtol=1e-3, atol=2e-4)


def test_the_gradient_of_each_image_is_its_own():
    """Against finite differences, of a critic with curvature."""
    training.set_seed(1)
    image = keras.Input((8, 8, 1))
    critic = keras.Model(image, layers.Dense(1)(layers.Flatten()(layers.Conv2D(3, 3, activation="tanh")(image))))
    images = np.random.default_rng(2).normal(size=(3, 8, 8, 1)).astype(np.float32)
    gradient = ops.convert_to_numpy(input_gradient(critic, ops.convert_to_tensor(images)))
    direction = np.random.default_rng(3).normal(size=images.shape).astype(np.float32)
    ahead, back = (ops.convert_to_numpy(critic(images + sign * 0.02 * direction))[:, 0] for sign in (1, -1))
    np.testing.assert_allclose((gradient * direction).sum(axis=(1, 2, 3)), (ahead - back) / 0.04, rtol=0.02, atol=1e-3)


def test_images_between_lie_on_the_lines_and_real_ones_are_taken_in_turn():
    real, made = np.stack([np.full((2, 2, 1), value, np.float32) for value in (1, 3)]), np.zeros((5, 2, 2, 1), np.float32)
    share = np.array([0, 0.5, 1, 0.25, 0.5], np.float32).reshape(-1, 1, 1, 1)
    between = losses.between(ops.convert_to_tensor(real), ops.convert_to_tensor(made), ops.convert_to_tensor(share))
    np.testing.assert_allclose(ops.convert_to_numpy(between)[:, 0, 0, 0], [0, 1.5, 1, 0.75, 0.5])


@pytest.mark.parametrize(("norm", "expected"), [("l1", 24.0), ("l2", 12.0), ("mean_l1", 6.0), ("mean_l2", 36.0)])
def test_norms(norm, expected):
    first, second = np.full((3, 2, 2, 1), 5, np.float32), np.full((3, 2, 2, 1), -1, np.float32)
    first, second = ops.convert_to_tensor(first), ops.convert_to_tensor(second)
    np.testing.assert_allclose(ops.convert_to_numpy(losses.distance(first, second, norm)), np.full(3, expected), rtol=1e-6)
    halves = losses.reconstruction(first, 0.5 * second, 0.5 * second, norm)
    np.testing.assert_allclose(ops.convert_to_numpy(halves), expected, rtol=1e-6)


def test_equation_5_adds_up():
    one = game(adversarial=0.5, reconstruction=2.0, fidelity=3.0)
    fill(one.generator, one.critic)
    player = GeneratorStep(one)
    player.compile(keras.optimizers.SGD(0.0), jit_compile=training.jit_compile())
    normal, lesioned = slices(4, False)[0][..., None], slices(4, True)[0][..., None]
    found = player.train_on_batch({"normal": normal, "lesioned": lesioned}, return_dict=True)
    images = np.concatenate([normal, lesioned])
    first, second = (ops.convert_to_numpy(part) for part in one.generator(images))
    opinion = ops.convert_to_numpy(one.critic(first)).mean()
    expected = -0.5 * opinion + 2 * np.abs(images - first - second).mean() + 3 * np.abs(normal - first[:4]).mean()
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-4)


# ---- networks -----------------------------------------------------------------------------------------------------------


def test_the_critic_has_seven_layers_and_does_not_mix_images():
    model = networks.critic(SIZE, 4)
    assert sum(1 for layer in model.layers if layer.weights) == 7
    assert model.get_layer("means").output.shape[-1] == 4 + 8 + 16, "three down-samplings, pooled and concatenated"
    images = np.random.default_rng(0).normal(size=(4, SIZE, SIZE, 1)).astype(np.float32)
    alone = np.concatenate([ops.convert_to_numpy(model(images[i : i + 1])) for i in range(4)])
    np.testing.assert_allclose(ops.convert_to_numpy(model(images)), alone, rtol=1e-4, atol=1e-5)


def test_two_decoders_share_one_encoder():
    both, one = networks.decomposer(32, 4, 2), networks.decomposer(32, 4, 2, two_parts=False)
    names = [layer.name for layer in both.layers if layer.weights]
    encoder = [name for name in names if name.startswith(("down", "bottom"))]
    assert len(encoder) == 6 and len(names) == 6 + 2 * 5
    assert both.count_params() - one.count_params() == one.count_params() - sum(
        both.get_layer(name).count_params() for name in encoder
    )
    first, second = both.predict(np.full((2, 32, 32, 1), 50, np.float32), verbose=0)
    assert first.shape == second.shape == (2, 32, 32, 1) and max(abs(first).max(), abs(second).max()) <= 1


@pytest.mark.parametrize("make", [
    lambda: networks.decomposer(20, 4, 3), lambda: networks.critic(12), lambda: networks.critic(16, 0),
])
def test_sizes_that_do_not_fit_are_refused(make):
    with pytest.raises(ParameterError, match="multiple of 8|at least 1"):
        make()


# ---- training -----------------------------------------------------------------------------------------------------------


def test_each_player_learns_its_own_weights_alone():
    one = tiny()
    before = weights(one.generator), weights(one.critic)
    batch = {"normal": slices(4, False)[0][..., None], "lesioned": slices(4, True)[0][..., None],
             "share": np.full((8, 1, 1, 1), 0.5, np.float32)}
    critic, generator = CriticStep(one), GeneratorStep(one)
    for player in (critic, generator):
        player.compile(keras.optimizers.Adam(1e-2), jit_compile=training.jit_compile())
    critic.train_on_batch(batch)
    assert all(np.array_equal(a, b) for a, b in zip(weights(one.generator), before[0], strict=True))
    learned = weights(one.critic)
    assert not any(np.array_equal(a, b) for a, b in zip(learned, before[1], strict=True) if a.ndim > 1)
    generator.train_on_batch({key: batch[key] for key in ("normal", "lesioned")})
    assert all(np.array_equal(a, b) for a, b in zip(weights(one.critic), learned, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(weights(one.generator), before[0], strict=True) if a.ndim > 1)


def test_a_lesion_of_known_brightness_is_found_where_it_is(tmp_path):
    """The answer: 0.7 in the square, 0 elsewhere and on normal images, which are their own normal part."""
    one = game(8, adversarial=1.0)
    normal, lesioned = slices(64, False)[0], slices(64, True)[0]
    trainer.train(one, normal, lesioned, steps=300, folder=tmp_path, name="toy", made_from="", report_every=100, save_every=900,
                  settings=trainer.Settings(learning_rate=1e-3))
    new, where = slices(40, True, seed=9)
    maps = one.lesion_maps(new)
    assert abs(maps[where].mean() - ADDED) < 0.15
    assert abs(maps[~where]).mean() < 0.06
    assert abs(one.lesion_maps(slices(40, False, seed=9)[0])).mean() < 0.06
    assert abs(one.normal_images(new)[where].mean() + 0.5) < 0.15, "without its lesion a slice is as bright as a normal one"


class Pulled(Exception):
    """The plug."""


def test_interrupted_and_taken_up_is_the_same_as_never_interrupted(tmp_path, monkeypatch):
    settings = trainer.Settings(critic_steps=2, warm_up=2, warm_critic_steps=3)
    whole, history = train(tmp_path / "whole", settings=settings)
    report = trainer._report
    monkeypatch.setattr(trainer, "_report", lambda entry, steps: report(entry, steps) if entry["steps"] < 6 else pull())

    def pull():
        raise Pulled

    with pytest.raises(Pulled):
        train(tmp_path / "cut", settings=settings)
    monkeypatch.setattr(trainer, "_report", report)
    cut, again = train(tmp_path / "cut", settings=settings)
    for first, second in ((whole.generator, cut.generator), (whole.critic, cut.critic)):
        for a, b in zip(weights(first), weights(second), strict=True):
            np.testing.assert_array_equal(a, b)
    without = [{key: value for key, value in entry.items() if key != "seconds"} for entry in history]
    assert without == [{key: value for key, value in entry.items() if key != "seconds"} for entry in again]
    assert not (tmp_path / "cut" / "net.progress.npz").exists()


def test_what_is_finished_is_loaded_and_what_has_changed_begins_anew(tmp_path, capsys, monkeypatch):
    """What is learned is not asked here: a step adds 1 to all weights."""
    begun = []

    def advance(match, steps):
        begun.append(match.step)
        match.game.generator.set_weights([weight + 1 for weight in match.game.generator.get_weights()])
        match.step += steps
        return {"steps": match.step, "seconds": 0.0, "learning_rate": 0.0}

    monkeypatch.setattr(trainer._Match, "advance", advance)
    first, history = train(tmp_path, steps=2)
    capsys.readouterr()
    second, again = train(tmp_path, steps=2)
    assert "trained before" in capsys.readouterr().out and again == history and begun == [0]
    assert all(np.array_equal(a, b) for a, b in zip(weights(first.generator), weights(second.generator), strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(weights(first.generator), weights(tiny().generator), strict=True))
    critic = tmp_path / "net.critic.weights.h5"
    critic.write_bytes(critic.read_bytes()[:-1])
    train(tmp_path, steps=2)
    assert "trained again" in capsys.readouterr().out and begun.pop() == 0
    changed = {"others": {"made_from": "others"}, "seed": {"seed": 1}, "weight": {"one": tiny(fidelity=1.0)},
               "turns": {"settings": trainer.Settings(critic_steps=2)}}
    keys = {json.loads((tmp_path / "net.json").read_text())["key"]}
    for options in changed.values():
        train(tmp_path, **options, steps=2)
        assert "trained before" not in capsys.readouterr().out
        keys.add(json.loads((tmp_path / "net.json").read_text())["key"])
    assert len(keys) == 1 + len(changed) == len(begun)


def test_a_loss_that_is_not_finite_ends_training_and_the_last_good_state_stays(tmp_path):
    one = tiny()
    progress = tmp_path / "net.progress.npz"

    normal, lesioned = list(slices(8, False)[0]), list(slices(8, True)[0])

    class Images(list):
        """All is well until a state was kept."""

        def __getitem__(self, index):
            return super().__getitem__(index) * (np.float32("nan") if progress.is_file() else np.float32(1))

    with pytest.raises(CovidcxrError, match="not finite.*last good state is kept in .*net.progress.npz"):
        trainer.train(one, Images(normal), lesioned, steps=20, folder=tmp_path, name="net", made_from="", report_every=2,
                      save_every=4)
    with np.load(progress) as kept:
        about = json.loads(bytes(kept["about"]).decode())
        assert about["step"] == 4
        assert all(np.isfinite(kept[f"state{i}"]).all() for i in range(about["count"]))


def test_a_damaged_state_is_passed_over(tmp_path):
    (tmp_path / "net.progress.npz").write_bytes(b"PK\x03\x04 not an archive")
    _, history = train(tmp_path, steps=2)
    assert len(history) == 1
    np.savez(tmp_path / "net.progress.npz", about=np.frombuffer(b'["no", "mapping"]', np.uint8))
    _, history = train(tmp_path, steps=3)
    assert len(history) == 2


@pytest.mark.parametrize(("normal", "lesioned", "message"), [
    (0, 4, "no normal images"), (4, 0, "all of one class"),
])
def test_one_class_alone_is_refused(tmp_path, normal, lesioned, message):
    images = slices(normal, False)[0], slices(lesioned, True)[0]
    with pytest.raises(InputError, match=message):
        trainer.train(tiny(), *images, steps=2, folder=tmp_path, name="n", made_from=0)


def test_images_of_two_sizes_are_refused():
    with pytest.raises(InputError, match="one size"):
        feeding.check_classes(slices(2, False)[0], np.zeros((2, 8, 8), np.float32))


@pytest.mark.parametrize("options", [{"batch_size": 7}, {"batch_size": 0}, {"critic_steps": 0}, {"warm_up": -1}])
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ParameterError):
        trainer.Settings(**options)


def test_the_schedule_of_va_gan():
    settings = trainer.Settings(critic_steps=5, warm_up=25, warm_critic_steps=100, again_every=100)
    found = [settings.critic_steps_before(step) for step in (0, 24, 25, 99, 100, 101, 200)]
    assert found == [100, 100, 5, 5, 100, 5, 100]


def test_memory_does_not_grow(tmp_path):
    """Objects that outlive their step would show: over 60 steps there are no more of them than over the 20 before."""
    one = tiny()
    normal, lesioned = slices(12, False)[0], slices(10, True)[0]
    match = trainer._Match(one, normal, lesioned, trainer.Settings(), 0)
    match.advance(20)
    gc.collect()
    before = len(gc.get_objects())
    match.advance(60)
    gc.collect()
    assert len(gc.get_objects()) - before < 60


@pytest.mark.parametrize("without", ["normal_fidelity", "lesion_decoder", "critic"])
def test_ablations(tmp_path, without):
    training.set_seed(0)
    generator = networks.decomposer(SIZE, 2, 1, two_parts=without != "lesion_decoder")
    critic = None if without == "critic" else tiny().critic
    one = Decomposition(generator, critic, fidelity=0.0 if without == "normal_fidelity" else 100.0)
    _, history = train(tmp_path, one, steps=4)
    assert ("normal_fidelity" in history[-1]) == (without != "normal_fidelity")
    assert ("adversarial" in history[-1]) == ("critic_penalty" in history[-1]) == (without != "critic")
    images = slices(3, True)[0]
    maps = one.lesion_maps(images, batch_size=2)
    assert maps.shape == (3, SIZE, SIZE)
    if without == "lesion_decoder":
        np.testing.assert_allclose(maps, images - one.normal_images(images), atol=1e-6)


# ---- the same on every backend --------------------------------------------------------------------------------------------


def test_steps_from_the_same_weights_are_the_same_on_every_backend(tmp_path):
    """Losses of three steps of both players; the numbers are those of TensorFlow, and JAX and PyTorch give them too."""
    one = game()
    fill(one.generator, one.critic)
    _, history = train(tmp_path, one, steps=3, report_every=1, save_every=3, settings=trainer.Settings(critic_steps=2))
    found = [[entry[name] for name in ("critic_wasserstein", "critic_penalty", "reconstruction", "normal_fidelity")]
             for entry in history]
    np.testing.assert_allclose(found, SAME, rtol=2e-3, atol=2e-4)


SAME = [
    [-0.004201, 0.836235, 0.300114, 0.361399],
    [-0.002881, 0.833539, 0.289915, 0.352846],
    [-0.006609, 0.800866, 0.275114, 0.344540],
]


# ---- the peers of the same kind -------------------------------------------------------------------------------------------


def correlation(maps: np.ndarray, masks: np.ndarray) -> float:
    """Normalised cross-correlation of map and effect, mean over images: the score of VA-GAN's synthetic task."""
    return float(np.mean([np.corrcoef(one.ravel(), mask.ravel())[0, 1] for one, mask in zip(maps, masks, strict=True)]))


def test_va_gan_finds_the_effect_of_its_synthetic_task(tmp_path):
    """As in Baumgartner et al., section 4.1, made small: noise with a square at a place that changes."""
    training.set_seed(0)
    one = VAGAN(networks.decomposer(SIZE, 8, 2, two_parts=False), networks.critic(SIZE, 8), map_weight=1.0)
    normal, lesioned = slices(64, False)[0], slices(64, True)[0]
    trainer.train(one, normal, lesioned, steps=150, folder=tmp_path, name="va_gan", made_from="", report_every=150,
                  save_every=900, settings=trainer.Settings(learning_rate=1e-3, critic_steps=2))
    new, masks = slices(30, True, seed=9)
    maps = one.lesion_maps(new)
    assert correlation(maps, masks) > 0.9
    np.testing.assert_allclose(one.normal_images(new), new - maps, atol=1e-6)


def test_bl_takes_away_what_the_classifier_objects_to(tmp_path):
    """The classifier is given: it looks at the brightest pixel."""
    image = keras.Input((SIZE, SIZE, 1))
    peak = layers.GlobalMaxPooling2D()(image)
    classifier = keras.Model(image, layers.Dense(1, activation="sigmoid")(peak))
    classifier.set_weights([np.array([[20.0]], np.float32), np.array([2.0], np.float32)])
    training.set_seed(0)
    one = BL(networks.decomposer(SIZE, 8, 2, two_parts=False), networks.critic(SIZE, 8), classifier, map_weight=10.0)
    normal, lesioned = slices(64, False)[0], slices(64, True)[0]
    before = weights(classifier)
    trainer.train(one, normal, lesioned, steps=100, folder=tmp_path, name="bl", made_from="", report_every=100,
                  save_every=900, settings=trainer.Settings(learning_rate=1e-3, critic_steps=2))
    new, masks = slices(30, True, seed=9)
    maps = one.lesion_maps(new)
    assert correlation(maps, masks) > 0.9
    assert classifier.predict(new[..., None], verbose=0).mean() > 0.9
    assert classifier.predict(one.normal_images(new)[..., None], verbose=0).mean() < 0.3
    assert all(np.array_equal(a, b) for a, b in zip(weights(classifier), before, strict=True)), "it is not trained here"
