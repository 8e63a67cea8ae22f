"""Writes pytorch.json: the results of torch.optim.AdamW on a small problem. Run: python tests/optim/pytorch.py

The test `adam_matches_pytorch` computes the same initial values and gradients, so only results are stored.
"""
import json
import pathlib

import torch

ELEMENTS, STEPS = 64, 50
OPTIONS = dict(betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)


def spread(index: int) -> float:
    """A number in −1 … 1 that depends only on the index; exact in f64."""
    return ((index * 7919) % 2003 - 1001) / 1024


def lr(step: int) -> float:
    return 3e-3 * (1 - step / 100)


def run(decay: bool) -> dict:
    param = torch.nn.Parameter(torch.tensor([spread(i) for i in range(ELEMENTS)], dtype=torch.float32))
    options = dict(OPTIONS, weight_decay=OPTIONS["weight_decay"] if decay else 0.0)
    optimizer = torch.optim.AdamW([param], lr=lr(0), foreach=False, fused=False, **options)
    for step in range(1, STEPS + 1):
        optimizer.param_groups[0]["lr"] = lr(step)
        grad = [spread(i + 97 * step) * 2.0 ** (-3 * (i % 6)) for i in range(ELEMENTS)]
        param.grad = torch.tensor(grad, dtype=torch.float32)
        optimizer.step()
    state = optimizer.state[param]
    return {
        "decay": decay,
        "p": param.detach().tolist(),
        "m": state["exp_avg"].tolist(),
        "v": state["exp_avg_sq"].tolist(),
    }


if __name__ == "__main__":
    result = {"torch": torch.__version__, "cases": [run(True), run(False)]}
    pathlib.Path(__file__).with_name("pytorch.json").write_text(json.dumps(result) + "\n")
