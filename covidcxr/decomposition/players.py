"""A step of the critic and a step of the generator, each a Keras model whose own training step is used, on every backend.

Both hold the whole game and differ in which weights they learn: the others are constants of the step. They are fed by
`train_on_batch` with a dictionary: "normal" (n, H, W, 1), "lesioned" (m, H, W, 1) and, for the critic, "share" (k, 1, 1, 1), the
place between real and made image of each of the k made images. Losses of each kind are means since `reset_metrics`.
"""

from __future__ import annotations

import keras
from keras import ops

from covidcxr.decomposition import losses
from covidcxr.decomposition.games import Game
from covidcxr.errors import InputError


class _Player(keras.Model):
    """A model of which one part learns; `part` is that part."""

    def __init__(self, game: Game, part: keras.Model, names: list[str], name: str):
        super().__init__(name=name)
        self.game, self.part = game, part
        # What a game holds is not seen by Keras, which looks for layers in attributes only.
        self.networks = [network for network in vars(game).values() if isinstance(network, keras.Model)]
        self.means = {each: keras.metrics.Mean(name=each) for each in names}
        self.built = True  # of networks that are

    @property
    def trainable_variables(self):
        return self.part.trainable_variables

    @property
    def trainable_weights(self):
        return self.trainable_variables

    @property
    def non_trainable_variables(self):
        learning = {id(variable) for variable in self.trainable_variables}
        return [variable for variable in self.variables if id(variable) not in learning]

    @property
    def non_trainable_weights(self):
        return self.non_trainable_variables

    def call(self, batch, training=True):
        """What is shown to the generator, and what it makes of it."""
        shown = self.game.shown(batch["normal"], batch["lesioned"])
        return shown, self.game.generator(shown, training=training)

    def note(self, **values) -> None:
        for name, value in values.items():
            self.means[name].update_state(value)


class CriticStep(_Player):
    """Learns to tell real normal images from those that were made."""

    def __init__(self, game: Game):
        if game.critic is None:
            raise InputError("This game has no critic that could learn.")
        super().__init__(game, game.critic, ["wasserstein", "penalty"], "critic_step")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Wasserstein loss and gradient penalty; `x` is the batch, `y_pred` what `call` gave."""
        # On PyTorch what `train_on_batch` was given comes here as it was.
        game, real, share = self.game, ops.convert_to_tensor(x["normal"]), ops.convert_to_tensor(x["share"])
        made = ops.stop_gradient(game.made_normal(*y_pred))
        # One call for both: a convolution of many images is quicker than two of half as many.
        opinions = self.part(ops.concatenate([made, real], axis=0))
        count = made.shape[0]
        apart = losses.wasserstein(opinions[:count], opinions[count:])
        penalty = losses.gradient_penalty(self.part, losses.between(real, made, share))
        self.note(wasserstein=apart, penalty=penalty)
        return apart + game.penalty * penalty


class GeneratorStep(_Player):
    """Learns to make images that the critic takes for real, and what else its game asks for."""

    def __init__(self, game: Game):
        names = [*game.term_names, *(["adversarial"] if game.critic is not None else [])]
        super().__init__(game, game.generator, names, "generator_step")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The game's terms and the critic's opinion; `x` is the batch, `y_pred` what `call` gave."""
        game = self.game
        terms = game.terms(ops.convert_to_tensor(x["normal"]), *y_pred)
        if game.critic is not None:
            opinions = game.critic(game.made_normal(*y_pred))
            terms["adversarial"] = (game.adversarial_weight, losses.adversarial(opinions))
        self.note(**{name: value for name, (_, value) in terms.items()})
        return sum(weight * value for weight, value in terms.values())
