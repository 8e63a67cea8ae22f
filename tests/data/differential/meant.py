"""Differences that are intended, each by its name, and reasons of refusal that are the same."""

import dataclasses
import re


@dataclasses.dataclass
class Intended:
    """A difference that is meant: its `kind` matches, and the folder or the template has the `label`."""

    name: str
    reason: str
    kind: str
    label: str = ""
    tags: str = ""
    # Share of the pairs.
    limit: float = 0.02


# Constructs of `templates.ORNAMENTS` that Horizon refuses by name, and its message.
UNSUPPORTED = {
    "pprint": "filter pprint is unknown",
    "varargs": "too many arguments",
}
INTENDED = [
    Intended(
        "search refuses",
        "a turn that cannot be found in a template without tags is refused instead of guessed",
        r"refused: message #: this turn cannot be found in the text that the chat template renders; .*",
        tags="without tags",
        limit=0.001,
    ),
    Intended(
        "trimmed offsets",
        "a mask of transformers leaves out tokens whose offsets the post-processor trims",
        r"loss mask of transformers",
        label="trims offsets",
        tags="with tags",
        limit=0.01,
    ),
    Intended(
        "closing EOS",
        "if a question behind it changes the text before it, the EOS of the whole conversation belongs to the last turn",
        r"loss mask behind the last turn",
        label="EOS after the last",
        tags="without tags",
        limit=0.01,
    ),
    Intended(
        "closed conversation",
        "the token that closes this template's conversation is not trained on, since earlier turns do not have it",
        r"loss mask",
        label="ended.jinja",
        tags="without tags",
        limit=0.001,
    ),
] + [
    Intended(
        f"no {label}",
        "a template with this construct is refused by its name",
        rf"(refused: |reasons: .* / )chat template: {message} \(line # of the template\)",
        label=label,
    )
    for label, message in UNSUPPORTED.items()
]

# Reasons of the reference, and those of Horizon; {} is the group of the former. The first entry that fits counts.
LIST = "(messages|conversations?|prompt|completion)"
REASONS = [
    (r"nothing to train on", r"has no message with role assistant to train on|excludes every message"),
    (r"the model has no template|Alpaca's prompt has no place for more", r"the model has no chat template"),
    (r"no field to train on", r"no field to train on|may be a chat or plain text"),
    (r"tokenizers panics", r"tokenizer"),
    (r"template: TemplateError: (.*)", r"chat template: {} \(line"),
    (r"template: UndefinedError", r"chat template: (undefined value|\w+ has no method named|tried to use \+ operator on .* undefined)"),
    (r"template: TypeError: .* is not JSON serializable", r"chat template: tojson cannot write a value"),
    (r"template: TypeError: .* is not iterable", r"chat template: .* cannot be iterated"),
    (r"template: TypeError: can only concatenate", r"chat template: .*(unable to calculate|tried to use \+ operator)"),
    (r"template: TypeError: Documents", r"`documents`"),
    (r"messages are no list", rf"`{LIST}` is .*; it must be a (list|string)"),
    (r"a message is no object", rf"`{LIST}`\[\d+\]: .* is not a JSON object"),
    (r"role is missing", r"`role` is missing"),
    (r"content is missing", r"`content` is missing"),
    (r"role is no text", r"`(role|from)` is .*; it must be a string"),
    (r"content is no text", r"`(content|value|system|system_prompt)` is .*; it must be a string"),
    (r"reasoning is no text", r"`(reasoning_content|reasoning|thinking)` is .*; it must be a string"),
    (r"system is no text", r"`system(_prompt)?` is .*; it must be a string"),
    (r"a part is no text", r"`\w+`\[\d+\]: (a part of type|`\w+` is .*; it must be a string|`text` is missing)"),
    (r"(\w+) is no text", r"`{}` is .*; it must be a string"),
    (r"(\w+) has a lone surrogate", r"lone surrogate"),
    (r"no token", r"`(tokens|input_ids)`\[\d+\] is .*; it must be a token id|token -?\d+"),
    (r"tokens are no list", r"`(tokens|input_ids)` is .*; it must be a list"),
    (r"\w+ has another length", r"`\w+` (has \d+ values?, but .*; the counts must be equal|is .*; it must be (a list|documents that make up))"),
    (r"(\w+) has no integer", r"`{}`\[\d+\] is .*; it must be"),
    (r"attention_mask does not number", r"`attention_mask`\[\d+\] is .*; documents are numbered"),
    (r"(attention_mask|position_ids|seq_lengths|cu_seqlens|chat_template_kwargs)", r"`{}`"),
    (r"lengths do not make up the row", r"`(seq_lengths|cu_seqlens)`.*(documents that make up|must be a length)"),
    (r"an element of (\w+) is no object", r"`{}`\[\d+\] is .*; it must be an object"),
    (r"(\w+) is no list", r"`{}` is .*; it must be a list"),
    (r"(\w+) is no JSON", r"`{}` is a string, but "),
    (r"(\w+) is neither 0 nor 1", r"`{}` is .*; it must be 0 or 1"),
    (r"a mask is neither 0 nor 1", r"`\w+mask\w*`\[\d+\] is .*; it must be 0 or 1"),
    (r"labels$", r"`labels`\[\d+\] is .*; it must be the token at that index"),
    (r"labels and masks differ", r"`labels`\[\d+\] is .*; they select different tokens"),
    (r"fields contradict each other", r"they contradict each other"),
    (r"fields disagree about documents", r"` and `.* disagree: document"),
]


def name_of(difference: dict) -> str | None:
    """The name of the entry that a difference belongs to."""
    labels = difference["folder"] + difference["template"]
    for entry in INTENDED:
        if (
            re.fullmatch(entry.kind, difference["kind"])
            and (not entry.label or entry.label in labels)
            and (not entry.tags or entry.tags == difference["tags"])
        ):
            return entry.name
    return None


def same_reason(expected: str, found: str) -> bool:
    """True if both refuse a row for reasons of the same class."""
    for pattern, wanted in REASONS:
        fits = re.match(pattern, expected)
        if fits is not None:
            wanted = wanted.format(*map(re.escape, fits.groups())) if fits.groups() else wanted
            return re.search(wanted, found) is not None
    return False
