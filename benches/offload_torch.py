"""PyTorch's training step with the optimizer offloaded to the host, for comparison with `step_cuda --shape 1.5b`.

    python3 offload_torch.py [--micro 8] [--micros 8]

Needs torch with CUDA. Qwen2.5-1.5B with random weights: bf16 weights and gradients on the GPU, activation checkpointing,
f32 masters and fused AdamW on the host; gradients and weights are copied once per step through pinned memory. The whole
model stays on the GPU. Prints a line of JSON: tokens per second, useful TFLOP/s as in `train::metrics`, their percentage
of a large matmul's throughput, and the seconds of each phase.
"""

import argparse
import json
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

# As in src/model/presets.rs.
C, L, H, G, D, FFN, V = 1536, 28, 12, 2, 128, 8960, 151936


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(C, eps=1e-6) for _ in range(2))
        self.qkv, self.o = nn.Linear(C, (H + 2 * G) * D), nn.Linear(H * D, C, bias=False)
        self.gate_up, self.down = nn.Linear(C, 2 * FFN, bias=False), nn.Linear(FFN, C, bias=False)

    def forward(self, x, cos, sin):
        B, T, _ = x.shape
        q, k, v = self.qkv(self.norms[0](x)).view(B, T, H + 2 * G, D).transpose(1, 2).split((H, G, G), 1)
        turn = lambda y: y * cos + torch.cat((-y[..., D // 2 :], y[..., : D // 2]), -1) * sin
        attention_output = F.scaled_dot_product_attention(turn(q), turn(k), v, is_causal=True, enable_gqa=True)
        x = x + self.o(attention_output.transpose(1, 2).reshape(B, T, H * D))
        gate, up = self.gate_up(self.norms[1](x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.norm = nn.Embedding(V, C), nn.RMSNorm(C, eps=1e-6)
        self.layers = nn.ModuleList(Layer() for _ in range(L))

    def forward(self, tokens, targets, cos, sin):
        x = self.embedding(tokens)
        for layer in self.layers:
            x = checkpoint(layer, x, cos, sin, use_reentrant=False)
        logits = F.linear(self.norm(x), self.embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def matrix_rate(side: int = 8192) -> float:
    """FLOP/s of a large bf16 matmul, the best of ten runs."""
    a, b = (torch.randn(side, side, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    best = float("inf")
    for _ in range(10):
        torch.cuda.synchronize()
        clock = time.perf_counter()
        a @ b
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - clock)
    return 2 * side**3 / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--micro", type=int, default=8, help="sequences of a micro-batch")
    parser.add_argument("--micros", type=int, default=8, help="micro-batches of a step")
    parser.add_argument("--sequence", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=3, help="measured steps, after one warm-up step")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: PyTorch sees no GPU")
        return
    B, T, micros = arguments.micro, arguments.sequence, arguments.micros
    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        model = Decoder()
    angle = torch.arange(T, device="cuda").float()[:, None] * 1e6 ** (-torch.arange(0, D, 2, device="cuda").float() / D)
    cos, sin = (torch.cat((turn, turn), -1).bfloat16() for turn in (angle.cos(), angle.sin()))
    weights = list(model.parameters())
    masters = [nn.Parameter(weight.detach().float().cpu()) for weight in weights]
    pinned = [torch.empty(weight.shape, pin_memory=True) for weight in weights]
    for master in masters:
        master.grad = torch.empty_like(master)
    optimizer = torch.optim.AdamW(masters, lr=1e-4, fused=True)
    tokens = torch.randint(V, (B, T + 1), device="cuda")
    phases = {"compute": 0.0, "gradients_down": 0.0, "adamw": 0.0, "weights_up": 0.0}

    for step in range(arguments.steps + 1):
        if step == 1:
            phases = dict.fromkeys(phases, 0.0)
        clock = time.perf_counter()

        def lap(phase: str) -> None:
            nonlocal clock
            torch.cuda.synchronize()
            phases[phase] += time.perf_counter() - clock
            clock = time.perf_counter()

        for _ in range(micros):
            (model(tokens[:, :-1], tokens[:, 1:], cos, sin) / micros).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        lap("compute")
        for weight, host in zip(weights, pinned):
            host.copy_(weight.grad, non_blocking=True)
        lap("gradients_down")
        for master, host in zip(masters, pinned):
            master.grad.copy_(host)
        optimizer.step()
        for master, host in zip(masters, pinned):
            host.copy_(master.detach())
        lap("adamw")
        for weight, host in zip(weights, pinned):
            weight.data.copy_(host, non_blocking=True)
            weight.grad = None
        lap("weights_up")

    seconds = sum(phases.values()) / arguments.steps
    rows = B * T * micros
    matmul = L * C * ((H + 2 * G) * D + H * D + 3 * FFN) + V * C
    flop = 6 * matmul * rows + 12 * L * H * D * rows * (T + 1) / 2
    print(json.dumps({
        "bench": "offload_torch", "device": torch.cuda.get_device_name(), "shape": "1.5b", "tokens_per_step": rows, "sequence": T,
        "step_seconds": round(seconds, 4), "tokens_per_second": round(rows / seconds), "useful_tflops": round(flop / seconds / 1e12, 1),
        "percent_of_matrix_rate": round(100 * flop / seconds / matrix_rate(), 1),
        "phase_seconds": {phase: round(total / arguments.steps, 4) for phase, total in phases.items()},
    }))


if __name__ == "__main__":
    main()
