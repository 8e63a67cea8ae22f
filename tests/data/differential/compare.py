"""Compares `horizon tokenize` with transformers on random model folders, chat templates and rows.

    python tests/data/differential/compare.py target/release/horizon [--seeds 0:600] [--jobs 2] [--show 3]
    python tests/data/differential/compare.py target/release/horizon --seeds 17 --keep FOLDER    # one seed

Needs transformers 5.24 and jinja2; `.ci/long differential` installs both. Each seed makes a model folder (`folders.py`)
with a chat template (`templates.py`) and 32 rows (`rows.py`). `reference.py` and `formats.py` compute the tokens, the
loss mask and the documents that each row must become, or why it must be refused. Positions restart with each document,
so they are compared, too. A pair is a folder and a row; chats are compared twice, with and without `{% generation %}`
tags in the template. A pair agrees if both have the same documents, or refuse the row for reasons of the same class
(`meant.py`). Differences are grouped by kind and cause, and the first of each group is made small. The last line is the
summary.

The exit status is 0 if every difference is one of `meant.INTENDED` and Horizon always ended with status 0 or 1, without
a panic. Without `--seeds`, the run must also reach the figures below, and every entry of `INTENDED` must be found, up
to its limit.
"""

import argparse
import collections
import concurrent.futures
import copy
import json
import os
import pathlib
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import traceback

import transformers

import folders
import formats
import meant
import reference
import rows
import templates

ROWS = 32
# Labels of folders that may be the cause of a difference.
ODD = ("tokens only", "no ", "missing", "template in tool_use", "template in folder")
CHATS = ("messages", "conversations", "pair of messages", "instruction")
# Seconds in which Horizon must end, which takes less than one.
PATIENCE = 60
# The default seeds, and the figures that the run over them must reach.
SEEDS, PAIRS, TRAINED, UNKNOWN = "0:540", 20_000, 0.7, 0.02


def parse(path: pathlib.Path) -> list[tuple[list[int], list[int]]]:
    """Documents of a token file in Horizon's format (src/data/token_file.rs)."""
    data = path.read_bytes()
    assert data[:8] == b"HZTOKENS"
    _, width, n, d = struct.unpack_from("<IIQQ", data, 8)
    tokens = struct.unpack_from(f"<{n}{'H' if width == 2 else 'I'}", data, 64)
    at = 64 + (n * width + 7) // 8 * 8
    starts = list(struct.unpack_from(f"<{d}Q", data, at)) + [n]
    mask = data[at + 8 * d :]
    bit = lambda t: mask[t // 8] >> t % 8 & 1
    return [(list(tokens[a:b]), [bit(t) for t in range(a, b)]) for a, b in zip(starts, starts[1:])]


def mark(at: int) -> tuple[list[int], list[int]]:
    """A document that follows row `at`, so that each document has its row."""
    return [1023, 1022, 1021, 1020, at], [0] * 5


class FolderRefused(Exception):
    """Horizon refuses the folder or the file, whatever the rows are."""


class Crash(Exception):
    """Horizon neither succeeds nor refuses."""


class Case:
    """A model folder of one seed, with a template or none."""

    def __init__(self, seed: int, horizon: str, path: pathlib.Path):
        self.rng = random.Random(seed)
        self.horizon, self.path = horizon, path
        self.folder = folders.Folder(self.rng)
        self.folder.write(path)
        self.reference = reference.Reference(str(path), None, folders.VOCABULARY)
        self.state, self.tagged = None, True
        if self.rng.random() < 0.9:
            self.state = self.rng.getstate()
            self.where = self.rng.choice(["jinja", "jinja", "config", "list", "tool_use", "folder"])
            self.folder.labels.append("template in " + self.where)
            if self.where in ("tool_use", "folder"):
                # The template for rows with tools.
                self.reference.tool_use = "{{- 'TOOLS' }}"
            self.use(self.template())

    def template(self, ornaments: list | None = None) -> templates.Template | templates.File:
        rng = random.Random()
        rng.setstate(self.state)
        if rng.random() < 0.08:
            return templates.File(rng)
        ends = [end for end in ("</s>", "<|im_end|>", "<|end|>", "<|eot_id|>", "")]
        return templates.Template(
            rng, ends + [end for end in ends if end in self.reference.special] * 2, self.reference.special, ornaments
        )

    def use(self, template: templates.Template | templates.File) -> None:
        """Writes the template into the folder, with or without tags."""
        self.reference.template = template
        source = template.tagged if self.tagged and template.tagged is not None else template.plain
        if self.where in ("jinja", "folder"):
            (self.path / "chat_template.jinja").write_text(source, newline="")
            more = self.path / "additional_chat_templates"
            if self.where == "folder":
                more.mkdir(exist_ok=True)
                (more / "tool_use.jinja").write_text(self.reference.tool_use + source, newline="")
            return
        several = [{"name": "rag", "template": "{{ 1 }}"}, {"name": "default", "template": source}]
        if self.where == "tool_use":
            several.append({"name": "tool_use", "template": self.reference.tool_use + source})
        config = self.folder.files["tokenizer_config.json"] | {
            "chat_template": source if self.where == "config" else several
        }
        (self.path / "tokenizer_config.json").write_text(json.dumps(config))

    def tokenize(self, lines: list[str], skip: bool) -> tuple[list, str]:
        """Returns the documents and what was printed, and raises `Crash`."""
        data, out = self.path / "rows.jsonl", self.path / "out.bin"
        out.unlink(missing_ok=True)
        data.write_text("".join(line + "\n" for line in lines), encoding="utf-8", newline="")
        command = [self.horizon, "tokenize", "--model", self.path, "--data", data, "--out", out, "--threads", "2"]
        try:
            ran = subprocess.run(
                command + ["--skip-bad-lines"] * skip,
                capture_output=True,
                text=True,
                errors="replace",
                env=os.environ | {"SOURCE_DATE_EPOCH": str(reference.NOW)},
                timeout=PATIENCE,
            )
        except subprocess.TimeoutExpired:
            raise Crash("no end")
        if ran.returncode not in (0, 1) or "panicked" in ran.stderr or (ran.returncode == 0) != out.exists():
            raise Crash(f"exit status {ran.returncode}: {ran.stderr.strip()[:400]}")
        return parse(out) if out.exists() else [], ran.stderr

    def expected(self, row: dict):
        """Documents, the reason why there is none as a `str`, or the reason why that is not known as an `Unknown`."""
        self.reference.searched = not self.tagged
        try:
            return self.reference.documents(row)
        except formats.Unknown as unknown:
            return unknown
        except formats.Refused as refused:
            return str(refused)
        except BaseException as error:
            # The library panics if a normalizer makes an added token empty.
            if type(error).__name__ == "PanicException":
                return "tokenizers panics"
            raise

    def found(self, line: str):
        """Documents of one row, or the error."""
        try:
            documents, printed = self.tokenize(
                [line, json.dumps({"input_ids": mark(0)[0], "labels": [-100] * 5})], False
            )
        except Crash as crash:
            return f"crash: {crash}"
        return documents[:-1] if documents else printed.strip().replace(str(self.path) + "/", "")

    def found_all(self, lines: list[str]) -> tuple[list[list], int]:
        """Documents of each row, none for a row that is refused; and the number of rows refused."""
        both = []
        for at, line in enumerate(lines):
            both += [line, json.dumps({"input_ids": mark(at)[0], "labels": [-100] * 5})]
        documents, printed = self.tokenize(both, True)
        out: list[list] = [[] for _ in lines]
        at = 0
        for document in documents:
            if at < len(lines) and document == mark(at):
                at += 1
            elif at < len(lines):
                out[at].append(document)
        if at < len(lines):
            raise FolderRefused
        skipped = re.search(r"([\d,]+) lines? (?:is|are) skipped", printed)
        return out, int(skipped[1].replace(",", "")) if skipped else 0


def kind_of(expected, found) -> str | None:
    """The kind of a difference; `None` if there is none."""
    if isinstance(found, str):
        printed = re.sub(r"^(error: )?\S+, line \d+: ", "", found.splitlines()[0] if found else "no message")
        printed = re.sub(r"\d+|\"[^\"]*\"", "#", printed)[:200]
        if found.startswith("crash: "):
            return printed
        if isinstance(expected, formats.Unknown):
            return None
        if not isinstance(expected, str):
            return "refused: " + printed
        if meant.same_reason(expected, found):
            return None
        return f"reasons: {re.sub(r'[0-9]+', '#', expected)[:90]} / {printed}"
    if isinstance(expected, formats.Unknown):
        return None
    if isinstance(expected, str):
        return "accepted, reference: " + re.sub(r"\d+|'[^']*'", "#", expected)[:90]
    if len(expected) != len(found):
        return "number of documents"
    if [ids for ids, _ in expected] != [ids for ids, _ in found]:
        return "tokens"
    return None if expected == found else "loss mask"


def smaller(item):
    """Yields variants of a JSON value with something removed."""
    if isinstance(item, str) and len(item) > 1:
        yield from (item[: len(item) // 2], item[len(item) // 2 :], item[1:], item[:-1])
    elif isinstance(item, list):
        for at in range(len(item)):
            yield item[:at] + item[at + 1 :]
        for at, value in enumerate(item):
            for other in smaller(value):
                yield item[:at] + [other] + item[at + 1 :]
    elif isinstance(item, dict):
        for key in item:
            yield {other: value for other, value in item.items() if other != key}
        for key, value in item.items():
            for other in smaller(value):
                yield item | {key: other}


def ornaments_of(case: Case, row: dict, kind: str) -> list:
    """The ornaments of the template that the difference needs; leaves the template with these."""
    needed = list(case.reference.template.ornaments) if case.reference.template is not None else []
    for ornament in list(needed):
        less = [other for other in needed if other is not ornament]
        case.use(case.template(less))
        if kind_of(case.expected(row), case.found(json.dumps(row))) == kind:
            needed = less
    if case.reference.template is not None:
        case.use(case.template(needed))
    return needed


def shrink(case: Case, row: dict, kind: str, tries: int = 150) -> dict:
    """Removes parts of the row as long as the difference is of the same kind."""
    changed = True
    while changed:
        changed = False
        for other in smaller(row):
            if tries == 0:
                return row
            tries -= 1
            if kind_of(case.expected(other), case.found(json.dumps(other))) == kind:
                row, changed = other, True
                break
    return row


seen: collections.Counter = collections.Counter()


def examine(case: Case, difference: dict, row: dict) -> None:
    """Names the cause of a difference, and makes the first of its kind small."""
    kind, template = difference["kind"], case.reference.template
    needed = ornaments_of(case, row, kind)
    odd = [label for label in case.folder.labels if label.startswith(ODD)]
    if kind in ("tokens", "loss mask", "number of documents"):
        difference["kind"] += " (" + ", ".join([name for name, _ in needed] or odd) + ")"
    seen[difference["kind"]] += 1
    if seen[difference["kind"]] == 1:
        row = shrink(case, copy.deepcopy(row), kind)
        difference |= {
            "row": row,
            "expected": case.expected(row),
            "got": case.found(json.dumps(row)),
            "text": case.reference.text,
        }
        if template is not None:
            difference["template"] = case.reference.template.labels
    if template is not None:
        case.use(template)


class Seed:
    """Compares the pairs of a seed."""

    def __init__(self, seed: int, horizon: str, path: pathlib.Path, keep: bool):
        self.seed, self.keep = seed, keep
        self.count: collections.Counter = collections.Counter()
        self.unknown: collections.Counter = collections.Counter()
        self.differences: list[dict] = []
        self.case = Case(seed, horizon, path)
        self.made = [rows.row(self.case.rng) for _ in range(ROWS)]
        self.lines = [rows.line(self.case.rng, row) for _, row in self.made]

    def compare(self) -> None:
        template = self.case.reference.template
        if template is None:
            self.compare_with(range(ROWS), "without template")
            return
        chats = [at for at, (name, _) in enumerate(self.made) if name.split(",")[0] in CHATS]
        everything = range(ROWS)
        for tagged, source in ((True, template.tagged), (False, template.plain)):
            if source is not None:
                self.case.tagged = tagged
                self.case.use(template)
                # Rows that are not chats are compared with one of the two templates.
                self.compare_with(everything, "with tags" if tagged else "without tags")
                everything = chats

    def compare_with(self, chosen, tags: str) -> None:
        case, lines = self.case, self.lines
        expected, trimmed = {}, {}
        for at in chosen:
            expected[at] = case.expected(self.made[at][1])
            trimmed[at] = case.reference.trimmed
            if isinstance(expected[at], formats.Unknown):
                self.unknown[str(expected[at])] += 1
        try:
            found, skipped = case.found_all([lines[at] for at in chosen])
        except (FolderRefused, Crash):
            # Each row shows the reason.
            found, skipped = [[] for _ in chosen], -1
        known = [at for at in chosen if not isinstance(expected[at], formats.Unknown)]
        one_by_one = len(known) < len(chosen) or skipped != sum(isinstance(expected[at], str) for at in chosen)
        for at, got in zip(chosen, found):
            if not got and (one_by_one or expected[at] != []):
                got = case.found(lines[at])
            self.add(at, tags, expected[at], got, trimmed[at])

    def add(self, at: int, tags: str, expected, got, trimmed: bool) -> None:
        name, row = self.made[at]
        unknown = isinstance(expected, formats.Unknown)
        self.count["pairs"] += not unknown
        kind = kind_of(expected, got)
        if kind is None and trimmed and tags == "with tags":
            kind = "loss mask of transformers"
        if kind is None:
            self.count["agreeing"] += not unknown
            self.count["refused"] += isinstance(expected, str)
            self.count["trained"] += isinstance(expected, list) and any(any(mask) for _, mask in expected)
            return
        if kind == "loss mask" and tags == "without tags" and is_closing(expected, got):
            kind = "loss mask behind the last turn"
        template = self.case.reference.template
        difference = {
            "seed": self.seed,
            "tags": tags,
            "format": name,
            "kind": kind,
            "row": row,
            "folder": self.case.folder.labels,
            "template": template.labels if template is not None else [],
        }
        if self.keep:
            difference |= {"expected": expected, "got": got}
        elif meant.name_of(difference) is None:
            examine(self.case, difference, row)
        self.differences.append(difference)


def is_closing(expected: list, got: list) -> bool:
    """True if Horizon also trains on tokens behind the last turn of a document, and all else is equal."""

    def same(mask: list, other: list) -> bool:
        end = len(mask) - mask[::-1].index(1) if 1 in mask else 0
        return mask[:end] == other[:end]

    return all(same(a, b) for (_, a), (_, b) in zip(expected, got))


def run(task: tuple) -> tuple:
    """Returns the counts, the reasons of pairs without expectation, the differences, and an error of this program."""
    seed, horizon, keep = task
    path = pathlib.Path(keep or tempfile.mkdtemp(prefix="differential-"))
    try:
        compared = Seed(seed, horizon, path, bool(keep))
        compared.compare()
        return compared.count, compared.unknown, compared.differences, None
    except BaseException as error:
        # A panic of a library is no `Exception`, and cannot be pickled.
        return {}, {}, [], f"seed {seed}: {type(error).__name__}: {error}\n{traceback.format_exc()[-1500:]}"
    finally:
        if not keep:
            shutil.rmtree(path, ignore_errors=True)


def show(groups: dict, examples: int) -> None:
    for kind, found in sorted(groups.items(), key=lambda group: -len(group[1])):
        print(f"\n{len(found)} × {kind}")
        formats = collections.Counter(difference["format"] for difference in found)
        print("   formats:", dict(formats.most_common(6)), dict(collections.Counter(d["tags"] for d in found)))
        found.sort(key=lambda difference: ("expected" not in difference, len(json.dumps(difference["row"]))))
        for difference in found[:examples]:
            print("   seed", difference["seed"], difference["tags"], "|", difference["format"])
            print("      folder:", ", ".join(difference["folder"]), "| template:", ", ".join(difference["template"]))
            print("      row:", json.dumps(difference["row"])[:600])
            for key in ("text", "expected", "got"):
                if difference.get(key) is not None:
                    print(f"      {key}:", repr(difference[key])[:500])


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("horizon")
    options.add_argument("--seeds", help=f"A:B; without it {SEEDS}, and the whole must reach the figures stated")
    options.add_argument("--jobs", type=int, default=2)
    options.add_argument("--show", type=int, default=3, help="examples of a group")
    options.add_argument("--keep", help="folder for the files of one seed")
    given = options.parse_args()
    first, _, end = (given.seeds or SEEDS).partition(":")
    seeds = range(int(first), int(end or int(first) + 1))
    transformers.logging.set_verbosity_error()
    horizon = str(pathlib.Path(given.horizon).resolve())
    total: collections.Counter = collections.Counter()
    unknown: collections.Counter = collections.Counter()
    groups: dict = collections.defaultdict(list)
    intended: collections.Counter = collections.Counter()
    failures = []
    with concurrent.futures.ProcessPoolExecutor(given.jobs) as pool:
        for count, reasons, differences, error in pool.map(
            run, [(seed, horizon, given.keep) for seed in seeds], chunksize=4
        ):
            total.update(count)
            unknown.update(reasons)
            failures += [error] * (error is not None)
            for difference in differences:
                name = meant.name_of(difference)
                if name is not None:
                    intended[name] += 1
                else:
                    groups[difference["kind"]].append(difference)
    show(groups, given.show)
    pairs = total["pairs"]
    for reason, times in unknown.items():
        print(f"{times} × no expectation: {reason}")
    for entry in meant.INTENDED:
        print(f"{intended[entry.name]} × intended: {entry.name}: {entry.reason}")
        if intended[entry.name] > entry.limit * pairs and given.seeds is None:
            failures.append(f"{entry.name}: more than {entry.limit:.1%} of the pairs")
        if intended[entry.name] == 0 and given.seeds is None:
            failures.append(f"{entry.name}: not found, so no longer intended")
    if given.seeds is None:
        for condition, message in (
            (pairs >= PAIRS, f"fewer than {PAIRS} pairs"),
            (total["trained"] >= TRAINED * pairs, f"less than {TRAINED:.0%} of the pairs have trained tokens"),
            (unknown.total() <= UNKNOWN * pairs, f"more than {UNKNOWN:.0%} without expectation"),
        ):
            failures += [message] * (not condition)
    for failure in failures:
        print("FAILED:", failure)
    differing = sum(map(len, groups.values()))
    print(
        f"transformers {transformers.__version__}: {total['agreeing']} of {pairs} pairs of folder and row agree"
        f" ({total['trained']} with trained tokens, {total['refused']} refused by both), {intended.total()} differ as"
        f" intended by name, {differing} differ; {unknown.total()} without expectation"
    )
    sys.exit(bool(differing or failures))


if __name__ == "__main__":
    main()
