"""Random rows in every accepted format, with texts that break tokenizers, and some rows that must be refused."""

import json
import random

WORDS = [
    "The",
    "capital",
    "of",
    "France",
    "is",
    "Paris",
    "one",
    "two",
    "three",
    "a",
    "b",
    "def",
    "return",
    "x",
    "don't",
    "I'LL",
    "hello",
    "1234567",
    "3.14",
    "89",
    "naïve",
    "café",
    "e\u0301",
    "東京",
    "タワー",
    "שלום",
    "مرحبا",
    "🙂",
    "👩‍👩‍👧",
    "🇫🇷",
    "ﬁ",
    "Ⅳ",
    "\u200b",
    "\u00a0",
    "\ufeff",
    "\u0000",
    "\u0007",
    "\x7f",
    "\u2028",
    "ı",
    "ß",
    "𝕏",
    "Wort",
    "pneumono" * 12,
    "aaaaaaaaaaaaaa",
    "<",
    ">",
    "&",
    '"quoted"',
    "'",
    "\\n",
    "{{ x }}",
    "{% if %}",
    "▁",
    "Ġ",
    "##",
    "0x1F",
    "<0x41>",
    "http://a.b/c?d=e",
    "None",
    "null",
]
SPACES = [" ", " ", " ", " ", " ", "  ", "\n", "\n\n", "\r\n", "\t", "", "   \n "]
SPECIAL = [
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|end|>",
    "<|eot_id|>",
    "<|user|>",
    "<think>",
    "</think>",
    "[INST]",
    "<unk>",
]
TRAINED = ["weight", "train", "training", "trainable", "loss", "loss_mask", "masked"]
ODD = [None, 7, "", "x", [], {}, True, [1], {"a": 1}, -1, 1.5, 2**70]


def text(rng: random.Random, most: int = 12) -> str:
    if rng.random() < 0.04:
        return rng.choice(["", "", " ", "\n", "  \n"])
    out = rng.choice(["", "", "", "", " ", "\n", "  "])
    for _ in range(rng.randint(1, most)):
        out += rng.choice(SPECIAL) if rng.random() < 0.03 else rng.choice(WORDS)
        out += rng.choice(SPACES)
    return out if rng.random() < 0.2 else out.rstrip()


def value(rng: random.Random, depth: int = 0):
    choices = [0, 1, -5, 1.0, 2.5, 1e20, 1e-7, True, False, None, "x", text(rng, 2), 2**53 + 1, -(2**63), 2**64, 10**30]
    if depth < 2 and rng.random() < 0.35:
        if rng.random() < 0.5:
            return [value(rng, depth + 1) for _ in range(rng.randrange(3))]
        return {key: value(rng, depth + 1) for key in rng.sample(["z", "a", "unit", "é", "a b"], rng.randrange(3))}
    return rng.choice(choices)


def arguments(rng: random.Random) -> dict:
    return {key: value(rng) for key in rng.sample(["city", "b", "a", "n", "opt"], rng.randrange(4))}


def call(rng: random.Random) -> dict:
    given = arguments(rng)
    kind = rng.random()
    if kind < 0.35:
        given = json.dumps(given, ensure_ascii=rng.random() < 0.5)
    elif kind < 0.4:
        given = "not JSON"
    function = {"name": rng.choice(["add", "get_weather"]), "arguments": given}
    out = {"type": "function", "function": function}
    if rng.random() < 0.4:
        out["id"] = "call_1"
    return out


def tool(rng: random.Random) -> dict:
    parameters = {
        "type": "object",
        "properties": {
            name: {"type": "string", "description": text(rng, 2)}
            for name in rng.sample(["b", "a", "é"], rng.randrange(1, 3))
        },
    }
    if rng.random() < 0.4:
        parameters["required"] = ["a"]
    function = {"name": "add", "description": text(rng, 3), "parameters": parameters}
    if rng.random() < 0.15:
        function["parameters"] = json.dumps(parameters)
    return {"type": "function", "function": function}


def content(rng: random.Random, most: int = 12):
    plain = text(rng, most)
    if rng.random() < 0.08:
        return [{"type": "text", "text": text(rng, 4)} for _ in range(rng.randrange(1, 4))]
    return plain


def trained(rng: random.Random, message: dict) -> None:
    """Adds a field that says whether a turn is trained on."""
    name = rng.choice(TRAINED)
    on = rng.random() < 0.5
    given = on != (name == "masked")
    message[name] = rng.choice([given, int(given), float(given), str(given), str(given).lower()])


def messages(rng: random.Random, start: str = "user", turns: int | None = None, sharegpt: bool = False) -> list[dict]:
    out = []
    if start == "user" and rng.random() < 0.3:
        out.append({"role": "system", "content": content(rng, 5)})
    role = start
    masks = rng.random() < 0.15
    for _ in range(turns or rng.choice([2, 2, 2, 3, 4, 4, 5, 6])):
        message = {"role": role, "content": content(rng)}
        if role == "assistant":
            if rng.random() < 0.12:
                message[rng.choice(["reasoning", "thinking", "reasoning_content"])] = text(rng, 4)
            elif rng.random() < 0.06:
                message["content"] = f"<think>\n{text(rng, 3)}\n</think>\n\n{text(rng, 4)}"
            if not sharegpt and rng.random() < 0.12:
                message["tool_calls"] = [call(rng) for _ in range(rng.randint(1, 2))]
                if rng.random() < 0.15:
                    message["tool_calls"] = json.dumps(message["tool_calls"])
                if rng.random() < 0.5:
                    message["content"] = rng.choice(["", None])
            elif not sharegpt and rng.random() < 0.05:
                # OpenAI's older form of a call.
                message["function_call"] = call(rng)["function"]
                message["content"] = rng.choice(["", None])
            if masks and rng.random() < 0.6:
                trained(rng, message)
        if rng.random() < 0.08:
            # Data sets in columns have every key in every message.
            for key in rng.sample(["tool_calls", "name", "reasoning_content", "weight", "tool_call_id"], 2):
                message.setdefault(key, None)
        if rng.random() < 0.05:
            message["name"] = "alice"
        out.append(message)
        if message.get("tool_calls"):
            role = "tool"
        elif message.get("function_call"):
            role = "function"
        elif rng.random() < 0.04:
            pass
        else:
            role = "user" if role == "assistant" else "assistant"
    return out


def shared(rng: random.Random, row: dict) -> dict:
    """Adds fields of a conversation that are not messages."""
    if rng.random() < 0.15:
        tools, name = [tool(rng) for _ in range(rng.randint(1, 2))], "tools"
        if rng.random() < 0.25:
            tools, name = [one["function"] for one in tools], "functions"
        form = rng.random()
        if form < 0.1:
            tools = [json.dumps(one) for one in tools]
        row[name] = json.dumps(tools) if form < 0.4 else tools
    elif rng.random() < 0.06:
        row["tools"] = rng.choice([None, [], "", "[]"])
    if rng.random() < 0.06:
        row["documents"] = [{"title": "T", "text": text(rng, 3)}]
        if rng.random() < 0.3:
            row["documents"] = json.dumps(row["documents"])
    if rng.random() < 0.06:
        row["chat_template_kwargs"] = {"style": rng.choice(["short", None]), "level": rng.choice([1, 2.5, 2**70])}
    if rng.random() < 0.06:
        first = next(iter(row.get("messages") or row.get("conversations") or [{}]))
        system = rng.choice(["Be brief.", "", None, first.get("content"), first.get("value")])
        row[rng.choice(["system", "system_prompt"])] = system
    return row


def of_messages(rng: random.Random) -> dict:
    return shared(rng, {"messages": messages(rng)})


FROM = {
    "user": ["human", "human", "user", "Human"],
    "system": ["system"],
    "tool": ["observation", "tool", "function_response"],
    "assistant": ["gpt", "gpt", "gpt", "assistant", "model", "chatgpt", "bot", "GPT", "ai"],
}


def of_sharegpt(rng: random.Random) -> dict:
    turns = messages(rng, sharegpt=True)
    if rng.random() < 0.8:
        for turn in turns:
            turn["from"] = rng.choice(FROM[turn.pop("role")])
            turn["value"] = turn.pop("content")
            if not isinstance(turn["value"], str):
                turn["value"] = text(rng)
            if turn["from"] == "gpt" and rng.random() < 0.05:
                turn["from"] = "function_call"
                call_ = {"name": "add", "arguments": rng.choice([arguments(rng), json.dumps(arguments(rng))])}
                turn["value"] = rng.choice([json.dumps(call_), json.dumps([call_]), "add(1)"])
    row = shared(rng, {"conversations": turns})
    if rng.random() < 0.2:
        row = {("conversation" if key == "conversations" else key): value for key, value in row.items()}
    return row


def of_pair(rng: random.Random) -> dict:
    return {"prompt": text(rng), "completion": rng.choice(["", " ", "\n"]) + text(rng)}


def of_message_pair(rng: random.Random) -> dict:
    prompt = messages(rng, turns=rng.choice([1, 1, 3]))
    start = "user" if prompt[-1]["role"] == "assistant" else "assistant"
    return shared(rng, {"prompt": prompt, "completion": messages(rng, start, rng.choice([1, 1, 2]))})


def of_instruction(rng: random.Random) -> dict:
    context, answer = rng.choice([("input", "output"), ("input", "output"), ("context", "response")])
    row = {"instruction": text(rng), answer: text(rng)}
    if rng.random() < 0.6:
        row[context] = rng.choice(["", None, text(rng)])
    if rng.random() < 0.15:
        row[rng.choice(["system", "system_prompt"])] = rng.choice(["Be brief.", "", None])
    if rng.random() < 0.12:
        row["history"] = rng.choice([None, [], [[text(rng, 3), text(rng, 3)]]])
    return row


def of_text(rng: random.Random) -> dict:
    return {
        "text": (
            rng.choice(["", "", "", "<s>", "<|begin|>"])
            + text(rng, 30)
            + rng.choice(["", "", "", "</s>", "<|im_end|>"])
        )
    }


def of_tokens(rng: random.Random) -> dict:
    n = rng.choice([1, 2, 3, 8, 8, 20])
    ids = [rng.randrange(1024) for _ in range(n)]
    row: dict = {rng.choice(["tokens", "input_ids", "input_ids"]): ids}
    bits = lambda: [rng.randrange(2) for _ in ids]
    as_bool = lambda mask: [bool(bit) for bit in mask] if rng.random() < 0.2 else mask
    padding = rng.choice([0, 0, 0, rng.randrange(n)])
    attention = [1] * (n - padding) + [0] * padding
    if rng.random() < 0.3:
        attention.reverse()
    if rng.random() < 0.35:
        row["attention_mask"] = as_bool(attention)
    if rng.random() < 0.35:
        row["labels"] = [token if bit and on else -100 for token, bit, on in zip(ids, bits(), attention)]
    elif rng.random() < 0.2:
        row["loss_mask"] = as_bool(bits())
    # TRL's masks mostly select the same as its labels.
    chosen = [int(label != -100) for label in row["labels"]] if "labels" in row and rng.random() < 0.8 else bits()
    if rng.random() < 0.25:
        row["completion_mask"] = as_bool(chosen)
    if rng.random() < 0.15:
        row["assistant_masks"] = as_bool(chosen)
    if rng.random() < 0.4:
        packed(rng, row, attention)
    return row


def packed(rng: random.Random, row: dict, attention: list[int]) -> None:
    """Adds fields that say where documents begin. Padding stands at one end."""
    n, length = len(attention), sum(attention)
    first = attention.index(1)
    starts = sorted({0} | {rng.randrange(length) for _ in range(rng.randrange(3))})
    position = lambda at: at - max(start for start in starts if start <= at)
    if rng.random() < 0.4:
        base = rng.choice([0, 0, 0, 1])
        positions = [base + position(at) for at in range(length)]
        row["position_ids"] = [rng.randrange(2)] * first + positions + [rng.randrange(2)] * (n - first - length)
    if rng.random() < 0.3 or n != length and "attention_mask" not in row:
        numbers = [sum(start <= at for start in starts) for at in range(length)]
        row["attention_mask"] = [0] * first + numbers + [0] * (n - first - length)
    ends = starts[1:] + [length]
    lengths = [end - start for start, end in zip(starts, ends)]
    if rng.random() < 0.3 and n != length:
        # Padding is a document.
        lengths = [first] * (first > 0) + lengths + [n - first - length] * (first == 0)
    if rng.random() < 0.3:
        row["seq_lengths"] = lengths
    if rng.random() < 0.3:
        row["cu_seqlens"] = [sum(lengths[:at]) for at in range(len(lengths) + 1)]


FORMATS = {
    "messages": (of_messages, 9),
    "conversations": (of_sharegpt, 4),
    "pair": (of_pair, 3),
    "pair of messages": (of_message_pair, 2),
    "instruction": (of_instruction, 2),
    "text": (of_text, 3),
    "tokens": (of_tokens, 4),
}


def spoil(rng: random.Random, item) -> None:
    """Replaces or removes one value somewhere."""
    while True:
        keys = list(item.keys()) if isinstance(item, dict) else list(range(len(item)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(item[key], (dict, list)) and item[key] and rng.random() < 0.7:
            item = item[key]
        elif rng.random() < 0.3:
            del item[key]
            return
        else:
            item[key] = rng.choice(ODD)
            return


def row(rng: random.Random) -> tuple[str, dict]:
    """Returns the name of a format and a row."""
    names = list(FORMATS)
    name = rng.choices(names, [FORMATS[name][1] for name in names])[0]
    made = FORMATS[name][0](rng)
    if rng.random() < 0.05:
        # As columns of CSV.
        made = {key: json.dumps(item) if isinstance(item, (list, dict)) else item for key, item in made.items()}
    if rng.random() < 0.05:
        spoil(rng, made)
        name += ", spoilt"
    if rng.random() < 0.05:
        made[rng.choice(["id", "source", "weight", "score"])] = rng.choice(
            [float("nan"), "x", 3, None, 2**80, "\ud83d"]
        )
    return name, made


def line(rng: random.Random, made: dict) -> str:
    """Writes a row as one of the usual programs does."""
    ascii_ = rng.random() < 0.5 or "\\ud83d" in json.dumps(made)
    separators = (",", ":") if rng.random() < 0.3 else None
    return json.dumps(made, ensure_ascii=ascii_, separators=separators)
