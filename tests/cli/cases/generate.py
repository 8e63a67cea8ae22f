"""Writes the model, the data files and `expected.json` of the tests in this folder.

    pip install torch==2.15.0 transformers==5.24.0 safetensors==0.8.0 pyarrow pandas zstandard jinja2==3.1.6
    python tests/cli/cases/generate.py

- `model/`         a Llama of one layer in bf16 that answers "What is 7?" in ChatML; its tokenizer is
                   `tests/data/chat/byte_level`
- `data/`          rows of one conversation as Parquet, gzip and Zstandard
- `expected.json`  `losses`     cross entropy of transformers in f32 over the token rows `rows`
                   `documents`  tokens, and which of them are trained on
                   `texts`      greedy continuations

Expected values come from transformers: tokens from `apply_chat_template` and the tokenizer's `__call__`, trained tokens
of a conversation from `{% generation %}` tags (`assistant_masks`), of a prompt with its completion as in TRL (the
completion and the EOS token).
"""

import gzip
import json
import os
import random
import shutil
import tempfile

import pandas
import torch
import zstandard
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
TOKENIZER = os.path.join(HERE, "../../data/chat/byte_level")
MODEL = os.path.join(HERE, "model")
END, IM_START, IM_END = 423, 421, 422
ANSWER = "The capital of France is Paris."
PARAMETERS = {"type": "object", "properties": {"n": {"type": "integer"}}}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": PARAMETERS}}]

# Templates; TURN is what is trained on: a turn from its content to its end token.
CHATML = """\
{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}TURN{{ '\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
CHATML_TURN = "{{ message['content'] + '<|im_end|>' }}"
CALLS = """\
{% if tools %}{{ tools | tojson }}{{ '\\n' }}{% endif %}\
{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}\
TURN{{ '\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
CALLS_TURN = """\
{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}\
{% if message.content %}{{ message.content }}{% endif %}\
{% for call in message.tool_calls or [] %}{{ call.function.name }}({{ call.function.arguments | tojson }}){% endfor %}\
<|im_end|>"""
TEMPLATES = {"chat_template": CHATML.replace("TURN", CHATML_TURN), "calls": CALLS.replace("TURN", CALLS_TURN)}


def tagged(name):
    """The template with tags around the turns whose message has `trained`."""
    template, turn = {"chat_template": (CHATML, CHATML_TURN), "calls": (CALLS, CALLS_TURN)}[name]
    marked = f"{{% generation %}}{turn}{{% endgeneration %}}"
    return template.replace("TURN", f"{{% if message.trained %}}{marked}{{% else %}}{turn}{{% endif %}}")


def write_json(path, value):
    with open(path, "w") as file:
        json.dump(value, file, indent=1)
        file.write("\n")


def conversation(*contents):
    return [{"role": ("user", "assistant")[k % 2], "content": content} for k, content in enumerate(contents)]


def train(tokenizer):
    """Trains the model until it answers; then rounds it to bf16."""
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=424, hidden_size=16, intermediate_size=24, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        num_hidden_layers=1, max_position_embeddings=1024, initializer_range=0.2, bos_token_id=420, eos_token_id=IM_END,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    chats = [conversation(f"What is {k}?", ANSWER, f"What is {9 - k}?", ANSWER) for k in range(10)]
    ids = tokenizer.apply_chat_template(chats, tokenize=True, return_dict=True, return_tensors="pt")["input_ids"]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(300):
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.bfloat16().save_pretrained(MODEL)
    os.remove(os.path.join(MODEL, "generation_config.json"))


class Folder:
    """A copy of the model folder with edits."""

    def __init__(self, config=None, tensors=None, tokenizer=None, tokenizer_config=None):
        self.path = tempfile.mkdtemp()
        for source in (TOKENIZER, MODEL):
            shutil.copytree(source, self.path, dirs_exist_ok=True)
        for name, edit in ("config", config), ("tokenizer", tokenizer), ("tokenizer_config", tokenizer_config):
            path = os.path.join(self.path, name + ".json")
            with open(path) as file:
                value = json.load(file)
            write_json(path, (edit or (lambda value: value))(value))
        path = os.path.join(self.path, "model.safetensors")
        save_file((tensors or (lambda tensors: tensors))(load_file(path)), path, {"format": "pt"})

    def loss(self, rows, labels=None, mask=None):
        model = AutoModelForCausalLM.from_pretrained(self.path, dtype=torch.float32, attn_implementation="eager")
        ids = torch.tensor(rows)
        labels = ids if labels is None else torch.tensor(labels)
        mask = None if mask is None else torch.tensor(mask)
        with torch.no_grad():
            return model(input_ids=ids, labels=labels, attention_mask=mask).loss.item()


def losses(rows):
    """The losses, after the check that edits that change no arithmetic change no loss in transformers."""
    merge = lambda more, less=(): lambda config: {k: v for k, v in config.items() if k not in less} | more
    norms = {f"model.layers.0.self_attn.{x}_norm.weight": torch.ones(8, dtype=torch.bfloat16) for x in "qk"}
    bias = lambda x, size: {f"model.layers.0.self_attn.{x}_proj.bias": torch.zeros(size, dtype=torch.bfloat16)}
    biases = bias("q", 16) | bias("k", 8) | bias("v", 8)
    bare = lambda tensors: {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    tie = merge({"tie_word_embeddings": True})
    headless = lambda tensors: {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}
    qwen3 = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
    rope = lambda **scaling: merge({"rope_theta": 10000.0, "rope_scaling": scaling}, ["rope_parameters"])
    llama3 = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
    base = Folder().loss(rows)
    for same in (
        Folder(tensors=bare),
        Folder(
            merge({"architectures": ["FSDPQwen2ForCausalLM"], "model_type": "qwen2"}), lambda tensors: tensors | biases
        ),
        Folder(merge({"architectures": ["LLaMAForCausalLM"]})),
        Folder(tensors=lambda tensors: tensors | {"model.layers.0.self_attn._extra_state": torch.zeros(0)}),
        Folder(tensors=lambda tensors: tensors | {"v_head.summary.weight": torch.zeros(1, 16)}),
        Folder(merge({"auto_map": {"AutoConfig": "configuration_x.X", "AutoModelForCausalLM": "modeling_x.X"}})),
        Folder(merge({"unk_token_id": 0, "model_max_length": 4096, "seq_length": 2048, "use_flash_attn": True})),
        Folder(rope(type="default", rope_type="default", factor=1.0)),
        Folder(rope(type="dynamic", factor=2.0)),
    ):
        assert same.loss(rows) == base
    first = rows[0]
    padded = [END] * 4 + first
    labels = [-100] * 7 + first[3:]
    return {
        "base": base,
        "tied": Folder(tie, headless).loss(rows),
        "qwen3": Folder(merge(qwen3), lambda tensors: tensors | norms).loss(rows),
        "qwen3 tied": Folder(
            merge(qwen3 | {"tie_word_embeddings": True}), lambda tensors: bare(headless(tensors) | norms)
        ).loss(rows),
        "llama3": Folder(merge({"rope_parameters": llama3, "original_max_position_embeddings": 8})).loss(rows),
        "padded right": Folder().loss([first + [END] * 4], [first + [-100] * 4], [[1] * len(first) + [0] * 4]),
        "padded left": Folder().loss([padded], [labels], [[0] * 4 + [1] * len(first)]),
    }


def check_added_tokens(tokenizer):
    """Checks that special tokens of `tokenizer_config.json` alone are as those of `tokenizer.json`."""
    chat = conversation("hi", "yo<|end|>")
    render = lambda tokenizer: tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"]
    for names in ["<|im_start|>", "<|im_end|>", "<|end|>"], ["<|end|>"]:

        def strip(tokenizer):
            return tokenizer | {"added_tokens": [t for t in tokenizer["added_tokens"] if t["content"] not in names]}

        def decoder(config):
            flags = dict.fromkeys(["lstrip", "normalized", "rstrip", "single_word"], False) | {"special": True}
            ids = {name: str(tokenizer.convert_tokens_to_ids(name)) for name in names}
            return config | {"added_tokens_decoder": {ids[name]: {"content": name} | flags for name in names}}

        folder = Folder(tokenizer=strip, tokenizer_config=decoder)
        assert render(AutoTokenizer.from_pretrained(folder.path)) == render(tokenizer)


def documents(tokenizer):
    def chat(messages, trained=None, template="chat_template", tools=None):
        turns = [k for k, message in enumerate(messages) if message["role"] == "assistant"]
        trained = turns if trained is None else trained
        marked = [message | {"trained": k in trained} for k, message in enumerate(messages)]
        render = lambda messages, source, **more: tokenizer.apply_chat_template(
            messages, tools=tools, chat_template=source, tokenize=True, return_dict=True, **more
        )
        encoded = render(marked, tagged(template), return_assistant_tokens_mask=True)
        assert encoded["input_ids"] == render(messages, TEMPLATES[template])["input_ids"]
        return {"tokens": encoded["input_ids"], "trained": encoded["assistant_masks"]}

    def text(text, bos=True):
        ids = tokenizer(text, add_special_tokens=bos)["input_ids"] + [IM_END]
        return {"tokens": ids, "trained": [1] * len(ids)}

    def pair(prompt, completion, bos=True):
        ids = tokenizer(prompt + completion, add_special_tokens=bos)["input_ids"] + [IM_END]
        prompt = tokenizer(prompt, add_special_tokens=bos)["input_ids"]
        assert ids[: len(prompt)] == prompt
        return {"tokens": ids, "trained": [int(k >= len(prompt)) for k in range(len(ids))]}

    two = conversation("a", "BAD", "b", "good")
    function = {"name": "add", "arguments": {"n": 123456789012345678901234567890}}
    call = {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}
    reasoned = {"role": "assistant", "content": "yo", "reasoning_content": "so"}
    check_added_tokens(tokenizer)
    return {
        "hi yo": chat(conversation("hi", "yo")),
        "hi yo<|end|>": chat(conversation("hi", "yo<|end|>")),
        "hi x": chat(conversation("hi", "x")),
        "hi there yo": chat(conversation("hi there", "yo")),
        "both turns": chat(two),
        "the second turn": chat(two, [3]),
        "the first turn": chat(two, [1]),
        "be kind": chat([{"role": "system", "content": "be kind"}] + conversation("hi", "yo")),
        "a call": chat(conversation("add") + [call], template="calls"),
        "reasoning": chat(conversation("hi") + [reasoned], template="calls"),
        "tools": chat(conversation("hi", "yo"), template="calls", tools=TOOLS),
        "text": text("hello world\nline two\n"),
        "text with CR": text("hello world\rline two\r"),
        "text with BOS": text("<|begin|>hello", bos=False),
        "pair": pair("Q: 1+1?\n", "2"),
        "pair with BOS": pair("<|begin|>Q: 1+1?\n", "2", bos=False),
        "pair with a comma": pair("a, \"b\"\nand c:", " d"),
    }


def greedy(model, ids, count):
    """Greedy tokens, and the smallest difference between the first and the second logit."""
    ids, margin = list(ids), float("inf")
    for _ in range(count):
        with torch.no_grad():
            first, second = (top := model(input_ids=torch.tensor([ids])).logits[0, -1].topk(2)).values.tolist()
        margin = min(margin, first - second)
        ids.append(top.indices[0].item())
    return ids[-count:], margin


def texts(tokenizer):
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32, attn_implementation="eager")
    prompt = tokenizer.apply_chat_template(
        conversation("What is 7?"), add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )

    def answer(end):
        ids = model.generate(**prompt, max_new_tokens=30, do_sample=False, eos_token_id=end)[0]
        return tokenizer.decode(ids[prompt["input_ids"].shape[1] :])

    assert answer(IM_END) == ANSWER + "<|im_end|>"
    assert answer(END).startswith(ANSWER + "<|im_end|>\n<|im_start|>user")  # it needs its end token

    # The first prompt of about 600 tokens whose beginning matters, with a margin.
    for seed in range(1000):
        chosen = random.Random(seed)
        text = "What is " + " ".join(chosen.choices("alpha beta gamma delta one two three France".split(), k=210))
        ids = tokenizer(text)["input_ids"]
        (whole, margin), (cut, _) = greedy(model, ids, 6), greedy(model, ids[-512:], 6)
        if 540 < len(ids) < 620 and whole != cut and margin > 0.1 and max(whole) < IM_START:
            break
    else:
        raise SystemExit("no prompt is found")

    # A decoder that removes the space at the beginning of a text, as those after SentencePiece do.
    def strips(tokenizer):
        strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        return tokenizer | {"decoder": {"type": "Sequence", "decoders": [tokenizer["decoder"], strip]}}

    stripping = AutoTokenizer.from_pretrained(Folder(tokenizer=strips).path)
    ids = stripping("The")["input_ids"]
    more, margin = greedy(model, ids, 2)
    assert margin > 0.1 and stripping.decode(more) == "capital of"
    return {
        "answer": ANSWER,
        "prompt": text,
        "continuation": tokenizer.decode(whole),
        "stripped": stripping.decode(ids + more, skip_special_tokens=True),
    }


def data():
    rows = [{"messages": conversation("hi", "yo")}] * 2
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    pandas.DataFrame(rows).to_parquet(os.path.join(HERE, "data/rows.parquet"), compression="snappy")
    with open(os.path.join(HERE, "data/rows.jsonl.gz"), "wb") as file:
        file.write(gzip.compress(lines, mtime=0))
    with open(os.path.join(HERE, "data/rows.jsonl.zst"), "wb") as file:
        file.write(zstandard.compress(lines))


def main():
    torch.set_num_threads(1)
    os.makedirs(MODEL, exist_ok=True)
    os.makedirs(os.path.join(HERE, "data"), exist_ok=True)
    for path, template in ("model/chat_template", "chat_template"), ("data/calls", "calls"):
        with open(os.path.join(HERE, path + ".jinja"), "w") as file:
            file.write(TEMPLATES[template])
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    tokenizer.chat_template = TEMPLATES["chat_template"]
    train(tokenizer)
    data()
    chosen = random.Random(1)
    rows = [[chosen.randrange(420) for _ in range(12)] for _ in range(4)]
    expected = {"rows": rows, "losses": losses(rows), "documents": documents(tokenizer), "texts": texts(tokenizer)}
    with open(os.path.join(HERE, "expected.json"), "w") as file:
        file.write("{\n" + ",\n".join(f' "{key}": {compact(value)}' for key, value in expected.items()) + "\n}\n")


def compact(value):
    """JSON with one member per line."""
    if isinstance(value, list):
        return "[\n" + ",\n".join("  " + json.dumps(item) for item in value) + "\n ]"
    return "{\n" + ",\n".join(f"  {json.dumps(key)}: {json.dumps(item)}" for key, item in value.items()) + "\n }"


if __name__ == "__main__":
    main()
