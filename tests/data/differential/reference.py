"""The reference: each row as the documentation of Horizon describes it, tokenized by transformers.

`Reference.documents(row)` returns the documents of a row as lists of tokens and of bits, the loss mask. It raises
`Refused` if the row must be refused. Nothing here comes from Horizon's code.
"""

import copy
import datetime
import json

from tokenizers import Tokenizer
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

# 2025-01-31 13:04:05 UTC: the time that templates print.
NOW = 1738328645


class Refused(Exception):
    """The row is not one to train on."""


class Unknown(Exception):
    """The reference cannot tell which part of a rendered text is a turn."""


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(NOW, datetime.timezone.utc).replace(tzinfo=tz)


chat_template_utils.datetime = Clock


def need(condition, message: str) -> None:
    if not condition:
        raise Refused(message)


# Rows -----------------------------------------------------------------------------------------------------------------

ROLES = {
    "human": "user",
    "user": "user",
    "system": "system",
    "developer": "developer",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
} | dict.fromkeys(["gpt", "assistant", "model", "chatgpt", "bot", "function_call"], "assistant")
# Fields of a turn that say whether it is trained on; the last one says the opposite.
TRAINED = ["weight", "train", "training", "trainable", "loss", "loss_mask", "masked"]
REASONING = ["reasoning_content", "reasoning", "thinking"]


def without_nulls(item: dict) -> dict:
    return {key: value for key, value in item.items() if value is not None}


def text_of(value, name: str) -> str:
    need(isinstance(value, str), f"{name} is no text")
    need(not any("\ud800" <= character <= "\udfff" for character in value), f"{name} has a lone surrogate")
    return value


def string(row: dict, key: str) -> str:
    return text_of(row.get(key), key)


def joined(content) -> str:
    """A text, or a list of parts of text, which are joined. Null is empty text."""
    if content is None:
        return ""
    if not isinstance(content, list):
        return text_of(content, "content")
    out = ""
    for part in content:
        if isinstance(part, dict):
            need(part.get("type") in (None, "text", "input_text", "output_text"), "a part is no text")
            part = part.get("text")
        out += text_of(part, "a part")
    return out


def decoded(value):
    """The object that JSON text stands for; anything else as it is."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value
    return found if isinstance(found, dict) else value


def listed(value, name: str):
    """A list, or the JSON text of one; empty text is none."""
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            value = json.loads(value)
        except ValueError:
            raise Refused(f"{name} is no JSON")
    need(value is None or isinstance(value, list), f"{name} is no list")
    return value


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
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    need(isinstance(value, (bool, int, float)) and value in (0, 1), f"{name} is neither 0 nor 1")
    return bool(value)


def message_of(given) -> tuple[dict, bool]:
    """Returns a message for the template, and whether its own fields allow that it is trained on."""
    need(isinstance(given, dict), "a message is no object")
    item = without_nulls(given)
    marks = {switch(item.pop(name), name) != (name == "masked") for name in TRAINED if name in item}
    need(len(marks) < 2, "fields contradict each other")
    for names, name in ((("role", "from"), "role"), (("content", "value"), "content")):
        other = next((other for other in names if other in item), None)
        if other is not None:
            item = {name if key == other else key: value for key, value in item.items() if key != name or key == other}
    need("role" in item, "role is missing")
    role = string(item, "role")
    need("role" in given or role in ROLES, "from is not known")
    item["role"] = ROLES.get(role, role) if role != "observation" or "role" not in given else role
    reasoning = {name: item.pop(name) for name in REASONING if name in item}
    if "content" in item or "content" in given or "value" in given:
        item["content"] = joined(item.get("content"))
    else:
        need("tool_calls" in item or reasoning, "content is missing")
    if "tool_calls" in item:
        item["tool_calls"] = functions(item["tool_calls"], "tool_calls", "arguments")
        item = without_nulls(item)
    if role == "function_call":
        item |= calls_in_text(item.get("content", ""))
    if reasoning:
        full = [text for text in reasoning.values() if text != ""] or [""]
        need(all(text == full[0] for text in full), "two kinds of reasoning")
        item |= dict.fromkeys(REASONING, text_of(full[0], "reasoning"))
    return item, marks != {False}


def calls_in_text(content: str) -> dict:
    """The tool calls that the text of a ShareGPT turn has."""
    try:
        calls = json.loads(content)
    except ValueError:
        return {}
    calls = calls if isinstance(calls, list) else [calls]
    if not calls or not all(isinstance(call, dict) and "name" in call and "arguments" in call for call in calls):
        return {}
    calls = [{"type": "function", "function": without_nulls(call)} for call in calls]
    return {"content": "", "tool_calls": functions(calls, "function_call", "arguments")}


def messages_of(items, trained: bool = True) -> tuple[list[dict], list[bool]]:
    need(isinstance(items, list), "messages are no list")
    pairs = [message_of(item) for item in items]
    return [message for message, _ in pairs], [
        trained and allowed and message["role"] == "assistant" for message, allowed in pairs
    ]


def with_system(row: dict, messages: list, trained: list) -> tuple[list[dict], list[bool]]:
    if not row.get("system"):
        need(row.get("system") in (None, ""), "system is no text")
        return messages, trained
    system = string(row, "system")
    if messages and messages[0]["role"] == "system" and messages[0].get("content") == system:
        return messages, trained
    return [{"role": "system", "content": system}] + messages, [False] + trained


def variables_of(row: dict) -> dict:
    out = {
        "tools": functions(row.get("tools"), "tools", "parameters"),
        "documents": listed(row.get("documents"), "documents"),
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
    n = len(row[key])
    attention = integers(row, "attention_mask", n, bits=True)
    first, end = 0, n
    if attention is not None and n:
        need(min(attention) >= 0 and max(attention) > 0, "attention_mask")
        first = next(at for at in range(n) if attention[at])
        end = next(at for at in range(n, 0, -1) if attention[at - 1])
        need(all(attention[first:end]), "padding between tokens")
    # Padding is dropped, so what it holds does not matter.
    part = lambda values: None if values is None else values[first:end]
    ids = integers({key: row[key][first:end]}, key, end - first)
    need(all(0 <= token < vocabulary for token in ids), "no token")
    masks = [integers(row, name, n, bits=True) for name in ("loss_mask", "completion_mask", "assistant_masks")]
    need(all(mask is None or set(mask) <= {0, 1} for mask in masks), "a mask is neither 0 nor 1")
    masks = [part(mask) for mask in masks if mask is not None]
    starts = starts_of(part(attention), part(integers(row, "position_ids", n)), first)
    trained = [int(all(mask[at] for mask in masks)) for at in range(len(ids))]
    labels = row.get("labels")
    if labels is not None:
        need(isinstance(labels, list) and len(labels) == n, "labels has another length")
        labels = integers({"labels": part(labels)}, "labels", len(ids))
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


def starts_of(numbers: list[int] | None, positions: list[int] | None, padding: int) -> list[int]:
    """Starts of documents: `attention_mask` may number them, `position_ids` restart with them."""
    found = []
    if numbers:
        need(all(b in (a, a + 1) for a, b in zip([0] + numbers, numbers)), "documents are numbered 1, 2, 3")
        found.append([at for at in range(len(numbers)) if at == 0 or numbers[at] != numbers[at - 1]])
    if positions:
        need(min(positions) >= 0, "a negative position")
        base = int(positions[0] == 1 and padding != 1)
        need(positions[0] in (base, padding), "the first position")
        need(all(b in (a + 1, base) for a, b in zip(positions, positions[1:])), "positions do not count up")
        found.append([at for at in range(len(positions)) if at == 0 or positions[at] == base])
    several = [starts for starts in found if len(starts) > 1]
    need(all(starts == several[0] for starts in several), "fields disagree about documents")
    return several[0] if several else [0]


# Text -----------------------------------------------------------------------------------------------------------------


class Reference:
    def __init__(self, folder: str, template, vocabulary: int):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.vocabulary = vocabulary
        self.template = template
        # Offsets are those before the post-processor, which may trim spaces off.
        state = json.loads(self.tokenizer.backend_tokenizer.to_str())
        state["post_processor"] = None
        self.bare = Tokenizer.from_str(json.dumps(state))
        probe = self.tokenizer("a", return_special_tokens_mask=True)
        mask = probe["special_tokens_mask"]
        text = [at for at, bit in enumerate(mask) if not bit] or [len(mask)]
        self.before = probe["input_ids"][: text[0]]
        self.after = probe["input_ids"][text[-1] + 1 :]
        self.eos = self.tokenizer.eos_token_id
        if self.eos is None:
            self.eos = self.eos_of_config(folder)
        self.special = {token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        # Begin of the template for rows with tools, and the last rendered text.
        self.tool_use, self.text = "", ""
        # True if the template is used without its tags.
        self.searched = False
        # Masks of transformers that differ by trimmed offsets only.
        self.trimmed = 0

    @staticmethod
    def eos_of_config(folder: str) -> int | None:
        for name in ("generation_config.json", "config.json"):
            try:
                with open(f"{folder}/{name}") as file:
                    ids = json.load(file).get("eos_token_id")
            except FileNotFoundError:
                continue
            if ids is not None:
                return ids[0] if isinstance(ids, list) else ids
        return None

    def encode(self, text: str, spans: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
        encoding = self.bare.encode(text, add_special_tokens=False)
        mask = [int(any(start < span[1] and end > span[0] for span in spans)) for start, end in encoding.offsets]
        return encoding.ids, mask

    def document(self, text: str, spans: list[tuple[int, int]]) -> list[tuple[list[int], list[int]]]:
        ids, mask = self.encode(text, spans)
        whole = self.tokenizer(text)["input_ids"]
        assert whole == self.before + ids + self.after, (whole, self.before, ids, self.after)
        # Tokens that the text begins or ends with are not added again.
        before, after = self.before, self.after
        if before and ids[: len(before)] == before:
            ids, mask = ids[len(before) :], mask[len(before) :]
        if after and (before + ids)[-len(after) :] == after:
            after = []
        ids = before + ids + after
        mask = [0] * len(before) + mask + [1] * len(after)
        if self.eos is not None and ids[-1:] != [self.eos]:
            ids, mask = ids + [self.eos], mask + [1]
        return [(ids, mask)]

    def chat(self, messages: list[dict], trained: list[bool], variables: dict) -> list[tuple[list[int], list[int]]]:
        need(any(trained), "nothing to train on")
        need(self.template is not None, "the model has no template")
        tagged = self.template.tagged is not None
        source = (self.tool_use if "tools" in variables else "") + (
            self.template.tagged if tagged else self.template.plain
        )

        def render(messages: list[dict], prompt: bool = False):
            out = chat_template_utils.render_jinja_template(
                [messages],
                chat_template=source,
                return_assistant_tokens_mask=tagged,
                add_generation_prompt=prompt,
                **(self.tokenizer.special_tokens_map | variables),
            )
            return out[0][0], out[1][0] if tagged else None

        try:
            out = self.tokenizer.apply_chat_template(
                messages, chat_template=source, return_assistant_tokens_mask=tagged, **variables
            )
            self.text, spans = render(messages)
        except Exception as error:
            raise Refused(f"template: {type(error).__name__}: {error}")
        turns = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
        ids, _ = self.encode(self.text, [])
        assert ids == out["input_ids"], "tokens of apply_chat_template"
        if tagged:
            assert len(turns) == len(spans), "one span per turn"
            self.trimmed += self.encode(self.text, spans)[1] != out["assistant_masks"]
            if self.searched:
                spans = [self.found(span) for span in spans]
        else:
            spans = [self.prefixes(render, messages, at) for at in turns]
        return [self.encode(self.text, [span for span, at in zip(spans, turns) if trained[at]])]

    def found(self, span: tuple[int, int]) -> tuple[int, int]:
        """The turn that a search finds where tags have `span`: without the generation prompt, also that of reasoning, and
        without space behind a special token at its end."""
        start, end = span
        if self.template.thinks and self.text.startswith("<think>\n", start):
            start += len("<think>\n")
        turn = self.text[start:end].rstrip()
        return (start, start + len(turn)) if any(map(turn.endswith, self.special)) else (start, end)

    def prefixes(self, render, messages: list[dict], at: int) -> tuple[int, int]:
        """The turn is what the text with it has more than the text that asks for it."""
        try:
            before, upto = render(messages[:at], True)[0], render(messages[: at + 1])[0]
        except Exception:
            raise Unknown
        if not (self.text.startswith(before) and self.text.startswith(upto) and len(before) <= len(upto)):
            raise Unknown
        return self.found((len(before), len(upto)))

    def documents(self, row: dict) -> list[tuple[list[int], list[int]]]:
        row = copy.deepcopy(row)
        need(isinstance(row, dict), "no object")
        has = lambda key: row.get(key) is not None
        if has("messages") or has("conversations"):
            messages, trained = messages_of(row["messages" if has("messages") else "conversations"])
            found = self.chat(*with_system(row, messages, trained), variables_of(row))
        elif has("prompt") and has("completion"):
            found = self.pair(row)
        elif has("instruction") and has("output"):
            found = self.instruction(row)
        elif has("tokens") or has("input_ids"):
            found = token_documents(row, "tokens" if has("tokens") else "input_ids", self.vocabulary)
        elif has("text"):
            text = string(row, "text")
            found = self.document(text, [(0, len(text))])
        else:
            raise Refused("no field to train on")
        return [document for document in found if document[0]]

    def pair(self, row: dict) -> list[tuple[list[int], list[int]]]:
        if isinstance(row["prompt"], str):
            prompt, completion = row["prompt"], string(row, "completion")
            return self.document(prompt + completion, [(len(prompt), len(prompt + completion))])
        prompt, completion = messages_of(row["prompt"], False), messages_of(row["completion"])
        both = with_system(row, prompt[0] + completion[0], prompt[1] + completion[1])
        return self.chat(*both, variables_of(row))

    def instruction(self, row: dict) -> list[tuple[list[int], list[int]]]:
        asked, output, more = string(row, "instruction"), string(row, "output"), row.get("input")
        need(more is None or isinstance(more, str), "input is no text")
        history = row.get("history")
        need(history is None or isinstance(history, list), "history is no list")
        messages: list[dict] = []
        for pair in history or []:
            need(isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair), "history")
            messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
        messages += [
            {"role": "user", "content": f"{asked}\n\n{more}" if more else asked},
            {"role": "assistant", "content": output},
        ]
        trained = [message["role"] == "assistant" for message in messages]
        messages, trained = with_system(row, messages, trained)
        if self.template is not None:
            return self.chat(messages, trained, {})
        need(len(messages) == 2, "Alpaca's prompt has no place for more")
        prompt = alpaca(asked, more or "")
        return self.document(prompt + output, [(len(prompt), len(prompt + output))])
