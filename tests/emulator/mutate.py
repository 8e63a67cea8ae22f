#!/usr/bin/env python3
"""Mutation tests of the kernels: changes one thing at a time and checks that a test fails.

    mutate.py [--jobs N] [--only REGEX] [--out FILE]     CUDA_HOME is the toolkit, BUILD the output folder of `make`
                                                         (default target/emulator)

A mutant drops one barrier, wait or commit, weakens one wait, or moves one bound by one (< to <=, >= to >, ...), in kernel code
outside unrolled loops of constant length. It is caught if a test of its op fails, crashes or hangs in either build. Survivors must
be listed in EQUIVALENT with the reason why no test can detect them; entries that do not match a survivor are errors. With --only,
the other mutants in FILE are kept, so that a long run can be divided.
"""
import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
CSRC = os.path.join(HERE, "..", "..", "csrc")
CUDA = os.environ.get("CUDA_HOME", "/usr/local/cuda")
ROOT = os.path.join(HERE, "..", "..")
# Relative paths are relative to the repository's root, as cargo's are.
BUILD = os.path.abspath(os.path.join(ROOT, os.environ.get("BUILD") or os.path.join(os.environ.get("CARGO_TARGET_DIR") or "target", "emulator")))

# Source file and tests of a header.
TESTS_OF = {"reduce.h": ("rmsnorm", "rmsnorm"), "column_sum.h": ("bias", "bias"), "tile.h": ("attention", "attention "),
          "attention.h": ("attention", "attention "), "copy.h": ("attention", "attention "),
          "warpgroup.h": ("attention_wgmma", "attention_wgmma")}
# Name filter of an op's tests, unless it is the op's name.
FILTERS = {"attention": "attention "}

SYNCS = [r"__syncthreads\(\);", r"__syncwarp\(\);", r"cp_async_wait<[^;]*;", r"cp_async_commit\(\);", r"await_copies<[^;]*;",
         r"fence_proxy_async\(\);", r"wgmma_(?:fence|commit)\(\);", r"wgmma_wait<[^;]*;"]
WEAKER = {"cp_async_wait<0>": "cp_async_wait<1>", "cp_async_wait<1>": "cp_async_wait<2>",
          "cp_async_wait<B::STAGES - 1>": "cp_async_wait<B::STAGES>", "await_copies<0>": "await_copies<1>",
          "await_copies<1>": "await_copies<2>", "wgmma_wait<0>": "wgmma_wait<1>", "wgmma_wait<1>": "wgmma_wait<2>"}
BOUNDS = {" < ": " <= ", " <= ": " < ", " > ": " >= ", " >= ": " > "}

# (file, mutation, text of the line): the reason why no test can detect the mutant.
WHOLE_IN_TAIL = "a complete last vector takes the tail's path: same values in the same order"
STRICTER_MASK = "the mask is applied to a tile that needs none: it masks nothing"
UNREAD_TILE = "loads a tile of zeros past the last, into a stage that is not read again"
EQUIVALENT = {
    ("attention.h", "'<' to '<=' at 17", "return window < doc_end[key] - key ? key + window : doc_end[key];"):
        "both branches return the same end",
    ("attention.cu", "'<' to '<=' at 35", "for (int key0 = key_begin; key0 < row_end; key0 += F::KEYS) {"):
        "a tile that begins at row_end is masked completely, and no copy was queued for it",
    ("attention.cu", "'<' to '<=' at 16", "if (key0 < unmasked_from || key0 + F::KEYS - 1 > row0)"): STRICTER_MASK,
    ("attention.cu", "'>' to '>=' at 54", "if (key0 < unmasked_from || key0 + F::KEYS - 1 > row0)"): STRICTER_MASK,
    ("attention.cu", "'<' to '<=' at 16", "if (key0 < unmasked_from || key0 + B::STAGE_ROWS - 1 > row0)"): STRICTER_MASK,
    ("attention.cu", "'>' to '>=' at 60", "if (key0 < unmasked_from || key0 + B::STAGE_ROWS - 1 > row0)"): STRICTER_MASK,
    ("attention.cu", "'<' to '<=' at 19", "if (at.row0 < unmasked_from || at.row0 + B::STAGE_ROWS > unmasked_to)"): STRICTER_MASK,
    ("attention.cu", "'>' to '>=' at 62", "if (at.row0 < unmasked_from || at.row0 + B::STAGE_ROWS > unmasked_to)"): STRICTER_MASK,
    ("attention_wgmma.cu", "'>' to '>=' at 13", "if (tiles > 1) load_k(1);"): UNREAD_TILE,
    ("attention_wgmma.cu", "'<' to '<=' at 20", "if (tile + 2 < tiles) load_k(tile + 2);"): UNREAD_TILE,
    ("attention_wgmma.cu", "'<' to '<=' at 16", "if (key0 < unmasked_from || key0 + F::KEYS - 1 > row0)"): STRICTER_MASK,
    ("attention_wgmma.cu", "'>' to '>=' at 54", "if (key0 < unmasked_from || key0 + F::KEYS - 1 > row0)"): STRICTER_MASK,
    ("attention_wgmma.cu", "'<' to '<=' at 16", "if (key0 < unmasked_from || key0 + B::STAGE_ROWS - 1 > row0)"): STRICTER_MASK,
    ("attention_wgmma.cu", "'>' to '>=' at 60", "if (key0 < unmasked_from || key0 + B::STAGE_ROWS - 1 > row0)"): STRICTER_MASK,
    ("attention_wgmma.cu", "'<' to '<=' at 19", "if (at.row0 < unmasked_from || at.row0 + B::STAGE_ROWS > unmasked_to)"): STRICTER_MASK,
    ("attention_wgmma.cu", "'>' to '>=' at 62", "if (at.row0 < unmasked_from || at.row0 + B::STAGE_ROWS > unmasked_to)"): STRICTER_MASK,
    ("copy.h", "'<' to '<=' at 56",
     "constexpr int PHASES = CHUNKS % 3 == 0 ? 3 : THREADS < 8 * CHUNKS ? 8 * CHUNKS / THREADS : 1;"):
        "if 8 rows have as many chunks as there are threads, both branches give one phase",
    ("gradient.cu", "'<=' to '<' at 19", "if (i + kVector <= n) {"): WHOLE_IN_TAIL,
    ("gradient.cu", "'<=' to '<' at 23", "if (i + kVector <= values) {"): WHOLE_IN_TAIL,
    ("gradient.cu", "'<' to '<=' at 46",
     "for (int i = int(threadIdx.x) * kVector; i < values; i += kBlockThreads * kVector) {"):
        "at i = values no value is left: adds eight zeros",
    ("qk_norm.cu", "'<' to '<=' at 57",
     "for (unsigned block0 = blockIdx.x * PER_BLOCK; block0 < total; block0 += step) {  // whole warps go round"):
        "at block0 = total no head is left: an iteration without effect",
}


def kernel_lines(text):
    """Returns the line numbers inside __global__ and __device__ functions, without the heads of unrolled loops."""
    inside, lines, out = False, text.split("\n"), set()
    indent = ""
    for n, line in enumerate(lines):
        if not inside and re.search(r"__(global|device)__", line) and "static constexpr" not in line:
            indent = re.match(r" *", line)[0]
            inside = not line.rstrip().endswith("}")
            if not inside:
                out.add(n)
                continue
        if inside:
            if n == 0 or not lines[n - 1].strip() == "HZ_UNROLL":
                out.add(n)
            if line == indent + "}":
                inside = False
    return out


def mutants():
    for name in sorted(os.listdir(CSRC)):
        if not name.endswith((".cu", ".h")) or name in ("ptx.h", "gpu.h", "kernels.h", "launch.h", "vec.h"):
            continue
        op, tests = TESTS_OF.get(name, (name[:-3], FILTERS.get(name[:-3], name[:-3])))
        text = open(os.path.join(CSRC, name)).read()
        offset, lines = 0, text.split("\n")
        wanted = kernel_lines(text)
        for n, line in enumerate(lines):
            code = line.split("//")[0]
            if n in wanted:
                edits = []
                for pattern in SYNCS:
                    edits += [(m.start(), m.end(), ";", "drop " + m[0]) for m in re.finditer(pattern, code)]
                for old, new in WEAKER.items():
                    edits += [(m.start(), m.end(), new, f"{old} to {new}") for m in re.finditer(re.escape(old), code)]
                if not re.search(r"static_assert|if constexpr", code):
                    for old, new in BOUNDS.items():
                        edits += [(m.start(), m.end(), new, f"'{old.strip()}' to '{new.strip()}' at {m.start()}")
                                  for m in re.finditer(old, code)]
                for a, b, new, what in edits:
                    yield {"file": name, "op": op, "tests": tests, "line": n + 1, "what": what, "source": line.strip(),
                           "text": text[:offset + a] + new + text[offset + b:]}
            offset += len(line) + 1


COMMON = ["-std=c++20", "-DHZ_EMU", "-x", "c++", "-w", "-O1", "-fno-strict-aliasing", "-fno-omit-frame-pointer",
          "-ftrivial-auto-var-init=pattern", "-isystem", os.path.join(CUDA, "include")]
BUILDS = {
    "race": (["-fsanitize=thread", "--param", "tsan-instrument-func-entry-exit=0"], [], "1", "2"),
    "asan": (["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"], ["-fsanitize=address,undefined"], "0", "2"),
}


def snapshot(where):
    """Copies headers, kernels and objects, so that edits do not disturb a long run. Returns the objects of each build."""
    for folder, name in [(CSRC, "csrc"), (HERE, "emulator")]:
        os.makedirs(os.path.join(where, name))
        for f in os.listdir(folder):
            if f.endswith((".h", ".cu")):
                shutil.copy(os.path.join(folder, f), os.path.join(where, name))
    objects = {}
    for build in BUILDS:
        made = subprocess.run(["make", "-s", "-C", HERE, "BUILD=" + BUILD, "objects-" + build], capture_output=True, text=True, check=True)
        objects[build] = [os.path.basename(o) for o in made.stdout.split()]
        for o in objects[build]:
            shutil.copy(os.path.join(BUILD, o), where)
    return objects


def run_tests(mutant, base, all_objects):
    """Returns the name of the build that catches the mutant and the failure, or None."""
    order = ("race", "asan") if "drop" in mutant["what"] or "wait" in mutant["what"] else ("asan", "race")
    with tempfile.TemporaryDirectory() as where:
        for name in os.listdir(os.path.join(base, "csrc")):
            if name.endswith(".h") or name == mutant["op"] + ".cu":
                source = mutant["text"] if name == mutant["file"] else open(os.path.join(base, "csrc", name)).read()
                with open(os.path.join(where, name), "w") as f:
                    f.write(source)
        for build in order:
            compile_flags, link_flags, first, last = BUILDS[build]
            obj, exe = os.path.join(where, "m.o"), os.path.join(where, "t_" + build)
            made = subprocess.run(["g++", *COMMON, *compile_flags, f"-I{where}", "-I" + os.path.join(base, "emulator"), "-c",
                                   os.path.join(where, mutant["op"] + ".cu"), "-o", obj], capture_output=True, text=True)
            if made.returncode:
                return build, "does not compile: " + made.stderr.strip().split("\n")[0]
            objects = [os.path.join(base, o) for o in all_objects[build] if o != f"{build}_{mutant['op']}.o"]
            subprocess.run(["g++", *link_flags, *objects, obj, "-o", exe], check=True)
            try:
                ran = subprocess.run([exe, mutant["tests"], first, last], capture_output=True, text=True, timeout=300,
                                     env={**os.environ, "HZ_FAIL_FAST": "1", "ASAN_OPTIONS": "detect_leaks=0"})
            except subprocess.TimeoutExpired:
                return build, "hangs"
            if ran.returncode:
                failed = [l for l in ran.stdout.split("\n") if l.startswith("FAIL")]
                errors = [l for l in ran.stderr.split("\n") if "ERROR: " in l or "runtime error: " in l]
                why = failed[0].split("seed ", 1)[-1] if failed else (errors + ["crash"])[0].split("ERROR: ")[-1]
                return build, re.sub(r"0x[0-9a-f]+", "0x…", why.replace(where + os.sep, ""))[:160]
    return None


def earlier(path):
    """Returns the entries of an earlier run by label."""
    if not os.path.exists(path):
        return {}
    with open(path) as f:
        return {m[1]: m[0] for m in re.finditer(r"^(?:caught|equivalent|SURVIVED) +([^\n]*)(?:\n +[^\n]*)?", f.read(), re.M)}


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--jobs", type=int, default=2)
    options.add_argument("--only", default="")
    options.add_argument("--out")
    options = options.parse_args()
    all_mutants = list(mutants())
    label_of = lambda m: f"{m['file']}:{m['line']} {m['what']}   [{m['source']}]"
    chosen = [m for m in all_mutants if re.search(options.only, label_of(m))]
    entries, survivors = earlier(options.out) if options.only and options.out else {}, []
    with tempfile.TemporaryDirectory() as base, concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        objects = snapshot(base)
        for m, failure in zip(chosen, pool.map(lambda m: run_tests(m, base, objects), chosen)):
            label = label_of(m)
            key = (m["file"], m["what"], m["source"])
            if failure:
                line = f"caught      {label}\n            {failure[0]}: {failure[1]}"
            elif key in EQUIVALENT:
                line = f"equivalent  {label}\n            {EQUIVALENT[key]}"
            else:
                line = f"SURVIVED    {label}"
            if not failure:
                survivors.append(key)
            entries[label] = line
            print(line, flush=True)
    unknown = [k for k in survivors if k not in EQUIVALENT]
    stale = [k for k in EQUIVALENT if k not in survivors] if not options.only else []
    report = [entries[label_of(m)] for m in all_mutants if label_of(m) in entries]
    count = {word: sum(line.startswith(word) for line in report) for word in ("caught", "equivalent", "SURVIVED")}
    report.append(f"{len(report)} of {len(all_mutants)} mutants: {count['caught']} caught, {count['equivalent']} equivalent, "
                  f"{count['SURVIVED']} survived")
    print(report[-1])
    for key in stale:
        print("not a survivor, remove it from EQUIVALENT:", key)
    if options.out:
        with open(options.out, "w") as f:
            f.write("\n".join(report) + "\n")
    sys.exit(1 if unknown or stale else 0)


if __name__ == "__main__":
    main()
