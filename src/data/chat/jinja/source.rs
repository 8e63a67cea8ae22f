//! Rewrites the source of a template where minijinja reads it otherwise than Jinja.
//!
//! | source | rewritten | reason |
//! |---|---|---|
//! | `'a\⏎b'` and other escapes | the characters they mean | escapes are Python's |
//! | `x + y`, `x < y`, `x in y` and so on | `x\|__operate__('+', y)` | types, `/ 0`, `%` and lists |
//! | `x ~ y` | `x\|__concat__(y)` | lists and dicts as in Python |
//! | `(x, y)` | `__tuple__(x, y)` | it prints as a tuple |
//! | `x[a:b:c]` | `x.__slice__(a, b, c)` | slices are Python's |
//! | `for x in y` | `for x in (y)\|__iter__` | a loop over none is an error |
//! | `x.items` without call | `x.__field__('items')` | Jinja finds the method of `dict` first |
//! | `{% generation %}` | `{% filter __generation__ %}` | an extension of transformers |

use super::expression::{NoExpression, Parser};

/// Names that a template cannot have by itself.
pub const SLICE: &str = "__slice__";
pub const ITER: &str = "__iter__";
pub const FIELD: &str = "__field__";
pub const GENERATION: &str = "__generation__";

/// Methods of `dict`.
pub const OF_DICT: [&str; 9] =
    ["clear", "copy", "get", "items", "keys", "pop", "setdefault", "update", "values"];

/// A template for minijinja.
pub struct Source {
    pub text: String,
    /// True if it has `{% generation %}` tags.
    pub has_tags: bool,
}

/// Rewrites a template. An error describes an escape that is not supported, or a `generation` tag
/// that is not nested in other tags.
pub fn rewrite(source: &str) -> Result<Source, String> {
    let mut out = Source { text: String::with_capacity(source.len()), has_tags: false };
    let mut blocks = Blocks::default();
    let mut rest = source;
    while let Some(at) = ["{{", "{%", "{#"].iter().filter_map(|open| rest.find(open)).min() {
        out.text.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = match &rest[..2] {
            "{#" => rest.find("#}").map(|end| end + 2),
            _ if is_tag(rest, "raw") => {
                let begin = rest.find("%}").map_or(rest.len(), |end| end + 2);
                out.text.push_str(&rest[..begin]);
                // Jinja keeps a newline behind this tag, minijinja does not.
                out.text.push_str(if rest[begin..].starts_with('\n') { "\n" } else { "" });
                rest = &rest[begin..];
                end_of_raw(rest)
            }
            _ => {
                let (tokens, end) = tokens(rest)?;
                blocks.follow(&tokens).map_err(|message| {
                    let line = 1 + source[..source.len() - rest.len()].matches('\n').count();
                    format!("{message} (line {line} of the template)")
                })?;
                out.block(&rest[..2], &tokens);
                rest = &rest[end..];
                continue;
            }
        };
        let end = end.unwrap_or(rest.len());
        out.text.push_str(&rest[..end]);
        rest = &rest[end..];
    }
    out.text.push_str(rest);
    match blocks.0.contains(&"generation") {
        true => Err("{% generation %} has no {% endgeneration %}".to_owned()),
        false => Ok(out),
    }
}

/// The blocks that are open, the innermost last. minijinja checks their nesting, too, but knows
/// `generation` by another name.
#[derive(Default)]
struct Blocks(Vec<&'static str>);

impl Blocks {
    const ALL: [&str; 10] =
        ["for", "if", "set", "macro", "filter", "call", "with", "block", "autoescape", "generation"];

    fn follow(&mut self, tokens: &[Token]) -> Result<(), String> {
        let mut words = tokens.iter().filter(|token| !matches!(token, Token::Space(_))).map(Token::text);
        let word = match words.next() {
            Some(open) if open.starts_with("{%") => words.next().unwrap_or_default(),
            _ => return Ok(()),
        };
        let named = |name: &str| Blocks::ALL.into_iter().find(|block| *block == name);
        let open = self.0.last().copied();
        let is_misplaced = match (word, word.strip_prefix("end").and_then(named)) {
            ("else" | "elif", _) => open == Some("generation"),
            (_, Some(closed)) => {
                self.0.pop();
                open != Some(closed) && (open == Some("generation") || closed == "generation")
            }
            _ => {
                self.0.extend(named(word).filter(|block| *block != "set" || is_block(tokens)));
                false
            }
        };
        match is_misplaced {
            true => Err(format!(
                "{{% {word} %}} stands where {} is open; close tags in the reverse order of their opening",
                open.map_or("no block".to_owned(), |open| format!("{{% {open} %}}"))
            )),
            false => Ok(()),
        }
    }
}

/// Returns true if a text begins with the tag `{% word %}`.
fn is_tag(text: &str, word: &str) -> bool {
    let Some(inside) = text.strip_prefix("{%") else { return false };
    let inside = inside.trim_start_matches(['-', '+']).trim_start();
    let Some(after) = inside.strip_prefix(word) else { return false };
    after.trim_start().trim_start_matches(['-', '+']).starts_with("%}")
}

/// Returns the index behind `{% endraw %}`.
fn end_of_raw(text: &str) -> Option<usize> {
    let mut tags = text.match_indices("{%").map(|(at, _)| at);
    let end = tags.find(|&at| is_tag(&text[at..], "endraw"))?;
    Some(end + text[end..].find("%}")? + 2)
}

/// A token of a tag; operators are one character each.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    Space(String),
    Name(String),
    Text(String),
    Other(String),
}

impl Token {
    pub fn text(&self) -> &str {
        let (Token::Space(text) | Token::Name(text) | Token::Text(text) | Token::Other(text)) = self;
        text
    }

    pub fn is(&self, text: &str) -> bool {
        !matches!(self, Token::Text(_)) && self.text() == text
    }
}

/// Splits a tag, from `{{` or `{%` through `}}` or `%}`; returns the tokens and the length. The
/// first token is the beginning, the last one the end.
fn tokens(text: &str) -> Result<(Vec<Token>, usize), String> {
    let close = if text.starts_with("{{") { "}}" } else { "%}" };
    let open = if text[2..].starts_with(['-', '+']) { 3 } else { 2 };
    let mut tokens = vec![Token::Other(text[..open].to_owned())];
    let (mut at, mut depth) = (open, 0_usize);
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let sign = usize::from(rest.starts_with(['-', '+']));
        if depth == 0 && rest[sign..].starts_with(close) {
            tokens.push(Token::Other(rest[..sign + 2].to_owned()));
            return Ok((tokens, at + sign + 2));
        }
        let run = |is: &dyn Fn(char) -> bool| rest.find(|c| !is(c)).unwrap_or(rest.len());
        let (token, length) = match first {
            '\'' | '"' => {
                let Some(length) = end_of_text(rest, first) else { break };
                (Token::Text(python_text(&rest[1..length - 1], first)?), length)
            }
            c if c.is_whitespace() => {
                let length = run(&char::is_whitespace);
                (Token::Space(rest[..length].to_owned()), length)
            }
            c if is_word(c) => {
                let is_item = tokens.last().is_some_and(|token| token.is("."));
                let length = if c.is_ascii_digit() && !is_item { number(rest) } else { run(&is_word) };
                (Token::Name(rest[..length].to_owned()), length)
            }
            c => {
                match c {
                    '(' | '[' | '{' => depth += 1,
                    ')' | ']' | '}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                (Token::Other(c.to_string()), c.len_utf8())
            }
        };
        tokens.push(token);
        at += length;
    }
    // Without an end: minijinja reports it.
    tokens.push(Token::Other(text[at..].to_owned()));
    Ok((tokens, text.len()))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Returns the length of a number literal.
fn number(text: &str) -> usize {
    let run = |from: usize| text[from..].find(|c| !is_word(c)).map_or(text.len(), |length| from + length);
    let is_digit = |at: usize| text[at..].starts_with(|c: char| c.is_ascii_digit());
    let mut end = run(0);
    if text[end..].starts_with('.') && is_digit(end + 1) {
        end = run(end + 1);
    }
    let has_exponent = text[..end].ends_with(['e', 'E']) && !text.starts_with("0x");
    if has_exponent && text[end..].starts_with(['-', '+']) && is_digit(end + 1) {
        end = run(end + 1);
    }
    end
}

/// Returns the length of a string literal, quotes included.
fn end_of_text(text: &str, quote: char) -> Option<usize> {
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// Reads the escapes of a string literal as Python does, and writes it for minijinja.
fn python_text(inside: &str, quote: char) -> Result<String, String> {
    let mut out = String::from(quote);
    let mut put = |c: char| match c {
        '\\' => out.push_str("\\\\"),
        c if c == quote => out.extend(['\\', c]),
        c => out.push(c),
    };
    let mut lines = 0;
    let mut chars = inside.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            put(c);
            continue;
        }
        let escape = chars.next().unwrap_or('\\');
        let mut digits = |count: usize, radix: u32| {
            let text: String = chars.as_str().chars().take(count).collect();
            chars = chars.as_str()[text.len()..].chars();
            u32::from_str_radix(&text, radix).ok().filter(|_| text.len() == count).and_then(char::from_u32)
        };
        let code = match escape {
            '\n' => {
                lines += 1;
                continue;
            }
            '\\' | '\'' | '"' => Some(escape),
            'a' => Some('\u{7}'),
            'b' => Some('\u{8}'),
            'f' => Some('\u{c}'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\u{b}'),
            'x' => digits(2, 16),
            'u' => digits(4, 16),
            'U' => digits(8, 16),
            '0'..='7' => {
                let more = chars.as_str().chars().take(2).take_while(|c| c.is_digit(8)).count();
                let octal = format!("{escape}{}", &chars.as_str()[..more]);
                chars = chars.as_str()[more..].chars();
                u32::from_str_radix(&octal, 8).ok().and_then(char::from_u32)
            }
            'N' => None,
            other => {
                put('\\');
                Some(other)
            }
        };
        put(code.ok_or_else(|| format!("the escape \\{escape} in {quote}{inside}{quote} is not supported"))?);
    }
    out.push(quote);
    // The lines of errors stay right.
    out.extend(std::iter::repeat_n('\n', lines));
    Ok(out)
}

impl Source {
    fn block(&mut self, open: &str, tokens: &[Token]) {
        let words: Vec<&Token> = tokens.iter().filter(|token| !matches!(token, Token::Space(_))).collect();
        let word = if open == "{%" { words.get(1).map_or("", |token| token.text()) } else { "" };
        let replaced = match word {
            "generation" if words.len() == 3 => format!("filter {GENERATION}"),
            "endgeneration" if words.len() == 3 => "endfilter".to_owned(),
            _ => {
                let verbatim = |_| tokens.iter().map(Token::text).collect();
                return self.text.push_str(&tag(word, tokens).unwrap_or_else(verbatim));
            }
        };
        self.has_tags = true;
        for token in tokens {
            self.text.push_str(if token.is(word) { &replaced } else { token.text() });
        }
    }
}

/// Rewrites a tag from behind its beginning to its end; `word` is the first word of a statement.
fn tag(word: &str, tokens: &[Token]) -> Result<String, NoExpression> {
    let [open, inside @ .., close] = tokens else { return Err(NoExpression) };
    let mut parser = Parser::new(inside);
    let text = match word {
        "" => parser.tuple()?,
        "if" | "elif" | "do" => parser.through(word)? + &parser.tuple()?,
        "set" if !is_block(inside) => parser.through("=")? + &parser.tuple()?,
        "set" => parser.through("set")? + &parser.expression()?,
        "for" => {
            let head = parser.through("in")? + " (" + parser.iterable()?.trim_start();
            format!("{head})|{ITER}{}", parser.rest_of_loop()?)
        }
        "macro" | "filter" => parser.through(word)? + &parser.expression()?,
        "call" => {
            let word = parser.through(word)?;
            let parameters = parser.arguments().unwrap_or_default();
            word + &parameters + &parser.expression()?
        }
        "with" => parser.through(word)? + &parser.assignments()?,
        _ => return Err(NoExpression),
    };
    Ok(format!("{}{text}{}{}", open.text(), parser.end()?, close.text()))
}

/// True for a `set` with a filter, `{% set x | f(a=1) %}`, which has no `=` outside brackets.
fn is_block(tokens: &[Token]) -> bool {
    let mut depth = 0;
    !tokens.iter().any(|token| {
        depth += nesting(token);
        depth == 0 && token.is("=")
    })
}

fn nesting(token: &Token) -> i32 {
    match token {
        Token::Other(text) if matches!(&text[..], "(" | "[" | "{") => 1,
        Token::Other(text) if matches!(&text[..], ")" | "]" | "}") => -1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_becomes_a_filter_and_keeps_its_dashes() {
        let source = "{%- generation -%}x{% endgeneration +%}{% if a %}generation{% endif %}{%";
        let rewritten = rewrite(source).unwrap();
        assert!(rewritten.has_tags);
        assert_eq!(
            rewritten.text,
            "{%- filter __generation__ -%}x{% endfilter +%}{% if a %}generation{% endif %}{%"
        );
        for source in
            ["{% set generation = 1 %}", "{% raw %}{% generation %}{% endraw %}", "{# {% generation %} #}"]
        {
            let rewritten = rewrite(source).unwrap();
            assert!(!rewritten.has_tags && rewritten.text == source);
        }
    }

    #[test]
    fn generation_is_nested_in_other_blocks() {
        for (source, words) in [
            (
                "{% for a in b %}\n{% generation %}x{% endfor %}{% endgeneration %}",
                "{% endfor %} stands where {% generation %} is open; close tags in the reverse order of their \
                 opening (line 2 of the template)",
            ),
            (
                "{% generation %}{%- if a %}{% endgeneration %}{% endif %}",
                "{% endgeneration %} stands where {% if %}",
            ),
            ("{% generation %}{% set a | trim %}{% endgeneration %}{% endset %}", "where {% set %} is open"),
            (
                "{% if a %}{% generation %}{% else %}{% endgeneration %}{% endif %}",
                "where {% generation %} is open",
            ),
            ("{% endgeneration %}", "{% endgeneration %} stands where no block is open"),
            ("{% generation %}x", "{% generation %} has no {% endgeneration %}"),
        ] {
            let message = rewrite(source).err().unwrap();
            assert!(message.contains(words), "{message}");
        }
        for source in [
            "{% if a %}{% generation %}{% set b = 1 %}{% set c %}x{% endset %}{% endgeneration %}{% endif %}",
            "{% generation %}{% raw %}{% endfor %}{% endraw %}{# {% if a %} #}{{ 'if' }}{% endgeneration %}",
            "{% call(x) a() %}{% for a in b recursive %}{% else %}{% endfor %}{% endcall %}",
        ] {
            assert!(rewrite(source).is_ok(), "{source}");
        }
    }

    #[test]
    fn only_expressions_are_rewritten() {
        for (source, expected) in [
            ("a[::-1] {{ '[::-1]' }}{# [1:] #}", "a[::-1] {{ '[::-1]' }}{# [1:] #}"),
            ("{{ a [b[1:]: ] }}", "{{ a.__slice__(b.__slice__(1, none), none) }}"),
            ("{{ [1, {'a': 2}] }}", "{{ [1, {'a': 2}] }}"),
            ("{% for a in b[1:] if c -%}", "{% for a in (b.__slice__(1, none))|__iter__ if c -%}"),
            (
                "{{ '%s %s' % (a, b.c[0]) ~ d }}",
                "{{ '%s %s'|__operate__('%',  __tuple__(a, b.c[0]))|__concat__(  d) }}",
            ),
            ("{{ a + 1.5e-3 + 'b' ~ d }}", "{{ a|__operate__('+',  1.5e-3) + 'b'|__concat__(  d) }}"),
            ("{{ a | trim + b }}{{ not a in b }}", "{{ a | trim + b }}{{ not a|__operate__('in',  b) }}"),
            ("{{ a not in b }}{{ a < b == c }}", "{{ not  a|__operate__('in',  b) }}{{ a < b == c }}"),
            ("{{ -a.b }}{{ -5 }}", "{{  a.b|__operate__('-x',0) }}{{ -5 }}"),
            (
                "{% set a, b = c, d - 1 %}{% set e | f(a=1) %}",
                "{% set a, b = __tuple__( c, d|__operate__('-',  1)) %}{% set e | f(a=1) %}",
            ),
            ("{{ a b }}{% if %}", "{{ a b }}{% if %}"),
            ("{{ 'a\\\nb' }}{{ {'}}': 1}['}}'] }}", "{{ 'ab'\n }}{{ {'}}': 1}['}}'] }}"),
            (r"{{ '\x41\101\d\'\\' }}", r"{{ 'AA\\d\'\\' }}"),
        ] {
            assert_eq!(rewrite(source).unwrap().text, expected);
        }
        assert!(rewrite(r"{{ '\N{BULLET}' }}").err().unwrap().contains(r"the escape \N"));
    }
}
