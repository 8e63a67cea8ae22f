"""Random model folders: a small tokenizer, its configuration files, and nothing else that `horizon tokenize` reads.

A folder is a list of choices, each with a name (`labels`), so that a difference can be traced to one of them.
"""

import json
import pathlib
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "The weights live in host memory and stream through the device, layer by layer.",
    "What is the capital of France? The capital of France is Paris.",
    "Count to ten: one, two, three, four, five, six, seven, eight, nine, ten! 1234567 89",
    "def add(a, b):\n    return a + b\n\nprint(add(1, 2))\n",
    "You are a helpful assistant. Please answer in one short sentence.\r\n\tuser system tool think",
    '{"name": "add", "arguments": {"a": 1, "b": [true, null, "x"]}} <think> </think> ### [INST] [/INST]',
    "naïve café, 東京タワー, שלום עולם, مرحبا, 🙂🙂 and e\u0301 in one",
]
SPLITS = [
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
]
VOCABULARY = 1024
# Tokens of templates. Each folder has a random half of them.
MARKERS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "[INST]",
    "[/INST]",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
]


def corpus(rng: random.Random) -> list[str]:
    return [line for line in CORPUS if rng.random() < 0.85] * 3 + CORPUS[:1]


def normalizer(rng: random.Random):
    choices = [
        ("", None),
        ("", None),
        ("", None),
        ("nfc", normalizers.NFC()),
        ("nfkc", normalizers.NFKC()),
        ("nfd", normalizers.NFD()),
        ("lowercase", normalizers.Lowercase()),
        ("strip", normalizers.Strip(left=rng.random() < 0.5, right=True)),
        ("replace", normalizers.Replace(Regex(" {2,}"), " ")),
        ("accents", normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])),
    ]
    return rng.choice(choices)


def byte_level(rng: random.Random):
    tokenizer = Tokenizer(models.BPE(ignore_merges=rng.random() < 0.3))
    name, tokenizer.normalizer = normalizer(rng)
    prefix = rng.random() < 0.2
    split, tokenizer.pre_tokenizer = rng.choice(
        [
            ("gpt2", pre_tokenizers.ByteLevel(add_prefix_space=prefix)),
            (
                "split",
                pre_tokenizers.Sequence(
                    [
                        pre_tokenizers.Split(Regex(rng.choice(SPLITS)), behavior="isolated"),
                        pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False),
                    ]
                ),
            ),
            (
                "digits",
                pre_tokenizers.Sequence(
                    [
                        pre_tokenizers.Digits(individual_digits=rng.random() < 0.5),
                        pre_tokenizers.ByteLevel(add_prefix_space=prefix),
                    ]
                ),
            ),
            (
                "punctuation",
                pre_tokenizers.Sequence(
                    [pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=prefix)]
                ),
            ),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    partial = rng.random() < 0.08
    trainer = trainers.BpeTrainer(
        vocab_size=rng.choice([300, 420, 600]), show_progress=False, initial_alphabet=[] if partial else alphabet
    )
    tokenizer.train_from_iterator(corpus(rng), trainer)
    labels = ["byte_level", split, name, "prefix space" if prefix else "", "missing bytes" if partial else ""]
    trims = rng.choice([None, None, True, True, True, False])
    labels.append("trims offsets" if trims else "")
    return tokenizer, labels, [] if trims is None else [processors.ByteLevel(trim_offsets=trims)]


def metaspace(rng: random.Random):
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    scheme = rng.choice(["normalizer", "normalizer", "always", "first", "never"])
    if scheme == "normalizer":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=rng.random() < 0.5)
    trainer = trainers.BpeTrainer(
        vocab_size=rng.choice([420, 600]),
        show_progress=False,
        special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)],
    )
    tokenizer.train_from_iterator(corpus(rng), trainer)
    # The byte tokens are passed as special so that the trainer gives them ids; in the tokenizer they are ordinary.
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(state)), ["metaspace", scheme], []


def unigram(rng: random.Random):
    tokenizer = Tokenizer(models.Unigram())
    name, inner = rng.choice([("nfkc", normalizers.NFKC()), ("strip", normalizers.Strip()), ("", None)])
    tokenizer.normalizer = normalizers.Sequence(([inner] if inner else []) + [normalizers.Replace(Regex(" {2,}"), " ")])
    scheme = rng.choice(["always", "first", "never"])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(
        vocab_size=200, show_progress=False, unk_token="<unk>", special_tokens=["<unk>", "<s>", "</s>"]
    )
    tokenizer.train_from_iterator(corpus(rng), trainer)
    return tokenizer, ["unigram", scheme, name], []


def word_piece(rng: random.Random):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=rng.choice([20, 100])))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=rng.random() < 0.5)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=400, show_progress=False, special_tokens=["[UNK]"])
    tokenizer.train_from_iterator(corpus(rng), trainer)
    return tokenizer, ["word_piece"], []


def added(rng: random.Random, content: str, special: bool) -> dict:
    """An added token with random flags, mostly none."""
    flag = lambda chance: rng.random() < chance
    return {
        "content": content,
        "lstrip": flag(0.12),
        "rstrip": flag(0.12),
        "single_word": flag(0.05),
        "normalized": flag(0.1) if special else flag(0.4),
        "special": special,
    }


def add(tokenizer: Tokenizer, token: dict) -> None:
    flags = {key: value for key, value in token.items() if key != "content"}
    (tokenizer.add_special_tokens if token["special"] else tokenizer.add_tokens)(
        [AddedToken(token["content"], **flags)]
    )


class Folder:
    """A model folder: `files` (name and JSON or text) and the tokens that templates may use."""

    def __init__(self, rng: random.Random):
        make = rng.choices([byte_level, metaspace, unigram, word_piece], [5, 4, 2, 1])[0]
        tokenizer, self.labels, first = make(rng)
        self.bos, self.eos = rng.choice([("<s>", "</s>"), ("<|begin|>", "<|end|>"), ("<s>", "<|im_end|>")])
        markers = [marker for marker in MARKERS if rng.random() < 0.5 or marker == self.eos]
        tokens = [added(rng, text, True) for text in dict.fromkeys([self.bos, self.eos])]
        plain = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
        tokens += [added(rng, marker, marker not in plain) for marker in markers if marker != self.eos]
        # The library fails on a token that a normalizer makes empty; Horizon refuses it.
        words = ["France", "é", "Wort"] + ["  "] * ("strip" not in self.labels)
        tokens += [added(rng, word, False) for word in words if rng.random() < 0.15]
        rng.shuffle(tokens)
        config: dict = {"tokenizer_class": rng.choice(["PreTrainedTokenizerFast", "TokenizersBackend"])}
        special_map: dict = {}
        # Tokens that tokenizer.json does not know.
        absent = [token for token in tokens if rng.random() < 0.3] if rng.random() < 0.3 else []
        present = [token for token in tokens if token not in absent]
        for token in present:
            add(tokenizer, token)
        outside = rng.choice(["added_tokens_decoder", "added_tokens.json", "special_tokens_map.json"])
        if absent:
            self.labels.append("tokens only in " + outside)
        next_id = tokenizer.get_vocab_size(with_added_tokens=True)
        numbered = {str(next_id + at): token for at, token in enumerate(absent)}
        if outside == "added_tokens_decoder" and (absent or rng.random() < 0.3):
            known = {str(at): token for at, token in added_tokens(tokenizer).items()} if rng.random() < 0.7 else {}
            config["added_tokens_decoder"] = known | numbered
        elif outside == "special_tokens_map.json" and absent:
            if rng.random() < 0.5:
                special_map["additional_special_tokens"] = [token["content"] for token in absent]
            else:
                special_map["extra_special_tokens"] = [
                    {key: value for key, value in token.items() if key != "special"} for token in absent
                ]
        elif absent:
            self.files_added = {token["content"]: int(at) for at, token in numbered.items()}
        self.name_specials(rng, config, special_map, tokens)
        self.post_processor(rng, tokenizer, first, present)
        if rng.random() < 0.2:
            config["add_bos_token"] = rng.random() < 0.5
            config["add_eos_token"] = rng.random() < 0.5
            self.labels.append("add_bos_token")
        self.files = {
            "tokenizer.json": json.loads(tokenizer.to_str()),
            "tokenizer_config.json": config,
            "config.json": {
                "architectures": ["LlamaForCausalLM"],
                "model_type": "llama",
                "hidden_size": 8,
                "intermediate_size": 8,
                "num_attention_heads": 1,
                "num_hidden_layers": 1,
                "vocab_size": VOCABULARY,
                "max_position_embeddings": 64,
            },
        }
        if special_map:
            self.files["special_tokens_map.json"] = special_map
        if getattr(self, "files_added", None):
            self.files["added_tokens.json"] = self.files_added
        self.end_ids(rng, tokenizer)
        self.labels = [label for label in self.labels if label]

    def name_specials(self, rng: random.Random, config: dict, special_map: dict, tokens: list[dict]) -> None:
        """Names BOS and EOS in one of the two files, as texts or objects; sometimes not at all."""
        flags = {token["content"]: token for token in tokens}
        for name, text in (("bos_token", self.bos), ("eos_token", self.eos)):
            where = rng.choices([config, special_map, None], [8, 2, 1])[0]
            if where is None:
                self.labels.append(f"no {name}")
                setattr(self, name[:3], None)
            elif rng.random() < 0.7:
                where[name] = text
            else:
                where[name] = {key: value for key, value in flags[text].items() if key != "special"}
                if where is config:
                    where[name]["__type"] = "AddedToken"

    def post_processor(self, rng: random.Random, tokenizer: Tokenizer, first: list, present: list[dict]) -> None:
        names = {token["content"] for token in present} & {self.bos, self.eos}
        ids = {text: tokenizer.token_to_id(text) for text in sorted(names)}
        known = set(ids)
        shapes = [("", "$A")]
        if self.bos in known:
            shapes += [("adds BOS", f"{self.bos} $A")] * 3
        if self.eos in known:
            shapes += [("adds EOS", f"$A {self.eos}")]
        if {self.bos, self.eos} <= known:
            shapes += [("adds BOS and EOS", f"{self.bos} $A {self.eos}")]
        name, single = rng.choice(shapes)
        self.labels.append(name)
        processors_ = list(first)
        if name:
            used = [(text, at) for text, at in ids.items() if text in single]
            processors_.append(processors.TemplateProcessing(single=single, special_tokens=used))
        if len(processors_) == 1:
            tokenizer.post_processor = processors_[0]
        elif processors_:
            tokenizer.post_processor = processors.Sequence(processors_)

    def end_ids(self, rng: random.Random, tokenizer: Tokenizer) -> None:
        """Gives `eos_token_id` in one of the two files, or none."""
        at = rng.randrange(5, 200)
        ids = rng.choice([None, at, [at, at + 1]])
        if ids is not None and self.eos is None:
            if rng.random() < 0.5:
                self.files["generation_config.json"] = {"eos_token_id": ids}
            else:
                self.files["config.json"]["eos_token_id"] = ids

    def write(self, path: pathlib.Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (path / name).write_text(json.dumps(content, ensure_ascii=False))


def added_tokens(tokenizer: Tokenizer) -> dict[int, dict]:
    state = json.loads(tokenizer.to_str())
    return {token["id"]: {key: value for key, value in token.items() if key != "id"} for token in state["added_tokens"]}
