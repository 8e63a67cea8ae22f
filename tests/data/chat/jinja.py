"""Writes `jinja.json`: small templates, and the text that transformers renders of each (null: an error).

    pip install transformers==5.24.0 jinja2==3.1.6        # Python 3.11
    python tests/data/chat/jinja.py
"""

import json
import os

from transformers.utils.chat_template_utils import render_jinja_template

HERE = os.path.dirname(os.path.abspath(__file__))

# Variables of every template.
VARIABLES = {
    "s": "  Hello, wörld!\n",
    "w": "one two  three",
    "e": "",
    "n": None,
    "t": True,
    "i": 7,
    "big": 123456789012345678901234567890,
    "f": 2.5,
    "l": [3, 1, 2],
    "m": ["b", "A", "c"],
    "d": {"b": 1, "a": [1.0, None, True, "it's"], "é": {"<&>": 'q"\n'}},
    "rows": [
        {"role": "user", "content": "a", "n": 2},
        {"role": "assistant", "content": "b", "n": 1, "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]},
        {"role": "user", "content": "c", "n": 1},
    ],
}

# One template per line; ⏎ is a newline.
TEMPLATES = r"""
{{ 'a\⏎b' }}
{{ "tab\tquote\"back\\slash\n" }}
{{ '\x41\u00e9\101\d\'' }}
{{ '\u{41}' }}
{{ "a" 'b' "c" }}
{% for x in n %}{{ x }}{% endfor %}
{% for x in undefined %}{{ x }}{% else %}empty{% endfor %}
{% for x in i %}{{ x }}{% endfor %}
{% for x in t %}{{ x }}{% endfor %}
{% for x in n or [] %}{{ x }}{% else %}none{% endfor %}
{% for x in 'héy' %}{{ x }}.{% endfor %}
{% for x in d %}{{ x }}.{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}
{% for k, v in d | items %}{{ k }}={{ v }};{% endfor %}
{% for k, v in d | dictsort %}{{ k }}={{ v }};{% endfor %}
{% for k in d.keys() %}{{ k }}{% endfor %}{% for v in d.values() %}{{ v }}{% endfor %}
{{ d.keys() | list }}{{ d.values() | list }}{{ d.items() | list | tojson }}
{% for x in 1, 2, 3 %}{{ x }}{% endfor %}
{% for x in l if x > 1 %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }};{% endfor %}
{% for x in l %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }};{% endfor %}
{% for x in l %}{{ loop.cycle('a', 'b') }}{{ loop.changed(x) }}{% endfor %}
{% for x in rows recursive %}{{ x.role }}{{ loop.depth }}{% if x.tool_calls %}{{ loop(x.tool_calls) }}{% endif %}{% endfor %}
{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% if loop.index == 2 %}{% break %}{% endif %}{% endfor %}
{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for x in (l if i else m) %}{{ x }}{% endfor %}
{% for x in l|sort if x is odd %}{{ x }}{% endfor %}
{% for x in range(3) %}{{ x }}{% endfor %}{% for x in range(5, 0, -2) %}{{ x }}{% endfor %}{{ range(2, 4) | list }}
{% for (a, b) in [[1, 2], [3, 4]] %}{{ a + b }}{% endfor %}
{% for r in rows[::-1] %}{{ r.content }}{% endfor %}
{{ rows[1:] | map(attribute='content') | join }}{{ rows[:-1] | length }}{{ rows[-1].content }}
{{ l[::-1] }}{{ l[::2] }}{{ l[1:3] }}{{ l[:2] }}{{ l[-2:] }}{{ l[5:] }}{{ l[-9:2] }}{{ l[2:0:-1] }}{{ l[::-2] }}{{ [][::-1] }}
{{ w[::-1] }}{{ w[1:5] }}{{ w[:-3] }}{{ w[-3:] }}{{ w[::3] }}{{ e[::-1] }}{{ w[8:2:-2] }}{{ w[3] }}{{ w[-1] }}
{{ l[ :: -1 ] }}{{ l[i - 6 : ] }}{{ (l + [9])[1:][0] }}{{ l[:1] + l[1:] }}{{ {'a': l}['a'][1:] }}
{{ rows[0]['role'][0:2] }}{{ rows[0:1][0]['content'][0:] }}
text [::-1] outside {{ '[::-1]' }}{# [::-1] #}
{{ l[9] }}|{{ d.x }}|{{ d['x'] }}|{{ u }}
{{ u.x }}
{{ u + 'a' }}
{{ 'a' + u }}
{{ 'a' ~ u ~ 1 ~ n ~ t ~ f }}
{{ u | length }}|{{ u | list }}|{{ u | join(',') }}|{{ u | upper }}
{{ u | default('x') }}{{ e | default('x') }}{{ e | default('x', true) }}{{ n | default('x') }}{{ n | d('x', true) }}{{ n or 'y' }}
{{ u is defined }}{{ u is undefined }}{{ d.x is defined }}{{ d.b is defined }}{{ n is defined }}{{ n is none }}{{ n is not none }}
{{ 'a' if u }}|{{ 'a' if t else 'b' }}|{{ ('a' if u) is defined }}
{{ s is string }}{{ d is mapping }}{{ l is sequence }}{{ s is sequence }}{{ d is iterable }}{{ n is iterable }}{{ i is number }}{{ f is float }}{{ i is integer }}{{ t is integer }}{{ t is boolean }}{{ t is number }}{{ t is true }}{{ i is true }}{{ n is false }}
{{ i is odd }}{{ i is even }}{{ i is divisibleby(7) }}{{ 2 is in l }}{{ 'x' is in d }}{{ 'b' is in d }}
{{ i is eq 7 }}{{ i is eq(7) }}{{ i is equalto(7) }}{{ i is equalto 7 }}{{ i is ne 7 }}{{ i is lt 8 }}{{ i is gt(8) }}{{ i is le 7 }}{{ i is sameas 7 }}{{ 'a' is lower }}{{ 'A' is upper }}
{{ s.strip() }}|{{ s | trim }}|{{ s.lstrip() }}|{{ s.rstrip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'xyaxy'.lstrip('yx') }}|{{ 'xxaxx' | trim('x') }}|{{ ' a ' | trim }}
{{ s.rstrip('\n!') }}{{ s.lstrip('\n') }}{{ s.strip(' ') }}
{{ w.split() }}{{ w.split(' ') }}{{ w.split(' ', 1) }}{{ w.split('o') }}{{ w.split(maxsplit=1) }}{{ w.split(' ', maxsplit=1) }}{{ w.split('zz') }}{{ e.split() }}{{ e.split(',') }}
{{ w.rsplit(' ', 1) }}{{ w.rsplit() }}{{ w.rsplit(maxsplit=1) }}{{ w.partition(' ') | list }}{{ w.rpartition(' ') | list }}{{ w.partition('z') | list }}{{ w.partition(' ')[2] }}{{ w.rpartition('zz')[2] }}
{{ w.split('</think>')[-1].lstrip('\n') }}{{ w.split('two')[0] }}{{ w.split('two')[1] | trim }}
{{ w.split('') }}
{{ w.startswith('one') }}{{ w.startswith(('x', 'one')) }}{{ w.endswith('three') }}{{ w.endswith(('a', 'b')) }}{{ w.startswith('two', 4) }}
{{ w.removeprefix('one ') }}|{{ w.removesuffix('ee') }}|{{ w.removeprefix('x') }}
{{ w.title() }}{{ w.capitalize() }}{{ w.upper() }}{{ w.lower() }}{{ "it's o'NEIL".title() }}{{ 'ÉÀ b'.lower() }}{{ 'hELLO wORLD'.capitalize() }}
{{ "it's o'NEIL x-y" | title }}{{ 'hELLO' | capitalize }}{{ w | upper }}{{ 'A' | lower }}
{{ w.replace('o', '0') }}{{ w.replace('o', '0', 1) }}{{ w | replace('o', '0') }}{{ w | replace('o', '0', 1) }}
{{ w.find('two') }}{{ w.find('z') }}{{ w.rfind('e') }}{{ w.index('two') }}{{ w.count('e') }}{{ 'é1'.find('1') }}{{ 'aaa'.count('aa') }}
{{ w.index('zz') }}
{{ 'a,b'.join(['x', 'y']) }}{{ ', '.join(m) }}{{ m | join('-') }}{{ l | join(', ') }}{{ rows | join(',', attribute='role') }}
{{ ', '.join(l) }}
{{ 'a'.isdigit() }}{{ '12'.isdigit() }}{{ ''.isdigit() }}{{ ''.isalpha() }}{{ 'ab'.isalpha() }}{{ 'a1'.isalnum() }}{{ ' '.isspace() }}{{ ''.isspace() }}{{ 'aB'.islower() }}{{ 'a1'.islower() }}{{ 'A1'.isupper() }}{{ ''.islower() }}{{ '12'.isnumeric() }}{{ '1'.isdecimal() }}
{{ 'a\nb\r\nc'.splitlines() }}{{ 'a\nb\n'.splitlines(true) }}{{ 'a\x1cb\u2028c\x0bd'.splitlines() }}
{{ '%s is %d, %.2f %5s|%-5s|%05d %x %%' % ('a', 3, 2.567, 'c', 'd', 42, 255) }}
{{ '%s' % 'a' }}{{ '%s' % 3 }}{{ '%(a)s' % {'a': 1} }}{{ '%s and %s' | format('a', 'b') }}{{ '%s' % l }}
{{ '{} {1} {a}'.format('x', 'y', a='z') }}
{{ '{} {}'.format('x', 3) }}{{ '{0}{1}{0}'.format('a', 'b') }}{{ '{a}'.format(a=2) }}{{ '{:>5}|{:.1f}'.format('a', 2.55) }}
{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 4 / 2 }} {{ 2 ** 3 }} {{ 7.5 // 2 }} {{ 1 + 2.0 }} {{ 3 * 1.5 }}
{{ 5 // 0 }}
{{ 'ab' * 2 }}{{ l * 2 }}{{ l + [4] }}{{ 'a' + 'b' }}
{{ 'a' + 1 }}
{{ 1 + 'a' }}
{{ l + 'a' }}
{{ n + 'a' }}
{{ 'a' * 'b' }}
{{ 1 == 1.0 }}{{ 1 == true }}{{ '1' == 1 }}{{ none == n }}{{ [1] == [1.0] }}{{ {'a': 1} == {'a': 1} }}{{ e == n }}{{ u == n }}{{ 'a' != 1 }}
{{ 'a' < 'b' }}{{ 1 < 2.5 }}{{ [1, 2] < [1, 3] }}{{ 1 < 2 < 3 }}{{ 3 > 2 > 2 }}
{{ 'a' in 'abc' }}{{ 'b' in d }}{{ 1 in l }}{{ 9 not in l }}{{ 'x' not in 'abc' }}{{ '' in 'a' }}{{ 'a' in u }}
{{ 'a' in n }}
{{ 'a' in 1 }}
{{ not e }}{{ not n }}{{ not [] }}{{ not {} }}{{ not 0 }}{{ not 0.0 }}{{ not u }}{{ not 'a' }}{{ e and n }}|{{ e or l }}|{{ 1 and 2 }}
{{ big }} {{ big | tojson }} {{ [big] }} {{ {'a': big} | tojson }} {{ big | string }} {{ 'n: ' ~ big }} {{ 18446744073709551615 }} {{ -9223372036854775808 }}
{{ big is string }}{{ big is number }}{{ big is integer }}
{{ 1e3 }} {{ 1.0 }} {{ 1e16 }} {{ 1e-5 }} {{ 0.1 + 0.2 }} {{ 1_000 }} {{ 0x1F }} {{ 0b11 }} {{ 0o17 }} {{ -3 | abs }} {{ 2.567 | round(2) }} {{ 2.5 | round }} {{ 3.5 | round }} {{ 7 | round }} {{ 2.675 | round(2) }} {{ -2.5 | round }} {{ 7 | float }} {{ '3' | int }} {{ 'x' | int }} {{ 'x' | int(5) }} {{ 3.9 | int }} {{ '2.5' | float }}
{{ t }}{{ n }}{{ true }}{{ True }}{{ none }}{{ None }}{{ false }}{{ False }}{{ f }}{{ l }}{{ d }}{{ m }}
{{ (1, 2) | list }}{{ (1,) | list }}{{ () | list }}{{ [] }}{{ {} }}{{ {'a': (1, 'b')} | tojson }}
{{ d | tojson }}{{ d | tojson(indent=2) }}{{ d | tojson(indent=4, sort_keys=true) }}{{ d | tojson(ensure_ascii=true) }}{{ d | tojson(separators=(',', ':')) }}
{{ 'é\u2028 </script> & \x7f "' | tojson }}{{ '\u0001' | tojson }}{{ n | tojson }}{{ t | tojson }}{{ 1.0 | tojson }}{{ 1e22 | tojson }}{{ (1, 2) | tojson }}{{ {2: 2, none: 3, true: 4} | tojson }}
{{ u | tojson }}
{{ rows | tojson }}{{ d | string }}{{ d.a | tojson(indent=None) }}{{ d | tojson(indent='  ') }}
{{ rows | selectattr('role', 'equalto', 'user') | list | length }}{{ (rows | selectattr('role', '==', 'user') | list)[-1].content }}{{ rows | rejectattr('role', 'equalto', 'user') | map(attribute='content') | list }}{{ rows | selectattr('tool_calls') | list | length }}{{ rows | selectattr('tool_calls', 'defined') | list | length }}{{ (rows | selectattr('role', 'in', ['user'])) | map(attribute='n') | sum }}
{{ l | select('odd') | list }}{{ l | reject('odd') | list }}{{ m | map('upper') | list }}{{ m | map('replace', 'b', 'x') | join }}{{ [0, 1, n] | select | list }}{{ rows | map(attribute='tool_calls', default='-') | list | length }}{{ rows | map(attribute='x') | list }}
{% for g in rows | groupby('role') %}{{ g.grouper }}:{{ g.list | length }};{% endfor %}{% for k, v in rows | groupby('n') %}{{ k }}{{ v | map(attribute='content') | join }}{% endfor %}
{{ l | sort }}{{ m | sort }}{{ m | sort(case_sensitive=true) }}{{ l | sort(reverse=true) }}{{ rows | sort(attribute='n') | map(attribute='content') | join }}{{ l | min }}{{ l | max }}{{ l | sum }}{{ l | first }}{{ l | last }}{{ w | first }}{{ l | reverse | list }}{{ w | reverse }}{{ [1, 1, 2, 'A', 'a'] | unique | list }}
{{ [] | first }}|{{ [] | last }}|{{ [] | max }}|{{ [] | sum }}
{{ l | batch(2) | list }}{{ l | slice(2) | list }}{{ l | length }}{{ l | count }}{{ w | length }}{{ 'é' | length }}{{ d | length }}{{ w | list }}
{{ i | length }}
{{ n | length }}
{{ 'a\nb\n\nc' | indent }}|{{ 'a\nb' | indent(2, true) }}|{{ 'a\n\nb' | indent(2, false, true) }}|{{ 'a\nb' | indent(width=1, first=True) }}
{{ '<a&"\'>' }}{{ '<a>' | escape }}{{ '<a>' | e }}{{ '<b>' | safe }}{{ l | string }}{{ 3 | string + 'a' }}
{{ s.__class__ }}
{{ d.get('b') }}{{ d.get('x') }}{{ d.get('x', 'y') }}{{ d.get('x', default='y') }}
{% set ns = namespace(items=[1], keys=2) %}{{ ns.items }}{% set ns.items = ns.items + [2] %}{{ ns.items }}{{ ns.keys }}{{ ns.items[0] }}
{% set ns = namespace(a=1, b='') %}{% for x in l %}{% set ns.a = ns.a + x %}{% set ns.b = ns.b ~ x %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns.c is defined }}
{% set ns = namespace() %}{% set ns.x = 1 %}{{ ns.x }}{{ ns['x'] }}
{% set ns = namespace({'a': 3}) %}{{ ns.a }}
{% set x = 1 %}{% for y in l %}{% set x = y %}{% endfor %}{{ x }}{% if t %}{% set x = 5 %}{% endif %}{{ x }}
{% set x, y = 1, 2 %}{{ x }}{{ y }}{% set a = (1, 2) %}{{ a[1] }}{% set b = 1, 2 %}{{ b[1] }}
{% set x %}a {{ i }} b{% endset %}{{ x }}{{ x | upper }}{{ x is string }}{{ x | length }}
{%- set x %}  a⏎{%- endset %}[{{ x }}]
{% set x | upper %}abc{% endset %}{{ x }}
{% macro f(a, b=2, c='x') %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(1) }}{{ f(1, 3) }}{{ f(1, c='y') }}{{ f(a=5) }}{{ f() }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, b=2) }}
{% macro f() %}<{{ caller() }}>{% endmacro %}{% call f() %}x{{ i }}{% endcall %}
{% macro f(l) %}{% for x in l %}{{ caller(x) }}{% endfor %}{% endmacro %}{% call(x) f(l) %}[{{ x }}]{% endcall %}
{% macro f(x) %}{% if x > 0 %}{{ x }}{{ f(x - 1) }}{% endif %}{% endmacro %}{{ f(3) }}{{ f.name }}
{% macro f(x) -%}⏎    {{- x | trim -}}⏎{%- endmacro %}{{ f(' a ') | length }}{{ f('a') ~ f('b') }}{{ f('a') + 'b' }}
{% raw %}{{ x }} {% if %}{# c #}{% endraw %}
{%- raw -%} {{ x }} {%- endraw -%} a
{% filter upper %}a{{ 'b' }}{% endfilter %}
{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a }}
{% if e %}a{% elif l %}b{% else %}c{% endif %}{% if not u %}d{% endif %}{% if u %}x{% endif %}
  {% if t %}⏎  a⏎  {% endif %}⏎b⏎  {%+ if t %}a{% endif +%}⏎⏎c⏎
a {#- comment -#} b {# c #}
{# line #}⏎c⏎  {#- x #}⏎ d⏎
a⏎    {{- 'b' }}⏎  {{ 'c' -}}⏎   d {%- if t -%} e {%- endif -%} f
{{ 'a' }}⏎{%- for x in l %}⏎⏎{{ x }}⏎{%- endfor %}⏎⏎end
{% do l.append(4) %}
{% set _ = l.append(4) %}{{ l }}
{{ l.append(4) }}
{% set _ = d.update({'x': 1}) %}{{ d }}
{{ l.index(1) }}{{ l.count(1) }}{{ l.copy() }}{{ d.copy() }}
{{ l.pop() }}
{{ dict(a=1, b=2) }}{{ dict({'x': 1}, y=2) }}{{ dict([['a', 1]]) }}
{{ range(3) | list }}|{{ range(3) | length }}|{{ range(3)[1] }}|{{ 2 in range(3) }}
{{ raise_exception('no') }}
{% if false %}{{ raise_exception('no') }}{% endif %}ok
{{ ''.__class__ }}|{{ d.__class__ }}
{{ undefined_function() }}
{{ d.undefined_method() }}
{{ s.undefined_method() }}
{{ s | undefined_filter }}
{{ s is undefined_test }}
{% if false %}{{ s | undefined_filter }}{% endif %}
{{ {'a': 1, 'b': 2}['a'] }}{{ {'a': 1}.a }}{{ {'a': 1, 'a': 2} }}{{ {1: 'x'}[1] }}{{ {'x': {'y': 1}}.x.y }}
{{ [1, [2, 3]][1][0] }}{{ 'abc'[1] }}{{ ('a', 'b')[0] }}{{ l.0 }}
{{ -i }}{{ +i }}{{ - 2 ** 2 }}{{ 2 ** 3 ** 2 }}{{ 1 - 2 - 3 }}{{ 2 + 3 * 4 }}{{ (2 + 3) * 4 }}{{ 'a' ~ 1 + 2 }}{{ 1 + 2 ~ 'a' }}{{ not t == n }}{{ -1 | abs }}
{{ 'a' if t and not e else 'b' if i else 'c' }}{{ (t and i) or 'x' }}{{ i == 7 and 'seven' }}
{{ 10 - 3 if i }}{{ [1, 2,] }}{{ {'a': 1,} }}{{ f(1,) if u }}
{{ loop is defined }}{% for x in [1] %}{% for y in [2] %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}
{% for x in l %}{% set outer = loop %}{% for y in m %}{{ outer.index }}{{ loop.index }}{% endfor %}{% endfor %}
{% for r in rows %}{% if r['role'] == 'user' and not (loop.last) %}{{ r['content'] | trim + eos_token | default('') }}{% elif r.get('tool_calls') %}{{ r.tool_calls[0].function.arguments | tojson }}{% endif %}{% endfor %}
{% if (rows | last).role == 'user' and rows[0]['role'] != 'system' and (rows | length) is odd %}y{% endif %}
{% set loop_messages = rows[1:] if rows[0].role == 'user' else rows %}{{ loop_messages | length }}{% for m in loop_messages %}{{ m.role[0] }}{% endfor %}
{% for m in rows %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}odd{% endif %}{% endfor %}
{{ rows[0].items() | list | length }}{% for k, v in rows[0].items() if k != 'n' %}{{ k }}: {{ v }}{% if not loop.last %}, {% endif %}{% endfor %}
{% for k in rows[0] | list %}{{ k }}{% endfor %}{{ 'content' in rows[0] }}{{ rows[0].content is string }}{{ rows[0]['content'] is not string }}
{%- for i in range(rows | length) -%}{{ rows[i].content }}{%- endfor -%}
{{ rows | map(attribute='tool_calls.0.function.name') | list | length }}{{ rows | selectattr('n', 'gt', 1) | list | length }}{{ rows | map(attribute='role') | unique | join(',') }}
{% include 'x' %}
{% import 'x' as y %}
{% extends 'x' %}
{{ '' if n is none else n }}{{ n.x }}
{{ n.x.y }}
{{ i.x }}|{{ s.x }}
{{ 'a' 'b' }}{{ "\"" }}{{ '"' }}{{ 'multi⏎line' }}
{{ [1,2,3]|first|string ~ 'x' }}{{ 'a'|upper ~ 'b' }}{{ ('a' ~ 'b')|upper }}
{{ 'A'.lower().upper().title() }}{{ s.strip().split(',')[0].lower() }}{{ (s | trim).split(' ') | last }}
{{ 'abc' | map('upper') | join('.') }}{{ 'a-b_c'.split('-')[1].split('_') }}{{ 'x=1'.partition('=')[2] }}
{{ ['a', 'b'] | tojson | replace('"', "'") }}{{ {'a': n} | tojson }}{{ 'a' | tojson | safe }}
{% set tools = [{'name': 'f'}] %}{% for t in tools %}{{ t | tojson(indent=4) }}{% endfor %}
{{ 'a' is in ['a'] }}{{ 'a' is not in ['a'] }}{{ not 'a' is defined }}{{ u is not defined or u is none }}
{{ caller is defined }}{{ varargs is defined }}
{{ 1.5e3 }}{{ 100000000000000000000 }}{{ 1e400 }}{{ 5 | string | length }}{{ 'inf' | float }}
{{ 3 is float }}{{ 3.0 is integer }}{{ 3.0 is number }}{{ '3' is number }}{{ 3.0 == 3 }}{{ 3.0 | int }}{{ 7 % 2.5 }}{{ true + 1 }}{{ true | int }}
{{ l is mapping }}{{ s is iterable }}{{ range(2) is iterable }}{{ rows | map('upper') is iterable }}{{ u is iterable }}{{ u is sequence }}{{ u is string }}{{ u is none }}{{ u is mapping }}
{{ [1, 2] is sequence }}{{ (1, 2) is sequence }}{{ namespace() is mapping }}{{ none is string }}
{% set a = [1] %}{% set b = a + [2] %}{{ a }}{{ b }}{% set a = a + b %}{{ a }}
{{ m | sort | join }}{{ m | join(' ' if t else '') }}{{ w | replace(' ', '') | length }}{{ w.split(' ') | length }}
{{ 'x' * 0 }}{{ [1] * 2 }}{{ 2 * 'ab' }}
{{ 'line1\nline2'.split('\n') | map('trim') | join('|') }}{{ ('\n' ~ s).strip('\n') }}
{{ '%s %s' % (1, 'a') }}{{ '%s' % (1,) }}{{ 'a' ~ '%s' % i ~ 'b' }}{{ '%s-%s'|format(s|trim, 1) }}{{ '%5.1f' % 3.14159 }}{{ '%i' % 3 }}{{ '%c' % 'a' }}{{ '%e' % 12345.678 }}{{ '%g' % 0.0001 }}{{ '%+d' % 3 }}{{ '%o' % 8 }}{{ '%X' % 255 }}
{{ 'a' > 'B' }}{{ 'Z' < 'a' }}{{ 'é' > 'z' }}{{ true > false }}{{ 2 > true }}{{ l > [1] }}
{{ ((1, 2) + (3,)) | list }}{{ 1 in (1, 2) }}{{ (1, 2) | list }}{{ l | list == l }}
{{ u == e }}{{ u == u }}{{ u != 'a' }}{{ u in [1] }}{{ [u] }}
{{ '\\n' }}{{ '\\' }}{{ 'a\/b' }}{{ '\a\b\f\v\0' | tojson }}
{% for x in l -%} {{ x }} {%- else -%} none {%- endfor %}{% for x in [] -%} {{ x }} {%- else -%} none {%- endfor %}
{%if t%}a{%endif%}{%-if t-%}b{%-endif-%}{{i}}{{-i-}}{{- i -}}
{{ "a" if "x" in "xyz" else "b" }}{{ {"a": "}}"}["a"] }}{{ "%}" }}{{ '{{' }}{{ "{%" }}{{ "{#" }}
{% set x = {'a': {'b': [1, 2]}} %}{{ x.a.b[0] }}{{ x['a']['b'][-1] }}{{ x.a.b | last }}{{ x.a['b'][:1] }}{{ x.get('a').get('b')[1:] }}{{ x.get('a', {}).get('z', [])[1:] }}
{% for m in rows %}{{ m.content[:1] }}{{ m['content'][1:] }}{{ m.content[-1:] }}{% endfor %}{{ {'k': 'v'}['k'][0:1] }}{{ [{'a': 1}, {'b': 2}][1:][0] }}
{{ (rows[1:] if t else rows)[0:][0].content }}{{ rows[:1 + 1][1].content }}{{ rows[(1):][0].content }}{{ rows[i - 7:i - 6] | length }}{{ w[w.find('t'):w.find('t') + 3] }}
{{ 'x' ~ m ~ d ~ rows[0] ~ 2.0 ~ true }}
{{ m | string ~ 'x' }}{{ d | string | length }}{{ [1, 'a', none] | join('|') }}{{ [d, m] | join('|') }}
{{ u | upper }}|{{ u | trim }}|{{ u | string }}||{{ u | replace('a', 'b') }}|{{ u | title }}|{{ u | capitalize }}
{{ n | upper }}|{{ n | trim }}|{{ n | string }}|{{ i | trim }}|{{ i | upper }}|{{ t | lower }}|{{ f | title }}|{{ n | capitalize }}
{{ u | sort }}|{{ u | map('upper') | list }}|{{ u | selectattr('a') | list }}|{{ u | reverse | list }}||{{ u | unique | list }}
{{ n | list }}
{{ n | join }}
{{ n | map('upper') | list }}
{{ n | first }}
{{ n[0] }}|{{ u[0] }}
{{ n[1:] }}
{{ u[1:] }}
{{ d[1:] }}
{{ i[1:] }}
{{ n.get('a') }}
{{ l.get('a') }}
{{ 3.get }}
{% for k, v in l %}{{ k }}{% endfor %}
{% set a, b = l %}
{{ l['a'] }}|{{ s['a'] }}|{{ d[0] }}|{{ d[none] }}
{{ l[true] }}
{{ rows[-5] }}|{{ rows[i] }}
{{ rows[0].content.strip().split('\n')[0][:1] | upper }}{{ rows[0].get('content', '')[::-1] }}
{% if rows[0].content is string and rows[0].content[0:1] == 'a' %}yes{% endif %}
{{ rows | map(attribute='tool_calls') | select('defined') | list | length }}{{ rows | selectattr('tool_calls', 'undefined') | list | length }}{{ rows | rejectattr('tool_calls') | list | length }}
{{ rows | selectattr('content', 'ne', 'a') | map(attribute='content') | join('/') }}{{ rows | selectattr('role', 'in', ['assistant', 'tool']) | list | length }}{{ rows | selectattr('content', 'string') | list | length }}
{% set ns = namespace(found=false, i=0) %}{% for r in rows %}{% if r.role == 'assistant' and not ns.found %}{% set ns.found = true %}{% set ns.i = loop.index0 %}{% endif %}{% endfor %}{{ ns.found }}{{ ns.i }}
{{ w | int(5) }}{{ '-3' | int }}{{ ' 3 ' | int }}{{ '3.7' | int }}{{ none | int }}{{ n | int(9) }}
{{ 2.5 | int }}{{ '2.50' | float }}{{ 'x' | float }}{{ 'x' | float(1.5) }}{{ 3 | abs }}{{ -3.5 | abs }}
{{ dict(a=1).a }}{{ dict(d).b }}
{{ dict(d, c=2) | tojson }}
{{ dict([['a', 1]]) | tojson }}
{{ {'a': 1} | tojson | length }}{{ {'z': 1, 'a': 2} | tojson }}{{ {'z': 1, 'a': 2} }}{{ {'z': 1, 'a': 2} | dictsort | list | tojson }}{{ {'b': 1, 'a': 2} | items | list | tojson }}
{% macro m(a, b) -%} {{ a ~ (b or '') }} {%- endmacro %}{{ m('x') }}{{ m('x', 'y') }}{% set z = m('q') %}{{ z | upper }}{{ z == 'q' }}{{ z is string }}{{ 'q' in z }}{{ z + 'r' }}{{ z[0] }}{{ z | tojson }}
{% macro outer() %}{% set i = 99 %}{{ i }}{% endmacro %}{{ outer() }}{{ i }}
{% macro uses() %}{{ i }}{{ undefined_later }}{% endmacro %}{% set undefined_later = 3 %}{{ uses() }}
{% set x = 1 %}{% macro sees() %}{{ x }}{% endmacro %}{% set x = 2 %}{{ sees() }}
{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}
{% for r in rows %}{% macro inner() %}{{ r.role }}{% endmacro %}{{ inner() }}{% endfor %}
{% set x %}{% for r in rows %}{{ r.role }}{% endfor %}{% endset %}{{ x | length }}{{ x is string }}{{ x.split('a') | length }}{{ x ~ '<' }}
{% filter trim %}   a   {% endfilter %}|{% filter replace('a', 'b') | upper %}aa{% endfilter %}
{% for r in rows %}{{ r.role if loop.first else (r.content if loop.last) }}{% endfor %}
{% for r in rows %}{% if loop.previtem is defined and loop.previtem.role != r.role %}|{% endif %}{{ r.content }}{% endfor %}
{% for r in rows if r.role == 'user' %}{{ loop.index }}{{ loop.length }}{% else %}none{% endfor %}{% for r in rows if r.role == 'x' %}a{% else %}none{% endfor %}
{% for r in rows | selectattr('role', 'equalto', 'user') %}{{ loop.last }}{{ loop.length }}{% endfor %}{% for r in rows[1:] %}{{ loop.revindex }}{% endfor %}
{% for i in range(10) %}{% if i % 2 %}{% continue %}{% endif %}{% if i > 6 %}{% break %}{% endif %}{{ i }}{% endfor %}{{ i }}
{% for i in range(0) %}{% else %}none{% endfor %}{{ range(10)[-1] }}{{ range(1, 10, 3) | list }}{{ range(3)[::-1] | list }}{{ range(5)[1:3] | list }}
{% for a in l %}{% for b in m %}{{ loop.index }}{% if b == 'A' %}{% break %}{% endif %}{% endfor %}{{ loop.index }};{% endfor %}
{% set content = rows[0].content %}{% if content is not none and content | length > 0 %}{{ content }}{% endif %}{% set content = content | default('', true) | trim %}{{ content }}
{% if 'tool_calls' in rows[1] and rows[1].tool_calls is iterable and rows[1].tool_calls is not string %}{% for c in rows[1].tool_calls %}{{ c.function | tojson }}{{ c['function']['arguments'].items() | list | tojson }}{% endfor %}{% endif %}
{{ rows[1].tool_calls[0].function.arguments | tojson | tojson }}{{ rows[1].tool_calls[0]['function'].name ~ '(' ~ rows[1].tool_calls[0].function.arguments ~ ')' }}
{%- if not date_string is defined %}{%- set date_string = "26 Jul 2024" %}{%- endif %}{{ date_string }}{%- if custom is defined %}{%- set tools = custom %}{%- endif %}{%- if not tools is defined %}{%- set tools = none %}{%- endif %}{{ tools }}
{%- if tools is not none and tools | length %}a{% endif %}{{ tools is none }}{{ documents is none }}{{ tools is defined }}{{ tools or 'no' }}{{ messages | length }}{{ add_generation_prompt }}
{{- "<|x|>" + rows[0]['role'] + "<|y|>\n\n" + rows[0]['content'] | trim + "<|z|>" }}
{{ ('a' if t else 'b') + 'c' }}{{ 'a' + ('b' if u else '') }}{{ 'a' + 'b' if t else 'c' }}{{ 'x' if not t else 'y' }}{{ [1 if t else 2, 3] }}
{{ "a\\nb" }}{{ 'a\\tb' }}{{ "\u2581" }}{{ '｜' }}{{ "<｜begin▁of▁sentence｜>" }}{{ 'it\'s' }}{{ "say \"hi\"" }}{{ '\xe9' }}{{ '\U0001F600' }}
{{ s.split(',')[0].strip()[1:][:2] }}{{ (s.split(',') | last).strip() | length }}{{ s.strip().split(' ', 1)[1][::-1] }}{{ w.split()[::-1] | join(' ') }}{{ w.split(' ')[1:] | join(' ') }}
{{ '\x1c a \x85\u3000'.strip() }}{{ '\u200b a'.strip() | length }}{{ '\x1c a' | trim }}{{ 'ß'.upper() }}{{ 'İ'.lower() | length }}{{ 'ΑΣ'.lower() }}
{{ '²'.isdigit() }}{{ '½'.isnumeric() }}{{ '٣'.isdigit() }}{{ 'é'.isalpha() }}{{ '中'.isalpha() }}{{ '中'.islower() }}{{ 'a b'.isalpha() }}{{ '_'.isalnum() }}
{{ 'a\n  b' | indent(2) }}|{{ 'a\n\n  b\n' | indent(3, blank=true) }}|{{ '' | indent }}|{{ 'a\n' | indent(first=true) }}|{{ 'x\ny' | indent('>>', true) }}
{{ 1 if 1 == 1 else 2 }}{{ 1 == 1 and 2 == 2 }}{{ not (1 == 2) }}{{ not 1 == 2 }}{{ 1 < 2 and 2 < 3 or false }}{{ 1 in [1] and 2 not in [1] }}{{ (1 in [1]) is true }}{{ 'a' is defined and 'b' }}
{{ 5 > 3 > 1 }}{{ 5 > 3 > 4 }}{{ 1 == 1 == 1 }}{{ 1 < 3 in [3] }}{{ 1 != 2 != 1 }}
{%- set a = 'x' -%}  {{ a }}  {%- set b = 'y' %} {{ b }}
{% if t -%}⏎  a⏎{%- endif %}⏎  {%- if t %}⏎b⏎  {%- else %}⏎c⏎  {%- endif %}⏎d
⏎⏎{% set a = 1 %}⏎{{ a }}⏎⏎{# c #}⏎⏎  {# d #}  ⏎x  {# e #}⏎y
  {% for x in l %}  {{ x }}⏎  {% endfor %}  end⏎⏎
	{% if t %}⏎	tab⏎	{% endif %}⏎
a{% if t %} {% endif %}b {% if t %}⏎{% endif %}c{{ ' ' }}{% raw %}⏎ {{ a }} ⏎{% endraw %}⏎d
{%- raw %}⏎ a{%- endraw %}{% raw -%} b {%- endraw %}{%raw%}c{%endraw%}
{{ {} | tojson }}{{ [] | tojson(indent=2) }}{{ {'a': {}} | tojson(indent=2) }}{{ [[1, [2]], {'a': [3]}] | tojson(indent=1) }}{{ {'a': 1, 'b': [1, 2]} | tojson(indent=0) }}
{{ {'b': 1, 'a': {'d': 1, 'c': 2}} | tojson(sort_keys=true) }}{{ [1, 2] | tojson(separators=(', ', ': ')) }}{{ {'a': 1} | tojson(indent=2, separators=(',', ': ')) }}{{ 'é' | tojson(ensure_ascii=True) }}{{ d | tojson(indent=none) }}
{{ 1.0 | tojson }}{{ 1e-7 | tojson }}{{ 1e16 | tojson }}{{ 123456789.123 | tojson }}{{ 0.1 | tojson }}{{ -0.0 | tojson }}{{ 1e100 }}{{ 1.5e300 * 1e10 }}{{ 3.14159265358979 }}{{ 100.0 }}{{ 1e15 }}{{ 12345678901234567.0 }}
{{ namespace(a=1).a }}{{ namespace(a=1) is mapping }}{{ [namespace(a=1)] | map(attribute='a') | list }}
{{ raise_exception() }}
{{ raise_exception(1) }}
{{ strftime_now('%Y') | length }}{{ strftime_now('%d %b %Y') | length > 9 }}{{ strftime_now is defined }}{{ raise_exception is defined }}
{{ u.strip() }}
{{ n.strip() }}
{{ i.strip() }}
{{ l.strip() }}
{{ 'a' | foo }}
{{ foo('a') }}
{{ 'abc'.replace('b', 'x').upper()[1:] ~ 'abc'.find('c') }}{{ 'a.b.c'.rsplit('.', 1)[0] }}{{ 'a.b.c'.split('.', 1)[1] }}{{ 'aXbX'.split('X') }}{{ ' a  b '.split() }}{{ ' a  b '.split(' ') }}{{ ' a  b '.rsplit(none, 1) }}{{ ' a  b '.split(none, 1) }}
{{ 'abc'.startswith('') }}{{ ''.startswith('a') }}{{ 'abc'.endswith(('c',)) }}{{ 'abc'.startswith(()) }}{{ 'abc'.startswith('b', 1) }}{{ 'abc'.startswith('b', 1, 2) }}{{ 'abc'.endswith('b', 0, 2) }}
{{ 'abc'.startswith(1) }}
{{ 'abc'.strip('') }}{{ 'aabb'.strip('ab') }}|{{ 'abc'.strip(none) }}{{ 'x-'.rstrip('-') }}{{ '\n\nx\n'.strip('\n') }}{{ 'x'.replace('', '-') }}{{ 'aaa'.replace('a', 'b', 2) }}{{ 'aaa'.replace('a', 'b', -1) }}
{{ 'abc'.strip(1) }}
{{ 'abc'.replace('a') }}
{{ 'abc'.upper('x') }}
{{ 'abc'.split(1) }}
{{ 'abc'.join(3) }}
{{ d.get() }}
{{ d.keys('a') }}
{{ d.b.c }}|{{ d.a[0] }}{{ d.a.0 }}{{ d['é']['<&>'] }}{{ d['a'][-1][0] }}
{{ (l | sort)[0] }}{{ l | sort | first }}{{ l | list | sort(reverse=True) | join }}{{ rows | sort(attribute='n') | map(attribute='content') | join }}{{ ['b', 'a', 'C'] | sort }}{{ [2, 1] | min }}{{ ['a', 'c', 'b'] | max }}
{{ [[2, 'b'], [1, 'a']] | sort }}{{ [0.5, 1] | sum }}{{ [1, 2, 2] | unique | list }}{{ 'hello' | unique | join }}
{{ l | batch(2, 0) | list }}{{ l | slice(2, 'x') | map('list') | list }}{{ rows | groupby('role') | map(attribute='grouper') | join }}{{ rows | groupby('role') | length }}{{ rows | groupby('x', default='y') | map('first') | list }}
{{ 'a' | default('b') | upper }}{{ u.x | default('c') }}
{{ d.zz.y | default('c') }}
{{ d.zz | default(d.b) }}{{ u | default }}{{ u | default(none) }}{{ e | default('x', boolean=True) }}{{ 0 | default(5, true) }}{{ u | default(default_value='q') }}
{% for x in 'aé' %}{{ x }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.nextitem }}{% endfor %}{% for x in '' %}{{ x }}{% else %}empty{% endfor %}
{% set l2 = ['a'] + ['b'] %}{{ l2 }}{{ l2 + ['c'] }}{{ l2 | tojson }}{{ l2 is sequence }}{{ l2[-1] }}{{ l2 | length }}{{ l2 == ['a', 'b'] }}{{ rows + [{'role': 'x'}] }}
{{ 'a' ~ ['x'] }}{{ 'a' ~ {'x': none} }}{{ ['x', [true]] | string }}{{ {'x': 1.0} | string }}{{ ['x'] ~ ('y',) ~ 1e16 ~ 1e-7 ~ [none] * 2 }}
{{ '%s|%s' % (['a'], {'b': none}) }}{{ '%s' % ['a'] }}{{ '{}'.format(['a']) }}{{ '%s' | format(['a']) }}{{ ['a', ['b']] | join('-') }}{{ [['a']] | map('string') | join }}
{{ ['\u00a0', '\u00ad', '\u0378', '\u0600', '\u2003', '\u200b', '\u200d', '\u2028', '\u3000', '\ufeff', '\ue000', '\U000e0001', '\x7f', '\x85', 'é中😀'] }}
{{ [1, [2, {'a': (3, none)}], "it's", 'q"\''] }}
{{ '<b a="c">&\'' | escape }}{{ '"' | e }}{{ 3 | e }}{{ none | e }}{{ u | e }}{{ ['<'] | e }}{{ '<' | forceescape }}
{{ (1, 2) }}{{ (1,) }}{{ () }}{{ (1, 2) | tojson }}{{ (1, 'a')[1] }}{{ ('a', 'b')[-1] }}{{ ('a', 'b', 'c')[1:] }}{{ (1,) + (2,) }}{{ (1, 2) | length }}{{ 'a' in ('a', 'b') }}{{ (1, 2) == (1, 2) }}
{% set p = 1, 'b' %}{{ p }}{{ 1, 2 }}{% for x in 'ab', 'c' %}{{ x }}.{% endfor %}{% set a, b = (3, 4) %}{{ a }}{{ b }}
{{ d.items() | list }}{{ rows[0] | items | list }}{{ {'b': 1, 'a': 2} | dictsort }}{{ {'b': 1, 'a': 2} | dictsort(by='value') }}{{ 'a=b'.partition('=') }}{{ 'ab'.rpartition('=') }}
{% for k, v in {'b': 1}.items() %}{{ k }}{{ v }}{{ loop.last }}{% endfor %}{{ {'b': 1}.items() | map('first') | join }}{{ d.items() is iterable }}
{{ (1,) + [2] }}
{{ +5 }}{{ +2.5 }}{{ 3 + +4 }}{{ +t }}{{ 3 - -2 }}{{ -l[0] }}{{ -d.b }}{{ -d.b | abs }}
{{ +s }}
{{ 1 / 0 }}
{{ 1.0 // 0 }}
{{ 1 % 0 }}
{{ -7 // 2 }} {{ 7 // -2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ -7.5 % 2 }} {{ 7.5 // -2 }} {{ -7.5 // 2 }} {{ 6 / 3 }} {{ 2 ** -1 }} {{ 2 ** 0.5 }} {{ 10 // 3.0 }} {{ 2 ** 64 }} {{ true + true }} {{ 1 - true }}
{{ 0 ** -1 }}
{{ 'abc' < 5 }}
{{ none < 1 }}
{{ u < 1 }}
{{ [1] < 2 }}
{{ [1, 'a'] | sort }}
{{ 1 in 'x1' }}
{{ none in 'x' }}
{{ 1 not in 'x1' }}
{{ 1 is in 'x1' }}
{{ [1, 2] < [1, 2, 3] }}{{ (2,) > (1, 5) }}{{ 'a' < 'ab' }}{{ 1 < 2.5 <= 2.5 }}{{ not 1 in [2] }}{{ 'a' not in 'b' and 1 not in [2] }}{{ 'x' if 'a' not in m else 'y' }}{{ [] < [1] }}
{{ 'a' * 3 }}{{ 3 * 'a' }}{{ [1] * 2 }}{{ 2 * (1,) }}{{ 'a' * -1 }}{{ [0] * 0 }}{{ 'a' * true }}
{{ 'a' * 2.0 }}
{{ l - [1] }}
{{ '7'.zfill(3) }}{{ '-7'.zfill(4) }}{{ '+'.zfill(3) }}{{ 'abc'.zfill(2) }}{{ (7 | string).zfill(2) }}{{ '--1'.zfill(5) }}
{{ 'ab'.ljust(4) }}|{{ 'ab'.rjust(4, '.') }}|{{ 'ab'.center(5) }}|{{ 'abc'.center(6, '*') }}|{{ 'abc'.center(2) }}|{{ 'x' | center(5) }}|{{ 'a'.center(4) }}|{{ 'é'.ljust(3, 'ü') }}|
{{ 'ab'.ljust(4, '') }}
{{ 'aBc ß'.swapcase() }}{{ 'abc'.isalnum() }}{{ 'Ab Cd'.istitle() }}{{ 'AB'.istitle() }}{{ ''.istitle() }}{{ 'a'.isascii() }}{{ 'é'.isascii() }}{{ ''.isascii() }}{{ 'ab'.islower() }}
{{ '²'.isdigit() }}{{ '²'.isdecimal() }}{{ '½'.isdigit() }}{{ '½'.isnumeric() }}{{ '٣'.isdecimal() }}{{ '①'.isdigit() }}{{ '12'.isdecimal() }}
{{ 'a b  c-d, é_x' | wordcount }}{{ '' | wordcount }}{{ u | wordcount }}
{{ 'a long sentence here' | truncate(9) }}|{{ 'foo bar baz qux' | truncate(11) }}|{{ 'foo bar baz qux' | truncate(11, False, '...', 0) }}|{{ 'foo bar baz qux' | truncate(9, True) }}|{{ 'abcdefghijklm' | truncate(5) }}|{{ 'abc def ghi' | truncate(5, true, '') }}|{{ 'éé éé éé éé' | truncate(length=4, end='!', leeway=0) }}
{{ 'a long sentence' | truncate(2) }}
{{ true | float }}{{ -t }}{{ -f }}{{ -0.0 }}{{ -(0.0) }} {{ 3.14159 | round(2) }} {{ 2.5 | round }} {{ 3.5 | round(0, 'floor') }} {{ 7 | round }} {{ 2.675 | round(2) }} {{ 2.1 | round(method='ceil') }} {{ 42.55 | round(1, 'floor') }} {{ 7 | round(1) }} {{ true | round }} {{ -2.5 | round(precision=0) }}
{{ 2.5 | round(0, 'up') }}
{{ '12abc' | int }} {{ 'x' | int(7) }} {{ '0x1A' | int(0, 16) }} {{ '0x1A' | int(base=16) }} {{ 'ff' | int(0, 16) }} {{ '0b11' | int(0, 2) }} {{ '0x1A' | int(0, 0) }} {{ '1_000' | int }} {{ '+5' | int }} {{ none | int(default=3) }} {{ '1__0' | int }} {{ '12.9' | int }} {{ 'inf' | int(4) }} {{ '0x1A' | int }} {{ l | int(default='no') }}
{{ [1, 1, 2] | unique | list }}{{ ['a', 'A', 'b'] | unique | list }}{{ ['a', 'A'] | unique(true) | list }}{{ rows | unique(attribute='role') | map(attribute='n') | list }}{{ [1, 2, 3] | min }}{{ [] | max }}{{ ['b', 'A'] | min }}{{ ['b', 'A'] | max }}{{ ['b', 'A', 'a'] | min(case_sensitive=true) }}{{ (rows | max(attribute='n')).content }}{{ (rows | min(attribute='n')).content }}
{{ [1, 2] | sum(start=3) }}{{ [{'a': 1}, {'a': 2.5}] | sum(attribute='a') }}{{ rows | sum('n') }}{{ [[1], [2]] | sum(start=[]) }}{{ [0.1, 0.2] | sum }}{{ [1, true] | sum }}
{{ ['a', 'b'] | sum }}
{{ ['a', 1] | max }}
{% set j = joiner(', ') %}{% for x in l %}{{ j() }}{{ x }}{% endfor %}{% set k = joiner() %}{{ k() }}a{{ k() }}
{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.next() }}{% set _ = c.reset() %}{{ c.current }}{% for x in l %}{{ c.next() }}{% endfor %}
{{ rows is callable }}{{ raise_exception is callable }}{{ range is callable }}{{ s is callable }}{{ n is callable }}{{ d is callable }}{{ 1 is callable }}{% macro f() %}{% endmacro %}{{ f is callable }}
{{ 'ß' | upper }}{{ 'ǆ'.title() }}{{ 'hello'.capitalize() }}{{ 'ǆab' | capitalize }}{{ 'ßa'.title() }}{{ 'ǆab ǆ' | title }}{{ 'ﬁne'.capitalize() }}{{ 'აბ'.title() }}
{{ 1.5 + 2 ** 2 * 3 - 4 / 2 }} {{ 1e-5 + 1 }} {{ 2 * 3 % 4 }} {{ 'a' ~ 1 * 2 ~ 'b' }} {{ 'x' + 'a' ~ 1 }} {{ 'a' if 1 + 1 == 2 and 'b' ~ 'c' == 'bc' }} {{ (1 + 2) * 3 }} {{ [1 + 1, 2 ~ 'x', -1] }} {{ {'a' ~ 1: 1 + 1}['a1'] }} {{ l[1 - 1] + l[-1] }} {{ 1 if 2 > 1 else 3 + 4 }}
{% if 1 + 1 == 2 and not ('a' ~ 'b') in ['ab'] or i - 1 > 5 %}y{% endif %}{% with a = 1 + 1, b = 'x' ~ 2 %}{{ a }}{{ b }}{% endwith %}{% macro f(a, b=1 + 1, c=['x'] + ['y']) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(2 - 1) }}{{ f(b=i + 1, a='q' ~ 1) }}{% set x | replace('a', 'b' ~ 1) %}aa{% endset %}{{ x }}{% filter replace('a', 'b' ~ 1) %}aa{% endfilter %}
{% for x in l + [9] if x + 1 > 2 and x != 9 - 0 %}{{ x }}{{ loop.last }}{% endfor %}{% for x in [[1, [2]]] recursive %}{{ x }}{% endfor %}{% for x in (l if i > 8 else m + ['z']) %}{{ x }}{% endfor %}{% macro f() %}{{ caller(1 + 1) }}{% endmacro %}{% call(x) f() %}{{ x + 1 }}{% endcall %}
{{ 3 is divisibleby 1 + 2 }}{{ 'a' ~ 'b' is string }}{{ -1 is odd }}{{ not 3 is odd }}{{ 4 is not divisibleby(3) and 1 + 1 is even }}{{ 3 is in [1 + 2] }}{{ 'a' is string and 'b' ~ 'c' is string }}{{ 1 is eq(1) == true }}
{{ m | map('replace', 'b', 'x' ~ 1) | join(', ' ~ '') }}{{ dict(a=1 + 1, **{'b': 2}) }}{{ rows | selectattr('n', '>', 0 + 1) | list | length }}{{ s[1 + 1:i - 2] }}{{ 'a' 'b' ~ 'c' }}
{{ 1 +⏎ 1 }}{{ 'a'⏎ ~⏎ 'b' }}{{ [1,⏎ 2] }}
{{ e or -i }}{{ not -i }}{{ 1 if -i else 2 }}{{ i and -f }}{{ [-i, -f] }}{{ 3 in -l }}
{{ e or -i }}{{ not -i }}{{ 1 if -i else 2 }}{{ i and -f }}{{ [-i, -f] }}{{ -i in [-i] }}{{ i - -i }}{{ i == -i }}{{ e ~ -i }}{% if -i %}a{% endif %}{% if e or not -i %}b{% elif -f %}c{% endif %}
{{ l < (1, 2) }}
{{ ['A'] | lower }}{{ {'a': 1} | upper }}{{ ['a'] | title }}{{ [1] | trim }}{{ ['A'] | capitalize }}
{{ 1 + }}
{{ a b }}
{{ (1, 2 }}
{{ 1 ~ }}
{{ [1 2] }}
{% set x = %}
{% if %}a{% endif %}
{{ 'a' + ['b'] }}
{{ d + d }}
""".strip("\n")


# Templates that transformers renders and Horizon refuses, with a word of the error.
REFUSED = [
    (r"{{ '\N{BULLET}' }}", r"the escape \N"),
    (r"{{ '\ud83d' }}", r"the escape \u"),
    ("{{ 'a'.expandtabs(5) }}", "no method named expandtabs"),
    ("{{ w.casefold() }}", "no method named casefold"),
    ("{{ w | wordwrap(3) }}", "filter wordwrap is unknown"),
    ("{{ 1234 | round(-2) }}", "less than units"),
    ("{{ d | pprint }}", "filter pprint is unknown"),
    ("{% if d.items %}a{% endif %}", "`.items` is a method of dict, not a field; write ['items']"),
    ("{% macro f(a) %}{{ varargs }}{% endmacro %}{{ f(1, 2) }}", "too many arguments"),
    ("{% macro f(a) %}{{ kwargs }}{% endmacro %}{{ f(1, x=3) }}", "unknown keyword argument `x`"),
    ("{{ dict.fromkeys(['a'], 1) }}", "no method named fromkeys"),
    ("{{ lipsum() }}", "lipsum is unknown"),
    ("{% for k, v in ['ab', 'cd'] %}{{ k }}{{ v }}.{% endfor %}", "not iterable"),
    ("{% block x %}a{% endblock %}", "unknown statement block"),
]


def templates():
    return [line.replace("⏎", "\n") for line in TEMPLATES.split("\n")]


def rendered(template):
    try:
        return render_jinja_template([[]], chat_template=template, **json.loads(json.dumps(VARIABLES)))[0][0]
    except Exception:
        return None


def main():
    cases = [[template, rendered(template)] for template in templates()]
    assert all(rendered(template) is not None for template, _ in REFUSED)
    with open(os.path.join(HERE, "jinja.json"), "w") as file:
        json.dump({"variables": VARIABLES, "cases": cases, "refused": REFUSED}, file, ensure_ascii=True, indent=0)
        file.write("\n")
    print(len(cases), "templates,", sum(text is None for _, text in cases), "refused")


main()
