"""What a generator and a critic play for: yang2021's decomposition, and its two GAN peers, VA-GAN and BL.

In each, the critic compares real normal images with images that the generator has made to look normal, and what it had to take
away is the lesion. They differ in what the generator gives and in what it is paid for besides.

    yang2021        G1 and G2 of one encoder; all images; x = G1 + G2 and, for normal ones, x = G1
    VA-GAN          a map M of lesioned images, x + M looks normal; M is small (Baumgartner et al., CVPR 2018)
    BL              a normal-looking image of a lesioned one, near to it; and a classifier, trained before, calls it normal
                    (Zhang et al., MICCAI 2019)

Images are (N, H, W, 1) in [-1, 1], `slice_labels.Scale`. A lesion is brighter than lung, so that
lesion maps are image minus normal image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from covidcxr.decomposition import losses
from covidcxr.errors import ParameterError

Terms = dict[str, tuple[float, Any]]
"""Loss by name: its weight and its value."""


class Game(ABC):
    """Attributes:

    generator: what makes images look normal.
    critic: what compares them with real ones; None: there is none, and the generator is not paid for looking real.
    penalty: weight of the gradient penalty, lambda.
    adversarial_weight: weight of the critic's opinion in what the generator is paid.
    """

    def __init__(self, generator: keras.Model, critic: keras.Model | None, penalty: float, adversarial_weight: float):
        self.generator, self.critic = generator, critic
        self.penalty, self.adversarial_weight = penalty, adversarial_weight

    @property
    @abstractmethod
    def term_names(self) -> tuple[str, ...]:
        """Names of `terms`."""

    @abstractmethod
    def shown(self, normal, lesioned):
        """What of a batch the generator is shown."""

    @abstractmethod
    def made_normal(self, shown, made):
        """The images that shall look normal, of what the generator has made."""

    @abstractmethod
    def terms(self, normal, shown, made) -> Terms:
        """What the generator is paid for, besides the critic's opinion."""

    @abstractmethod
    def lesion(self, shown, made):
        """The lesion map: what was taken away, positive where the image was brighter."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All numbers that this game is played with, JSON-able."""

    def lesion_maps(self, images: Sequence[np.ndarray] | np.ndarray, batch_size: int = 8) -> np.ndarray:
        """Lesion map of each image, float32 (N, H, W): 0 where there is no lesion.

        Args:
            images: float32 (H, W) in [-1, 1], each.
        """
        return self._run(images, self.lesion, batch_size)

    def normal_images(self, images: Sequence[np.ndarray] | np.ndarray, batch_size: int = 8) -> np.ndarray:
        """What each image would look like without its lesion, float32 (N, H, W)."""
        return self._run(images, self.made_normal, batch_size)

    def _run(self, images, part, batch_size: int) -> np.ndarray:
        found = []
        for start in range(0, len(images), batch_size):
            batch = np.stack([images[i] for i in range(start, min(start + batch_size, len(images)))])[..., None]
            # The last batch is filled up: networks are compiled for one shape.
            filled = np.concatenate([batch, np.repeat(batch[-1:], batch_size - len(batch), axis=0)])
            made = self.generator.predict_on_batch(filled)
            found.append(ops.convert_to_numpy(part(filled, made))[: len(batch), ..., 0])
        return np.concatenate(found)


class Decomposition(Game):
    """yang2021: every image is taken apart into a normal part and a lesion.

    Args:
        generator: `networks.decomposer`; with one part only, the lesion decoder is left out, G2 = 0 in all losses, and the lesion
            map is the image minus its normal part (the paper's ablation; how it made a map then, it does not say).
        critic: `networks.critic`; None leaves it out (the paper's ablation).
        adversarial, reconstruction, fidelity: alpha 1, 2 and 3 of equation 5; a fidelity of 0 leaves the normal fidelity out.
        penalty: lambda.
        norm: of equations 1 and 2; see `losses.Norm`.
    """

    def __init__(
        self, generator: keras.Model, critic: keras.Model | None, *, adversarial: float = 0.01, reconstruction: float = 100.0,
        fidelity: float = 100.0, penalty: float = 10.0, norm: losses.Norm = "mean_l1",
    ):  # fmt: skip
        super().__init__(generator, critic, penalty, adversarial)
        if norm not in losses.NORMS:
            raise ParameterError(f"norm must be one of {', '.join(losses.NORMS)}; it is {norm!r}.")
        self.reconstruction, self.fidelity, self.norm = reconstruction, fidelity, norm
        self.two_parts = len(generator.outputs) == 2

    @property
    def term_names(self) -> tuple[str, ...]:
        """Reconstruction and, unless its weight is 0, normal fidelity."""
        return ("reconstruction", "normal_fidelity") if self.fidelity else ("reconstruction",)

    def shown(self, normal, lesioned):
        """All images, normal ones first."""
        return ops.concatenate([normal, lesioned], axis=0)

    def made_normal(self, shown, made):
        """G1."""
        return made[0] if self.two_parts else made

    def lesion(self, shown, made):
        """G2, or with one part the image minus G1."""
        return made[1] if self.two_parts else shown - made

    def terms(self, normal, shown, made) -> Terms:
        """Equations 1 and 2: the parts of every image add up to it, and of a normal one G1 does alone."""
        without = self.made_normal(shown, made)
        lesion = made[1] if self.two_parts else ops.zeros_like(without)
        terms = {"reconstruction": (self.reconstruction, losses.reconstruction(shown, without, lesion, self.norm))}
        if self.fidelity:
            fidelity = losses.normal_fidelity(normal, without[: normal.shape[0]], self.norm)
            terms["normal_fidelity"] = (self.fidelity, fidelity)
        return terms

    def settings(self) -> dict[str, Any]:
        """The weights of equation 5, and the norm."""
        return {"game": "decomposition", "alpha1": self.adversarial_weight, "alpha2": self.reconstruction,
                "alpha3": self.fidelity, "lambda": self.penalty, "norm": self.norm}


class VAGAN(Game):
    """VA-GAN: a map that is added to a lesioned image, so that it looks normal, and that is as small as can be.

    Args:
        generator: `networks.decomposer(…, two_parts=False)`, whose output is the map.
        critic: `networks.critic`.
        map_weight: of the mean absolute value of the map; 100 in the paper.
        penalty: 10 in the paper.
    """

    def __init__(self, generator: keras.Model, critic: keras.Model, *, map_weight: float = 100.0, penalty: float = 10.0):
        super().__init__(generator, critic, penalty, 1.0)
        self.map_weight = map_weight

    @property
    def term_names(self) -> tuple[str, ...]:
        """The size of the map."""
        return ("map",)

    def shown(self, normal, lesioned):
        """Lesioned images."""
        return lesioned

    def made_normal(self, shown, made):
        """The image with the map added."""
        return shown + made

    def lesion(self, shown, made):
        """The map with its sign turned: what it takes away."""
        return -made

    def terms(self, normal, shown, made) -> Terms:
        """The mean absolute value of the map."""
        return {"map": (self.map_weight, ops.mean(ops.abs(made)))}

    def settings(self) -> dict[str, Any]:
        """The weights of the map and of the penalty."""
        return {"game": "va_gan", "map": self.map_weight, "lambda": self.penalty}


class BL(Game):
    """BL: a lesioned image is turned into one that a critic takes for normal and a classifier, trained before, calls normal.

    Args:
        generator: `networks.decomposer(…, two_parts=False)`, whose output is the image without its lesion.
        critic: `networks.critic`.
        classifier: from images (N, H, W, 1) in [-1, 1] to the probability of a lesion, (N, 1); it is not trained here.
        classifier_weight: of its cross-entropy with "normal".
        map_weight: of the mean absolute difference between the image and what is made of it.
        penalty: of the critic.
    """

    def __init__(
        self, generator: keras.Model, critic: keras.Model, classifier: keras.Model, *, classifier_weight: float = 1.0,
        map_weight: float = 100.0, penalty: float = 10.0,
    ):  # fmt: skip
        super().__init__(generator, critic, penalty, 1.0)
        self.classifier, self.classifier_weight, self.map_weight = classifier, classifier_weight, map_weight

    @property
    def term_names(self) -> tuple[str, ...]:
        """What the classifier says, and the size of the difference."""
        return ("classifier", "map")

    def shown(self, normal, lesioned):
        """Lesioned images."""
        return lesioned

    def made_normal(self, shown, made):
        """The generator's image as it is."""
        return made

    def lesion(self, shown, made):
        """The image minus what was made of it."""
        return shown - made

    def terms(self, normal, shown, made) -> Terms:
        """The classifier's cross-entropy with "normal", and the mean absolute difference of the two images."""
        ill = self.classifier(made, training=False)
        entropy = ops.mean(keras.losses.binary_crossentropy(ops.zeros_like(ill), ill))
        difference = ops.mean(ops.abs(shown - made))
        return {"classifier": (self.classifier_weight, entropy), "map": (self.map_weight, difference)}

    def settings(self) -> dict[str, Any]:
        """The weights of classifier, difference and penalty."""
        return {"game": "bl", "classifier": self.classifier_weight, "map": self.map_weight, "lambda": self.penalty}
