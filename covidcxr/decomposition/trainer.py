"""Critic and generator by turns: trained once, loaded when finished, taken up exactly where they were interrupted.

What a step is made from follows from the seed and the step's number alone: which images, and which places between real and made
ones. So weights, the moments of both optimisers and the number of steps done are all there is to keep.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from covidcxr import feeding, training
from covidcxr.decomposition.games import Game
from covidcxr.decomposition.players import CriticStep, GeneratorStep
from covidcxr.errors import CovidcxrError, InputError, ParameterError
from covidcxr.fingerprint import digest, module_parts


@dataclass(frozen=True)
class Settings:
    """How critic and generator take turns.

    Attributes:
        batch_size: images; 8 in yang2021. Half of them are normal, half have lesions: the critic needs both in every step.
        learning_rate: of Adam, both; 2e-4 in yang2021, "default".
        betas: of Adam; none is printed. These are those of Gulrajani et al. for WGAN-GP; with much memory of old gradients a
            critic overshoots.
        critic_steps: steps of the critic before each of the generator; yang2021 names no number.
        warm_up: generator steps at the beginning, before each of which the critic has `warm_critic_steps`, since one that knows
            nothing yet leads astray (25 and 100 in VA-GAN); 0: none.
        warm_critic_steps: see there.
        again_every: every how many generator steps it has as many again; 100 in VA-GAN; 0: never.
    """

    batch_size: int = 8
    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.9)
    critic_steps: int = 1
    warm_up: int = 0
    warm_critic_steps: int = 100
    again_every: int = 0

    def __post_init__(self):
        if self.batch_size < 2 or self.batch_size % 2:
            raise ParameterError(f"batch_size must be even, half normal and half lesioned; it is {self.batch_size}.")
        if self.critic_steps < 1 or self.warm_critic_steps < 1 or self.warm_up < 0 or self.again_every < 0:
            raise ParameterError("critic_steps and warm_critic_steps must be at least 1, warm_up and again_every at least 0.")

    def critic_steps_before(self, step: int) -> int:
        """Steps of the critic before generator step `step`, counted from 0."""
        again = self.again_every and step % self.again_every == 0
        return self.warm_critic_steps if step < self.warm_up or again else self.critic_steps


class _Drawn(feeding.Feed):
    """Images of one class, batch by batch without end: all of them in a new order, pass after pass."""

    def __init__(self, images: Sequence[np.ndarray], batch_size: int, seed: int):
        super().__init__(len(images), batch_size, None, True, seed, 0, workers=1, max_queue_size=1)
        self.images = images

    def make(self, drawn: list[tuple[int, int]]) -> tuple[np.ndarray]:
        return (np.stack([self.images[number] for number, _ in drawn])[..., None].astype(np.float32, copy=False),)


def train(
    game: Game,
    normal: Sequence[np.ndarray],
    lesioned: Sequence[np.ndarray],
    *,
    steps: int,
    folder: Path,
    name: str,
    made_from: Any,
    settings: Settings | None = None,
    seed: int = 0,
    report_every: int = 100,
    save_every: int = 500,
) -> training.History:
    """Train a game's generator and critic, or load what an earlier call with the same arguments has trained.

    Weights are kept as `folder/name.weights.h5` (generator) and `folder/name.critic.weights.h5` with their record `name.json`;
    while training runs, `name.progress.npz` holds all that is needed to go on.

    Args:
        game: seed its networks first (`training.set_seed`): the weights they begin with are part of what made the result.
        normal, lesioned: images of both classes, float32 (H, W) in [-1, 1], all of one size. Nothing else about them is asked
            for: training never sees a mask.
        steps: of the generator, in all.
        folder, name: where all is kept, and as what.
        made_from: JSON-able description of the images.
        settings: how they take turns.
        seed: of the order of the images and of the places between them.
        report_every: generator steps a line and an entry of the history are made of.
        save_every: generator steps between two states on disk, a multiple of `report_every`.

    Returns:
        One entry per `report_every` steps: means of all losses, of the critic with `critic_` before the name, `steps` done,
        `seconds`, `learning_rate`.

    Raises:
        InputError: a class has no image, or images are of several sizes.
        ParameterError: a number is out of its range.
        CovidcxrError: a loss or a weight is not finite; the last state that was good is kept.
    """
    settings = settings or Settings()
    feeding.check_classes(normal, lesioned)
    if steps < 1 or report_every < 1 or save_every % report_every:
        raise ParameterError("steps and report_every must be at least 1, and save_every a multiple of report_every.")
    folder.mkdir(parents=True, exist_ok=True)
    match = _Match(game, normal, lesioned, settings, seed)
    key = match.key(steps, made_from, report_every)
    record = folder / f"{name}.json"
    files = {folder / f"{name}.weights.h5": game.generator}
    if game.critic is not None:
        files[folder / f"{name}.critic.weights.h5"] = game.critic
    finished = training.read_record(record, key, *files)
    if finished is not None:
        for file, network in files.items():
            network.load_weights(file)
        print(f"{name}: trained before ({steps} steps); loaded from {folder / name}.weights.h5")
        return finished
    progress = folder / f"{name}.progress.npz"
    history = match.resume(progress, key)
    if history:
        print(f"{name}: goes on after step {match.step} of {steps}")
    while match.step < steps:
        history.append(match.advance(min(report_every, steps - match.step)))
        _report(history[-1], steps)
        match.check(history[-1], progress)
        if match.step % save_every == 0 and match.step < steps:
            match.save(progress, key, history)
    record.unlink(missing_ok=True)
    for file, network in files.items():
        training.save_weights(network, file)
    training.write_record(record, key, made_from, history, *files)
    progress.unlink(missing_ok=True)
    return history


def _report(entry: dict[str, float], steps: int) -> None:
    parts = "  ".join(f"{name} {value:.4g}" for name, value in entry.items() if name not in ("steps", "seconds", "learning_rate"))
    print(f"step {int(entry['steps']):>6}/{steps}  {entry['seconds']:6.1f} s  {parts}", flush=True)


class _Match:
    """Both players, where they stand, and what they are fed."""

    def __init__(self, game: Game, normal, lesioned, settings: Settings, seed: int):
        self.game, self.settings, self.seed = game, settings, seed
        half = settings.batch_size // 2
        # Each player has an order of its own, so that a schedule of the critic does not change what the generator sees.
        self.feeds = [[_Drawn(images, half, 4 * seed + 2 * player + label) for label, images in enumerate((normal, lesioned))]
                      for player in (0, 1)]
        self.players = [GeneratorStep(game), *([CriticStep(game)] if game.critic is not None else [])]
        for player in self.players:
            optimizer = keras.optimizers.Adam(settings.learning_rate, *settings.betas)
            player.compile(optimizer, jit_compile=training.jit_compile())
            player.optimizer.build(player.trainable_variables)
        self.step = self.critic_step = 0

    def key(self, steps: int, made_from: Any, report_every: int) -> str:
        """Hash of all that the result depends on."""
        weights = hashlib.sha256()
        for variable in self._state():
            weights.update(np.ascontiguousarray(ops.convert_to_numpy(variable.value)).tobytes())
        networks = [value.get_config() for value in vars(self.game).values() if isinstance(value, keras.Model)]
        images = [[feed.count, *feed.images[0].shape] for feed in self.feeds[0]]
        described = [self.game.settings(), networks, asdict(self.settings), self.seed, steps, report_every, made_from, images,
                     module_parts({__name__, type(self.game).__module__}), weights.hexdigest(), training.arithmetic()]
        return digest(json.loads(json.dumps(described, default=str)))

    def advance(self, steps: int) -> dict[str, float]:
        """So many steps of the generator with those of the critic; the mean of each loss."""
        began = time.perf_counter()
        for player in self.players:
            player.reset_metrics()
        kept: dict[str, Any] = {}
        for _ in range(steps):
            for _ in range(self.settings.critic_steps_before(self.step) if len(self.players) > 1 else 0):
                kept |= {f"critic_{name}": value for name, value in self._play(1, self.critic_step).items()}
                self.critic_step += 1
            kept |= self._play(0, self.step)
            self.step += 1
        values = {name: float(value) for name, value in kept.items()}
        rate = float(self.settings.learning_rate)
        return {**values, "steps": self.step, "seconds": time.perf_counter() - began, "learning_rate": rate}

    def _play(self, player: int, number: int) -> dict[str, Any]:
        (normal,), (lesioned,) = (feed[number] for feed in self.feeds[player])
        batch = {"normal": normal, "lesioned": lesioned}
        if player:
            count = self.game.shown(normal, lesioned).shape[0]
            draws = np.random.default_rng((self.seed, 3, number)).uniform(size=(count, 1, 1, 1))
            batch["share"] = draws.astype(np.float32)
        return self.players[player].train_on_batch(batch, return_dict=True)

    def check(self, entry: dict[str, float], progress: Path) -> None:
        """Raises CovidcxrError unless all losses and all weights are finite."""
        bad = [name for name, value in entry.items() if not np.isfinite(value)]
        if not bad and all(np.isfinite(ops.convert_to_numpy(variable.value)).all() for variable in self._state()):
            return
        kept = f"The last good state is kept in {progress}." if progress.is_file() else "No state had been kept before."
        raise CovidcxrError(
            f"Training broke down before step {self.step}: {', '.join(bad) or 'a weight'} is not finite. {kept} Usual causes: a "
            f"learning rate too high (it is {self.settings.learning_rate:g}), images not in [-1, 1], too few critic steps."
        )

    def _state(self) -> list:
        networks = [network for network in (self.game.generator, self.game.critic) if network is not None]
        return [variable for part in (*networks, *(player.optimizer for player in self.players)) for variable in part.variables]

    def save(self, file: Path, key: str, history: training.History) -> None:
        """Keep all that is needed to go on, at once or not at all."""
        state = [ops.convert_to_numpy(variable.value) for variable in self._state()]
        about = {"key": key, "history": history, "step": self.step, "critic_step": self.critic_step, "count": len(state)}
        arrays: dict[str, Any] = {f"state{i}": value for i, value in enumerate(state)}
        aside = file.with_name(f".{file.name}.aside.npz")
        try:
            np.savez(aside, **arrays, about=np.frombuffer(json.dumps(about).encode(), np.uint8))
            os.replace(aside, file)
        except OSError as error:
            raise InputError(f"{file} can't be written: {error.strerror or error}. Free the disk.") from error

    def resume(self, file: Path, key: str) -> training.History:
        """Take up a state on disk, if it is of the same training; the history until then."""
        try:
            with np.load(file, allow_pickle=False) as stored:
                about = json.loads(bytes(stored["about"]).decode())
                values = [stored[f"state{i}"] for i in range(about["count"])]
                made, step, critic_step, history = (about[name] for name in ("key", "step", "critic_step", "history"))
        except Exception:  # whatever a damaged file leads to inside numpy and zipfile
            return []
        variables = self._state()
        if made != key or [value.shape for value in values] != [tuple(variable.shape) for variable in variables]:
            return []
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        self.step, self.critic_step = step, critic_step
        return history
