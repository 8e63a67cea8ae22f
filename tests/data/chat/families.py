"""Writes `families.json`: templates that work as those of model families, and the turns that transformers finds by tags.

    pip install transformers==5.24.0 jinja2==3.1.6        # Python 3.11
    python tests/data/chat/families.py

Each template is tagged with `{% generation %}`. Ranges that touch are joined. `searched`: the turns without the tags are
the same.
"""

import json
import os

from transformers.utils.chat_template_utils import render_jinja_template

HERE = os.path.dirname(os.path.abspath(__file__))
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|end|>", "<|done|>", "<|call|>", "<|user|>", "<|bot|>"]

# name: the template, and whether its turns can be found without tags
TEMPLATES = {
    # Mistral 7B: no generation prompt, roles alternate.
    "alternating": (
        """{{ bos_token }}{% for m in messages -%}
{% if (m.role == 'user') == (loop.index0 % 2 == 1) %}{{ raise_exception('roles alternate') }}{% endif -%}
{% if m.role == 'user' %}[Q] {{ m.content }} [/Q]{% else %}{% generation %}{{ ' ' ~ m.content | trim ~ eos_token }}{% endgeneration %}{% endif -%}
{% endfor %}""",
        True,
    ),
    # Mistral with tools: system prompt and tools stand in the last question.
    "last_question": (
        """{%- set talk = messages[1:] if messages[0].role == 'system' else messages %}
{%- set asked = talk | selectattr('role', 'equalto', 'user') | list %}
{{- bos_token }}
{%- for m in talk %}
    {%- if m.role == 'user' %}
        {%- if tools and m == asked[-1] %}{{- '[TOOLS]' ~ tools | tojson ~ '[/TOOLS]' }}{%- endif %}
        {{- '[Q]' }}
        {%- if loop.last and talk | length < messages | length %}{{- messages[0].content ~ '\\n\\n' }}{%- endif %}
        {{- m.content ~ '[/Q]' }}
    {%- elif m.tool_calls is defined %}
        {%- generation %}{{- '[CALLS][' }}
        {%- for call in m.tool_calls %}
            {{- (call.function | tojson)[:-1] ~ ', "id": "' ~ call.id ~ '"}' ~ (']' ~ eos_token if loop.last else ', ') }}
        {%- endfor %}{%- endgeneration %}
    {%- elif m.role == 'assistant' %}
        {%- generation %}{{- ' ' ~ m.content | trim ~ eos_token }}{%- endgeneration %}
    {%- else %}{{- '[RESULT]{"content": ' ~ m.content | string ~ ', "id": "' ~ m.tool_call_id ~ '"}[/RESULT]' }}
    {%- endif %}
{%- endfor %}""",
        True,
    ),
    # Llama 3: a date, tools in the first question, one call as JSON.
    "first_question": (
        """{{- bos_token }}
{%- set day = day if day is defined else '1 May 2024' %}
{%- if messages[0].role == 'system' %}{%- set rules, rest = messages[0].content | trim, messages[1:] %}
{%- else %}{%- set rules, rest = '', messages %}{%- endif %}
{%- macro begin(role) %}<|im_start|>{{ role }}<|end|>{{ '\\n\\n' }}{% endmacro %}
{{- begin('system') ~ 'Today: ' ~ day ~ '\\n' ~ rules ~ '<|im_end|>' }}
{%- if tools is not none %}
    {{- begin('user') }}
    {%- for tool in tools %}{{- tool | tojson(indent=4) ~ '\\n\\n' }}{%- endfor %}
    {{- rest[0].content | trim ~ '<|im_end|>' }}
    {%- set rest = rest[1:] %}
{%- endif %}
{%- for m in rest %}
    {{- begin('ipython' if m.role == 'tool' else m.role) }}
    {%- if 'tool_calls' in m %}
        {%- set call = m.tool_calls[0].function %}
        {%- generation %}{{- '{"name": "' + call.name + '", "parameters": ' }}{{- call.arguments | tojson }}{{- '}<|im_end|>' }}{%- endgeneration %}
    {%- elif m.role == 'assistant' %}{%- generation %}{{- m.content | trim + '<|im_end|>' }}{%- endgeneration %}
    {%- else %}{{- (m.content if m.content is string else m.content | tojson) | trim + '<|im_end|>' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- begin('assistant') }}{%- endif %}""",
        True,
    ),
    # Qwen 3: reasoning stays behind the last question only; results of tools are questions.
    "reasoning": (
        """{%- set last = namespace(at=-1) %}
{%- for m in messages[::-1] %}
    {%- if last.at < 0 and m.role == 'user' and not (m.content.startswith('<r>') and m.content.endswith('</r>')) %}
        {%- set last.at = messages | length - 1 - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- if tools %}{{- '<|im_start|>system\\n' }}{%- for tool in tools %}{{- tool | tojson ~ '\\n' }}{%- endfor %}{{- '<|im_end|>\\n' }}{%- endif %}
{%- for m in messages %}
    {%- set text = m.content if m.content is string else '' %}
    {%- if m.role == 'assistant' %}
        {%- set thought = m.reasoning_content or '' %}
        {%- if not thought and '</think>' in text %}
            {%- set thought = text.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set text = text.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- generation %}
            {%- if loop.index0 > last.at and (loop.last or thought) %}
                {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + text.lstrip('\\n') }}
            {%- else %}{{- text }}{%- endif %}
            {%- for call in m.tool_calls or [] %}
                {{- '\\n' if text or not loop.first }}
                {{- '<call>' ~ call.function.name ~ call.function.arguments | tojson ~ '</call>' }}
            {%- endfor %}
            {{- '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\\n' }}
    {%- elif m.role == 'tool' %}
        {%- if loop.previtem.role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<r>' + text + '</r>' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- else %}{{- '<|im_start|>' + m.role + '\\n' + text + '<|im_end|>\\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}""",
        True,
    ),
    # Gemma: another name of the role; the system prompt is before the first question.
    "renamed": (
        """{{ bos_token }}
{%- set talk = messages[1:] if messages[0]['role'] == 'system' else messages -%}
{%- for m in talk -%}
    {%- set who = 'model' if m['role'] == 'assistant' else m['role'] -%}
    {{ '<|im_start|>' + who + '\\n' }}
    {%- if loop.first and talk != messages %}{{ messages[0]['content'] + '\\n\\n' }}{% endif -%}
    {%- if who == 'model' %}{% generation %}{{ m['content'] | trim }}<|im_end|>{% endgeneration %}
    {%- else %}{{ m['content'] | trim }}<|im_end|>{% endif %}{{ '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>model\\n' }}{% endif -%}""",
        True,
    ),
    # DeepSeek: no newlines, the state of tool calls in a namespace.
    "stateful": (
        """{% set ns = namespace(tool=false, system='') %}{% for m in messages if m['role'] == 'system' %}{% set ns.system = ns.system + m['content'] %}{% endfor %}{{ bos_token }}{{ ns.system }}{% for m in messages %}{% if m['role'] == 'user' %}{% set ns.tool = false %}{{ '<|user|>' + m['content'] }}{% elif m['role'] == 'tool' %}{{ ('' if ns.tool else '<results>') + m['content'] + ';' }}{% set ns.tool = true %}{% elif m['role'] == 'assistant' %}{% if ns.tool %}{{ '</results>' }}{% else %}{{ '<|bot|>' }}{% endif %}{% set ns.tool = false %}{% generation %}{{ m['content'] }}{% for call in m['tool_calls'] %}{{ '<c>' + call['function']['name'] + '\\n```json\\n' + call['function']['arguments'] | tojson + '\\n```</c>' }}{% endfor %}{{ '<|end|>' }}{% endgeneration %}{% endif %}{% endfor %}{% if ns.tool %}{{ '</results>' }}{% endif %}{% if add_generation_prompt and not ns.tool %}{{ '<|bot|>' }}{% endif %}""",
        True,
    ),
    # GLM: the next role ends a turn.
    "open": (
        """<s>{% for m in messages %}{% if m.role == 'assistant' %}<|bot|>{% generation %}{{ '\\n' ~ m.content }}{% for call in m.tool_calls or [] %}{{ '\\n' ~ call.function | tojson }}{% endfor %}{% endgeneration %}{% elif m.role == 'system' %}<sys>
{{ m.content }}{% else %}<|user|>{{ '\\n' ~ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|bot|>{% endif %}""",
        True,
    ),
    # Harmony: reasoning, calls and answers have headers of their own, and the last answer another end.
    "channels": (
        """{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {%- if m.thinking and loop.last %}{{- '<|bot|><|im_start|>' }}{%- generation %}{{- 'analysis:' + m.thinking + '<|end|>' }}{%- endgeneration %}{%- endif %}
        {%- for call in m.tool_calls or [] %}{{- '<|bot|>to=' }}{%- generation %}{{- call.function.name ~ ':' ~ call.function.arguments | tojson ~ '<|call|>' }}{%- endgeneration %}{%- endfor %}
        {%- if m.content %}{{- '<|bot|><|im_start|>' }}{%- generation %}{{- 'final:' + m.content + ('<|done|>' if loop.last else '<|end|>') }}{%- endgeneration %}{%- endif %}
    {%- else %}{{- '<|' ~ m.role ~ '|>' ~ (m.content if m.role == 'user' else m.content | tojson) ~ '<|end|>' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|bot|>{%- endif %}""",
        False,
    ),
}

SYSTEM = [{"role": "system", "content": " Be brief. "}]
TALK = [
    {"role": "user", "content": "Which city?\n"},
    {"role": "assistant", "content": "Paris, naïve 東京\n\n"},
    {"role": "user", "content": "  And 1 + 1? "},
    {"role": "assistant", "content": "  2 🙂"},
    {"role": "user", "content": "Paris, naïve 東京"},
    {"role": "assistant", "content": "2 🙂"},
]
THOUGHT = {"reasoning_content": "\nbecause", "reasoning": "\nbecause", "thinking": "\nbecause"}
THINKING = [
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nSo it is."},
    {"role": "user", "content": "Really?"},
    {"role": "assistant", "content": "Yes.", **THOUGHT},
]


def call(name, arguments, at):
    return {"id": f"call{at:05}", "type": "function", "function": {"name": name, "arguments": arguments}}


CALLING = [
    {"role": "user", "content": "Add 1 and 2."},
    {"role": "assistant", "content": "", "tool_calls": [call("add", {"a": 1, "b": 2.5, "c": [None, True, "é"]}, 0)]},
    {"role": "tool", "content": "3.5", "tool_call_id": "call00000"},
    {"role": "assistant", "content": "It is 3.5."},
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": "", "tool_calls": [call("add", {}, 1)]},
    {"role": "tool", "content": "0", "tool_call_id": "call00001"},
    {"role": "assistant", "content": "0"},
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds <numbers> & 'more'",
            "parameters": {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "number"}}}},
        },
    }
]
PLAIN = [(TALK, None), (TALK[:2], None)]
WITH_SYSTEM = [(SYSTEM + TALK, None)]
WITH_TOOLS = [(CALLING, TOOLS), (SYSTEM + CALLING[:4], TOOLS)]
CASES = {
    "alternating": PLAIN,
    "last_question": PLAIN + WITH_SYSTEM + WITH_TOOLS,
    "first_question": PLAIN + WITH_SYSTEM + WITH_TOOLS,
    "reasoning": PLAIN + WITH_SYSTEM + WITH_TOOLS + [(THINKING, None), (SYSTEM + THINKING[:2], TOOLS)],
    "renamed": PLAIN + WITH_SYSTEM,
    "stateful": PLAIN + WITH_SYSTEM + [(SYSTEM + CALLING, TOOLS)],
    "open": PLAIN + WITH_SYSTEM + [(CALLING, TOOLS)],
    "channels": PLAIN + [(CALLING, None), (THINKING, None)],
}


def case(template, tokens, messages, tools):
    rendered, ranges = render_jinja_template(
        [messages], tools=tools, chat_template=template, return_assistant_tokens_mask=True, **tokens
    )
    text, joined = rendered[0], []
    for start, end in ranges[0]:
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, end))
    return {"messages": messages, "tools": tools, "text": text, "turns": [text[start:end] for start, end in joined]}


def main():
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    families = {}
    for name, (template, searched) in TEMPLATES.items():
        cases = [case(template, tokens, messages, tools) for messages, tools in CASES[name]]
        families[name] = {"template": template, "tokens": tokens, "searched": searched, "cases": cases}
    with open(os.path.join(HERE, "families.json"), "w") as file:
        json.dump({"special": SPECIAL, "families": families}, file, ensure_ascii=True, indent=1)
        file.write("\n")


main()
