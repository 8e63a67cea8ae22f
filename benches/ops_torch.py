"""PyTorch's products and attention on the same GPU, at the sizes of `benches/ops.rs`: python3 benches/ops_torch.py [--ours FILE]

Needs torch with CUDA. bf16; the median of some runs between two events, the second level of the cache flushed before each, as
in `benches/meter/cuda.rs`. FLOPs are those of the formula, of attention what lies below the diagonal. A line of JSON for each;
with `--ours`, the output of `ops --device cuda`, it says what percentage of PyTorch's rate ours was.
"""

import argparse
import json
import statistics

import torch
import torch.nn.functional as F

# Of benches/ops.rs: C, H, G, D, F, V; B and T; rows of a chunk of logits.
MODELS = {
    "8b": ((4096, 32, 8, 128, 14336, 128256), (4, 4096), 2048),
    "d64": ((2048, 32, 8, 64, 8192, 128256), (4, 4096), 2048),
    "d96": ((3072, 32, 32, 96, 8192, 32064), (4, 4096), 2048),
    "d256": ((2048, 8, 4, 256, 16384, 256000), (4, 4096), 2048),
}
RUNS, FLUSH = 15, 512 << 20


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


def rates():
    """Names as `benches/ops.rs` has them, and FLOP/s."""
    normal = lambda *shape: torch.randn(shape, dtype=torch.bfloat16, device="cuda")
    for model, ((C, H, G, D, Fn, V), (B, T), chunk) in MODELS.items():
        N = B * T
        for name, n, k, m in [("qkv", N, C, (H + 2 * G) * D), ("o", N, H * D, C), ("gate_up", N, C, 2 * Fn), ("down", N, Fn, C),
                              ("lm", chunk, C, V)]:
            x, w, y = normal(n, k), normal(m, k), normal(n, m)
            flop = 2 * n * k * m
            yield f"{model} {name} forward", flop / seconds(lambda: x @ w.T)
            yield f"{model} {name} backward_input", flop / seconds(lambda: y @ w)
            yield f"{model} {name} backward_weight", flop / seconds(lambda: y.T @ x)
            del x, w, y
        q, k, v = (normal(B, heads, T, D).requires_grad_() for heads in (H, G, G))
        flop = 2 * B * H * T * (T + 1) // 2 * D
        attend = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=G != H)
        with torch.no_grad():
            yield f"{model} attention_forward", 2 * flop / seconds(attend)
        out = attend()
        dout = torch.randn_like(out)
        yield f"{model} attention_backward", 5 * flop / seconds(
            lambda: torch.autograd.grad(out, (q, k, v), dout, retain_graph=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ours", help="what `ops --device cuda` printed")
    arguments = parser.parse_args()
    ours = {}
    if arguments.ours:
        for line in open(arguments.ours):
            if line.startswith("{"):
                entry = json.loads(line)
                if entry.get("unit") == "TFLOP/s":
                    ours[entry["op"]] = entry["rate"]
    if not torch.cuda.is_available():
        print("skipped: PyTorch sees no GPU")
        return
    for op, rate in rates():
        entry = {"bench": "ops_torch", "device": torch.cuda.get_device_name(), "op": op, "rate": round(rate / 1e12, 1),
                 "unit": "TFLOP/s"}
        if op in ours:
            entry |= {"ours": ours[op], "ours_percent": round(100 * ours[op] / entry["rate"], 1)}
        print(json.dumps(entry), flush=True)


if __name__ == "__main__":
    main()
