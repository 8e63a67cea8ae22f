"""Writes the golden fixtures: tiny models of every family, trained for five steps by PyTorch.

The reference is the family's class in transformers, in f32 on one CPU thread. Before every forward its weights are set
to `(bits + 0x8000) & 0xffff0000` of the f32 masters; gradients are taken with respect to those rounded weights and
applied to the masters by AdamW: see reference.py. The cases are in cases.py; README.md describes the files.

A case is written only if these checks pass:
  - gradients: an independent f64 decoder (`plain_logits`) agrees with its own finite differences, and the
    reference agrees with it;
  - documents: a packed row gives the logits of its documents run one by one;
  - AdamW: agrees with `torch.optim.AdamW` from the same gradients;
  - conditioning: the five steps repeated in f64, and repeated with noise of the size of f32 rounding on every
    gradient, differ by at most a fifth of the bounds of the tests. Otherwise the tests could pass or fail by chance.
"""

import argparse
import json
import pathlib
import sys

import safetensors.torch
import torch
import transformers
from transformers import LlamaForCausalLM

from cases import CASES, STEPS, Case, Micro, draw_masters, draw_micro
from reference import Naive, Plain, Reference, Run, micro_loss, round_to_bf16, step_gradient, train

HERE = pathlib.Path(__file__).resolve().parent
MARGIN = 3e-4  # see `settle`


def settle(case: Case, reference, init, batches) -> tuple[dict, Run]:
    """Moves masters until none comes so close to a rounding boundary in a later step that its last bits matter.

        One weight rounded the other way can change the loss by more than its bound. Close means within MARGIN of the
        learning rate. Weights with a bf16 spacing of at most 16 times this are harmless and are not moved. A move that
        does not change the rounded weights does not change the trajectories of other weights.
    """
    init = {name: p.clone() for name, p in init.items()}
    margin = MARGIN * max(case.lr)
    for _ in range(200):
        run = train(case, reference, init, batches)
        moved = 0
        for name, p in init.items():
            for read in run.read[1:]:
                beyond = read[name] - boundary_near(read[name])
                close = (beyond.abs() < margin) & (bf16_spacing(read[name]) > 16 * margin)
                p += torch.where(close, 2 * margin - beyond, 0.0)
                moved += close.sum().item()
                if close.any():
                    break
        if not moved:
            return init, run
    sys.exit(f"{case.name}: masters do not settle, choose another seed or a smaller MARGIN")


def boundary_near(master: torch.Tensor) -> torch.Tensor:
    """The nearest f32 where the rounded weight changes: low 16 bits 0x8000."""
    return ((master.view(torch.int32) & -0x10000) | 0x8000).view(torch.float32)


def bf16_spacing(master: torch.Tensor) -> torch.Tensor:
    return torch.exp2(torch.frexp(master).exponent - 8)


# ---------------------------------------------------------------------------------------------------------
# Checks


class TorchAdamW:
    """`torch.optim.AdamW` with the same gradients."""

    def __init__(self, case: Case, masters):
        self.case = case
        self.copies = {name: p.clone().requires_grad_() for name, p in masters.items()}
        self.optimizer = torch.optim.AdamW(
            [{"params": [p], "weight_decay": case.decay if p.dim() >= 2 else 0.0} for p in self.copies.values()],
            betas=(case.beta1, case.beta2), eps=case.adam_eps, foreach=False)

    def check(self, step: int, masters, gradient) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.case.lr[step]
        for name, p in self.copies.items():
            p.grad = gradient[name].clone()
        self.optimizer.step()
        for name, p in self.copies.items():
            worst = (p.detach() - masters[name]).abs().max().item()
            require(worst <= 1e-6, f"{self.case.name}: AdamW differs from torch by {worst:.1e} in {name}")


def require(holds: bool, message: str) -> None:
    if not holds:
        sys.exit(f"check failed: {message}")


def check_finite_differences(case: Case, init, micros) -> float:
    """Worst error, relative to max|g| of the tensor, of the f64 gradient against central differences."""
    plain = Plain(case)
    _, gradient = step_gradient(plain, init, micros)
    weights = {name: round_to_bf16(p).double() for name, p in init.items()}
    total = sum(m.effective_weights().double().sum().item() for m in micros)

    def loss() -> float:
        plain.weights = weights
        with torch.no_grad():
            return sum(micro_loss(plain, micro, total)[1] for micro in micros)

    worst = 0.0
    for name, w in weights.items():
        flat, g = w.view(-1), gradient[name].view(-1)
        entries = [g.abs().argmax().item(), *torch.randint(0, flat.numel(), (2,)).tolist()]
        for entry in entries:
            center, h = flat[entry].item(), 1e-5
            flat[entry] = center + h
            above = loss()
            flat[entry] = center - h
            below = loss()
            flat[entry] = center
            error = abs((above - below) / (2 * h) - g[entry].item()) / g.abs().max().item()
            require(error <= 1e-6, f"{case.name}: finite difference of {name}[{entry}] is off by {error:.1e} of max|g|")
            worst = max(worst, error)
    return worst


def check_documents(case: Case, reference: Reference, micro: Micro) -> None:
    """Checks that a packed row equals its documents run one by one with the model's own causal mask."""
    with torch.no_grad():
        packed = reference.logits(micro)
        for row in range(case.B):
            for doc in micro.docs[row].unique():
                where = micro.docs[row] == doc
                alone = reference.model(input_ids=micro.tokens[row][where][None].long(), use_cache=False).logits[0]
                worst = (packed[row][where] - alone).abs().max().item()
                require(worst <= 1e-5, f"{case.name}: document {doc} of row {row} differs alone by {worst:.1e}")


def distance(case: Case, run: Run, reference: Run) -> dict[str, float]:
    """The difference of two runs as a share of each bound in README.md (1: all of it)."""
    relative = lambda a, b: max(abs(x - y) / abs(y) for x, y in zip(a, b))
    grad = max(((run.grad[n] - g).abs() / (1e-4 * g.abs() + 1e-5 * g.abs().max())).max().item()
               for n, g in reference.grad.items())
    d = torch.cat([(run.final[n] - p).abs().flatten() for n, p in reference.final.items()])
    size = torch.cat([p.abs().flatten() for p in reference.final.values()])
    outside = d > 1e-4 * size + 0.02 * max(case.lr)
    return {
        "loss": relative(run.loss, reference.loss) / 1e-5,
        "norm": relative(run.norm, reference.norm) / 1e-4,
        "grad": grad,
        "outside": outside.double().mean().item() / 1e-4,
        "final": d.max().item() / max(case.lr),
    }


# ---------------------------------------------------------------------------------------------------------
# Files


def write_case(case: Case, folder: pathlib.Path) -> None:
    torch.manual_seed(case.seed)
    init = draw_masters(case)
    batches = [[draw_micro(case, step, micro) for micro in range(case.M)] for step in range(STEPS)]
    reference = Reference(case)
    init, run = settle(case, reference, init, batches)
    train(case, reference, init, batches, observe=TorchAdamW(case, init).check)

    differences = check_finite_differences(case, init, batches[0])
    if case.docs:
        check_documents(case, reference, batches[0][0])
    again = [train(case, Plain(case), init, batches)]
    again += [train(case, Plain(case), init, batches, noise=1e-7) for _ in range(8)]
    shares = [distance(case, other, run) for other in again]
    worst = {bound: max(share[bound] for share in shares) for bound in shares[0]}
    print(f"{case.name:16} {sum(p.numel() for p in init.values()):6} parameters  loss {run.loss[0]:.4f} -> "
          f"{run.loss[-1]:.4f}  norm {run.norm[0]:.3f}  finite differences {differences:.0e}  share of bound taken: "
          + "  ".join(f"{bound} {share:.2f}" for bound, share in worst.items()))
    require(max(worst.values()) <= 0.2, f"{case.name}: too sensitive to rounding, choose another seed")

    tensors = {f"init.{name}": p for name, p in init.items()}
    for step, micros in enumerate(batches):
        for index, micro in enumerate(micros):
            tensors |= {f"{field}.{step}.{index}": t for field, t in vars(micro).items() if t is not None}
    tensors["loss"] = torch.tensor(run.loss, dtype=torch.float64)
    tensors["grad_norm"] = torch.tensor(run.norm, dtype=torch.float64)
    tensors |= {f"grad.{name}": g for name, g in run.grad.items()}
    tensors |= {f"final.{name}": p for name, p in run.final.items()}
    if case.bf16:
        naive = train(case, Naive(case), init, batches)
        tensors["bf16.loss"] = torch.tensor(naive.loss, dtype=torch.float64)
        tensors |= {f"bf16.grad.{name}": (naive.grad[name].float() - g).abs().max()[None] for name, g in run.grad.items()}
    config = None
    if case.family:
        config = json.loads(json.dumps(reference.config(), default=str))
        if not case.docs:
            reference.load({name: round_to_bf16(master) for name, master in init.items()})
            with torch.no_grad():
                tensors["logits"] = reference.logits(batches[0][0])
    write(tensors, folder / f"{case.name}.safetensors", {"case": json.dumps(case.describe(config))})


def write(tensors, path: pathlib.Path, metadata: dict[str, str]) -> None:
    """Requires a single metadata key, because the order of keys in the file is not fixed."""
    assert len(metadata) == 1
    safetensors.torch.save_file({name: t.detach().contiguous() for name, t in tensors.items()}, path, metadata)


FOLDER = Case("hf_llama", 20, C=32, F=43, L=2, H=4, G=2, D=8, V=61, B=2, T=17, theta=10000.0)

# The config that transformers 4.46 writes for FOLDER (compared with its output). transformers 5 writes the other folder.
FOLDER_CONFIG_4 = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": FOLDER.D,
    "hidden_act": "silu",
    "hidden_size": FOLDER.C,
    "initializer_range": 0.02,
    "intermediate_size": FOLDER.F,
    "max_position_embeddings": 64,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": FOLDER.H,
    "num_hidden_layers": FOLDER.L,
    "num_key_value_heads": FOLDER.G,
    "pretraining_tp": 1,
    "rms_norm_eps": FOLDER.norm_eps,
    "rope_scaling": None,
    "rope_theta": FOLDER.theta,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.46.3",
    "use_cache": True,
    "vocab_size": FOLDER.V,
}


def write_folders(folder: pathlib.Path) -> None:
    """Writes hf4/ and hf5/: one bf16 model with configs of transformers 4 and 5; and hf_llama: its logits."""
    torch.manual_seed(FOLDER.seed)
    masters = draw_masters(FOLDER)
    tokens = torch.randint(0, FOLDER.V, (FOLDER.B, FOLDER.T), dtype=torch.int32)
    reference = Reference(FOLDER)
    reference.load({name: round_to_bf16(master) for name, master in masters.items()})
    with torch.no_grad():
        logits = reference.logits(Micro(tokens, tokens, None, None))
    reference.model.bfloat16().save_pretrained(folder / "hf5")
    (folder / "hf5" / "generation_config.json").unlink()

    (folder / "hf4").mkdir(exist_ok=True)
    (folder / "hf4" / "config.json").write_text(json.dumps(FOLDER_CONFIG_4, indent=2, sort_keys=True) + "\n")
    (folder / "hf4" / "model.safetensors").write_bytes((folder / "hf5" / "model.safetensors").read_bytes())
    for name in ("hf4", "hf5"):
        loaded = LlamaForCausalLM.from_pretrained(folder / name, dtype=torch.float32, attn_implementation="eager")
        with torch.no_grad():
            same = torch.equal(loaded(input_ids=tokens.long(), use_cache=False).logits, logits)
        require(same, f"{name} loaded back gives other logits")
    write({"tokens": tokens, "logits": logits}, folder / "hf_llama.safetensors", {"about": "logits of hf4 and hf5"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=HERE, help="folder to write into (default: this one)")
    parser.add_argument("--only", action="append", help="write only this case; may be repeated")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, safetensors {safetensors.__version__}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        if not arguments.only or case.name in arguments.only:
            write_case(case, arguments.out)
    if not arguments.only or FOLDER.name in arguments.only:
        write_folders(arguments.out)


if __name__ == "__main__":
    main()
