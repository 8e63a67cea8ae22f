"""Speed of PyTorch's CPU training step, for comparison with ours: tokens per second, median over steps.

A Llama decoder in f32 (or bf16 autocast), activation checkpointing per layer (`use_reentrant=False`), fused AdamW,
gradient norm clipped at 1. The decoder is written out here with PyTorch's fused attention; it computes the same as
`transformers.LlamaForCausalLM` and was at least as fast in interleaved runs.

    python benches/step_torch.py --shape a [--dtype bf16-autocast] [--mkl-override]

For interleaved measurements `--serve` keeps the model warm and reads requests from standard input, one per line, and
answers each with one line of JSON: `info` describes the run and measures the current speed of an f32 matmul, `run N` times
N steps and returns `tokens_per_second`. Unknown requests return `{"error": …}`. It exits at the end of input.

PyTorch's matrix library MKL uses its slower AVX2 kernels on processors of other vendors than Intel.
`--mkl-override` makes that check pass. Report both figures, or the one with the override: the other is a weak baseline.
"""

import argparse
import ctypes
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass

OVERRIDE_FOLDER = "STEP_TORCH_MKL_OVERRIDE"  # the folder of the preloaded object, passed to the re-executed process


@dataclass(frozen=True)
class Shape:
    C: int
    L: int
    H: int
    G: int
    F: int
    V: int
    T: int
    B: int


SHAPES = {
    "a": Shape(C=256, L=4, H=4, G=4, F=688, V=256, T=256, B=8),
    "b": Shape(C=512, L=8, H=8, G=8, F=1376, V=32000, T=512, B=4),
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="a")
    parser.add_argument("--dtype", choices=("f32", "bf16-autocast"), default="f32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    parser.add_argument("--warmup", type=int, default=2, help="steps before the first timed one")
    parser.add_argument("--mkl-override", action="store_true", help="make MKL's vendor check pass")
    parser.add_argument("--serve", action="store_true", help="answer requests from standard input")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    for option in ("threads", "steps"):
        if getattr(arguments, option) < 1:
            parser.error(f"--{option} must be at least 1, got {getattr(arguments, option)}")
    if arguments.warmup < 0:
        parser.error(f"--warmup must not be negative, got {arguments.warmup}")
    return arguments


def override_mkl() -> None:
    """Re-executes this process with MKL's vendor check replaced; returns in the new process.

    MKL is linked statically into libtorch_cpu, yet `mkl_serv_intel_cpu_true` is an exported symbol called through
    the procedure linkage table, so a preloaded definition takes its place.
    """
    folder = os.environ.pop(OVERRIDE_FOLDER, None)
    if folder:  # the object is mapped now; child processes must not load it
        os.environ.pop("LD_PRELOAD")
        shutil.rmtree(folder)
        return
    folder = tempfile.mkdtemp(prefix="mkl-override-")
    library = os.path.join(folder, "override.so")
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", library], check=True, text=True,
                       input="int mkl_serv_intel_cpu_true(void) { return 1; }\n")
    except (OSError, subprocess.CalledProcessError) as error:
        shutil.rmtree(folder)
        sys.exit(f"--mkl-override compiles a shared object with `cc`, which failed: {error}")
    if os.environ.get("LD_PRELOAD"):
        library += ":" + os.environ["LD_PRELOAD"]
    environment = os.environ | {"LD_PRELOAD": library, OVERRIDE_FOLDER: folder}
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


arguments = parse_arguments()
if arguments.mkl_override:
    override_mkl()
os.environ["OMP_NUM_THREADS"] = str(arguments.threads)

import torch  # noqa: E402  (after the re-execution, because it takes seconds)
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class Layer(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        C, D = shape.C, shape.C // shape.H
        self.heads, self.groups, self.head_dim = shape.H, shape.G, D
        self.attention_norm = nn.RMSNorm(C, eps=1e-5)
        self.qkv = nn.Linear(C, (shape.H + 2 * shape.G) * D, bias=False)
        self.out = nn.Linear(shape.H * D, C, bias=False)
        self.ffn_norm = nn.RMSNorm(C, eps=1e-5)
        self.gate_up = nn.Linear(C, 2 * shape.F, bias=False)
        self.down = nn.Linear(shape.F, C, bias=False)

    def forward(self, x, cos, sin):
        B, T, _ = x.shape
        H, G, D = self.heads, self.groups, self.head_dim
        qkv = self.qkv(self.attention_norm(x)).view(B, T, H + 2 * G, D).transpose(1, 2)
        q, k, v = qkv.split((H, G, G), 1)
        attention_output = F.scaled_dot_product_attention(
            rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True, enable_gqa=H != G)
        x = x + self.out(attention_output.transpose(1, 2).reshape(B, T, H * D))
        gate, up = self.gate_up(self.ffn_norm(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Decoder(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        D = shape.C // shape.H
        self.embedding = nn.Embedding(shape.V, shape.C)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.L))
        self.norm = nn.RMSNorm(shape.C, eps=1e-5)
        self.head = nn.Linear(shape.C, shape.V, bias=False)
        angle = torch.arange(shape.T)[:, None] * 10000.0 ** (-torch.arange(0, D, 2) / D)
        self.register_buffer("cos", torch.cat((angle, angle), -1).cos())
        self.register_buffer("sin", torch.cat((angle, angle), -1).sin())
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens, targets):
        x = self.embedding(tokens)
        cos, sin = self.cos, self.sin
        if torch.is_autocast_enabled("cpu"):
            cos, sin = cos.bfloat16(), sin.bfloat16()
        for layer in self.layers:
            x = checkpoint(layer, x, cos, sin, use_reentrant=False)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Trainer:
    def __init__(self, shape: Shape, dtype: str):
        torch.manual_seed(0)
        self.shape, self.autocast = shape, dtype == "bf16-autocast"
        self.model = Decoder(shape)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=0.1, fused=True)
        self.tokens = torch.randint(0, shape.V, (shape.B, shape.T + 1))

    def step(self) -> float:
        """Returns the seconds of one step, from the tokens to the updated weights."""
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            loss = self.model(self.tokens[:, :-1], self.tokens[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss = loss.item()
        return time.perf_counter() - start

    def run(self, steps: int) -> dict:
        seconds = [self.step() for _ in range(steps)]
        tokens = self.shape.B * self.shape.T
        return {
            "tokens_per_second": tokens / statistics.median(seconds),
            "tokens_per_second_best": tokens / min(seconds),
            "steps": steps,
            "loss": self.loss,
        }


def mkl_branch() -> str | None:
    """The kernels that MKL has selected, by its internal number; None if this PyTorch has no MKL."""
    if not torch.backends.mkl.is_available():
        return None
    library = ctypes.CDLL(os.path.join(os.path.dirname(torch.__file__), "lib", "libtorch_cpu.so"))
    try:
        number = library.mkl_serv_cpu_detect()
    except AttributeError:
        return "unknown"
    return {0: "default", 7: "avx512"}.get(number, f"number {number}")


def vendor_check_overridden() -> bool:
    """True if a definition of the check from outside PyTorch's libraries takes precedence."""
    return hasattr(ctypes.CDLL(None), "mkl_serv_intel_cpu_true")


def matmul_gflops(size: int = 2048, repeats: int = 5) -> float:
    """Median GFLOP/s of an f32 matmul of square matrices: the current ceiling of the step's matmuls."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    torch.mm(a, b)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - start)
    return 2e-9 * size**3 / statistics.median(seconds)


def describe(trainer: Trainer) -> dict:
    return {
        "shape": arguments.shape,
        "sizes": asdict(trainer.shape),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "dtype": arguments.dtype,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "mkl_override": vendor_check_overridden(),
        "mkl_branch": mkl_branch(),
        "matmul_gflops": matmul_gflops(),
    }


def answer(trainer: Trainer, request: str) -> dict:
    match request.split():
        case ["info"]:
            return describe(trainer)
        case ["run", steps] if steps.isdecimal() and int(steps) > 0:
            return trainer.run(int(steps))
    return {"error": f"unknown request `{request.strip()}`: use `info`, or `run N` with N at least 1"}


def main() -> None:
    torch.set_num_threads(arguments.threads)
    trainer = Trainer(SHAPES[arguments.shape], arguments.dtype)
    for _ in range(arguments.warmup):
        trainer.step()
    if arguments.serve:
        for request in sys.stdin:
            print(json.dumps(answer(trainer, request)), flush=True)
        return
    result = describe(trainer) | trainer.run(arguments.steps)
    if arguments.json:
        print(json.dumps(result))
    else:
        print(f"{result['tokens_per_second']:.0f} tokens/s (median of {result['steps']} steps, best "
              f"{result['tokens_per_second_best']:.0f}), shape {arguments.shape}, {arguments.dtype}, "
              f"{result['threads']} threads, MKL kernels: {result['mkl_branch']}, vendor check "
              f"{'overridden' if result['mkl_override'] else 'unchanged'}; f32 matmul "
              f"{result['matmul_gflops']:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
