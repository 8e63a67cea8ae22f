"""Compares golden models with PyTorch on the same GPU: python3 pytorch.py GOLDEN_FOLDER OURS_FOLDER [--device cuda]

Needs only torch. OURS_FOLDER is the folder that `tests/gpu` wrote (HZ_GOLDEN_OUT): loss and gradients of the first
step. PyTorch computes the same step from the same weights, in f64 and with bf16 weights and activations. The
difference to f64 may be at most three times that of PyTorch's bf16, plus half a bf16 step of the largest value.
Prints a line per case.
"""

import argparse
import json
import pathlib
import sys

import torch

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("golden", type=pathlib.Path, help="the folder of the golden models")
parser.add_argument("ours", type=pathlib.Path, help="the folder with the results of Horizon")
parser.add_argument("--device", default="cuda", help="the device of PyTorch")
arguments = parser.parse_args()
sys.path.insert(0, str(arguments.golden))
from cases import CASES, Micro  # noqa: E402
from reference import Plain, step_gradient  # noqa: E402

DTYPES = {"F32": torch.float32, "F64": torch.float64, "I32": torch.int32}


def read(path: pathlib.Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:end]).items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            flat = torch.frombuffer(bytearray(data[end + first : end + last]), dtype=DTYPES[entry["dtype"]])
            tensors[name] = flat.reshape(entry["shape"])
    return tensors


failed = False
for case in CASES:
    theirs, path = read(arguments.golden / f"{case.name}.safetensors"), arguments.ours / f"{case.name}.safetensors"
    if not path.is_file():
        continue
    ours = read(path)
    masters = {name[5:]: tensor for name, tensor in theirs.items() if name.startswith("init.")}

    def micro(index: int) -> Micro:
        arrays = [theirs.get(f"{name}.0.{index}") for name in ("tokens", "targets", "weights", "docs")]
        return Micro(*(array if array is None else array.to(arguments.device) for array in arrays))

    micros = [micro(index) for index in range(case.M)]
    runs = {dtype: step_gradient(Plain(case, dtype, arguments.device), masters, micros)
            for dtype in (torch.float64, torch.bfloat16)}
    (loss, truth), (bf16_loss, naive) = runs[torch.float64], runs[torch.bfloat16]
    shares = {"loss": abs(ours["loss"].item() - loss) / (3 * abs(bf16_loss - loss) + loss / 2048)}
    for name, gradient in truth.items():
        gradient = gradient.cpu()
        off = (naive[name].cpu().double() - gradient).abs().max()
        bound = 3 * off + gradient.abs().max() / 256
        shares[name] = ((ours[f"grad.{name}"].double().view_as(gradient) - gradient).abs().max() / bound).item()
    worst = max(shares, key=shares.get)
    failed |= not shares[worst] <= 1
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else arguments.device
    print(f"{case.name} and PyTorch on {where}: {worst} reaches {shares[worst]:.2f} of its bound, the loss {shares['loss']:.2f}")
if failed:
    sys.exit("the difference to PyTorch exceeds its bound")
