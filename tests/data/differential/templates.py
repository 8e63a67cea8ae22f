"""Random chat templates, made of constructs that templates of the Hub have.

A template has `{% generation %}` tags around the text that is trained on: from behind the turn's header through the
token that ends the turn or, if no special token ends it, through the end of the turn's text. So the tags are the
expected result of the search in the same template without them.
"""

import pathlib
import random
import re

FILES = sorted(pathlib.Path(__file__).parent.parent.glob("chat/templates/*.jinja"))
TAGS = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")

# Name and text. `messages` of a template is never empty when it is rendered whole, but is for the first prompt.
ORNAMENTS = [
    ("tojson of messages", "{% for m in messages if m.role == 'user' %}{{ m | tojson }}{% endfor %}"),
    ("tojson indent", "{% if tools %}{{ tools | tojson(indent=4) }}{% endif %}"),
    ("tojson indent of dict", "{{ {'a': [1, {}, []], 'b': {'c': none}} | tojson(indent=2) }}"),
    ("tojson ascii", "{{ 'é🙂\\u2028<&>' | tojson(ensure_ascii=true) }}"),
    ("tojson separators", "{{ {'b': 1, 'a': [1.5, true]} | tojson(separators=(',', ':'), sort_keys=true) }}"),
    ("print of messages", "{% for m in messages if m.role == 'user' %}{{ m }}{% endfor %}"),
    ("print of dict", "{{ {'a': none, 'b': [1.0, -2e30, 'it\\'s']} }}"),
    ("print of tools", "{{ tools }}"),
    ("length", "{{ messages | length }}"),
    ("count", "{{ messages | count }}"),
    ("first and last", "{{ (messages | first).role ~ '/' ~ (messages | last).role }}"),
    ("negative index", "{{ messages[-1]['role'] }}"),
    ("slice", "{% for m in messages[1:3] %}{{ m.role }},{% endfor %}"),
    ("slice with step", "{% for m in messages[::2] %}{{ m.role }},{% endfor %}"),
    ("reversed slice", "{% for m in messages[::-1] %}{{ m.role[0] }}{% endfor %}"),
    ("slice of text", "{{ 'héllo wörld'[1:-2] ~ 'abc'[-2:] ~ 'x'[5:] }}"),
    ("map and join", "{{ messages | map(attribute='role') | join(', ') }}"),
    ("selectattr", "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}"),
    ("rejectattr", "{{ messages | rejectattr('role', 'in', ['user', 'tool']) | map(attribute='role') | list }}"),
    ("select", "{{ [1, 2, 3, 4] | select('odd') | list }}{{ ['', 'a'] | select | list }}"),
    ("default", "{{ missing | default('none given') }}{{ '' | default('empty', true) }}"),
    ("undefined", "{{ missing }}{% if missing is not defined %}u{% endif %}{{ missing is undefined }}"),
    ("ternary", "{{ 'many' if messages | length > 2 else 'few' }}{{ 'x' if false }}"),
    ("in", "{{ 'a' in 'cat' }}{{ 'role' in {'role': 1} }}{{ 3 not in [1, 2] }}"),
    ("upper title", "{{ 'hello wORLD-x\\'s' | upper ~ 'hello wORLD\\'s a-b' | title ~ 'hELLO' | capitalize }}"),
    ("string methods", "{{ ' aXbXc '.strip().split('X') }}{{ 'abc'.startswith('a') }}{{ 'abc'.endswith(('b', 'c')) }}"),
    ("strip characters", "{{ 'xxhixx'.strip('x') ~ '--a-'.lstrip('-') ~ 'a\\n\\n'.rstrip('\\n') ~ '|' }}"),
    ("split", "{{ 'a  b c'.split() }}{{ 'a,b,c'.split(',', 1) }}{{ 'a</t>b'.split('</t>')[-1] }}"),
    ("rsplit and partition", "{{ 'a.b.c'.rsplit('.', 1) }}{{ 'a=b'.partition('=') | list }}"),
    ("find and count", "{{ 'banana'.find('an') }}{{ 'banana'.count('an') }}{{ 'banana'.replace('a', 'o', 2) }}"),
    ("case methods", "{{ 'Äb'.lower() ~ 'äb'.upper() ~ 'äb cD'.title() ~ 'äB'.capitalize() }}"),
    ("test methods", "{{ '12'.isdigit() }}{{ 'ab'.isalpha() }}{{ ' '.isspace() }}{{ 'Ab'.isupper() }}"),
    ("join method", "{{ ', '.join(['a', 'b']) }}"),
    ("format method", "{{ '{} and {}'.format('a', 2) }}"),
    ("percent format", "{{ '%s has %d' | format('a', 2) }}"),
    ("percent operator", "{{ '%s-%s' % ('a', 2) }}"),
    ("pprint", "{{ {'a': 1} | pprint }}"),
    ("varargs", "{% macro v(a) %}{{ varargs }}{% endmacro %}{{ v(1, 2) }}"),
    ("zfill", "{{ '7'.zfill(3) }}"),
    ("concatenation", "{{ 'a' ~ 1 ~ true ~ none ~ 1.0 ~ ['x'] }}{{ 'a' + 'b' * 3 }}"),
    ("arithmetic", "{{ 7 // 2 }} {{ 7 % 3 }} {{ 7 / 2 }} {{ 2 ** 3 }} {{ -7 // 2 }} {{ 6 / 3 }} {{ 1.5 + 1 }}"),
    ("comparison", "{{ 1 < 2 and not (3 <= 2) or false }}{{ 'a' != 'b' }}{{ 1 == 1.0 }}"),
    ("int and float", "{{ '12' | int + 1 }}{{ '1.5' | float }}{{ 3.7 | int }}{{ 2.5 | round }}{{ -3 | abs }}"),
    ("list filters", "{{ [3, 1, 2] | sort }}{{ [3, 1] | max }}{{ [1, 2] | sum }}{{ ['b', 'a', 'b'] | unique | list }}"),
    ("reverse", "{{ [1, 2, 3] | reverse | list }}{{ 'abc' | reverse }}"),
    ("list of text", "{{ 'abc' | list }}{{ (1, 2) | list }}"),
    ("items", "{% for k, v in {'b': 1, 'a': 'x'} | items %}{{ k }}={{ v }};{% endfor %}"),
    ("items method", "{% for k, v in {'b': 1, 'a': 'x'}.items() %}{{ k }}={{ v }};{% endfor %}"),
    ("keys and values", "{{ {'b': 1, 'a': 2}.keys() | list }}{{ {'b': 1}.values() | list }}{{ {'a': 1}.get('z', 9) }}"),
    ("dictsort", "{% for k, v in {'b': 1, 'a': 2} | dictsort %}{{ k }}{{ v }}{% endfor %}"),
    (
        "loop variables",
        (
            "{% for x in 'abc' %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.first }}{{ loop.last }}"
            "{{ loop.length }}{% endfor %}"
        ),
    ),
    ("loop neighbours", "{% for x in [1, 2] %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }}{% endfor %}"),
    ("loop cycle", "{% for x in [1, 2, 3] %}{{ loop.cycle('a', 'b') }}{% endfor %}"),
    ("loop else", "{% for x in [] %}{{ x }}{% else %}nothing{% endfor %}"),
    ("loop if", "{% for x in [1, 2, 3] if x != 2 %}{{ x }}{{ loop.index }}{% endfor %}"),
    ("loop over none", "{% for x in none %}{{ x }}{% endfor %}"),
    ("loop over tools", "{% for t in tools %}{{ t.function.name }}{% endfor %}"),
    ("loop over undefined", "{% for x in missing %}{{ x }}{% endfor %}ok"),
    (
        "break",
        (
            "{% for x in range(5) %}{% if x == 3 %}{% break %}{% endif %}{% if x == 1 %}{% continue %}{% endif %}{{ x"
            " }}{% endfor %}"
        ),
    ),
    ("range", "{{ range(3) | list }}{{ range(1, 6, 2) | list }}"),
    (
        "namespace",
        "{% set n = namespace(k=0, l=[]) %}{% for x in [1, 2, 3] %}{% set n.k = n.k + x %}{% endfor %}{{ n.k }}",
    ),
    ("scope of set", "{% set y = 1 %}{% for x in [1, 2] %}{% set y = y + x %}{{ y }}{% endfor %}{{ y }}"),
    ("set block", "{% set text %}a {{ 1 + 1 }}{% endset %}{{ text | trim }}!"),
    ("filter block", "{% filter upper %}shout {{ 'x' }}{% endfilter %}"),
    ("macro", "{% macro f(a, b='d') %}<{{ a }}{{ b }}>{% endmacro %}{{ f('x') }}{{ f(1, b=2) }}{{ f('x') | upper }}"),
    ("macro recursion", "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}"),
    ("comment", "a{# {{ not rendered }} #}b{#- x -#}  c"),
    ("raw", "{% raw %}{{ raw }}{% endraw %}"),
    ("dashes", "a  {%- if true -%}  b  {%- endif %}  c\n  {{- 'd' -}}\n e"),
    ("plus signs", "a\n  {%+ if true +%}\nb{% endif %}"),
    ("lines", "a\n    {% if true %}\n    b\n    {% endif %}\nc\n"),
    (
        "tests",
        (
            "{{ 1 is number }}{{ 'a' is string }}{{ {} is mapping }}{{ [] is iterable }}{{ [] is sequence }}{{ none is"
            " none }}{{ true is boolean }}{{ 1 is integer }}{{ 1.0 is float }}{{ 3 is odd }}{{ 4 is divisibleby 2 }}"
        ),
    ),
    ("tests of texts", "{{ 'a' is lower }}{{ 'A' is upper }}{{ 'x' is in 'xyz' }}{{ true is true }}{{ 0 is false }}"),
    ("comparison tests", "{{ 1 is eq 1 }}{{ 2 is gt 1 }}{{ 1 is sameas 1 }}{{ 'a' is ne 'b' }}"),
    ("truth", "{% if [] or '' or 0 or none or {} %}t{% else %}f{% endif %}{{ [] or 'x' }}{{ 1 and 'y' }}"),
    ("escapes", "{{ 'a\\tb\\\\n\\x41\\u00e9' }}{{ \"it's\" }}"),
    ("line joined by backslash", "{{ 'one \\\ntwo' }}"),
    ("two texts", "{{ 'a' 'b' }}"),
    ("wordcount", "{{ 'a b  c' | wordcount }}{{ 'abc' | length }}{{ 'é🙂' | length }}"),
    ("truncate", "{{ 'a long sentence here' | truncate(9) }}"),
    ("indent", "{{ 'a\\nb\\n\\nc' | indent(2) }}{{ 'a\\nb' | indent(2, true) }}"),
    ("replace", "{{ 'a.b.c' | replace('.', '/') }}{{ ' x ' | trim }}"),
    ("escape", "{{ '<a & \"b\">' | escape }}{{ '<a>' | safe }}"),
    ("batch", "{{ [1, 2, 3] | batch(2) | list }}"),
    (
        "groupby",
        (
            "{% for g in [{'a': 1, 'b': 2}, {'a': 1, 'b': 3}] | groupby('a') %}{{ g.grouper }}{{ g.list | length }}{%"
            " endfor %}"
        ),
    ),
    ("dict function", "{{ dict(a=1, b='x') }}"),
    ("string filter", "{{ 12 | string ~ 1.0 | string ~ true | string ~ none | string }}"),
    ("attribute and item", "{{ {'a': {'b': [1, 2]}}.a['b'][1] }}{{ {'items': 3}['items'] }}"),
    ("unpacking", "{% for a, b in [[1, 2], [3, 4]] %}{{ a }}{{ b }}{% endfor %}{% set c, d = 1, 2 %}{{ c }}{{ d }}"),
    ("nested loop", "{% for a in [1, 2] %}{% for b in 'xy' %}{{ a }}{{ b }}{{ loop.last }}{% endfor %}{% endfor %}"),
    ("inline if", "{{ ('a' if 1 else 'b') ~ ('c' if 0 else 'd') }}"),
    ("big integer", "{{ 12345678901234567890123 }}{{ 9007199254740993 }}"),
    ("numbers", "{{ 1e16 }} {{ 1.0 }} {{ 0.1 + 0.2 }} {{ 1e-5 }} {{ 1_000 }} {{ 100000000000000000.0 }}"),
    ("date", "{{ strftime_now('%d %B %Y') }}{{ strftime_now('%Y-%m-%d %H:%M:%S %A %b %-d %j') }}"),
    (
        "date if defined",
        (
            "{% if date_string is not defined %}{% if strftime_now is defined %}{% set date_string = strftime_now('%d"
            " %b %Y') %}{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}{{ date_string }}"
        ),
    ),
    (
        "documents",
        "{% if documents %}{% for d in documents %}{{ d.title }}: {{ d['text'] }}{{ '\\n' }}{% endfor %}{% endif %}",
    ),
    ("variables", "{% if style is defined and style %}style {{ style }}{% endif %}{{ level | default(3) }}"),
    ("loop over a list", "{% for m in messages %}{{ loop.revindex0 }}{{ loop.length }}{{ loop.depth }}{% endfor %}"),
    ("keys of messages", "{% for m in messages %}{{ m | list }}{% endfor %}"),
    ("loop changed", "{% for m in messages %}{{ loop.changed(m.role) }}{% endfor %}"),
    ("loop over map", "{% for r in messages | map(attribute='role') %}{{ r }}{{ loop.first }}{% endfor %}"),
    ("loop over items", "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ loop.last }}{% endfor %}"),
    ("loop recursive index", "{% for i in range(messages | length - 1, -1, -1) %}{{ messages[i].role }}{% endfor %}"),
    (
        "last question",
        (
            "{% set q = namespace(at=-1) %}{% for m in messages[::-1] %}{% if q.at == -1 and m.role == 'user' %}"
            "{% set q.at = loop.index0 %}{% endif %}{% endfor %}{{ q.at }}"
        ),
    ),
    (
        "missing member",
        "{{ messages[0].missing is defined }}{{ messages[0].get('x') is none }}{{ messages[0].get('x', 'd') }}",
    ),
    ("missing index", "{{ messages[50] is defined }}{{ messages[50] }}"),
    (
        "undefined in a condition",
        "{{ 1 if missing else 2 }}{{ missing or 'd' }}{{ missing == none }}{{ missing is none }}",
    ),
    ("undefined attribute of undefined", "{{ missing.attribute }}"),
    ("none attribute", "{{ {'a': none}.a.b }}"),
    ("text plus number", "{{ 'a' + 1 }}"),
    ("order of operators", "{{ -2 ** 2 }}{{ 2 * 3 % 4 }}{{ not 1 == 2 }}{{ 'a' + 'b' ~ 'c' * 2 }}{{ 1 < 2 < 3 }}"),
    ("filters in a row", "{{ ' aBc ' | upper | lower | title | trim | length }}"),
    (
        "python type macro",
        (
            "{%- macro t(s) %}{%- set m = {'string': 'str', 'array': 'list'} %}{%- if m[s] is defined %}{{- m[s] }}"
            "{%- else %}{{- 'Any' }}{%- endif %}{%- endmacro %}{{ t('string') }}{{ t('other') }}"
        ),
    ),
    ("call block", "{% macro m(x) %}{{ x }}{{ caller() }}{% endmacro %}{% call m(1) %}inside{% endcall %}"),
    ("with", "{% with x = 3, y = 4 %}{{ x + y }}{% endwith %}"),
    ("append", "{% set l = ['a'] %}{% set l = l + ['b'] %}{{ l | join(',') }}{{ l }}"),
    ("nested unpacking", "{% for a, (b, c) in [[1, [2, 3]]] %}{{ a }}{{ b }}{{ c }}{% endfor %}"),
    ("join of numbers", "{{ ['a', 1, none, 2.0] | join('-') }}{{ 'abc' | join(',') }}"),
    (
        "selectattr defined",
        (
            "{{ messages | selectattr('tool_calls', 'defined') | list | length }}"
            "{{ messages | selectattr('content') | list | length }}"
        ),
    ),
    (
        "sort",
        (
            "{{ ['b', 'A', 'c'] | sort }}{{ [3, 1, 2] | sort(reverse=true) }}{{ [{'a': 2}, {'a': 1}] |"
            " sort(attribute='a') }}"
        ),
    ),
    (
        "spaces of Unicode",
        "{{ '\\u00a0\\u2003x\\u200b ' | trim }}|{{ '\\u3000a\\u00a0'.strip() }}|{{ 'a\\u00a0b c'.split() }}",
    ),
    ("signs of numbers", "{{ -5 }}{{ 5 - -5 }}{{ -0.0 }}{{ 1e15 }}{{ 123456789.123456789 }}"),
    ("escapes without meaning", "{{ 'a\\d\\{' }}"),
    (
        "tojson of texts",
        "{{ 'a/b\\t\\x7f\\u2028é\"' | tojson }}{{ none | tojson }}{{ 1.0 | tojson }}{{ [] | tojson(indent=2) }}",
    ),
    ("tojson of tools", "{{ tools | tojson }}{% if tools %}{{ tools[0].function | tojson(indent=2) }}{% endif %}"),
    (
        "variables of the call",
        "{{ add_generation_prompt }}{{ tools is none }}{{ documents is defined }}{{ eos_token is defined }}",
    ),
    ("exception", "{% if messages | length > 6 %}{{ raise_exception('too long') }}{% endif %}"),
]

SYSTEM = [
    # Rendered where it stands, as any other message.
    ("system in place", "", "messages", None),
    # The first message, before the others.
    (
        "system first",
        """{%- if messages[0]['role'] == 'system' %}
    {{- OPEN_SYSTEM ~ messages[0]['content'] ~ CLOSE_OTHER }}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set rest = messages %}
{%- endif %}
""",
        "rest",
        None,
    ),
    (
        "default system",
        """{%- if messages[0].role == 'system' %}
    {%- set system_message = messages[0].content | trim %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set system_message = 'You are a helpful assistant.' %}
    {%- set rest = messages %}
{%- endif %}
{{- OPEN_SYSTEM + system_message + CLOSE_OTHER }}
""",
        "rest",
        None,
    ),
    # Part of the first user's message.
    (
        "system in user",
        """{%- if messages and messages[0].role == 'system' %}
    {%- set ns.system = messages[0].content %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set rest = messages %}
{%- endif %}
""",
        "rest",
        (
            "{%- if loop.index0 == 0 and ns.system is defined %}{{- '<<SYS>>\\n' + ns.system + '\\n<</SYS>>\\n\\n'"
            " }}{%- endif %}"
        ),
    ),
]

TOOLS = [
    ("", ""),
    (
        "tools as JSON",
        """{%- if tools %}
    {{- '# Tools\\n' }}
    {%- for tool in tools %}{{- tool | tojson }}{{- '\\n' }}{%- endfor %}
{%- endif %}
""",
    ),
    (
        "tools as text",
        """{%- if tools is defined and tools is not none and tools | length > 0 %}
    {%- for tool in tools %}
        {%- if tool.function is defined %}{%- set tool = tool.function %}{%- endif %}
        {{- tool.name ~ ': ' ~ tool.description }}
        {%- for name, value in tool.parameters.properties.items() %}
            {{- '\\n- ' + name + ' (' + value.type + ')' }}
        {%- endfor %}
    {%- endfor %}
{%- endif %}
""",
    ),
]

CALLS = [
    ("", ""),
    (
        "calls as JSON",
        (
            "{%- for call in message.tool_calls %}{%- if call.function %}{%- set call = call.function %}{%- endif %}{{-"
            ' \'\\n<tool_call>\\n{"name": "\' ~ call.name ~ \'", "arguments": \' }}{%- if call.arguments is string'
            " %}{{- call.arguments }}{%- else %}{{- call.arguments | tojson }}{%- endif %}{{- '}\\n</tool_call>' }}{%-"
            " endfor %}"
        ),
    ),
    (
        "calls as text",
        (
            "{%- if message.tool_calls is defined and message.tool_calls %}{%- for call in message['tool_calls'] %}"
            "{{- '<' ~ call.function.name ~ '>' }}{%- for k, v in call.function.arguments.items() %}"
            "{{- k ~ '=' ~ (v | tojson if v is mapping or (v is iterable and v is not string) else v | string) ~ ';' }}"
            "{%- endfor %}{%- endfor %}{%- endif %}"
        ),
    ),
    ("calls printed", "{%- if message.tool_calls %}{{- message.tool_calls }}{%- endif %}"),
]

CONTENTS = [
    "message.content",
    "message['content']",
    "(message.content | trim)",
    "message['content'].strip()",
    "message.content.rstrip()",
    "(message.content or '')",
    "(message.content | default(''))",
    "message.content.replace('\\r\\n', '\\n')",
    "(message.get('content') or '')",
    "(message.content | string)",
    # The macros of `HELPERS`.
    "parts(message.content)",
    "known(message.content)",
]
HELPERS = {
    "parts": """{%- macro parts(content) %}
    {%- if content is string %}{{- content }}
    {%- else %}{%- for part in content %}{{- part.text }}{%- endfor %}{%- endif %}
{%- endmacro %}
""",
    "known": "{%- macro known(content) %}{{- 'nothing' if content is none else content }}{%- endmacro %}\n",
}


REASONING = [
    ("", ""),
    ("", ""),
    (
        "reasoning shown",
        (
            "{%- if message.reasoning_content is defined and message.reasoning_content %}"
            "{{- '<think>\\n' ~ message.reasoning_content.strip('\\n') ~ '\\n</think>\\n\\n' }}{%- endif %}"
        ),
    ),
    ("thinking shown", "{%- if message.thinking %}{{- '<think>' + message.thinking + '</think>' }}{%- endif %}"),
    (
        "reasoning after the last question",
        (
            "{%- if message.reasoning_content is string and at > ns.last %}"
            "{{- '<think>\\n' ~ message.reasoning_content ~ '\\n</think>\\n\\n' }}{%- endif %}"
        ),
    ),
]


def quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


class File:
    """A template of `tests/data/chat`, without tags."""

    def __init__(self, rng: random.Random):
        file = rng.choice([file for file in FILES if not TAGS.search(file.read_text())])
        self.plain, self.tagged, self.ornaments = file.read_text(), None, []
        self.labels, self.lead, self.last_eos = [file.name], "", False
        self.loops = re.search(r"for \w+ in [^%|]*content\b['\"\])]* *[-|%]", self.plain) is not None
        self.tests_none = re.search(r"content\b['\"\])]* is (not )?none", self.plain) is not None


class Template:
    """Sources with tags (`tagged`) and without (`plain`, `None` if a search may fail), and constructs (`labels`)."""

    def __init__(self, rng: random.Random, ends: list[str], special: set[str], ornaments: list | None = None):
        self.labels: list[str] = []
        choose = lambda named: self.pick(rng, named)
        style = rng.choice(["chatml", "headers", "inst", "plain", "roles"])
        end = rng.choice(ends)
        after = rng.choice(["\n", "\n", "", "\n\n"])
        opening = {
            "chatml": lambda role: f"<|im_start|>{role}\n",
            "headers": lambda role: f"<|start_header_id|>{role}<|end_header_id|>\n\n",
            "inst": lambda role: {"assistant": "", "user": "[INST] "}.get(role, f"[{role.upper()}] "),
            "plain": lambda role: f"### {role.title()}:\n",
            "roles": lambda role: f"<|{role}|>\n",
        }[style]
        close_user = " [/INST]" if style == "inst" else rng.choice([end, end, ""]) + after
        self.labels += [style, "end " + ("special" if end in special else "plain" if end else "absent")]
        calls = choose(CALLS)
        reasoning_name, reasoning = rng.choice(REASONING)
        strips = rng.random() < 0.15
        last_eos = rng.random() < 0.1
        breaks = bool(strips or last_eos or reasoning_name.startswith("reasoning after"))
        drawn = [
            (name, text + rng.choice(["", "\n"])) for name, text in ORNAMENTS if rng.random() < 1.6 / len(ORNAMENTS)
        ]
        if ornaments is None:
            ornaments = drawn
        self.ornaments = ornaments
        # The search replaces a message by one without other keys.
        searchable = all(name != "keys of messages" for name, _ in ornaments)
        breaks |= any("messages" in text or "message" in text for _, text in ornaments)
        if breaks and end not in special:
            # Only a special token shows the search where a turn ends that is rendered differently when it is the last.
            end = next((end for end in ends if end in special), None)
            if end is None:
                strips = last_eos = False
                reasoning_name, reasoning = "", ""
                end = rng.choice(ends)
                searchable = False
        self.labels += [reasoning_name, "strips reasoning" if strips else "", "EOS after the last" if last_eos else ""]
        self.labels += [name for name, _ in ornaments]

        content = rng.choice(CONTENTS)
        self.labels.append(content)
        self.tests_none = content.startswith("known")
        self.loops = False
        self.lead = lead = rng.choice(["", "", " "]) if style == "inst" and not breaks else ""
        body = reasoning
        if strips:
            body += (
                "{%- set content = "
                + content
                + " %}{%- if '</think>' in content and at <= ns.last %}"
                "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}{{- content }}"
            )
        else:
            body += "{{- " + content + " }}"
        turn = (
            ("{{- " + quoted(lead) + " }}" if lead else "")
            + body
            + calls
            + ("{{- " + quoted(end) + " }}" if end else "")
        )
        self.last_eos = last_eos
        trailing = "{{- " + quoted(after) + " }}" if after else ""
        if last_eos:
            turn += "{%- if is_last %}{{- eos_token }}{%- endif %}"
        tags = rng.choice(
            [("{% generation %}", "{% endgeneration %}"), ("{%- generation -%}", "{%- endgeneration -%}")]
        )
        if end in special:
            assistant = tags[0] + turn + tags[1] + trailing
        else:
            assistant = tags[0] + turn + trailing + tags[1]
        macro = rng.random() < 0.2
        if macro:
            self.labels.append("macro for users")
        user = "{{- user_text(message) }}" if macro else "{{- " + rng.choice(CONTENTS[:-1]) + " }}"
        system_name, system, messages, in_user = rng.choice(SYSTEM)
        self.labels.append(system_name)
        tools = choose(TOOLS)
        alternate = rng.random() < 0.12
        if alternate:
            self.labels.append("turns alternate")
        known = rng.choice(["raise", "generic", "ignore"])
        bos = rng.choice(["{{- bos_token }}", "{{- bos_token }}", "{{ bos_token }}", ""])
        self.labels.append("BOS" if bos else "")
        thinks = rng.random() < 0.08 and end in special and not breaks
        generation_prompt = opening("assistant") + ("<think>\n" if thinks else "")
        self.labels.append("generation prompt thinks" if thinks else "")
        other = {
            "raise": "{%- else %}{{- raise_exception('role ' ~ message.role ~ ' is not known') }}",
            "generic": (
                "{%- else %}{{- "
                + quoted("<<")
                + " ~ message['role'] ~ "
                + quoted(">> ")
                + " ~ message.content ~ "
                + quoted(after)
                + " }}"
            ),
            "ignore": "",
        }[known]
        source = bos + "".join(text for _, text in ornaments) + "\n"
        if macro:
            source += "{%- macro user_text(message) %}{{- message.content ~ '' }}{%- endmacro %}\n"
        self.loops = "parts(" in body + user
        source += "".join(macro for name, macro in HELPERS.items() if name + "(" in body + user)
        source += "{%- set ns = namespace(last=-1) %}\n"
        source += system + tools
        if strips or reasoning_name.startswith("reasoning after"):
            source += (
                f"{{%- for message in {messages} %}}{{%- if message.role == 'user' %}}{{%- set ns.last = loop.index0"
                " %}{%- endif %}{%- endfor %}\n"
            )
        source += f"{{%- for message in {messages} %}}\n"
        if alternate:
            source += (
                "    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\n"
                "        {{- raise_exception('roles must alternate') }}\n    {%- endif %}\n"
            )
        source += "    {%- if message.role == 'user' %}\n        {{- " + quoted(opening("user")) + " }}\n"
        source += ("        " + in_user + "\n") if in_user else ""
        source += "        " + user + "\n        {{- " + quoted(close_user) + " }}\n"
        source += "    {%- elif message['role'] == 'assistant' %}\n"
        # A block of `generation` is a macro, which does not see `loop`.
        source += "        {%- set at = loop.index0 %}\n        {%- set is_last = loop.last %}\n"
        source += "        {{- " + quoted(opening("assistant")) + " }}" + assistant + "\n"
        source += (
            "    {%- elif message.role == 'system' %}\n        {{- OPEN_SYSTEM + message.content + CLOSE_OTHER }}\n"
        )
        source += (
            "    {%- elif message.role == 'tool' %}\n        {{- "
            + quoted(opening("tool"))
            + " ~ message.content ~ CLOSE_OTHER }}\n"
        )
        source += "    " + other + "\n    {%- endif %}\n{%- endfor %}\n"
        source += "{%- if add_generation_prompt %}\n    {{- " + quoted(generation_prompt) + " }}\n{%- endif %}"
        source = source.replace("OPEN_SYSTEM", quoted(opening("system"))).replace("CLOSE_OTHER", quoted(end + after))
        if rng.random() < 0.1:
            source = source.replace("\n", "\r\n")
            self.labels.append("CRLF")
        self.tagged = source
        self.plain = TAGS.sub("", source) if searchable else None
        self.labels = [label for label in self.labels if label]

    def pick(self, rng: random.Random, named: list) -> str:
        name, text = rng.choice(named)
        self.labels.append(name)
        return text
