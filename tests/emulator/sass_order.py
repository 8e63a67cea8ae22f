#!/usr/bin/env python3
"""Checks the order of instructions in the main loop of every wgmma kernel.

    sass_order.py NVDISASM CUBIN

The source issues wgmma, does other work, then waits. ptxas may move the wait before that work: the results are the same, but the
kernel is slow. For the loop with a kernel's HGMMA instructions this prints and bounds:

  start    instructions from the block's barrier to the first HGMMA after it, at most START
  idle     softmax instructions while no wgmma is in flight, 0
  waits    waits for the last wgmma in flight with less than WORK f32 instructions since the preceding HGMMA, 0
  overlap  f32 instructions between issue and wait of a wgmma with its left operand in registers (P·V, dS·K, Pᵀ·dout), the largest
           number, at least OVERLAP; in forward, where the whole softmax overlaps, at least FORWARD_OVERLAP

The loop is read twice, in the order of its code: the first time only to find the wgmma in flight at its start.
"""
import re
import subprocess
import sys

START, WORK, OVERLAP, FORWARD_OVERLAP = 32, 32, 64, 200
SOFTMAX = re.compile(r"(MUFU\.EX2|FMNMX)\b")
F32 = re.compile(r"(MUFU\.EX2|FMNMX|FADD|FMUL|FFMA)\b")
WAIT = re.compile(r"WARPGROUP\.DEPBAR\.LE gsb0, (0x[0-9a-f]+)")


def functions(text):
    """Yields the name and the code of each function: a list of (label, None) and (None, instruction)."""
    for section in re.split(r"^\.text\.", text, flags=re.M)[1:]:
        name, code = section.split(":", 1)
        lines = re.findall(r"^\.(L_x_\d+):|^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?\s*([^;]+);", code, re.M)
        yield name, [(label, None) if label else (None, instruction.strip()) for label, instruction in lines]


def main_loop(code):
    """Returns the instructions of the loop with the most HGMMA; of several, the shortest."""
    start = {label: n for n, (label, _) in enumerate(code) if label}
    best = (1, 0, [])
    for n, (_, instruction) in enumerate(code):
        branch = instruction and re.match(r"BRA .*`\(\.(L_x_\d+)\)", instruction)
        if branch and start[branch[1]] < n:
            body = [i for _, i in code[start[branch[1]]:n] if i]
            best = min(best, (-sum(i.startswith("HGMMA") for i in body), len(body), body))
    return best[2]


class Order:
    """The figures of a loop."""

    def __init__(self, body):
        self.start = self.idle = self.waits = self.overlap = 0
        in_flight = []  # of each wgmma group: left operand in registers, f32 instructions since issue
        since_barrier, since_wgmma = None, 0
        for counted in (False, True):
            for i in body:
                if i.startswith("BAR.SYNC"):
                    since_barrier = 0
                elif i.startswith("HGMMA"):
                    if counted and since_barrier is not None:
                        self.start = max(self.start, since_barrier)
                    since_barrier, since_wgmma = None, 0
                    if "gsb0" in i:  # the last of its group
                        in_flight.append([re.match(r"HGMMA\S+ R\d+, R\d+,", i) is not None, 0])
                    continue
                elif wait := WAIT.match(i):
                    ended = in_flight[:max(0, len(in_flight) - int(wait[1], 16))]
                    in_flight = in_flight[len(ended):]
                    if counted and ended:
                        self.waits += not in_flight and since_wgmma < WORK
                        self.overlap = max([self.overlap] + [work for registers, work in ended if registers])
                elif F32.match(i):
                    since_wgmma += 1
                    for group in in_flight:
                        group[1] += 1
                    self.idle += bool(counted and not in_flight and SOFTMAX.match(i))
                if since_barrier is not None and not i.startswith("BAR.SYNC"):
                    since_barrier += 1

    def faults(self, overlap):
        """Yields a message for every violated bound."""
        if self.start > START:
            yield f"{self.start} instructions from the barrier to the first HGMMA, more than {START}"
        if self.idle:
            yield f"{self.idle} softmax instructions while no wgmma is in flight"
        if self.waits:
            yield f"{self.waits} waits for the last wgmma in flight directly after its issue"
        if self.overlap < overlap:
            yield f"{self.overlap} f32 instructions overlap a wgmma with an operand in registers, less than {overlap}"


def main():
    text = subprocess.run([sys.argv[1], "-c", sys.argv[2]], check=True, capture_output=True, text=True).stdout
    print("   loop  HGMMA  start   idle  waits  overlap  kernel")
    kernels = faults = 0
    for name, code in functions(text):
        if not any(i and i.startswith("HGMMA") for _, i in code):
            continue
        kernels += 1
        name = re.sub(r".*?([a-z_]+_kernel)ILi(\d+)E.*", r"\1<\2>", name)
        body = main_loop(code)
        order = Order(body)
        figures = [len(body), sum(i.startswith("HGMMA") for i in body), order.start, order.idle, order.waits]
        print(" ".join(f"{figure:6}" for figure in figures), f"{order.overlap:8}  {name}")
        for fault in order.faults(FORWARD_OVERLAP if "forward" in name else OVERLAP):
            faults += 1
            print(f"{name}: {fault}", file=sys.stderr)
    if not kernels:
        print(f"{sys.argv[2]} has no kernel with HGMMA", file=sys.stderr)
    sys.exit(1 if faults or not kernels else 0)


if __name__ == "__main__":
    main()
