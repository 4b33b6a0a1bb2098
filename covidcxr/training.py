"""Training that is done once: finished weights are loaded, an interrupted training goes on where it stopped.

Beside the weights stands what made them: settings of the model and of the optimiser, the weights it began with, the code, and
what the caller says of the data. When any of it differs, training begins anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from covidcxr import paths
from covidcxr.errors import CovidcxrError, InputError
from covidcxr.fingerprint import digest, module_parts

History = list[dict[str, float]]
"""Per epoch the losses by name, `seconds`, and `learning_rate` at its end."""


def set_seed(seed: int) -> None:
    """Seed Python, numpy and Keras: the same start of a model built next, whatever was built before."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)


def jit_compile() -> bool | str:
    """What to give `compile`: XLA where it pays. On TensorFlow without a GPU, compiling takes longer than it saves."""
    if keras.backend.backend() != "tensorflow":
        return "auto"
    import tensorflow

    return "auto" if tensorflow.config.list_physical_devices("GPU") else False


def cosine_rate(peak: float, steps: int, warm_up: float = 0.1) -> keras.optimizers.schedules.LearningRateSchedule:
    """A learning rate that grows to `peak` over the first share `warm_up` of `steps` and falls to nothing along a cosine."""
    rise = max(1, round(warm_up * steps))
    return keras.optimizers.schedules.CosineDecay(0.0, max(1, steps - rise), warmup_target=peak, warmup_steps=rise)


def fit_or_load(
    model: keras.Model,
    feed: Callable[[int], Any],
    *,
    epochs: int,
    folder: Path,
    name: str,
    made_from: Any,
    validation: Any = None,
    save_every: int = 1,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> History:
    """Train a compiled model, or load what an earlier call with the same arguments has trained.

    One line per epoch is printed. Weights are kept as `folder/name.weights.h5` with their record `name.json`; while training
    runs, `name.progress.npz` holds all that is needed to go on.

    Args:
        model: compiled; seed it first (`set_seed`), since its starting weights are part of what made the result.
        feed: called with the number of the first epoch still to be done (from 0), returns what `fit` takes as x. Its order is
            kept: a feed shuffles itself.
        epochs: in all.
        folder: usually `stage.folder / "checkpoints"`, which survives an interrupted run of the stage.
        name: of this training within the folder.
        made_from: JSON-able description of the data and of whatever else is behind `feed`.
        validation: as `validation_data` of `fit`.
        save_every: epochs between two states on disk.
        callbacks: further callbacks.

    Returns:
        The history of all epochs, also of those before an interruption.

    Raises:
        CovidcxrError: a loss is not finite.
        InputError: the model is not compiled, or the disk can't be written.
    """
    if not model.compiled:
        raise InputError("The model is not compiled: call model.compile(optimizer=…) before fit_or_load.")
    folder.mkdir(parents=True, exist_ok=True)
    key = _key(model, feed(0), epochs, made_from)
    record, weights = folder / f"{name}.json", folder / f"{name}.weights.h5"
    finished = _read_record(record, key)
    if finished is not None and weights.is_file():
        with _without_optimizer(model):
            model.load_weights(weights)
        print(f"{name}: trained before ({epochs} epochs); loaded from {weights}")
        return finished

    generators = [variable for variable in model.variables if not any(variable is weight for weight in model.weights)]
    begun = [_array(variable) for variable in generators]
    progress = _Progress(model, folder / f"{name}.progress.npz", key, epochs, save_every)
    done = progress.resume()
    if done:
        print(f"{name}: goes on after epoch {done} of {epochs}")
    batches = feed(done)
    if isinstance(batches, keras.utils.PyDataset):
        build(model, batches[0])
    model.fit(
        batches, epochs=epochs, initial_epoch=done, verbose=0, validation_data=validation, callbacks=[progress, *callbacks],
        shuffle=False,  # Keras would draw the order from Python's global random state, which an interruption changes
    )
    # Files of weights do not hold random generators: they begin where they would if this training had been loaded, so that one
    # that follows is the same either way.
    for variable, value in zip(generators, begun, strict=True):
        variable.assign(value)
    record.unlink(missing_ok=True)  # never a record beside the weights of another training
    _save_weights(model, weights)
    paths.write_atomically(record, json.dumps({"key": key, "made_from": made_from, "history": progress.history}, indent=1))
    progress.file.unlink(missing_ok=True)
    return progress.history


def build(model: keras.Model, batch: Any) -> None:
    """Build all that `compile` leaves to `fit`, from the shapes of a batch.

    On JAX and PyTorch `fit` would do so with a batch of what it is given, as if an epoch had begun and ended; and the batches
    that its threads made meanwhile would be kept for the training, which they put out of step. Keras has no public function for
    it.
    """
    model._symbolic_build(data_batch=batch)


def _key(model: keras.Model, feed: Any, epochs: int, made_from: Any) -> str:
    """Hash of everything that the result depends on."""
    weights = hashlib.sha256()
    for variable in model.variables:
        weights.update(np.ascontiguousarray(_array(variable)).tobytes())
    code = module_parts({type(model).__module__, type(feed).__module__, __name__})
    described = [model.get_config(), model.optimizer.get_config(), epochs, made_from, code, weights.hexdigest()]
    return digest(json.loads(json.dumps(described, default=str)))


def _save_weights(model: keras.Model, file: Path) -> None:
    """The model's weights as a file of Keras', without the optimiser's moments, which would make it three times as large."""
    aside = file.with_name(f".aside.{file.name}")
    try:
        with _without_optimizer(model):
            model.save_weights(aside)
        os.replace(aside, file)
    except OSError as error:
        raise InputError(f"{file} can't be written: {error.strerror or error}. Free the disk.") from error


@contextmanager
def _without_optimizer(model: keras.Model) -> Iterator[None]:
    """Weights are saved and loaded as if the model had no optimiser; Keras warns of one whose moments a file does not hold."""
    optimizer, model.optimizer = model.optimizer, None
    try:
        yield
    finally:
        model.optimizer = optimizer


def _read_record(record: Path, key: str) -> History | None:
    """The history of a finished training with this key."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content["history"] if isinstance(content, dict) and content.get("key") == key else None


def _array(variable) -> np.ndarray:
    return ops.convert_to_numpy(variable.value)


class _Progress(keras.callbacks.Callback):
    """Prints a line per epoch, checks the loss, keeps the state on disk."""

    def __init__(self, model: keras.Model, file: Path, key: str, epochs: int, save_every: int):
        super().__init__()
        self.trained, self.file, self.key, self.epochs, self.save_every = model, file, key, epochs, save_every
        self.history: History = []
        self.values: list[np.ndarray] = []

    def state(self) -> list:
        # With the states of random generators and the moments of the optimiser.
        return [*self.trained.variables, *self.trained.optimizer.variables]

    def resume(self) -> int:
        """Read the state on disk, to be taken up when training begins; the number of epochs done."""
        self.trained.optimizer.build(self.trained.trainable_variables)
        try:
            with np.load(self.file, allow_pickle=False) as stored:
                about = json.loads(bytes(stored["about"]).decode())
                values = [stored[str(i)] for i in range(len(stored) - 1)]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return 0
        variables = self.state()
        if about["key"] != self.key or [v.shape for v in values] != [tuple(v.shape) for v in variables]:
            return 0
        self.values, self.history = values, about["history"]
        return len(self.history)

    def on_train_begin(self, logs=None):
        # Not earlier: fit first traces the model once, which moves its random generators on.
        if self.values:
            for variable, value in zip(self.state(), self.values, strict=True):
                variable.assign(value)
            self.values = []

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        losses = {name: float(value) for name, value in (logs or {}).items()}
        seconds = time.perf_counter() - self.began
        rate = float(ops.convert_to_numpy(self.trained.optimizer.learning_rate))
        self.history.append({**losses, "seconds": seconds, "learning_rate": rate})
        parts = "  ".join(f"{name} {losses[name]:.4g}" for name in sorted(losses, key=lambda name: (name != "loss", name)))
        print(f"epoch {epoch + 1:>3}/{self.epochs}  {seconds:6.1f} s  {parts}", flush=True)
        bad = [name for name, value in losses.items() if not np.isfinite(value)]
        if bad:
            raise CovidcxrError(
                f"Training broke down in epoch {epoch + 1}: {', '.join(bad)} is not finite. Usual causes: a learning rate too "
                f"high (it is {rate:.3g}), no clipping of gradients, float16 without loss scaling."
            )
        if len(self.history) % self.save_every == 0 and epoch + 1 < self.epochs:
            self.save()

    def save(self):
        about = json.dumps({"key": self.key, "history": self.history}).encode()
        arrays: dict[str, Any] = {str(i): _array(variable) for i, variable in enumerate(self.state())}
        aside = self.file.with_name(f".{self.file.name}.aside.npz")
        try:
            np.savez(aside, **arrays, about=np.frombuffer(about, np.uint8))
            os.replace(aside, self.file)
        except OSError as error:
            raise InputError(f"{self.file} can't be written: {error.strerror or error}. Free the disk.") from error
