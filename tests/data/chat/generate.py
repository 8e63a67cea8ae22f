"""Writes small tokenizers and `expected.json`, the texts, tokens and masks of Hugging Face for `tests/data`.

    pip install tokenizers==0.23.3 transformers==5.24.0 jinja2==3.1.6        # Python 3.11
    python tests/data/chat/generate.py

Model folders, with tokenizer files only:

- `byte_level`  BPE on bytes, as in GPT-2, Llama 3, Qwen; the post-processor trims offsets; BOS at the beginning
- `metaspace`   BPE on characters with byte fallback and a prepended space, as in Llama 2; BOS at the beginning

For each folder `expected.json` has `texts`: text, ids with and without special tokens; and `chats`: template (a file of
`templates/`), messages, tools, the text that transformers renders, its ids, and the assistant mask (template with
`{% generation %}`) or the supervised pieces of text, written by hand (template without).
"""

import json
import os

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

HERE = os.path.dirname(os.path.abspath(__file__))
TURN = ["<|begin|>", "<|im_start|>", "<|im_end|>", "<|end|>"]
CORPUS = [
    "The weights live in host memory and stream through the device, layer by layer.",
    "What is the capital of France? The capital of France is Paris.",
    "Count to ten: one, two, three, four, five, six, seven, eight, nine, ten!",
    "def add(a, b):\n    return a + b\n\nprint(add(1, 2))\n",
    "Please answer in one short sentence. You are a helpful assistant.",
    "user assistant system tool think answer question because therefore",
] * 4


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    split = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in TURN])
    bos = tokenizer.token_to_id(TURN[0])
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single=f"{TURN[0]} $A", special_tokens=[(TURN[0], bos)]),
        ]
    )
    return tokenizer


def metaspace():
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    # The byte tokens are passed as special so that the trainer gives them ids; in the tokenizer they are ordinary.
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    return tokenizer


FOLDERS = {
    "byte_level": (byte_level, {"bos_token": "<|begin|>", "eos_token": "<|im_end|>", "pad_token": "<|end|>"}),
    "metaspace": (metaspace, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
}

TEXTS = [
    "",
    "The capital of France is Paris.",
    "  leading, trailing  and\tinner   space \n\n new lines\r\n",
    "naïve café, 東京 and 🙂🙂 in one; \u0000 too",
    "1234567 x 89",
    "a<|im_end|>b<|im_start|>user</s><s>",
    "<|im_en d|> <s > don't I'LL",
]

USER, SYSTEM = "user", "system"
PLAIN = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "  Count to three 🙂 "},
    {"role": "assistant", "content": "one, two,\n\nthree"},
]
THINKING = [
    {"role": "user", "content": "one and two?"},
    {"role": "assistant", "content": "<think>\nadd them\n</think>\n\nthree"},
    {"role": "user", "content": "and four?"},
    {"role": "assistant", "content": "<think>\nadd again\n</think>\n\nseven"},
]
CALLING = [
    {"role": "user", "content": "add 1 and 2"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"b": 2, "a": 1.5}}}],
    },
    {"role": "tool", "content": "3"},
    {"role": "assistant", "content": "It is 3."},
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds <two> numbers & says 'so'",
            "parameters": {"type": "object", "properties": {"b": {"type": "number"}, "a": {"type": "number"}}},
        },
    }
]

# folder, template, messages, tools, supervised pieces of text (None: the template has tags)
CHATS = [
    ("byte_level", "turns", PLAIN, None, ["Paris.<|im_end|>", "one, two,\n\nthree<|im_end|>"]),
    ("byte_level", "turns", PLAIN[1:], None, ["Paris.<|im_end|>", "one, two,\n\nthree<|im_end|>"]),
    ("byte_level", "marked", PLAIN, None, None),
    ("byte_level", "marked", CALLING, TOOLS, None),
    (
        "byte_level",
        "thinking",
        THINKING,
        None,
        ["three<|im_end|>", "<think>\nadd again\n</think>\n\nseven<|im_end|>"],
    ),
    (
        "byte_level",
        "thinking",
        CALLING,
        TOOLS,
        ['\n<tool_call>\n{"name": "add", "arguments": {"b": 2, "a": 1.5}}\n</tool_call><|im_end|>', "<think>\n\n</think>\n\nIt is 3.<|im_end|>"],
    ),
    ("byte_level", "dated", PLAIN[1:3], None, ["Paris.<|im_end|>"]),
    ("byte_level", "ended", PLAIN, None, ["Paris.<|end|>", "one, two,\n\nthree<|end|>"]),
    ("metaspace", "instruct", PLAIN, None, [" Paris. </s>", " one, two,\n\nthree </s>"]),
    ("metaspace", "instruct", PLAIN[1:], None, [" Paris. </s>", " one, two,\n\nthree </s>"]),
    ("metaspace", "late_system", PLAIN, None, [" Paris.</s>", " one, two,\n\nthree</s>"]),
    ("metaspace", "marked", PLAIN[1:], None, None),
]


def chat(tokenizer, template, messages, tools, pieces):
    with open(os.path.join(HERE, "templates", template + ".jinja")) as file:
        source = file.read()
    given = dict(conversation=messages, tools=tools, chat_template=source)
    text = tokenizer.apply_chat_template(tokenize=False, **given)
    marked = tokenizer.apply_chat_template(
        tokenize=True, return_dict=True, return_assistant_tokens_mask=pieces is None, **given
    )
    case = {"template": template, "messages": messages, "tools": tools, "text": text, "ids": marked["input_ids"]}
    if pieces is None:
        case["mask"] = marked["assistant_masks"]
    else:
        case["pieces"] = pieces
        at = 0
        for piece in pieces:
            found = text.find(piece, at)
            assert found >= 0, (template, piece, text)
            at = found + len(piece)
    case["prompt"] = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello"}], chat_template=source, tokenize=False, add_generation_prompt=True
    )
    return case


def main():
    os.environ["TZ"] = "UTC"
    expected = {}
    for name, (make, special) in FOLDERS.items():
        folder = os.path.join(HERE, name)
        os.makedirs(folder, exist_ok=True)
        tokenizer = make()
        tokenizer.save(os.path.join(folder, "tokenizer.json"), pretty=False)
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
        with open(os.path.join(folder, "tokenizer_config.json"), "w") as file:
            json.dump(config, file, indent=2)
            file.write("\n")
        fast = PreTrainedTokenizerFast(tokenizer_file=os.path.join(folder, "tokenizer.json"), **special)
        texts = [
            {
                "text": text,
                "ids": tokenizer.encode(text, add_special_tokens=False).ids,
                "document": tokenizer.encode(text, add_special_tokens=True).ids,
                "decoded": tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids),
            }
            for text in TEXTS
        ]
        assert all(fast(case["text"])["input_ids"] == case["document"] for case in texts)
        chats = [chat(fast, *case[1:]) for case in CHATS if case[0] == name]
        expected[name] = {"vocabulary": tokenizer.get_vocab_size(), "texts": texts, "chats": chats}
        print(name, tokenizer.get_vocab_size(), "tokens,", len(texts), "texts,", len(chats), "chats")
    with open(os.path.join(HERE, "expected.json"), "w") as file:
        json.dump(expected, file, ensure_ascii=True, indent=1)
        file.write("\n")


main()
