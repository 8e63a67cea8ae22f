"""The reference: what a row must become, by the rules of Horizon's documentation and the tokenizer of transformers.

`Reference(folder, template, tagged).documents(row)` returns the documents of a row as lists of tokens and of bits, the loss
mask; it raises `Refused` if the row must be refused. Nothing here comes from Horizon's code.
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


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(NOW, datetime.timezone.utc).replace(tzinfo=tz)


chat_template_utils.datetime = Clock


def need(condition, message: str) -> None:
    if not condition:
        raise Refused(message)


# Rows -----------------------------------------------------------------------------------------------------------------

ROLES = {"human": "user", "user": "user", "system": "system", "tool": "tool", "observation": "tool", "function_response": "tool"} | dict.fromkeys(
    ["gpt", "assistant", "model", "chatgpt", "bot", "function_call"], "assistant")
# Fields of a turn that say whether it is trained on; the last one says the opposite.
TRAINED = ["weight", "train", "training", "trainable", "loss", "loss_mask", "masked"]


def without_nulls(item: dict) -> dict:
    return {key: value for key, value in item.items() if value is not None}


def string(row: dict, key: str) -> str:
    need(isinstance(row.get(key), str), f"{key} is no text")
    return row[key]


def joined(content):
    """A text, or a list of parts of text, which are joined."""
    if isinstance(content, list):
        texts = [part if isinstance(part, str) else part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text"
                 else None for part in content]
        need(all(isinstance(text, str) for text in texts), "a part is no text")
        return "".join(texts)
    need(isinstance(content, str), "content is no text")
    return content


def decoded(text):
    """JSON given as text; anything else as it is."""
    if not isinstance(text, str):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, (dict, list)) else text


def message_of(item) -> tuple[dict, bool | None]:
    """Returns a message for the template, and whether its own fields say that it is trained on."""
    need(isinstance(item, dict), "a message is no object")
    item = without_nulls(item)
    if "from" in item and "role" not in item:
        need(string(item, "from") in ROLES, "from is not known")
        item["role"] = ROLES[item.pop("from")]
        if "value" in item:
            item["content"] = item.pop("value")
    string(item, "role")
    if "content" in item:
        item["content"] = joined(item["content"])
    trained = None
    for name in TRAINED:
        if name in item:
            value = item.pop(name)
            need(value in (0, 1) and not isinstance(value, str), f"{name} is neither 0 nor 1")
            trained = bool(value) != (name == "masked") and trained is not False
    if "tool_calls" in item:
        need(isinstance(item["tool_calls"], list), "tool_calls is no list")
        for call in item["tool_calls"]:
            need(isinstance(call, dict), "a tool call is no object")
            function = call.get("function", call)
            if isinstance(function, dict) and "arguments" in function:
                function["arguments"] = decoded(function["arguments"])
    return item, trained


def messages_of(items) -> tuple[list[dict], list[bool]]:
    need(isinstance(items, list), "messages are no list")
    pairs = [message_of(item) for item in items]
    return [message for message, _ in pairs], [
        message["role"] == "assistant" and trained is not False for message, trained in pairs]


def with_system(row: dict, messages: list, trained: list) -> tuple[list[dict], list[bool]]:
    if not row.get("system"):
        need(row.get("system") in (None, ""), "system is no text")
        return messages, trained
    system = string(row, "system")
    if messages and messages[0]["role"] == "system" and messages[0].get("content") == system:
        return messages, trained
    return [{"role": "system", "content": system}] + messages, [False] + trained


def variables_of(row: dict) -> dict:
    out = {}
    for key in ("tools", "documents"):
        value = row.get(key)
        if isinstance(value, str):
            try:
                value = json.loads(value) if value.strip() else None
            except ValueError:
                raise Refused(f"{key} is no JSON")
            need(value is None and not row[key].strip() or isinstance(value, list), f"{key} is no list")
        if value is not None:
            need(isinstance(value, list), f"{key} is no list")
            out[key] = value
    for tool in out.get("tools", []):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if isinstance(function, dict) and "parameters" in function:
            function["parameters"] = decoded(function["parameters"])
    more = row.get("chat_template_kwargs")
    if more is not None:
        need(isinstance(more, dict) and not {"messages", "add_generation_prompt"} & set(more), "chat_template_kwargs")
        out |= more
    return out


def alpaca(instruction: str, more: str) -> str:
    """The prompt of Stanford's Alpaca."""
    if more:
        return ("Below is an instruction that describes a task, paired with an input that provides further context. Write a response "
                f"that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### Input:\n{more}\n\n### Response:")
    return ("Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
            f"### Instruction:\n{instruction}\n\n### Response:")


# Token rows: the collators of TRL and transformers --------------------------------------------------------------------

def bits_of(row: dict, key: str, n: int) -> list[int] | None:
    mask = row.get(key)
    if mask is None:
        return None
    need(isinstance(mask, list) and len(mask) == n, f"{key} has another length")
    need(all(isinstance(bit, int) and bit in (0, 1) for bit in mask), f"{key} is neither 0 nor 1")
    return [int(bit) for bit in mask]


def token_documents(row: dict, key: str, vocabulary: int) -> list[tuple[list[int], list[int]]]:
    ids = row[key]
    need(isinstance(ids, list), "tokens are no list")
    need(all(isinstance(token, int) and not isinstance(token, bool) and 0 <= token < vocabulary for token in ids), "no token")
    n = len(ids)
    labels = row.get("labels")
    trained = [1] * n
    if labels is not None:
        need(isinstance(labels, list) and len(labels) == n and row.get("loss_mask") is None, "labels")
        need(all(isinstance(label, int) and not isinstance(label, bool) and label in (-100, token)
                 for label, token in zip(labels, ids)), "labels")
        trained = [int(label != -100) for label in labels]
    for name in ("loss_mask", "completion_mask", "assistant_masks"):
        mask = bits_of(row, name, n)
        if mask is not None:
            trained = [a & b for a, b in zip(trained, mask)]
    attended = bits_of(row, "attention_mask", n) or [1] * n
    positions = row.get("position_ids")
    if positions is not None:
        need(isinstance(positions, list) and len(positions) == n, "position_ids")
        need(all(isinstance(at, int) and not isinstance(at, bool) for at in positions), "position_ids")
    documents: list[tuple[list[int], list[int]]] = []
    before = None
    for at in range(n):
        if not attended[at]:
            continue
        position = positions[at] if positions is not None else None
        if before is None or position == 0 and positions is not None:
            need(position in (None, 0), "position_ids do not begin with 0")
            documents.append(([], []))
        elif positions is not None:
            need(position == before + 1, "position_ids do not increase")
        before = position if position is not None else -1
        documents[-1][0].append(ids[at])
        documents[-1][1].append(trained[at])
    return documents


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
        self.before = probe["input_ids"][:text[0]]
        self.after = probe["input_ids"][text[-1] + 1:]
        self.eos = self.tokenizer.eos_token_id
        if self.eos is None:
            self.eos = self.eos_of_config(folder)
        self.special = {token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special}
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
        bos = self.tokenizer.bos_token_id
        before = self.before
        if bos is not None and before[-1:] == [bos] and ids[:1] == [bos]:
            # One BOS token is kept, which is not trained on.
            ids, mask = ids[1:], mask[1:]
        ids = before + ids + self.after
        mask = [0] * len(before) + mask + [1] * len(self.after)
        if self.eos is not None and ids[-1:] != [self.eos]:
            ids, mask = ids + [self.eos], mask + [1]
        return [(ids, mask)]

    def chat(self, messages: list[dict], trained: list[bool], variables: dict) -> list[tuple[list[int], list[int]]]:
        need(any(message["role"] == "assistant" for message in messages), "no assistant")
        try:
            out = self.tokenizer.apply_chat_template(
                copy.deepcopy(messages), chat_template=self.template.tagged, return_assistant_tokens_mask=True, **variables)
            rendered, spans = chat_template_utils.render_jinja_template(
                [copy.deepcopy(messages)], chat_template=self.template.tagged, return_assistant_tokens_mask=True,
                **(self.tokenizer.special_tokens_map | variables))
        except Exception as error:
            raise Refused(f"template: {type(error).__name__}: {error}")
        text, spans = rendered[0], spans[0]
        turns = [on for message, on in zip(messages, trained) if message["role"] == "assistant"]
        assert len(turns) == len(spans), "one span per turn"
        ids, mask = self.encode(text, spans)
        assert ids == out["input_ids"], "tokens of apply_chat_template"
        self.trimmed += mask != out["assistant_masks"]
        return [self.encode(text, [span for span, on in zip(spans, turns) if on])]

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
        messages, _ = messages_of(row["prompt"])
        completion, trained = messages_of(row["completion"])
        need(any(message["role"] == "assistant" for message in completion), "no assistant in the completion")
        both = with_system(row, messages + completion, [False] * len(messages) + trained)
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
        messages += [{"role": "user", "content": f"{asked}\n\n{more}" if more else asked}, {"role": "assistant", "content": output}]
        trained = [message["role"] == "assistant" for message in messages]
        messages, trained = with_system(row, messages, trained)
        if self.template is not None:
            return self.chat(messages, trained, {})
        need(len(messages) == 2, "Alpaca's prompt has no place for more")
        prompt = alpaca(asked, more or "")
        return self.document(prompt + output, [(len(prompt), len(prompt + output))])
