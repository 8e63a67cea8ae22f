"""The reference: each row as the documentation of Horizon describes it, tokenized by transformers.

`Reference.documents(row)` returns the documents of a row as lists of tokens and of bits, the loss mask. It raises
`Refused` if the row must be refused, and `Unknown` if it cannot tell. Nothing here comes from Horizon's code.
"""

import copy
import datetime
import json

from tokenizers import Tokenizer
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

from formats import (
    Content,
    Refused,
    Unknown,
    alpaca,
    format_of,
    messages_of,
    need,
    spelled,
    string,
    token_documents,
    variables_of,
    with_lists,
    with_system,
)

# 2025-01-31 13:04:05 UTC: the time that templates print.
NOW = 1738328645


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(NOW, datetime.timezone.utc).replace(tzinfo=tz)


chat_template_utils.datetime = Clock


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
        # True if the last mask of transformers differs, by trimmed offsets only.
        self.trimmed = False

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

        messages = [message | {"content": self.asked(message["content"])} for message in messages]
        try:
            self.text, spans = render(messages)
            if all(message["content"] is not None for message in messages):
                # The library drops null, so that a template cannot test for it.
                self.check(messages, source, tagged, spans, variables)
        except Exception as error:
            if isinstance(error, AssertionError):
                raise
            raise Refused(f"template: {type(error).__name__}: {error}")
        turns = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
        if not tagged:
            spans = [self.prefixes(render, messages, at) for at in turns]
        else:
            assert len(turns) == len(spans), "one span per turn"
            if self.searched:
                spans = [self.found(render, messages[:at], span) for at, span in zip(turns, spans)]
        return [self.encode(self.text, [span for span, at in zip(spans, turns) if trained[at]])]

    def asked(self, text: str):
        """Content as the template asks for it."""
        if not isinstance(text, Content):
            return text
        asks = self.template.tests_none if text.given is None else self.template.loops
        return text.given if asks else str(text)

    def check(self, messages: list[dict], source: str, tagged: bool, spans, variables: dict) -> None:
        """Compares with `apply_chat_template`. Its masks may differ where a post-processor trims offsets."""
        out = self.tokenizer.apply_chat_template(
            messages, chat_template=source, return_assistant_tokens_mask=tagged, **variables
        )
        encoding = self.bare.encode(self.text, add_special_tokens=False)
        assert encoding.ids == out["input_ids"], "tokens of apply_chat_template"
        if not tagged:
            return
        masks = zip(self.encode(self.text, spans)[1], out["assistant_masks"])
        offsets = list(zip(encoding.offsets, out.encodings[0].offsets))
        differing = [at for at, (ours, theirs) in enumerate(masks) if ours != theirs]
        assert all(offsets[at][0] != offsets[at][1] for at in differing), "masks of apply_chat_template"
        self.trimmed = bool(differing)

    def found(self, render, before: list[dict], span: tuple[int, int]) -> tuple[int, int]:
        """The turn that a search finds where tags have `span`: it starts behind the generation prompt."""
        start, end = span
        try:
            prompt = render(before, True)[0]
        except Exception:
            if self.template.lead:
                raise Unknown("the template renders no prompt that shows whether the space before a turn belongs to it")
            return self.closed(start, end)
        if self.text.startswith(prompt) and len(prompt) <= end:
            start = len(prompt)
        return self.closed(start, end)

    def closed(self, start: int, end: int) -> tuple[int, int]:
        """The turn without what follows the special token at its end: space, and the EOS of the whole conversation."""
        turn = self.text[start:end].rstrip()
        if not any(map(turn.endswith, self.special)):
            return start, end
        if self.template.last_eos and not self.text[end:].strip():
            ended = turn.removesuffix(self.tokenizer.eos_token or "").rstrip()
            turn = ended if any(map(ended.endswith, self.special)) else turn
        return start, start + len(turn)

    def prefixes(self, render, messages: list[dict], at: int) -> tuple[int, int]:
        """The turn is what the text with it has more than the text that asks for it."""
        try:
            before, upto = render(messages[:at], True)[0], render(messages[: at + 1])[0]
        except Exception:
            raise Unknown("the template renders no part of the conversation")
        if not (self.text.startswith(before) and self.text.startswith(upto) and len(before) <= len(upto)):
            raise Unknown("the template renders a part of the conversation otherwise")
        return self.closed(len(before), len(upto))

    def documents(self, row: dict) -> list[tuple[list[int], list[int]]]:
        self.trimmed = False
        row = with_lists(copy.deepcopy(row))
        kind = format_of(row)
        if kind in ("messages", "conversations"):
            names = ["messages"] if kind == "messages" else ["conversations", "conversation"]
            messages, trained = messages_of(spelled(row, *names))
            found = self.chat(*with_system(row, messages, trained), variables_of(row))
        elif kind == "completion":
            found = self.pair(row)
        elif kind in ("output", "response"):
            found = self.instruction(row, "input" if kind == "output" else "context", kind)
        elif kind in ("tokens", "input_ids"):
            found = token_documents(row, kind, self.vocabulary)
        else:
            text = string(row, "text")
            found = self.document(text, [(0, len(text))])
        return [document for document in found if document[0]]

    def pair(self, row: dict) -> list[tuple[list[int], list[int]]]:
        if isinstance(row["prompt"], str):
            prompt, completion = row["prompt"], string(row, "completion")
            return self.document(prompt + completion, [(len(prompt), len(prompt + completion))])
        prompt, completion = messages_of(row["prompt"], False), messages_of(row["completion"])
        both = with_system(row, prompt[0] + completion[0], prompt[1] + completion[1])
        return self.chat(*both, variables_of(row))

    def instruction(self, row: dict, context: str, answer: str) -> list[tuple[list[int], list[int]]]:
        asked, output, more = string(row, "instruction"), string(row, answer), row.get(context)
        need(more is None or isinstance(more, str), f"{context} is no text")
        history = row.get("history")
        need(history is None or isinstance(history, list), "history is no list")
        messages: list[dict] = []
        for pair in history or []:
            need(isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair), "history")
            messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
        messages += [
            {"role": "user", "content": "\n\n".join(filter(None, [asked, more]))},
            {"role": "assistant", "content": output},
        ]
        trained = [message["role"] == "assistant" for message in messages]
        messages, trained = with_system(row, messages, trained)
        if self.template is not None:
            return self.chat(messages, trained, {})
        need(len(messages) == 2, "Alpaca's prompt has no place for more")
        prompt = alpaca(asked, more or "")
        return self.document(prompt + output, [(len(prompt), len(prompt + output))])
