"""Compares `horizon tokenize` with transformers on random model folders, chat templates and rows.

    python tests/data/differential/compare.py target/release/horizon [--seeds 0:600] [--jobs 2] [--show 3]
    python tests/data/differential/compare.py target/release/horizon --seeds 17 --keep FOLDER    # one seed

Needs transformers 5.24 and jinja2; `.ci/long differential` installs both. Each seed makes a model folder (`folders.py`)
with a chat template (`templates.py`) and 32 rows (`rows.py`). `reference.py` computes the tokens, the loss mask and the
documents that each row must become, or that it must be refused. Positions restart with each document, so they are
compared, too. A pair is a folder and a row; chats are compared twice, with and without `{% generation %}` tags in the
template. Differences are grouped by kind and cause, and the first of each group is made small. The last line is the
summary. The exit status is 1 if there is a difference that is not one of `INTENDED`.
"""

import argparse
import collections
import copy
import json
import multiprocessing
import os
import pathlib
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile

import transformers

import folders
import reference
import rows
import templates

ROWS = 32
# Labels of folders that may be the cause of a difference.
ODD = ("tokens only", "no ", "missing", "template in tool_use", "template in folder")
CHATS = ("messages", "conversations", "pair of messages", "instruction")
# Differences that are meant: name, test of a difference, reason.
INTENDED = [
    (
        "search refuses",
        lambda found: found["tags"] == "without" and "cannot be found" in found["kind"],
        "a turn that cannot be found in a template without tags is refused instead of guessed",
    ),
    (
        "no such filter",
        lambda found: re.search("chat template: .*(is unknown|has no method named)", found["kind"]),
        "a filter or method of Jinja that Horizon does not have is refused by name",
    ),
]


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
    """Horizon refuses the folder, whatever the rows are."""


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
        """Returns the documents and what was printed."""
        data, out = self.path / "rows.jsonl", self.path / "out.bin"
        out.unlink(missing_ok=True)
        data.write_text("".join(line + "\n" for line in lines), encoding="utf-8", newline="")
        command = [self.horizon, "tokenize", "--model", self.path, "--data", data, "--out", out, "--threads", "2"]
        ran = subprocess.run(
            command + ["--skip-bad-lines"] * skip,
            capture_output=True,
            text=True,
            errors="replace",
            env=os.environ | {"SOURCE_DATE_EPOCH": str(reference.NOW)},
        )
        return parse(out) if out.exists() else [], ran.stderr

    def expected(self, row: dict):
        """Documents, the reason why there is none, or `None` if the reference cannot tell."""
        self.reference.searched = not self.tagged
        try:
            return self.reference.documents(row)
        except reference.Unknown:
            return None
        except reference.Refused as refused:
            return str(refused)
        except BaseException as error:
            # The library panics if a normalizer makes an added token empty.
            if type(error).__name__ == "PanicException":
                return "tokenizers panics"
            raise

    def found(self, line: str):
        """Documents of one row, or the error."""
        documents, printed = self.tokenize([line, json.dumps({"input_ids": mark(0)[0], "labels": [-100] * 5})], False)
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
            raise FolderRefused(printed.strip().replace(str(self.path), "FOLDER"))
        skipped = re.search(r"([\d,]+) lines? (?:is|are) skipped", printed)
        return out, int(skipped[1].replace(",", "")) if skipped else 0


def kind_of(expected, found) -> str | None:
    """The kind of a difference; `None` if there is none."""
    if expected is None or isinstance(expected, str) and isinstance(found, str):
        return None
    if isinstance(found, str):
        printed = re.sub(r"^(error: )?\S+, line \d+: ", "", found.splitlines()[0] if found else "no message")
        return "refused: " + re.sub(r"\d+|\"[^\"]*\"", "#", printed)[:110]
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
    odd = [
        label
        for label in case.folder.labels
        if label.startswith(("tokens only", "no ", "missing", "template in tool_use", "template in folder"))
    ]
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


def run(task: tuple) -> dict:
    """Compares the pairs of a seed."""
    seed, horizon, keep = task
    path = pathlib.Path(keep or tempfile.mkdtemp(prefix="differential-"))
    out = {"seed": seed, "pairs": 0, "agreeing": 0, "refused": 0, "trained": 0, "trimmed": 0, "differences": []}
    try:
        case = Case(seed, horizon, path)
        made = [rows.row(case.rng) for _ in range(ROWS)]
        lines = [rows.line(case.rng, row) for _, row in made]
        template = case.reference.template
        labels = template.labels if template is not None else []
        # Rows that are not chats are compared with one of the two templates.
        others = True
        for tagged in (True, False):
            case.tagged = tagged
            source = template and (template.tagged if tagged else template.plain)
            if source is None and not (template is None and tagged):
                continue
            if template is not None:
                case.use(template)
            expected = [case.expected(row) for _, row in made]
            chosen = [
                at
                for at, (name, _) in enumerate(made)
                if expected[at] is not None and (others or name.split(",")[0] in CHATS)
            ]
            others = False
            try:
                found, skipped = case.found_all([lines[at] for at in chosen])
            except FolderRefused as error:
                out["pairs"] += len(chosen)
                kind = "folder refused: " + re.sub(r"\d+|\"[^\"]*\"", "#", str(error))[:120]
                for at in chosen:
                    out["differences"].append(
                        {
                            "seed": seed,
                            "tags": "with" if tagged else "without",
                            "format": "",
                            "kind": kind,
                            "row": {},
                            "folder": case.folder.labels,
                            "template": labels,
                            "got": str(error),
                        }
                    )
                continue
            refused = sum(isinstance(expected[at], str) for at in chosen)
            one_by_one = skipped != refused
            for at, documents in zip(chosen, found):
                name, row = made[at]
                out["pairs"] += 1
                got = documents
                if not documents and (one_by_one or expected[at] != []):
                    got = case.found(lines[at]) if one_by_one or not isinstance(expected[at], str) else "refused"
                kind = kind_of(expected[at], got)
                if kind is None:
                    out["agreeing"] += 1
                    out["refused"] += isinstance(expected[at], str)
                    out["trained"] += not isinstance(expected[at], str) and any(any(mask) for _, mask in expected[at])
                    continue
                difference = {
                    "seed": seed,
                    "tags": "with" if tagged else "without",
                    "format": name,
                    "kind": kind,
                    "row": row,
                    "folder": case.folder.labels,
                    "template": labels,
                }
                if keep:
                    difference |= {"expected": expected[at], "got": got}
                elif not any(test(difference) for _, test, _ in INTENDED):
                    examine(case, difference, row)
                out["differences"].append(difference)
        out["trimmed"] = case.reference.trimmed
    finally:
        if not keep:
            shutil.rmtree(path, ignore_errors=True)
    return out


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("horizon")
    options.add_argument("--seeds", default="0:600")
    options.add_argument("--jobs", type=int, default=2)
    options.add_argument("--show", type=int, default=3, help="examples of a group")
    options.add_argument("--keep", help="folder for the files of one seed")
    given = options.parse_args()
    first, _, end = given.seeds.partition(":")
    seeds = range(int(first), int(end or int(first) + 1))
    transformers.logging.set_verbosity_error()
    horizon = str(pathlib.Path(given.horizon).resolve())
    total: collections.Counter = collections.Counter()
    groups: dict = collections.defaultdict(list)
    intended: collections.Counter = collections.Counter()
    with multiprocessing.Pool(given.jobs) as pool:
        tasks = [(seed, horizon, given.keep) for seed in seeds]
        for out in pool.imap_unordered(run, tasks, chunksize=4):
            total.update({key: out[key] for key in ("pairs", "agreeing", "refused", "trained", "trimmed")})
            for difference in out["differences"]:
                name = next((name for name, test, _ in INTENDED if test(difference)), None)
                if name is not None:
                    intended[name] += 1
                else:
                    groups[difference["kind"]].append(difference)
    for kind, found in sorted(groups.items(), key=lambda group: -len(group[1])):
        print(f"\n{len(found)} × {kind}")
        formats = collections.Counter(difference["format"] for difference in found)
        print("   formats:", dict(formats.most_common(6)), "tags:", dict(collections.Counter(d["tags"] for d in found)))
        found.sort(key=lambda difference: ("expected" not in difference, len(json.dumps(difference["row"]))))
        for difference in found[: given.show]:
            print("   seed", difference["seed"], difference["tags"], "tags;", difference["format"])
            print("      folder:", ", ".join(difference["folder"]), "| template:", ", ".join(difference["template"]))
            print("      row:", json.dumps(difference["row"])[:600])
            for key in ("text", "expected", "got"):
                if difference.get(key) is not None:
                    print(f"      {key}:", repr(difference[key])[:500])
    for name, _, reason in INTENDED:
        print(f"{intended[name]} × meant: {name}: {reason}")
    print(f"{total['trimmed']} masks of transformers differ from the reference by trimmed offsets only")
    differing = sum(map(len, groups.values()))
    print(
        f"transformers {transformers.__version__}: {total['agreeing']} of {total['pairs']} pairs of folder and row"
        f" agree ({total['trained']} with trained tokens, {total['refused']} refused by both), {sum(intended.values())}"
        f" differ as meant, {differing} differ"
    )
    sys.exit(differing > 0)


if __name__ == "__main__":
    main()
