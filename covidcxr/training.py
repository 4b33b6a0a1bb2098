"""Training that is done once: finished weights are loaded, an interrupted training goes on where it stopped.

Beside the weights stands what made them: settings of the model and of the optimiser, the weights it began with, the code, and
what the caller says of the data. When any of it differs, training begins anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from covidcxr import paths
from covidcxr.errors import CovidcxrError, InputError, ParameterError
from covidcxr.fingerprint import digest, file_digest, module_parts

History = list[dict[str, float]]
"""Per epoch the losses by name, `seconds`, how many of them validation took (`validation_seconds`, where there is any), and
`learning_rate` at its end."""


_jit = "auto"


def set_up(precision: str = "float32", jit: str = "auto", devices: int = 1) -> None:
    """How all networks that are built next compute.

    Args:
        precision: a dtype policy of Keras. With `mixed_bfloat16` or `mixed_float16` layers compute in 16 bits and keep their
            weights in 32, which needs half the memory and is faster on GPUs with tensor cores; float16, for those older than
            Ampere, has its loss scaled by Keras.
        jit: compile with XLA: `always`, `never`, or `auto`, where it pays (`jit_compile`).
        devices: GPUs that share each batch (`keras.distribution.DataParallel`). The arithmetic is that of the whole batch on one
            device; only the order of sums differs.

    Raises:
        ParameterError: there are fewer devices, or Keras runs on a backend on which it does not distribute a batch.
    """
    global _jit
    if devices < 1:
        raise ParameterError(f"devices must be at least 1; it is {devices!r}.")
    if devices > 1 and keras.backend.backend() != "jax":
        raise ParameterError(
            f"A batch is shared by {devices} devices only on Keras' JAX backend; this is {keras.backend.backend()}. Install jax "
            "for your GPUs and set KERAS_BACKEND=jax, or take devices: 1."
        )
    there = keras.distribution.list_devices() if devices > 1 else []
    if devices > 1 and len(there) < devices:
        raise ParameterError(f"devices is {devices}, but JAX sees {len(there)}: {', '.join(there)}.")
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=there[:devices]) if devices > 1 else None)
    keras.config.set_dtype_policy(precision)
    _jit = jit


def set_seed(seed: int) -> None:
    """Seed Python, numpy and Keras: the same start of a model built next, whatever was built before. `set_up` still holds."""
    policy, distribution = keras.config.dtype_policy(), keras.distribution.distribution()
    keras.backend.clear_session()
    keras.config.set_dtype_policy(policy)
    keras.distribution.set_distribution(distribution)
    keras.utils.set_random_seed(seed)


def jit_compile() -> bool | str:
    """What to give `compile`: what `set_up` was told, or else XLA where it pays.

    On TensorFlow without a GPU, compiling takes longer than it saves.
    """
    if _jit != "auto":
        return _jit == "always"
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
    patience: int | None = None,
    restore_best: bool = False,
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
        patience: training ends early when `val_loss` has not fallen below its lowest for so many epochs: what Keras'
            `EarlyStopping("val_loss", patience=…)` does, but an interruption does not make it forget. None: all epochs are done.
        restore_best: at the end take the weights of the epoch with the lowest `val_loss`. False, as is Keras' default: those of
            the last epoch stay, in which, with a patience of 1, the loss had just risen.

    Returns:
        The history of all epochs, also of those before an interruption.

    Raises:
        CovidcxrError: a loss is not finite.
        InputError: the model is not compiled, the disk can't be written, or a patience has no validation to look at.
        ParameterError: patience is below 1, or restore_best comes without it.
    """
    if not model.compiled:
        raise InputError("The model is not compiled: call model.compile(optimizer=…) before fit_or_load.")
    _check_stopping(patience, restore_best, validation)
    folder.mkdir(parents=True, exist_ok=True)
    key = _key(model, feed(0), epochs, made_from, (patience, restore_best))
    record, weights = folder / f"{name}.json", folder / f"{name}.weights.h5"
    finished = read_record(record, key, weights)
    if finished is not None:
        with _without_optimizer(model):
            model.load_weights(weights)
        print(f"{name}: trained before ({len(finished)} epochs); loaded from {weights}")
        return finished

    generators = [variable for variable in model.variables if not any(variable is weight for weight in model.weights)]
    begun = [_array(variable) for variable in generators]
    progress = _Progress(model, folder / f"{name}.progress.npz", key, epochs, save_every, patience, restore_best)
    done = progress.resume()
    if done:
        print(f"{name}: goes on after epoch {done} of {epochs}")
    batches = feed(done)
    if isinstance(batches, keras.utils.PyDataset):
        build(model, batches[0])
    if progress.enough:  # interrupted after its last epoch
        progress.take_up()
    else:
        model.fit(
            batches, epochs=epochs, initial_epoch=done, verbose=0, validation_data=validation, callbacks=[progress, *callbacks],
            shuffle=False,  # Keras would draw the order from Python's global random state, which an interruption changes
        )
    progress.take_best()
    # Files of weights do not hold random generators: they begin where they would if this training had been loaded, so that one
    # that follows is the same either way.
    for variable, value in zip(generators, begun, strict=True):
        variable.assign(value)
    record.unlink(missing_ok=True)  # never a record beside the weights of another training
    save_weights(model, weights)
    write_record(record, key, made_from, progress.history, weights)
    progress.file.unlink(missing_ok=True)
    return progress.history


def build(model: keras.Model, batch: Any) -> None:
    """Build all that `compile` leaves to `fit`, from the shapes of a batch.

    On JAX and PyTorch `fit` would do so with a batch of what it is given, as if an epoch had begun and ended; and the batches
    that its threads made meanwhile would be kept for the training, which they put out of step. Keras has no public function for
    it.
    """
    model._symbolic_build(data_batch=batch)


def _check_stopping(patience: int | None, restore_best: bool, validation: Any) -> None:
    if patience is None:
        if restore_best:
            raise ParameterError("restore_best belongs to early stopping: give a patience too.")
    elif patience < 1:
        raise ParameterError(f"patience must be at least 1, or None; it is {patience!r}.")
    elif validation is None:
        raise InputError("Early stopping looks at the validation loss: with a patience, give validation too.")


def _key(model: keras.Model, feed: Any, epochs: int, made_from: Any, stopping: tuple[int | None, bool]) -> str:
    """Hash of everything that the result depends on."""
    weights = hashlib.sha256()
    for variable in model.variables:
        weights.update(np.ascontiguousarray(_array(variable)).tobytes())
    code = module_parts({type(model).__module__, type(feed).__module__, __name__})
    described = [model.get_config(), model.optimizer.get_config(), epochs, stopping, made_from, code, weights.hexdigest(),
                 arithmetic()]
    return digest(json.loads(json.dumps(described, default=str)))


def arithmetic() -> list:
    """What of `set_up` a result depends on."""
    distribution = keras.distribution.distribution()
    return [keras.config.dtype_policy().name, jit_compile(), distribution.num_model_replicas if distribution else 1]


def save_weights(model: keras.Model, file: Path) -> None:
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
    optimizer, model.optimizer = getattr(model, "optimizer", None), None  # a model that was never compiled has none
    try:
        yield
    finally:
        model.optimizer = optimizer


def write_record(record: Path, key: str, made_from: Any, history: History, *files: Path) -> None:
    """Say that a training has finished, and with which bytes it left its files of weights."""
    content = {"key": key, "made_from": made_from, "history": history, "files": _digests(files)}
    paths.write_atomically(record, json.dumps(content, indent=1))


def read_record(record: Path, key: str, *files: Path) -> History | None:
    """The history of a finished training with this key; None where its files are no longer those that it left."""
    try:
        content = paths.parse_json(record.read_bytes())
    except (OSError, ValueError):
        return None
    history = content.get("history") if isinstance(content, dict) and content.get("key") == key else None
    if not isinstance(history, list):
        return None
    if content.get("files") != _digests(files):
        print(f"{record.stem}: its weights are damaged or gone; it is trained again")
        return None
    return history


def made_from(weights: Path) -> Any:
    """What the training behind finished weights was made from, as `fit_or_load` was told.

    Args:
        weights: a file `name.weights.h5` of a stage's checkpoints, with its record beside it.

    Raises:
        InputError: the record is missing or damaged.
    """
    record = weights.with_name(f"{weights.name.removesuffix('.weights.h5')}.json")
    try:
        return paths.parse_json(record.read_bytes())["made_from"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{weights} can't be used without the record of its training, {record.name}, which is missing or damaged. Take both "
            "from the checkpoints of a finished stage."
        ) from error


def _digests(files: Sequence[Path]) -> dict[str, str | None]:
    return {file.name: file_digest(file) for file in files}


def _array(variable) -> np.ndarray:
    return ops.convert_to_numpy(variable.value)


class _Progress(keras.callbacks.Callback):
    """Prints a line per epoch, checks the loss, ends training early, keeps the state on disk."""

    def __init__(
        self, model: keras.Model, file: Path, key: str, epochs: int, save_every: int, patience: int | None, restore_best: bool
    ):
        super().__init__()
        self.trained, self.file, self.key, self.epochs, self.save_every = model, file, key, epochs, save_every
        self.patience, self.restore_best = patience, restore_best
        self.history: History = []
        self.values: list[np.ndarray] = []
        self.best: list[np.ndarray] = []  # weights of the best epoch, where they are wanted

    def state(self) -> list:
        # With the states of random generators and the moments of the optimiser.
        return [*self.trained.variables, *self.trained.optimizer.variables]

    @property
    def waited(self) -> int:
        """How many epochs ago the validation loss was at its lowest."""
        losses = [epoch["val_loss"] for epoch in self.history]
        return len(losses) - 1 - int(np.argmin(losses))

    @property
    def enough(self) -> bool:
        """Whether early stopping ends training here. It follows from the history alone, which an interruption keeps."""
        return self.patience is not None and bool(self.history) and self.waited >= self.patience

    def take_up(self) -> None:
        """Give the model the state that was read from disk, if one was."""
        if self.values:
            for variable, value in zip(self.state(), self.values, strict=True):
                variable.assign(value)
            self.values = []

    def take_best(self) -> None:
        """Give the model the weights of its best epoch, if they are wanted."""
        if self.best:
            for weight, value in zip(self.trained.weights, self.best, strict=True):
                weight.assign(value)

    def resume(self) -> int:
        """Read the state on disk, to be taken up when training begins; the number of epochs done."""
        self.trained.optimizer.build(self.trained.trainable_variables)
        try:
            with np.load(self.file, allow_pickle=False) as stored:
                about = json.loads(bytes(stored["about"]).decode())
                key, history = about["key"], list(about["history"])
                values, best = ([stored[f"{part}{i}"] for i in range(about[part])] for part in ("state", "best"))
        except Exception:  # whatever a damaged file leads to inside numpy and zipfile
            return 0
        variables = self.state()
        if key != self.key or [v.shape for v in values] != [tuple(v.shape) for v in variables]:
            return 0
        self.values, self.best, self.history = values, best, history
        return len(self.history)

    def on_train_begin(self, logs=None):
        self.take_up()  # not earlier: fit first traces the model once, which moves its random generators on

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.perf_counter()
        self.validation: dict[str, float] = {}

    def on_test_begin(self, logs=None):
        self.validation_began = time.perf_counter()

    def on_test_end(self, logs=None):
        self.validation = {"validation_seconds": time.perf_counter() - self.validation_began}

    def on_epoch_end(self, epoch, logs=None):
        losses = {name: float(value) for name, value in (logs or {}).items()}
        seconds = time.perf_counter() - self.began
        rate = float(ops.convert_to_numpy(self.trained.optimizer.learning_rate))
        self.history.append({**losses, "seconds": seconds, **self.validation, "learning_rate": rate})
        parts = "  ".join(f"{name} {losses[name]:.4g}" for name in sorted(losses, key=lambda name: (name != "loss", name)))
        print(f"epoch {epoch + 1:>3}/{self.epochs}  {seconds:6.1f} s  {parts}", flush=True)
        bad = [name for name, value in losses.items() if not np.isfinite(value)]
        if bad:
            raise CovidcxrError(
                f"Training broke down in epoch {epoch + 1}: {', '.join(bad)} is not finite. Usual causes: a learning rate too "
                f"high (it is {rate:.3g}), no clipping of gradients, float16 without loss scaling."
            )
        if self.restore_best and self.waited == 0:
            self.best = [_array(weight) for weight in self.trained.weights]
        self.trained.stop_training = self.enough
        if len(self.history) % self.save_every == 0 and epoch + 1 < self.epochs:
            self.save()

    def save(self):
        parts = {"state": [_array(variable) for variable in self.state()], "best": self.best}
        counts = {part: len(values) for part, values in parts.items()}
        about = json.dumps({"key": self.key, "history": self.history, **counts}).encode()
        arrays: dict[str, Any] = {f"{part}{i}": value for part, values in parts.items() for i, value in enumerate(values)}
        aside = self.file.with_name(f".{self.file.name}.aside.npz")
        try:
            np.savez(aside, **arrays, about=np.frombuffer(about, np.uint8))
            os.replace(aside, self.file)
        except OSError as error:
            raise InputError(f"{self.file} can't be written: {error.strerror or error}. Free the disk.") from error
