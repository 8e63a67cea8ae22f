"""AdamW compared with other implementations, in one process: PYTHON benches/adam_peers.py [--parameters N] [--rounds N]

Needs torch. DeepSpeed's Adam needs deepspeed and ninja, which compile it at first use. ColossalAI's needs an unpacked source
package (`--colossalai FOLDER`, with CUDA's headers in CPATH); only its kernel is compiled, the package is not installed.
Ours runs through the C ABI of the shared library: cargo build --release first.

A round runs one step of each, in random order: PyTorch's fused CPU AdamW, DeepSpeed's and ColossalAI's CPU
Adam, all with f32 parameters and gradients, and ours in modes exact (bf16 gradients), compact and f32. All arrays are
in huge pages. Prints a line of JSON: medians in 1e9 parameters per second; for ours the median, minimum and
maximum of the ratios to the best peer of the same round, and the median ratio to each peer.
"""

import argparse
import ctypes
import json
import os
import pathlib
import random
import statistics
import time

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # makes PyTorch use huge pages
import torch  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
LR = 1e-4
BF16, F32 = 1, 2
# Mode number; bytes of weight, residual, gradient and moment; gradient dtype.
MODES = {"exact": (1, 2, 2, 2, 4, BF16), "compact": (2, 2, 2, 2, 2, BF16), "f32": (3, 4, 0, 4, 4, F32)}
HUGE = 2 << 20


class AdamOptions(ctypes.Structure):
    _fields_ = (
        [("struct_size", ctypes.c_uint32), ("mode", ctypes.c_uint32)]
        + [(name, ctypes.c_uint64) for name in ("threads", "state_count", "host_mem", "seed")]
        + [(name, ctypes.c_double) for name in ("beta1", "beta2", "eps", "weight_decay")]
    )


class AdamArrays(ctypes.Structure):
    _fields_ = (
        [("struct_size", ctypes.c_uint32), ("gradient_dtype", ctypes.c_uint32)]
        + [(name, ctypes.c_uint64) for name in ("count", "first")]
        + [(name, ctypes.c_void_p) for name in ("weights", "residual", "gradient", "m", "v", "bf16_out")]
    )


class ArenaOptions(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("struct_size", "kind", "node", "pages")] + [
        ("host_mem", ctypes.c_uint64)
    ]


class ArenaInfo(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("pages", ctypes.c_uint32),
        ("address", ctypes.c_void_p),
        ("bytes", ctypes.c_uint64),
    ]


class Horizon:
    """The shared library. Objects that it opens live as long as this process."""

    def __init__(self, path: pathlib.Path):
        self.library = ctypes.CDLL(str(path))
        self.library.hz_last_error.restype = ctypes.c_char_p
        self.library.hz_adam_step.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_double, ctypes.c_uint64] + [
            ctypes.c_double
        ] * 2

    def call(self, name: str, *arguments) -> None:
        if getattr(self.library, name)(*arguments) != 0:
            raise RuntimeError(self.library.hz_last_error().decode())

    def arena(self, count: int) -> int:
        """Returns the address of `count` bytes of touched memory."""
        options = ArenaOptions(ctypes.sizeof(ArenaOptions), kind=1)
        arena, info = ctypes.c_void_p(), ArenaInfo(ctypes.sizeof(ArenaInfo))
        self.call("hz_arena_open", ctypes.byref(options), ctypes.c_uint64(count), ctypes.byref(arena))
        self.call("hz_arena_touch", arena, ctypes.c_uint64(0))
        self.call("hz_arena_info", arena, ctypes.byref(info))
        return info.address

    def stepper(self, mode: str, elements: int, threads: int):
        """Returns a function that runs one step over arrays with normal values."""
        number, weight, residual, gradient, moment, dtype = MODES[mode]
        options = AdamOptions(ctypes.sizeof(AdamOptions), number, threads, 0, 0, 1, 0.9, 0.999, 1e-8, 0.01)
        adam = ctypes.c_void_p()
        self.call("hz_adam_open", ctypes.byref(options), ctypes.byref(adam))
        sizes = [weight, residual, gradient, moment, moment]
        starts = [sum(-(-elements * size // HUGE) * HUGE for size in sizes[:at]) for at in range(len(sizes) + 1)]
        base = self.arena(starts[-1])
        at = [base + start if size else None for start, size in zip(starts, sizes)]
        values = tensor_over(at[2], elements, torch.bfloat16 if dtype == BF16 else torch.float32)
        values.normal_()
        weights = tensor_over(at[0], elements, torch.bfloat16 if weight == 2 else torch.float32)
        weights.copy_(values)
        arrays = AdamArrays(ctypes.sizeof(AdamArrays), dtype, elements, 0, *at, None)
        step = 0

        def advance() -> None:
            nonlocal step
            step += 1
            self.call("hz_adam_step", adam, ctypes.byref(arrays), LR, step, 1.0, 1.0)

        return advance


def tensor_over(address: int, elements: int, dtype: torch.dtype) -> torch.Tensor:
    size = torch.tensor([], dtype=dtype).element_size()
    return torch.frombuffer((ctypes.c_char * (elements * size)).from_address(address), dtype=dtype)


def parameter(elements: int) -> torch.nn.Parameter:
    param = torch.nn.Parameter(torch.randn(elements))
    param.grad = torch.randn(elements)
    return param


def colossalai(folder: pathlib.Path, elements: int):
    """Returns a function that runs a step of ColossalAI's CPU Adam, compiled from its sources like that project does."""
    from torch.utils.cpp_extension import load

    kernel = folder / "extensions/csrc/kernel/x86/cpu_adam.cpp"
    flags = ["-O3", "-g", "-Wno-reorder", "-fopenmp", "-march=native"]  # its own flags, without CUDA's libraries
    module = load("colossalai_cpu_adam", [str(kernel)], extra_cflags=flags)
    optimizer = module.CPUAdamOptimizer(LR, 0.9, 0.999, 1e-8, 0.01, True)
    param, m, v = parameter(elements), torch.zeros(elements), torch.zeros(elements)
    step = 0

    def advance() -> None:
        nonlocal step
        step += 1
        optimizer.step(step, LR, 0.9, 0.999, 1e-8, 0.01, True, param.data, param.grad, m, v, -1.0)

    return advance


def peers(elements: int, colossalai_folder) -> dict:
    """Returns functions that run one step, by name."""
    fused = torch.optim.AdamW([parameter(elements)], lr=LR, fused=True)
    steps = {"pytorch_fused_f32": fused.step}
    try:
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        steps["deepspeed_f32"] = DeepSpeedCPUAdam([parameter(elements)], lr=LR, adamw_mode=True).step
    except ImportError:
        print("skipped: deepspeed is not installed", flush=True)
    if colossalai_folder:
        steps["colossalai_f32"] = colossalai(colossalai_folder, elements)
    return steps


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--parameters", type=int, default=200_000_000)
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--threads", type=int, default=os.cpu_count())
    arguments.add_argument("--modes", default="exact,compact,f32")
    arguments.add_argument("--library", type=pathlib.Path, default=ROOT / "target/release/libhorizon.so")
    arguments.add_argument("--colossalai", type=pathlib.Path)
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    horizon = Horizon(given.library)
    others = peers(given.parameters, given.colossalai)
    own = {f"horizon_{mode}": horizon.stepper(mode, given.parameters, given.threads) for mode in given.modes.split(",")}
    steps = others | own
    order, rounds = list(steps), []
    shuffle = random.Random(1)
    for _ in range(given.rounds + 2):  # two warm-up rounds allocate the peers' moments
        shuffle.shuffle(order)
        seconds = {}
        for name in order:
            start = time.perf_counter()
            steps[name]()
            seconds[name] = time.perf_counter() - start
        rounds.append(seconds)
    rounds = rounds[2:]
    speed = lambda name: statistics.median(given.parameters / r[name] / 1e9 for r in rounds)
    spread = lambda ratios: [round(r, 3) for r in (statistics.median(ratios), min(ratios), max(ratios))]
    best = [min(r[name] for name in others) for r in rounds]
    print(
        json.dumps(
            {
                "bench": "adam_peers",
                "parameters": given.parameters,
                "threads": given.threads,
                "rounds": given.rounds,
                "torch": torch.__version__,
                "cpu_capability": torch.backends.cpu.get_cpu_capability(),
                "gparams_per_second": {name: round(speed(name), 3) for name in steps},
                "ratio_to_best_peer_of_round": {
                    name: spread([b / r[name] for b, r in zip(best, rounds)]) for name in own
                },
                "ratio_to_each_peer": {
                    name: {peer: spread([r[peer] / r[name] for r in rounds])[0] for peer in others} for name in own
                },
            }
        )
    )


if __name__ == "__main__":
    main()
