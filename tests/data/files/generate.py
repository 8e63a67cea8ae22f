"""Writes the data files of this folder, and expected.json with the rows that pyarrow reads from them.

Needs pyarrow and zstandard. `python tests/data/files/generate.py`
"""
import datetime
import decimal
import gzip
import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

HERE = Path(__file__).resolve().parent

MESSAGES = [
    [{"role": "user", "content": "Grüße?", "weight": None}, {"role": "assistant", "content": "日本 🎉", "weight": 1}],
    [],
    None,
    [{"role": "assistant", "content": None, "weight": 0}],
]


def chats():
    """Conversations as Hugging Face datasets write them: lists of structs, with nulls."""
    turn = pa.struct([("role", pa.string()), ("content", pa.string()), ("weight", pa.int8())])
    return pa.table({
        "messages": pa.array(MESSAGES, pa.list_(turn)),
        "tools": pa.array([[["a"], []], None, [], [None, ["b", None]]], pa.list_(pa.list_(pa.string()))),
        "meta": pa.array([{"score": 0.5, "tags": {"k": 1}}, None, {"score": None, "tags": None}, {"score": 2.0, "tags": {}}],
                         pa.struct([("score", pa.float32()), ("tags", pa.struct([("k", pa.int64())]))])),
    })


def values():
    """Every simple type."""
    return pa.table({
        "text": pa.array(["a", "", None], pa.string()),
        "large": pa.array(["b", "ü", None], pa.large_string()),
        "bytes": pa.array([b"c", "é".encode(), None], pa.binary()),
        "fixed": pa.array([b"dd", b"ee", None], pa.binary(2)),
        "enum": pa.array(["x", "y", None]).dictionary_encode(),
        "bool": pa.array([True, False, None]),
        "i8": pa.array([-128, 127, None], pa.int8()),
        "u16": pa.array([0, 65535, None], pa.uint16()),
        "u32": pa.array([0, 2**32 - 1, None], pa.uint32()),
        "i64": pa.array([-2**63, 2**63 - 1, None], pa.int64()),
        "u64": pa.array([0, 2**64 - 1, None], pa.uint64()),
        "f16": pa.array([0.5, -2.0, None], pa.float16()),
        "f32": pa.array([0.1, -2.5e30, None], pa.float32()),
        "f64": pa.array([0.1, 1e300, None], pa.float64()),
        "odd": pa.array([math.nan, -math.inf, None], pa.float64()),
        "decimal": pa.array([decimal.Decimal("1.50"), decimal.Decimal("-0.05"), None], pa.decimal128(9, 2)),
        "date": pa.array([datetime.date(2024, 2, 29), datetime.date(1969, 12, 31), None], pa.date32()),
        "list": pa.array([[1, 2], [], None], pa.list_(pa.int32())),
        "map": pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int32())),
        "null": pa.array([None, None, None], pa.null()),
    })


def readable(value):
    """Returns a value of Python as the reader has it: marks for special floats, texts for decimals and dates."""
    if isinstance(value, float) and not math.isfinite(value):
        return "\ufdd3" + json.dumps(value)
    if isinstance(value, (decimal.Decimal, datetime.date)):
        return str(value)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, dict):
        return {key: readable(value) for key, value in value.items()}
    if isinstance(value, (list, tuple)):
        return [readable(value) for value in value]
    return value


def main():
    expected = {}
    files = {"values.parquet": (values(), "zstd", 2), "chats.parquet": (chats(), "snappy", 3)}
    small = pa.table({"text": pa.array([f"row {k}" for k in range(5)])})
    files |= {f"{codec}.parquet": (small, codec, 2) for codec in ("gzip", "brotli", "lz4", "none")}
    for name, (table, codec, group) in files.items():
        pq.write_table(table, HERE / name, compression=codec, row_group_size=group)
        expected[name] = readable(pq.read_table(HERE / name).to_pylist())
    # A dictionary of one text of 1 MiB, for 2,000 rows.
    repeated = pa.table({"text": pa.chunked_array([["a" * 2**20] * 200] * 10)})
    pq.write_table(repeated, HERE / "expanding.parquet", compression="zstd", dictionary_pagesize_limit=2**30,
                   store_schema=False)
    lines = [json.dumps({"text": f"row {k}"}).encode() + b"\n" for k in range(4)]
    halves = [b"".join(lines[:2]), b"".join(lines[2:])]
    (HERE / "rows.jsonl.gz").write_bytes(b"".join(gzip.compress(half, mtime=0) for half in halves))
    (HERE / "rows.jsonl.zst").write_bytes(b"".join(zstandard.compress(half) for half in halves))
    (HERE / "expected.json").write_text(json.dumps(expected, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
