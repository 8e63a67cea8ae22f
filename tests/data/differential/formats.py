"""Rows as the documentation of Horizon describes them: messages, variables of the template, and tokens.

Nothing here comes from Horizon's code, which is `src/data/rows`.
"""

import json


class Refused(Exception):
    """The row is not one to train on."""


class Unknown(Exception):
    """The reference cannot tell which part of a rendered text is a turn; the message is the reason."""


class Content(str):
    """Text of a content that is none or a list of parts: a template that asks for these gets them as `given`."""

    given = None


def content(given, text: str) -> Content:
    out = Content(text)
    out.given = given
    return out


def need(condition, message: str) -> None:
    if not condition:
        raise Refused(message)


# Rows -----------------------------------------------------------------------------------------------------------------

ROLES = {name: name for name in ("user", "assistant", "tool", "system", "developer")}
ROLES |= dict.fromkeys(["gpt", "ai", "model", "chatgpt", "bot", "function_call"], "assistant")
ROLES |= {"human": "user", "function": "tool", "function_response": "tool"}
# Fields of a turn that say whether it is trained on; the last one says the opposite.
TRAINED = ["weight", "train", "training", "trainable", "loss", "loss_mask", "masked"]
REASONING = ["reasoning_content", "thinking", "reasoning"]
# The fields of each format, and those that are lists or objects, which JSON text may stand for.
FORMATS = [
    [["messages"]],
    [["conversations", "conversation"]],
    [["prompt"], ["completion"]],
    [["instruction"], ["output"]],
    [["instruction"], ["response"]],
    [["tokens"]],
    [["input_ids"]],
    [["text"]],
]
NEEDED_LISTS = ["messages", "conversations", "conversation", "tokens", "input_ids"]
PER_TOKEN = ["labels", "loss_mask", "completion_mask", "assistant_masks", "attention_mask", "position_ids"]
LISTS = NEEDED_LISTS + PER_TOKEN + ["seq_lengths", "cu_seqlens", "history"]
LISTS += ["tools", "functions", "documents", "chat_template_kwargs"]


def without_nulls(item: dict) -> dict:
    return {key: value for key, value in item.items() if value is not None}


def text_of(value, name: str) -> str:
    need(isinstance(value, str), f"{name} is no text")
    need(not any("\ud800" <= character <= "\udfff" for character in value), f"{name} has a lone surrogate")
    return value


def string(row: dict, key: str) -> str:
    return text_of(row.get(key), key)


def content_of(value) -> str:
    """A text, or a list of parts of text, which are joined unless the template loops over them."""
    if not isinstance(value, list):
        return text_of(value, "content")
    texts = [text_of_part(part) for part in value]
    return content([{"type": "text", "text": text} for text in texts], "".join(texts))


def text_of_part(part) -> str:
    if isinstance(part, dict):
        need(part.get("type") in (None, "text", "input_text", "output_text"), "a part is no text")
        need("text" in part, "a part is no text")
        part = part["text"]
    return "" if part is None else text_of(part, "a part")


def from_text(value):
    """The list or object that JSON text stands for, `None` for empty text and null; anything else as it is."""
    if not isinstance(value, str):
        return value
    text = value.strip(" \t\n\r\f")
    if text in ("", "null"):
        return None
    try:
        return json.loads(text) if text[0] in "[{" else value
    except ValueError:
        return value


def decoded(value):
    """The object that JSON text stands for; anything else as it is."""
    found = from_text(value)
    return found if isinstance(found, dict) else value


def listed(value, name: str):
    """A list, its only element, or the JSON text of either."""
    value = from_text(value)
    if isinstance(value, dict):
        return [value]
    need(value is None or isinstance(value, list), f"{name} is no list")
    return value


def with_lists(row: dict) -> dict:
    """The row with JSON text decoded."""
    out = {key: from_text(value) if key in LISTS else value for key, value in row.items()}
    for key in ("prompt", "completion"):
        found = from_text(out.get(key))
        if isinstance(found, list) and found and all(speaks(item) for item in found):
            out[key] = found
    return out


def speaks(item) -> bool:
    return isinstance(item, dict) and (item.get("role") is not None or item.get("from") is not None)


def format_of(row: dict) -> str:
    """The first format whose fields are there with content, else the first whose fields are there."""
    values = lambda names: [row[name] for name in names if row.get(name) is not None]
    empty = lambda value: value in ("", [], {})
    there = [fields for fields in FORMATS if all(values(names) for names in fields)]
    for fields in there:
        lists = [values(names) for names in fields if names[0] in NEEDED_LISTS]
        if all(any(isinstance(value, list) and value for value in found) for found in lists) and any(
            not empty(value) for names in fields for value in values(names)
        ):
            return fields[-1][0]
    need(there, "no field to train on")
    return there[0][-1][0]


def spelled(item: dict, *names: str):
    """The value of a field with several names. Null and empty text are none if there is another one."""
    present = [item[name] for name in names if item.get(name) is not None]
    full = [value for value in present if value != ""] or present
    need(all(value == full[0] for value in full), f"{names[0]} contradicts {names[-1]}")
    return full[0] if full else None


def functions(value, name: str, member: str):
    """Tools or tool calls: objects, whose `member` may be JSON text. Null members are absent ones."""
    items = listed(value, name)
    if items is None:
        return None
    out = []
    for item in items:
        item = decoded(item)
        need(isinstance(item, dict), f"an element of {name} is no object")
        item = without_nulls(item)
        if isinstance(item.get("function"), dict):
            item["function"] = without_nulls(item["function"])
        for function in (item, item.get("function")):
            if isinstance(function, dict) and member in function:
                function[member] = decoded(function[member])
        out.append(item)
    whole(out, name)
    return out


def whole(value, name: str) -> None:
    text_of(json.dumps(value, ensure_ascii=False), name)


def switch(value, name: str) -> bool:
    if isinstance(value, str):
        written = {"true": True, "false": False}
        try:
            value = written[value.lower()] if value.lower() in written else float(value)
        except ValueError:
            pass
    need(isinstance(value, (bool, int, float)) and value in (0, 1), f"{name} is neither 0 nor 1")
    return bool(value)


def role_of(item: dict) -> str:
    found = {}
    for name in ("role", "from"):
        if item.get(name) not in (None, ""):
            role = string(item, name)
            known = ROLES | ({"observation": "tool"} if name == "from" else {})
            need(name == "role" or role.lower() in known, "from is not known")
            found[known.get(role.lower(), role)] = name
    need(found, "role is missing")
    need(len(found) == 1, "role contradicts from")
    return next(iter(found))


def message_of(given) -> tuple[dict, bool]:
    """Returns a message for the template, and whether its own fields allow that it is trained on."""
    need(isinstance(given, dict), "a message is no object")
    item = without_nulls(given)
    marks = {switch(item.pop(name), name) != (name == "masked") for name in TRAINED if name in item}
    need(len(marks) < 2, "fields contradict each other")
    text, reasoning = spelled(item, "content", "value"), spelled(item, *REASONING)
    role, speaker = role_of(item), item.get("role") or item.get("from")
    calls = None
    if "function_call" in item:
        call = decoded(item["function_call"])
        need(isinstance(call, dict) and "name" in call, "function_call is no function")
        calls = functions([{"type": "function", "function": without_nulls(call)}], "function_call", "arguments")
    elif "tool_calls" in item:
        calls = functions(item["tool_calls"], "tool_calls", "arguments")
    if text is not None:
        text = content_of(text)
    elif calls:
        text = content(None, "")
    else:
        need(reasoning is not None or "content" in given or "value" in given, "content is missing")
        text = ""
    if speaker == "function_call" and not calls:
        found = calls_in_text(text)
        text, calls = ("", found) if found else (text, calls)
    # The library gives a template the reasoning under its other names, too.
    values = {"role": role, "from": role, "content": text, "value": text, "tool_calls": calls, "function_call": calls}
    values |= dict.fromkeys(REASONING, reasoning)
    names = {"from": "role", "value": "content", "function_call": "tool_calls"}
    out = {}
    for key in given:
        if key in item or key in ("content", "value"):
            out[names.get(key, key)] = values.get(key, item.get(key))
    out.setdefault("content", text)
    out.setdefault("tool_calls", calls)
    if reasoning is not None:
        text_of(reasoning, "reasoning")
    return without_nulls(out), marks != {False}


def calls_in_text(text: str) -> list | None:
    """The tool calls that the text of a ShareGPT turn has."""
    try:
        calls = json.loads(text)
    except ValueError:
        return None
    calls = calls if isinstance(calls, list) else [calls]
    if not calls or not all(isinstance(call, dict) and "name" in call and "arguments" in call for call in calls):
        return None
    calls = [{"type": "function", "function": without_nulls(call)} for call in calls]
    return functions(calls, "function_call", "arguments")


def messages_of(items, trained: bool = True) -> tuple[list[dict], list]:
    """Returns the messages, and whether each is trained on; `None` for a turn that its own field excludes."""
    need(isinstance(items, list), "messages are no list")
    pairs = [message_of(item) for item in items]
    return [message for message, _ in pairs], [
        (allowed or None) if trained and message["role"] == "assistant" else False for message, allowed in pairs
    ]


def with_system(row: dict, messages: list, trained: list) -> tuple[list[dict], list]:
    need(set(trained) != {False} and trained, "nothing to train on")
    system = spelled(row, "system", "system_prompt")
    system = "" if system is None else content_of(system)
    prompts = [str(message["content"]).strip() for message in messages if message["role"] == "system"]
    if system.strip() in ["", *prompts]:
        return messages, trained
    return [{"role": "system", "content": system}] + messages, [False] + trained


def variables_of(row: dict) -> dict:
    tools, older = (row.get(name) if row.get(name) != {} else None for name in ("tools", "functions"))
    if isinstance(tools, list):
        tools = [tool for tool in tools if tool is not None] or (tools if not tools else None)
    need(tools is None or older is None, "tools are given twice")
    if older is not None:
        tools = listed(older, "functions")
        tools = tools and [{"type": "function", "function": decoded(function)} for function in tools]
        need(all(isinstance(tool["function"], dict) for tool in tools or []), "an element of functions is no object")
    out = {
        "tools": functions(tools, "tools", "parameters"),
        "documents": functions(row.get("documents"), "documents", ""),
    }
    more = row.get("chat_template_kwargs")
    need(
        more is None or isinstance(more, dict) and not {"messages", "add_generation_prompt"} & set(more),
        "chat_template_kwargs",
    )
    return without_nulls(out) | (more or {})


def alpaca(instruction: str, more: str) -> str:
    """The prompt of Stanford's Alpaca."""
    if more:
        return (
            "Below is an instruction that describes a task, paired with an input that provides further context. Write"
            f" a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n###"
            f" Input:\n{more}\n\n### Response:"
        )
    return (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        f"### Instruction:\n{instruction}\n\n### Response:"
    )


# Token rows: the collators of TRL and transformers --------------------------------------------------------------------


def integers(row: dict, key: str, n: int, bits: bool = False) -> list[int] | None:
    """One integer per token, none negative."""
    values = row.get(key)
    if values is None:
        return None
    need(isinstance(values, list) and len(values) == n, f"{key} has another length")
    need(
        all(isinstance(value, (bool, int, float)) and value == int(value) for value in values), f"{key} has no integer"
    )
    need(bits or not any(isinstance(value, bool) for value in values), f"{key} has no integer")
    return [int(value) for value in values]


def token_documents(row: dict, key: str, vocabulary: int) -> list[tuple[list[int], list[int]]]:
    need(isinstance(row[key], list), "tokens are no list")
    size = len(row[key])
    for name in PER_TOKEN:
        values = row.get(name)
        need(values is None or isinstance(values, list) and len(values) == size, f"{name} has another length")
    attention = integers(row, "attention_mask", size, bits=True)
    first, end = 0, size
    if attention is not None and size:
        need(min(attention) >= 0 and max(attention) > 0, "attention_mask")
        first = next(at for at in range(size) if attention[at])
        end = next(at for at in range(size, 0, -1) if attention[at - 1])
        attention = attention[first:end]
        need(all(attention), "padding between tokens")
    # Values of padding are not read.
    row = row | {name: row[name][first:end] for name in PER_TOKEN + [key] if row.get(name) is not None}
    n = end - first
    ids = integers(row, key, n)
    need(all(0 <= token < vocabulary for token in ids), "no token")
    masks = [integers(row, name, n, bits=True) for name in ("loss_mask", "completion_mask", "assistant_masks")]
    need(all(mask is None or set(mask) <= {0, 1} for mask in masks), "a mask is neither 0 nor 1")
    masks = [mask for mask in masks if mask is not None]
    found = numbered(attention) + restarts(integers(row, "position_ids", n), first)
    lengths, bounds = (
        integers(row, name, len(row[name])) if isinstance(row.get(name), list) else need(row.get(name) is None, name)
        for name in ("seq_lengths", "cu_seqlens")
    )
    if bounds is not None:
        need(bounds[:1] == [0], "cu_seqlens does not begin with 0")
        found.append(by_length([b - a for a, b in zip(bounds, bounds[1:])], first, end, size))
    if lengths is not None:
        found.append(by_length(lengths, first, end, size))
    several = [starts for starts in found if len(starts) > 1]
    need(all(starts == several[0] for starts in several), "fields disagree about documents")
    starts = several[0] if several else [0]
    trained = [int(all(mask[at] for mask in masks)) for at in range(len(ids))]
    labels = integers(row, "labels", n)
    if labels is not None:
        need(all(label in (-100, token) for label, token in zip(labels, ids)), "labels")
        labels = [int(label != -100) for label in labels]
        # A document's first token is no target.
        targets = [at for at in range(len(ids)) if at not in starts]
        if not masks:
            trained = labels
        elif all(labels[at] for at in targets):
            trained = [a & b for a, b in zip(labels, trained)]
        else:
            need(all(labels[at] == trained[at] for at in targets), "labels and masks differ")
            trained = labels
    ends = starts[1:] + [len(ids)]
    return [(ids[a:b], trained[a:b]) for a, b in zip(starts, ends)]


# Starts of documents, from the first token that is no padding.


def numbered(mask: list[int] | None) -> list[list[int]]:
    """`attention_mask` may number the documents."""
    if not mask:
        return []
    need(all(b in (a, a + 1) for a, b in zip([0] + mask, mask)), "attention_mask does not number documents 1, 2, 3")
    return [[at for at in range(len(mask)) if at == 0 or mask[at] != mask[at - 1]]]


def restarts(positions: list[int] | None, padding: int) -> list[list[int]]:
    """`position_ids` restart with each document."""
    if not positions:
        return []
    need(min(positions) >= 0, "position_ids has a negative position")
    base = int(positions[0] == 1 and not (padding == 1 and 0 in positions))
    need(positions[0] in (base, padding), "position_ids has another first position")
    need(all(b in (a + 1, base) for a, b in zip(positions, positions[1:])), "position_ids do not count up")
    return [[at for at in range(len(positions)) if at == 0 or positions[at] == base]]


def by_length(lengths: list[int], first: int, end: int, n: int) -> list[int]:
    """Lengths of documents make up the tokens, or the row with its padding."""
    need(min(lengths, default=0) >= 0 and sum(lengths) in (n, end - first), "lengths do not make up the row")
    at = first if sum(lengths) == end - first else 0
    starts = []
    for length in lengths:
        # Documents without tokens, and those of padding alone, are none.
        if length and at < end and at + length > first:
            starts.append(max(at, first) - first)
        at += length
    return starts
