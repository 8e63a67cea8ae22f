"""PyTorch's matmuls and attention on the same GPU, at the sizes of `benches/ops.rs`.

    python3 ops_torch.py [--model 8b] [--ours FILE]

Needs torch with CUDA. Operands are normal bf16 numbers; a time is the median of several runs between two events, with
the L2 cache overwritten before each, as in `benches/meter/cuda.rs`. FLOPs are those of the formula; attention counts only
those below the diagonal. Prints a line of JSON for each, in percent of the throughput of an 8192³ matmul; with `--ours`,
the output of `ops --device cuda`, also ours in percent of PyTorch's.
"""

import argparse
import json
import statistics

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

# As in benches/ops.rs: C, H, G, D, F, V; B and T; rows of a chunk of logits.
MODELS = {
    "8b": ((4096, 32, 8, 128, 14336, 128256), (4, 4096), 2048),
    "d64": ((2048, 32, 8, 64, 8192, 128256), (4, 4096), 2048),
    "d96": ((3072, 32, 32, 96, 8192, 32064), (4, 4096), 2048),
    "d256": ((2048, 8, 4, 256, 16384, 256000), (4, 4096), 2048),
}
RUNS, FLUSH, SIDE = 15, 512 << 20, 8192


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.bfloat16, device="cuda")


def seconds(work) -> float:
    flush = torch.empty(FLUSH, dtype=torch.uint8, device="cuda")
    work()
    taken = []
    for run in range(RUNS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush.fill_(run)
        start.record()
        work()
        end.record()
        end.synchronize()
        taken.append(start.elapsed_time(end) / 1e3)
    return statistics.median(taken)


def matmuls(model: str):
    """Yields names as in `benches/ops.rs`, the library, and FLOP/s."""
    (C, H, G, D, Fn, V), (B, T), chunk = MODELS[model]
    N = B * T
    for name, n, k, m in [("qkv", N, C, (H + 2 * G) * D), ("o", N, H * D, C), ("gate_up", N, C, 2 * Fn), ("down", N, Fn, C),
                          ("lm", chunk, C, V)]:
        x, w, y = normal(n, k), normal(m, k), normal(n, m)
        flop = 2 * n * k * m
        yield f"{model} {name} forward", "matmul", flop / seconds(lambda: x @ w.T)
        yield f"{model} {name} backward_input", "matmul", flop / seconds(lambda: y @ w)
        yield f"{model} {name} backward_weight", "matmul", flop / seconds(lambda: y.T @ x)


def attention(model: str):
    """Yields the same for causal attention, with each PyTorch library that supports it."""
    (_, H, G, D, _, _), (B, T), _ = MODELS[model]
    q, k, v = (normal(B, heads, T, D).requires_grad_() for heads in (H, G, G))
    flop = B * H * T * (T + 1) * D
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        with sdpa_kernel(backend):
            attend = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=G != H)
            try:
                with torch.no_grad():
                    forward = 2 * flop / seconds(attend)
                out = attend()
                dout = torch.randn_like(out)
                backward = 5 * flop / seconds(lambda: torch.autograd.grad(out, (q, k, v), dout, retain_graph=True))
            except RuntimeError as error:
                print(f"skipped: {model} by {backend.name}: {str(error).splitlines()[0]}")
                continue
        yield f"{model} attention_forward", backend.name.lower(), forward
        yield f"{model} attention_backward", backend.name.lower(), backward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, help="one of the models [all]")
    parser.add_argument("--ours", help="the output of `ops --device cuda`")
    arguments = parser.parse_args()
    ours = {}
    if arguments.ours:
        for line in open(arguments.ours):
            if line.startswith("{"):
                entry = json.loads(line)
                if entry.get("bench") == "ops" and entry.get("unit") == "TFLOP/s":
                    ours[entry["op"]] = entry["rate"]
    if not torch.cuda.is_available():
        print("skipped: PyTorch sees no GPU")
        return
    a, b = normal(SIDE, SIDE), normal(SIDE, SIDE)
    ceiling = 2 * SIDE**3 / seconds(lambda: a @ b)
    for model in [arguments.model] if arguments.model else MODELS:
        for rates in (matmuls, attention):
            for op, by, rate in rates(model):
                entry = {"bench": "ops_torch", "device": torch.cuda.get_device_name(), "op": op, "by": by,
                         "rate": round(rate / 1e12, 1), "unit": "TFLOP/s", "percent": round(100 * rate / ceiling, 1)}
                for kernel in ("", " mma", " wgmma"):
                    if op + kernel in ours:
                        entry[f"ours{kernel}_percent".replace(" ", "_")] = round(100 * ours[op + kernel] / entry["rate"], 1)
                print(json.dumps(entry), flush=True)


if __name__ == "__main__":
    main()
