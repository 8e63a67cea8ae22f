"""Writes `expected.json`: tokenizers of folders whose files add tokens, and decoded continuations, by transformers.

    pip install tokenizers==0.23.3 transformers==5.24.0                      # Python 3.11
    python tests/data/tokenizers/generate.py [--random COUNT] [--seed SEED] [--out FILE]

The `tokenizer.json` of a case is that of `tests/data/chat/<base>`. `folders` has the other files of a folder, and what
`AutoTokenizer` makes of them: added tokens (true: decoding leaves it out), EOS token, and the ids of texts with and without special tokens. `decoded`
has a prompt, a continuation, and the text that the continuation adds to the prompt's. `--random` adds cases.
"""

import argparse
import json
import os
import random
import shutil
import tempfile

from transformers import AutoTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
CHAT = os.path.join(HERE, "..", "chat")
BASES = ["byte_level", "metaspace"]
CONFIG, MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
FLAGS = ["single_word", "lstrip", "rstrip", "normalized", "special"]


def token(content, *flags):
    return {"content": content, **{flag: flag in flags for flag in FLAGS}}


def typed(content, *flags):
    return {"__type": "AddedToken", **token(content, *flags)}


def plain(content, *flags):
    """A token as `special_tokens_map.json` has it."""
    return {flag: value for flag, value in token(content, *flags).items() if flag != "special"}


FOLDERS = [
    {},
    {CONFIG: {"bos_token": "<b>", "eos_token": "<e>", "pad_token": None}},
    {CONFIG: {"eos_token": typed("<e>", "lstrip", "special"), "sep_token": "the", "cls_token": " of"}},
    {CONFIG: {"eos_token": "<e>", "additional_special_tokens": ["<x>", "<y>"]}},
    {CONFIG: {"eos_token": "<e>", "additional_special_tokens": ["<x>"], "extra_special_tokens": ["<y>"]}},
    {CONFIG: {"eos_token": "<e>", "additional_special_tokens": ["<x>"], "extra_special_tokens": []}},
    {CONFIG: {"image_token": "<i>", "eos_token": "<e>", "extra_special_tokens": {"video_token": "<v>"}}},
    {
        CONFIG: {
            "eos_token": "<e>",
            "added_tokens_decoder": {
                "900": token("<x>", "special"),
                "800": token("<e>", "rstrip"),
                "850": token("one", "single_word", "normalized"),
            },
        },
        MAP: {"eos_token": "<x>", "additional_special_tokens": ["<y>"]},
        ADDED: {"<z>": 801},
    },
    {CONFIG: {"added_tokens_decoder": {}, "eos_token": "<e>"}, MAP: {"eos_token": "<x>"}, ADDED: {"<z>": 800}},
    {CONFIG: {"eos_token": "<e>"}, MAP: {"eos_token": plain("<x>", "lstrip"), "unk_token": "<u>"}},
    {CONFIG: {"eos_token": "<e>"}, MAP: {"eos_token": None, "extra_special_tokens": ["<x>"]}},
    {
        CONFIG: {"eos_token": "<e>", "extra_special_tokens": ["<x>"]},
        MAP: {"additional_special_tokens": ["<w>"], "extra_special_tokens": ["<y>", "<x>"]},
        ADDED: {"<y>": 803, "<w>": 802, "<e>": 801},
    },
    {MAP: {"bos_token": "<b>", "eos_token": plain("<e>", "rstrip"), "image_token": "<i>"}, ADDED: {"<i>": 800}},
    {CONFIG: {"eos_token": "<e>", "split_special_tokens": True}},
    {CONFIG: {"eos_token": "<e>", "add_bos_token": True, "add_eos_token": True}},
    {CONFIG: {"eos_token": "<e>", "add_bos_token": False, "add_eos_token": False}},
    {
        CONFIG: {
            "eos_token": "<e>",
            "add_prefix_space": True,
            "legacy": False,
            "clean_up_tokenization_spaces": True,
            "model_max_length": 4,
        }
    },
]

TEXTS = [
    "the capital <e> of <x>  one<y>none one <b><i>",
    "<e> a<z><v> <w>\n<u> the of",
]

WORDS = ["<b>", "<e>", "<x>", "<y>", "<z>", "the", " of", "one", "É", "▁", "  ", "<|end|>", "</s>", "<s>"]


def draw(rng):
    """The files of a random folder."""

    def some(chance):
        return rng.random() < chance

    def flags():
        return [flag for flag in FLAGS if some(0.3)]

    def named(make):
        names = ["bos_token", "eos_token", "unk_token", "pad_token", "mask_token", "image_token", "video_token"]
        return {name: make() for name in rng.sample(names, rng.randint(0, 4))}

    def words(most):
        return rng.sample(WORDS, rng.randint(0, most))

    def in_config():
        word = rng.choice(WORDS)
        return typed(word, *flags()) if some(0.3) else None if some(0.1) else word

    def in_map():
        word = rng.choice(WORDS)
        return plain(word, *flags()) if some(0.4) else word

    files = {}
    if some(0.9):
        config = files[CONFIG] = named(in_config)
        if some(0.4):
            ids = rng.sample(range(1000), 4)
            config["added_tokens_decoder"] = {str(at): token(word, *flags()) for at, word in zip(ids, words(4))}
        if some(0.3):
            config["additional_special_tokens"] = words(3)
        if some(0.3):
            typed_words = [typed(word, *flags()) if some(0.3) else word for word in words(3)]
            config["extra_special_tokens"] = {"a_token": "<z>", "b": "<y>"} if some(0.3) else typed_words
        if some(0.1):
            config["split_special_tokens"] = True
        if some(0.2):
            config["add_bos_token"], config["add_eos_token"] = some(0.5), some(0.5)
    if some(0.5):
        special = files[MAP] = named(in_map)
        if some(0.4):
            special["additional_special_tokens"] = words(3)
        if some(0.3):
            special["extra_special_tokens"] = words(3)
    if some(0.4):
        files[ADDED] = dict(zip(words(4), rng.sample(range(300, 1000), 4)))
    return files


def open_folder(base, files):
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(os.path.join(CHAT, base, "tokenizer.json"), folder)
        for name, content in {"config.json": {"model_type": "llama"}, **files}.items():
            with open(os.path.join(folder, name), "w") as file:
                json.dump(content, file)
        return AutoTokenizer.from_pretrained(folder)


def folder_case(base, files, texts):
    tokenizer = open_folder(base, files)
    assert type(tokenizer).__name__ == "TokenizersBackend"
    letter = tokenizer.encode("a", add_special_tokens=False)

    def is_special(token):
        ids = [*letter, token, *letter]
        return tokenizer.decode(ids) != tokenizer.decode(ids, skip_special_tokens=True)

    return {
        "base": base,
        "files": files,
        "added": [[at, text, is_special(at)] for text, at in tokenizer.get_added_vocab().items()],
        "eos": tokenizer.eos_token_id,
        "texts": [
            [text, tokenizer.encode(text, add_special_tokens=False), tokenizer.encode(text)] for text in texts
        ],
    }


PIECES = ["the capital", " of France", "naïve café", "東京 and 🙂🙂", "  two  spaces ", "<s>", "<|begin|>", "\n", "one"]


def decoded_cases(rng, count):
    """Prompts and continuations, cut between any two tokens behind which the text is whole."""
    cases = []
    tokenizers = {base: open_folder(base, {}) for base in BASES}
    while len(cases) < count:
        base = rng.choice(BASES)
        encode = tokenizers[base].encode
        ids = encode("".join(rng.choices(PIECES, k=rng.randint(1, 12))))
        at = rng.randint(0, len(ids))
        before, whole = (tokenizers[base].decode(tokens, skip_special_tokens=True) for tokens in (ids[:at], ids))
        if whole.startswith(before) and not before.endswith("\ufffd"):
            cases.append([base, ids[:at], ids[at:], whole[len(before) :]])
    return cases


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--random", type=int, default=0)
    parser.add_argument("--seed", type=int, default=18)
    parser.add_argument("--out", default=os.path.join(HERE, "expected.json"))
    options = parser.parse_args()
    rng = random.Random(options.seed)
    folders = [folder_case(base, files, TEXTS) for files in FOLDERS for base in BASES]
    for _ in range(options.random):
        texts = ["".join(rng.choices([*WORDS, " ", "a", "é"], k=8)) for _ in range(3)]
        folders.append(folder_case(rng.choice(BASES), draw(rng), texts))
    expected = {"folders": folders, "decoded": decoded_cases(rng, 12 + options.random)}
    with open(options.out, "w") as file:
        file.write('{"folders": [\n' + ",\n".join(map(json.dumps, expected["folders"])) + '\n], "decoded": [\n')
        file.write(",\n".join(map(json.dumps, expected["decoded"])) + "\n]}\n")
    print(len(folders), "folders,", len(expected["decoded"]), "continuations")


main()
