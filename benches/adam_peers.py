"""AdamW beside its peers on the same machine, in interleaved rounds: python benches/adam_peers.py

Each round times one step of PyTorch's fused CPU AdamW (f32 parameters and gradients), one of DeepSpeed's CPU Adam
where it is installed, and one of ours in each mode (`cargo bench --bench adam`, best instruction set). Prints a
line of JSON with the median of each, in 1e9 parameters a second, and the medians of the rounds' ratios to
PyTorch. Build the bench first, so that no round compiles: cargo bench --bench adam --no-run
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import time

import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent


def parameter(elements: int) -> torch.nn.Parameter:
    param = torch.nn.Parameter(torch.randn(elements))
    param.grad = torch.randn(elements)
    return param


def peers(elements: int) -> dict:
    """A closure that makes one step, by name."""
    fused = torch.optim.AdamW([parameter(elements)], lr=1e-4, fused=True)
    steps = {"pytorch_fused_f32": fused.step}
    try:
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        steps["deepspeed_f32"] = DeepSpeedCPUAdam([parameter(elements)], lr=1e-4, adamw_mode=True).step
    except ImportError:
        print("skipped: deepspeed is not installed", flush=True)
    return steps


def ours(elements: int, threads: int, isa: str) -> dict:
    """1e9 parameters a second, by mode and gradient type."""
    command = ["cargo", "bench", "-q", "--bench", "adam", "--", "--rounds", "1"]
    command += ["--parameters", str(elements), "--threads", str(threads)]
    out = subprocess.run(
        command, cwd=ROOT, env=dict(os.environ, HZ_ISA=isa), check=True, capture_output=True, text=True
    )
    rows = [json.loads(line) for line in out.stdout.splitlines() if line.startswith("{")]
    return {f"horizon_{row['mode']}_{row['gradient']}": row["gparams_per_second"] for row in rows}


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--parameters", type=int, default=100_000_000)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--threads", type=int, default=os.cpu_count())
    arguments.add_argument("--isa", default="avx512")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    steps = peers(given.parameters)
    for step in steps.values():
        step()  # allocates the moments
    rounds = []
    for _ in range(given.rounds):
        figures = {}
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            figures[name] = given.parameters / (time.perf_counter() - start) / 1e9
        rounds.append(figures | ours(given.parameters, given.threads, given.isa))
    names = rounds[0].keys()
    ratio = lambda name: statistics.median(r[name] / r["pytorch_fused_f32"] for r in rounds)
    print(
        json.dumps(
            {
                "bench": "adam_peers",
                "parameters": given.parameters,
                "threads": given.threads,
                "rounds": given.rounds,
                "gparams_per_second": {n: round(statistics.median(r[n] for r in rounds), 3) for n in names},
                "ratio_to_pytorch": {name: round(ratio(name), 3) for name in names},
            }
        )
    )


if __name__ == "__main__":
    main()
