"""The decomposition GAN: a full step, critic and generator, beside the same networks and losses written plainly in PyTorch.

    python benchmarks/decomposition.py [--torch PYTHON] [--size 256] [--filters 16] [--rounds 3] [--memory 500]

PYTHON is an interpreter with torch, which the study does not need; without it our numbers stand alone. Both begin with the same
weights and are fed the same batch of eight; the losses of their first two steps are compared, so that what is timed is the same
work. Ours shall take at most 1.1 times as long. PyTorch runs with one thread and with as many as there are cores: its best
counts. Where both find a GPU, both use it.

How all are measured is said in `contest`. Last, memory over many steps of ours: it shall not grow.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
from functools import partial
from pathlib import Path

from contest import KEYS, child, in_turns, measure, note, note_over_best, print_table, sizes

BAR = 1.1
STEPS = 5
BATCH, DEPTH, CRITIC_FILTERS = 8, 4, 32
WEIGHTS = {"adversarial": 0.01, "reconstruction": 100.0, "fidelity": 100.0, "penalty": 10.0}
RATE, BETAS = 2e-4, (0.5, 0.9)
LOSSES = ("wasserstein", "penalty", "reconstruction", "fidelity", "adversarial")


def batch_of(size: int):
    """Normal and lesioned images, half and half, and the places between real and made ones."""
    import numpy as np

    rng = np.random.default_rng(0)
    normal, lesioned = rng.normal(-0.3, 0.2, (2, BATCH // 2, size, size, 1)).clip(-1, 1).astype("float32")
    lesioned[:, size // 4 : size // 2, size // 4 : size // 2] += 0.5
    return normal, lesioned, rng.uniform(size=(BATCH, 1, 1, 1)).astype("float32")


# ---- ours -------------------------------------------------------------------------------------------------------------


def players(size: int, filters: int):
    """Both players of the game and their batches."""
    import keras

    from covidcxr import training
    from covidcxr.decomposition import networks
    from covidcxr.decomposition.games import Decomposition
    from covidcxr.decomposition.players import CriticStep, GeneratorStep

    training.set_seed(0)
    game = Decomposition(networks.decomposer(size, filters, DEPTH), networks.critic(size, CRITIC_FILTERS), **WEIGHTS)
    made = CriticStep(game), GeneratorStep(game)
    for player in made:
        player.compile(keras.optimizers.Adam(RATE, *BETAS), jit_compile=training.jit_compile())
    normal, lesioned, share = batch_of(size)
    both = {"normal": normal, "lesioned": lesioned}
    return game, made, ({**both, "share": share}, both)


def ours(size: int, filters: int, weights: Path) -> dict:
    """Losses of two steps, then their time."""
    import numpy as np

    game, (critic, generator), (for_critic, for_generator) = players(size, filters)
    parts = {"generator": game.generator, "critic": game.critic}
    if not weights.is_file():
        np.savez(weights, **{f"{name}{i}": w for name, net in parts.items() for i, w in enumerate(net.get_weights())})
    with np.load(weights) as stored:
        for name, network in parts.items():
            network.set_weights([stored[f"{name}{i}"] for i in range(len(network.get_weights()))])

    def step():
        for player in (critic, generator):
            player.reset_metrics()
        first = critic.train_on_batch(for_critic, return_dict=True)
        second = generator.train_on_batch(for_generator, return_dict=True)
        return {**second, "fidelity": second["normal_fidelity"], **{name: first[name] for name in LOSSES[:2]}}

    losses = [[float(found[name]) for name in LOSSES] for found in (step(), step())]
    return {"losses": losses, **measure(step, STEPS)}


def memory(size: int, filters: int, steps: int) -> dict:
    """Resident memory, MiB, after a fifth of the steps and after all of them."""
    _, both, batches = players(size, filters)
    held = []
    for k in range(steps):
        for player, batch in zip(both, batches, strict=True):
            player.train_on_batch(batch)
        if k + 1 in (steps // 5, steps):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            held.append(pages * resource.getpagesize() / 2**20)
    return {"held": held}


# ---- PyTorch ----------------------------------------------------------------------------------------------------------


def plain(size: int, filters: int, weights: Path, threads: int) -> dict:
    """The same in PyTorch: losses of two steps, then their time."""
    import numpy as np
    import torch
    from torch import nn
    from torch.nn import functional as f

    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    class Double(nn.Sequential):
        def __init__(self, before, after):
            super().__init__(nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.Conv2d(after, after, 3, padding=1), nn.ReLU())

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            widths = [filters * 2**level for level in range(DEPTH + 1)]
            self.levels = nn.ModuleList(Double(widths[k] + widths[k + 1], widths[k]) for k in reversed(range(DEPTH)))
            self.last = nn.Conv2d(filters, 1, 1)

        def forward(self, x, skips):
            for level, skip in zip(self.levels, reversed(skips), strict=True):
                x = level(torch.cat([skip, f.interpolate(x, scale_factor=2, mode="nearest")], dim=1))
            return torch.tanh(self.last(x))

    class Decomposer(nn.Module):
        def __init__(self):
            super().__init__()
            widths = [1, *(filters * 2**level for level in range(DEPTH + 1))]
            self.down = nn.ModuleList(Double(a, b) for a, b in zip(widths, widths[1:], strict=False))
            self.normal, self.lesion = Decoder(), Decoder()

        def forward(self, x):
            skips = []
            for level in self.down[:-1]:
                skips.append(level(x))
                x = f.max_pool2d(skips[-1], 2)
            x = self.down[-1](x)
            return self.normal(x, skips), self.lesion(x, skips)

    class Critic(nn.Module):
        def __init__(self):
            super().__init__()
            widths = [1, *(CRITIC_FILTERS * 2 ** (k // 2) for k in range(6))]
            self.convs = nn.ModuleList(
                nn.Conv2d(a, b, 3, stride=1 + k % 2, padding=1 - k % 2)
                for k, (a, b) in enumerate(zip(widths, widths[1:], strict=False))
            )
            self.last = nn.Linear(7 * CRITIC_FILTERS, 1)

        def forward(self, x):
            means = []
            for k, conv in enumerate(self.convs):
                x = f.leaky_relu(conv(f.pad(x, (0, 1, 0, 1)) if k % 2 else x), 0.2)
                means += [x.mean(dim=(2, 3))] if k % 2 else []
            return self.last(torch.cat(means, dim=1))

    def fill(network, stored, order):
        values = iter(stored)
        for module in order:
            for parameter in (module.weight, module.bias):
                value = next(values)
                value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
                parameter.data = torch.from_numpy(np.ascontiguousarray(value))
        return network.to(device)

    with np.load(weights) as archive:
        count = {part: sum(name.startswith(part) for name in archive) for part in ("generator", "critic")}
        stored = {part: [archive[f"{part}{i}"] for i in range(number)] for part, number in count.items()}
    decomposer, critic = Decomposer(), Critic()
    convs = [module for module in decomposer.down.modules() if isinstance(module, nn.Conv2d)]
    for k in range(DEPTH):  # Keras lists layers by depth: both decoders side by side
        decoders = decomposer.normal, decomposer.lesion
        pair = [[module for module in part.levels[k] if isinstance(module, nn.Conv2d)] for part in decoders]
        convs += [conv for convs_at in zip(*pair, strict=True) for conv in convs_at]
    fill(decomposer, stored["generator"], [*convs, decomposer.normal.last, decomposer.lesion.last])
    fill(critic, stored["critic"], [*critic.convs, critic.last])
    normal, lesioned, share = (torch.from_numpy(part.transpose(0, 3, 1, 2).copy()).to(device) for part in batch_of(size))
    images, real = torch.cat([normal, lesioned]), torch.cat([normal, normal])
    optimizers = [torch.optim.Adam(net.parameters(), RATE, BETAS, eps=1e-7) for net in (critic, decomposer)]

    def step():
        with torch.no_grad():
            made, _ = decomposer(images)
        between = (share * real + (1 - share) * made).requires_grad_()
        (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        penalty = ((gradient.flatten(1).pow(2).sum(dim=1) + 1e-12).sqrt() - 1).pow(2).mean()
        apart = critic(made).mean() - critic(normal).mean()
        optimizers[0].zero_grad()
        (apart + WEIGHTS["penalty"] * penalty).backward()
        optimizers[0].step()
        first, second = decomposer(images)
        terms = {"adversarial": -critic(first).mean(), "reconstruction": (images - first - second).abs().mean(),
                 "fidelity": (normal - first[: len(normal)]).abs().mean()}
        optimizers[1].zero_grad()
        sum(WEIGHTS[name] * value for name, value in terms.items()).backward()
        optimizers[1].step()
        return {"wasserstein": float(apart), "penalty": float(penalty), **{name: float(value) for name, value in terms.items()}}

    losses = [[found[name] for name in LOSSES] for found in (step(), step())]
    return {"losses": losses, **measure(step, STEPS)}


# ---- the contest --------------------------------------------------------------------------------------------------------


def run(python: str, who: str, chosen: argparse.Namespace, weights: Path) -> dict:
    words = [python, __file__, "--child", who, "--size", str(chosen.size), "--filters", str(chosen.filters)]
    words += ["--weights", str(weights), "--memory", str(chosen.memory)]
    return child(words, {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})


def compare(chosen: argparse.Namespace, weights: Path) -> None:
    contestants = {"covidcxr": partial(run, sys.executable, "ours", chosen, weights)}
    first = contestants["covidcxr"]()  # writes the weights that all begin with
    if chosen.torch:
        for threads in sorted({1, os.cpu_count() or 1}):
            contestants[f"PyTorch, threads {threads}"] = partial(run, chosen.torch, f"torch {threads}", chosen, weights)
        theirs = contestants["PyTorch, threads 1"]()
        worst = max(abs(a - b) / max(abs(b), 1e-3) for one, other in zip(first["losses"], theirs["losses"], strict=True)
                    for a, b in zip(one, other, strict=True))
        print(f"losses of the first two steps differ by {worst:.1e} at most, relative to PyTorch's")
        if worst > 0.01:
            raise SystemExit(f"That is not the same work: {first['losses']} and {theirs['losses']}.")
    found = in_turns(contestants, chosen.rounds)
    what = f"{chosen.size} x {chosen.size}, batch {BATCH}, {chosen.filters} filters"
    print(f"a full step, {what}, {chosen.rounds} rounds of {STEPS}")
    print_table(found)
    note_over_best("decomposition, a full step", found, "covidcxr", "PyTorch", dict.fromkeys(KEYS, BAR))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", help="an interpreter with torch")
    sizes(parser, size=(256, 32), filters=(16, 4), rounds=(3, 1), memory=(500, 20))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child == "memory":
        print(json.dumps(memory(64, 4, chosen.memory)))
    elif chosen.child == "ours":
        print(json.dumps(ours(chosen.size, chosen.filters, chosen.weights)))
    elif chosen.child:
        print(json.dumps(plain(chosen.size, chosen.filters, chosen.weights, int(chosen.child.split()[1]))))
    else:
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / "weights.npz"
            compare(chosen, weights)
            before, after = run(sys.executable, "memory", chosen, weights)["held"]
        note(f"decomposition, memory after {chosen.memory} steps", after, "MiB", f"after {chosen.memory // 5} steps", before)


if __name__ == "__main__":
    main()
