"""Writes the reference results of tests/c/dpo.c and tests/c/grpo.c: the same losses in PyTorch, from the same weights.

Both start from the model of `hf4/`. A header next to each C program has texts, options, and loss and gradient norm
of every step; its folder here has the final f32 masters. Log-probabilities are those of transformers, for one text at a
time, so padding and packing are tested in the C programs only; losses are written as in their papers and
differentiated by autograd. The step is that of reference.py: weights rounded to bf16, gradients f32, AdamW on masters.

A case is written only if the steps repeated in f64 by the independent decoder, and repeated with noise of the size of
f32 rounding on every gradient, differ by at most a fifth of the bounds of the C programs.
"""

import argparse
import dataclasses
import pathlib
import random
import sys
from dataclasses import dataclass

import safetensors.torch
import torch
import transformers
from torch.nn.functional import logsigmoid

from cases import Case, Micro
from generate import FOLDER, require
from reference import Plain, Reference, adamw, global_norm, round_to_bf16

HERE = pathlib.Path(__file__).resolve().parent
STEPS = 6
OPTIONS = dict(lr=(1e-3,) * STEPS, beta1=0.9, beta2=0.95, adam_eps=1e-6, decay=0.1, clip=1.0)


@dataclass
class Text:
    """A prompt and its completion, as token ids."""

    prompt: list
    completion: list


def draw(rng: random.Random, shortest: int, longest: int) -> list:
    return [rng.randrange(FOLDER.V) for _ in range(rng.randint(shortest, longest))]


def literal(ids: list) -> str:
    """A `text_t` literal in C."""
    return f"{{{len(ids)}, {{{', '.join(map(str, ids))}}}}}"


def logprobs(model, text: Text) -> torch.Tensor:
    """Log-probability of each token of the completion, [tokens]."""
    ids = torch.tensor([text.prompt + text.completion], dtype=torch.int32)
    logits = model.logits(Micro(ids, ids, None, None))[0]
    first = len(text.prompt) - 1  # the row that predicts the completion's first token
    rows = logits[first : first + len(text.completion)].log_softmax(-1)
    return rows.gather(-1, torch.tensor(text.completion)[:, None])[:, 0]


# ---------------------------------------------------------------------------------------------------------
# The losses. `of` maps a text to its log-probabilities under the policy.


class Dpo:
    """Direct preference optimization (arXiv 2305.18290, equation 7), the mean over the pairs of a step."""

    name, beta, pairs_a_step, T = "dpo", 0.5, 4, 24

    def __init__(self):
        rng = random.Random(50)
        self.pairs = []
        for _ in range(3 * self.pairs_a_step):
            prompt = draw(rng, 2, 8)
            self.pairs.append((Text(prompt, draw(rng, 3, 12)), Text(prompt, draw(rng, 3, 12))))

    def begin(self, of) -> None:
        self.reference = [(of(chosen).sum(), of(rejected).sum()) for chosen, rejected in self.pairs]

    def loss(self, step: int, of) -> torch.Tensor:
        first = step * self.pairs_a_step % len(self.pairs)
        margins = []
        for pair in range(first, first + self.pairs_a_step):
            chosen, rejected = (of(text).sum() - ref for text, ref in zip(self.pairs[pair], self.reference[pair]))
            margins.append(self.beta * (chosen - rejected))
        return -logsigmoid(torch.stack(margins)).mean()

    def header(self) -> str:
        rows = [f"    {{{literal(chosen.prompt)},\n     {literal(chosen.completion)},\n"
                f"     {literal(rejected.completion)}}}," for chosen, rejected in self.pairs]
        return "\n".join([
            f"enum {{ T = {self.T}, PAIRS = {len(self.pairs)}, PAIRS_A_STEP = {self.pairs_a_step}, STEPS = {STEPS} }};",
            "", f"static const double BETA = {self.beta};", "",
            "typedef struct {", "    size_t count;", "    int32_t ids[12];", "} text_t;", "",
            "static const struct {", "    text_t prompt, chosen, rejected;", "} DATA[PAIRS] = {", *rows, "};"])


class Grpo:
    """Group relative policy optimization (arXiv 2402.03300, equations 3 and 4), outcome rewards."""

    name, beta, epsilon, T = "grpo", 0.04, 0.2, 32
    groups, size, inner = 2, 4, 3

    def __init__(self):
        rng = random.Random(46)
        self.rounds = []
        for _ in range(STEPS // self.inner):
            texts, rewards = [], []
            for _ in range(self.groups):
                prompt = draw(rng, 2, 5)
                texts += [Text(prompt, draw(rng, 3, 10)) for _ in range(self.size)]
                rewards += [rng.randrange(5) / 4.0 for _ in range(self.size)]
            self.rounds.append((texts, rewards))
        self.clipped, self.nearest = 0, 1.0

    def begin(self, of) -> None:
        self.reference = [[of(text) for text in texts] for texts, _ in self.rounds]

    def loss(self, step: int, of) -> torch.Tensor:
        number = step // self.inner
        texts, rewards = self.rounds[number]
        if step % self.inner == 0:
            self.old = [of(text).detach() for text in texts]
        grouped = torch.tensor(rewards, dtype=torch.float64).view(self.groups, self.size)
        spread = grouped.std(dim=1, correction=0, keepdim=True)
        advantages = ((grouped - grouped.mean(dim=1, keepdim=True)) / spread).flatten()
        total = 0.0
        for text, advantage, old, reference in zip(texts, advantages, self.old, self.reference[number]):
            now = of(text)
            ratio = (now - old).exp()
            self.look(ratio, advantage)
            surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - self.epsilon, 1 + self.epsilon) * advantage)
            kl = (reference - now).exp() - (reference - now) - 1
            total = total + (surrogate - self.beta * kl).mean()
        return -total / len(texts)

    def look(self, ratio: torch.Tensor, advantage: torch.Tensor) -> None:
        """Counts clipped tokens, and records how near a ratio came to the clipping border, where the gradient jumps."""
        if advantage == 0:
            return
        border = 1 + self.epsilon * advantage.sign()
        beyond = (ratio.detach().double() - border) * advantage.sign()
        self.clipped += (beyond > 0).sum().item()
        self.nearest = min(self.nearest, beyond.abs().min().item())

    def header(self) -> str:
        rows = []
        for texts, rewards in self.rounds:
            rows += ["    {", *(f"        {{{literal(text.prompt)}, {literal(text.completion)}, {reward}}},"
                                for text, reward in zip(texts, rewards)), "    },"]
        return "\n".join([
            f"enum {{ T = {self.T}, ROUNDS = {len(self.rounds)}, GROUPS = {self.groups}, GROUP_SIZE = {self.size} }};",
            f"enum {{ INNER_STEPS = {self.inner}, STEPS = {STEPS} }};",
            "", f"static const double BETA = {self.beta}, EPSILON = {self.epsilon};", "",
            "typedef struct {", "    size_t count;", "    int32_t ids[10];", "} text_t;", "",
            "static const struct {", "    text_t prompt, completion;", "    double reward;",
            "} DATA[ROUNDS][GROUPS * GROUP_SIZE] = {", *rows, "};"])


# ---------------------------------------------------------------------------------------------------------
# Training


@dataclass
class Run:
    loss: list
    norm: list
    final: dict  # f32 masters


def train(case: Case, kind, model, init, noise: float = 0.0) -> tuple[Run, object]:
    masters = {name: p.clone() for name, p in init.items()}
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in masters.items()}
    rounded = lambda: model.load({name: round_to_bf16(p) for name, p in masters.items()})
    objective, run = kind(), Run([], [], masters)
    with torch.no_grad():
        rounded()
        objective.begin(lambda text: logprobs(model, text))
    for step in range(STEPS):
        rounded()
        loss = objective.loss(step, lambda text: logprobs(model, text))
        gradient = model.gradient(loss)
        for g in gradient.values():
            if noise:
                g += noise * g.abs().max() * torch.randn(g.shape, dtype=g.dtype) * (g != 0)
        norm = global_norm(gradient)
        factor = min(1.0, case.clip / norm)
        run.loss.append(loss.item())
        run.norm.append(norm)
        for name, p in masters.items():
            adamw(case, step, p, *moments[name], gradient[name].float() * factor)
    return run, objective


def distance(case: Case, run: Run, other: Run) -> dict:
    """The difference of two runs as a share of each bound of tests/c/pytorch.h (1 = all of it)."""
    d = torch.cat([(run.final[n] - p).abs().flatten() for n, p in other.final.items()])
    size = torch.cat([p.abs().flatten() for p in other.final.values()])
    outside = d > 1e-4 * size + 0.02 * max(case.lr)
    return {
        "loss": max(abs(a - b) / (1e-5 * max(1.0, abs(b))) for a, b in zip(run.loss, other.loss)),
        "norm": max(abs(a - b) / (1e-4 * b) for a, b in zip(run.norm, other.norm)),
        "outside": outside.double().mean().item() / 1e-4,
        "final": d.max().item() / max(case.lr),
    }


def write(kind, programs: pathlib.Path, folder: pathlib.Path) -> None:
    case = dataclasses.replace(FOLDER, **OPTIONS)
    init = {name: p.float() for name, p in safetensors.torch.load_file(HERE / "hf4" / "model.safetensors").items()}
    run, objective = train(case, kind, Reference(case), init)
    others = [train(case, kind, Plain(case), init)[0]]
    others += [train(case, kind, Plain(case), init, noise=1e-7)[0] for _ in range(8)]
    shares = [distance(case, other, run) for other in others]
    worst = {bound: max(share[bound] for share in shares) for bound in shares[0]}
    print(f"{kind.name}: loss {' '.join(f'{x:.4f}' for x in run.loss)}  norm {' '.join(f'{x:.3f}' for x in run.norm)}  "
          "share of bound taken: " + "  ".join(f"{bound} {share:.2f}" for bound, share in worst.items()))
    require(max(worst.values()) <= 0.2, f"{kind.name}: too sensitive to rounding, choose another seed")
    if kind is Grpo:
        print(f"grpo: {objective.clipped} tokens clipped, the nearest ratio is {objective.nearest:.4f} from its border")
        require(objective.clipped > 5 and objective.nearest > 1e-4, "grpo: too few clipped tokens, or one near the border")

    def values(name: str, numbers: list) -> str:
        return "\n".join([f"static const double {name}[STEPS] = {{", *(f"    {x!r}," for x in numbers), "};"])

    (programs / f"{kind.name}_data.h").write_text("\n".join([
        f"/* {kind.__doc__.splitlines()[0]}",
        f" * Written by tests/golden/losses.py with torch {torch.__version__.split('+')[0]}, transformers "
        f"{transformers.__version__}. */",
        f"#ifndef {kind.name.upper()}_DATA_H", f"#define {kind.name.upper()}_DATA_H", "",
        "#include <stddef.h>", "#include <stdint.h>", "", objective.header(), "",
        "/* AdamW and clipping; the learning rate is constant. */",
        f"static const double LR = {case.lr[0]}, BETA1 = {case.beta1}, BETA2 = {case.beta2}, EPS = {case.adam_eps};",
        f"static const double DECAY = {case.decay}, CLIP = {case.clip};", "",
        "/* Results of PyTorch. */", values("LOSS", run.loss), values("GRAD_NORM", run.norm), "", "#endif", ""]))
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text((HERE / "hf4" / "config.json").read_text().replace("bfloat16", "float32"))
    safetensors.torch.save_file({name: p.contiguous() for name, p in run.final.items()},
                                folder / "model.safetensors", {"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, help="write everything to this folder (default: into the tree)")
    out = parser.parse_args().out
    torch.manual_seed(1)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    for kind in (Dpo, Grpo):
        write(kind, out or HERE.parent / "c", (out or HERE) / kind.name)


if __name__ == "__main__":
    sys.exit(main())
