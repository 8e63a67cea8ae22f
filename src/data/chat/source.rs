//! Rewrites the source of a template where minijinja reads it otherwise than Jinja.
//!
//! | source | rewritten | reason |
//! |---|---|---|
//! | `'a\⏎b'` and other escapes | the characters they mean | escapes are Python's |
//! | `x[a:b:c]` | `x.__slice__(a, b, c)` | slices are Python's |
//! | `for x in y` | `for x in (y)\|__iter__` | a loop over none is an error |
//! | `x.items` without call | `x.__field__('items')` | Jinja finds the method of `dict` first |
//! | `'%s' % x` | `'%s'\|__percent__(x)` | `%` formats text |
//! | `{% generation %}` | `{% filter generation %}` | an extension of transformers |

/// Names that a template cannot have by itself.
pub const SLICE: &str = "__slice__";
pub const ITER: &str = "__iter__";
pub const PERCENT: &str = "__percent__";

pub const FIELD: &str = "__field__";

/// Methods of `dict`.
const OF_DICT: [&str; 9] = ["clear", "copy", "get", "items", "keys", "pop", "setdefault", "update", "values"];

/// Words before which no value ends.
const KEYWORDS: [&str; 14] =
    ["and", "call", "do", "elif", "else", "filter", "for", "if", "in", "is", "not", "or", "set", "with"];

/// A template for minijinja.
pub struct Source {
    pub text: String,
    /// True if it has `{% generation %}` tags.
    pub has_tags: bool,
}

/// Rewrites a template. An error is the description of an escape that is not supported.
pub fn rewrite(source: &str) -> Result<Source, String> {
    let mut out = Source { text: String::with_capacity(source.len()), has_tags: false };
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
    Ok(out)
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

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Space(String),
    Name(String),
    Text(String),
    Other(String),
}

impl Token {
    fn text(&self) -> &str {
        let (Token::Space(text) | Token::Name(text) | Token::Text(text) | Token::Other(text)) = self;
        text
    }

    fn is(&self, text: &str) -> bool {
        !matches!(self, Token::Text(_)) && self.text() == text
    }

    /// True if a value may end with this token, so that `[` behind it selects an item.
    fn ends_value(&self) -> bool {
        match self {
            Token::Space(_) => false,
            Token::Name(name) => !KEYWORDS.contains(&&name[..]),
            Token::Text(_) => true,
            Token::Other(text) => matches!(&text[..], ")" | "]" | "}"),
        }
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
            c if c.is_alphanumeric() || c == '_' => {
                let length = run(&|c| c.is_alphanumeric() || c == '_');
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
            "generation" if words.len() == 3 => "filter generation",
            "endgeneration" if words.len() == 3 => "endfilter",
            "for" => return self.text.push_str(&loop_of(tokens)),
            _ => return self.text.push_str(&expression(tokens)),
        };
        self.has_tags = true;
        for token in tokens {
            self.text.push_str(if token.is(word) { replaced } else { token.text() });
        }
    }
}

/// Rewrites a `for` tag: `y` of `for x in y if z` must be iterable.
fn loop_of(tokens: &[Token]) -> String {
    let top = |words: &[&str], from: usize| {
        let mut depth = 0_i32;
        (from..tokens.len()).find(|&at| {
            depth += nesting(&tokens[at]);
            depth == 0 && words.iter().any(|word| tokens[at].is(word))
        })
    };
    let Some(start) = top(&["in"], 0) else { return expression(tokens) };
    let end = top(&["if", "recursive"], start).unwrap_or(tokens.len() - 1);
    let (before, after) = (&tokens[..=start], &tokens[end..]);
    let iterated = expression(&tokens[start + 1..end]);
    format!("{} ({})|{ITER} {}", expression(before), iterated.trim(), expression(after))
}

fn nesting(token: &Token) -> i32 {
    match token {
        Token::Other(text) if matches!(&text[..], "(" | "[" | "{") => 1,
        Token::Other(text) if matches!(&text[..], ")" | "]" | "}") => -1,
        _ => 0,
    }
}

/// Returns the index of the bracket that closes the one at `open`.
fn closing(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0;
    (open..tokens.len()).find(|&at| {
        depth += nesting(&tokens[at]);
        depth == 0
    })
}

fn expression(tokens: &[Token]) -> String {
    let mut out = String::new();
    let mut before: Option<&Token> = None;
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let mut end = at + 1;
        if token.is("[") && before.is_some_and(Token::ends_value) {
            let close = closing(tokens, at).unwrap_or(tokens.len());
            if let Some(slice) = slice(&tokens[at + 1..close]) {
                out.truncate(out.trim_end().len());
                out.push_str(&slice);
                end = close + 1;
            } else {
                out.push('[');
            }
        } else if token.is("%") && matches!(before, Some(Token::Text(_))) {
            let operand =
                at + 1 + tokens[at + 1..].iter().take_while(|t| matches!(t, Token::Space(_))).count();
            end = end_of_operand(tokens, operand);
            out.truncate(out.trim_end().len());
            out.push_str(&percent(&tokens[operand..end]));
        } else if is_field(tokens, at) {
            out.push_str(&format!("{FIELD}('{}')", token.text()));
        } else {
            out.push_str(token.text());
        }
        before = tokens[at..end.min(tokens.len())].iter().rfind(|t| !matches!(t, Token::Space(_))).or(before);
        at = end;
    }
    out
}

/// True for a name of [`OF_DICT`] behind a dot that is neither called nor set.
fn is_field(tokens: &[Token], at: usize) -> bool {
    let is_method = at > 0 && tokens[at - 1].is(".") && OF_DICT.iter().any(|name| tokens[at].is(name));
    let mut after = tokens[at + 1..].iter().filter(|token| !matches!(token, Token::Space(_)));
    is_method && {
        let next = after.next();
        let is_set = next.is_some_and(|next| next.is("=")) && !after.next().is_some_and(|next| next.is("="));
        !is_set && !next.is_some_and(|next| next.is("("))
    }
}

/// Returns the call that replaces `[a:b:c]`; `None` if it has no colon.
fn slice(inside: &[Token]) -> Option<String> {
    let parts = split(inside, ":");
    if parts.len() == 1 {
        return None;
    }
    let parts: Vec<String> = parts
        .into_iter()
        .map(|part| expression(part).trim().to_owned())
        .map(|part| if part.is_empty() { "none".to_owned() } else { part })
        .collect();
    Some(format!(".{SLICE}({})", parts.join(", ")))
}

/// Splits tokens at a separator outside brackets.
fn split<'a>(tokens: &'a [Token], separator: &str) -> Vec<&'a [Token]> {
    let mut depth = 0;
    tokens
        .split(|token| {
            depth += nesting(token);
            depth == 0 && token.is(separator)
        })
        .collect()
}

/// Returns the end of an operand with its attributes, items, calls and filters.
fn end_of_operand(tokens: &[Token], start: usize) -> usize {
    let mut end = start;
    let mut needs_value = true;
    while let Some(token) = tokens.get(end) {
        let opens = nesting(token) > 0;
        match token {
            _ if opens && (needs_value || !token.is("{")) => {
                let Some(close) = closing(tokens, end) else { break };
                end = close + 1;
                needs_value = false;
            }
            Token::Name(_) | Token::Text(_) if needs_value => {
                end += 1;
                needs_value = false;
            }
            Token::Other(text) if !needs_value && matches!(&text[..], "." | "|") => {
                end += 1;
                needs_value = true;
            }
            _ => break,
        }
    }
    end
}

/// Returns the filter that replaces `% operand`; a tuple is several arguments.
fn percent(operand: &[Token]) -> String {
    let inside = match operand {
        [open, inside @ .., close] if open.is("(") && close.is(")") && split(inside, ",").len() > 1 => inside,
        _ => operand,
    };
    format!("|{PERCENT}({})", expression(inside).trim_end().trim_end_matches(','))
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
            "{%- filter generation -%}x{% endfilter +%}{% if a %}generation{% endif %}{%"
        );
        for source in
            ["{% set generation = 1 %}", "{% raw %}{% generation %}{% endraw %}", "{# {% generation %} #}"]
        {
            let rewritten = rewrite(source).unwrap();
            assert!(!rewritten.has_tags && rewritten.text == source);
        }
    }

    #[test]
    fn only_expressions_are_rewritten() {
        for (source, expected) in [
            ("a[::-1] {{ '[::-1]' }}{# [1:] #}", "a[::-1] {{ '[::-1]' }}{# [1:] #}"),
            ("{{ a [b[1:]: ] }}", "{{ a.__slice__(b.__slice__(1, none), none) }}"),
            ("{{ [1, {'a': 2}] }}", "{{ [1, {'a': 2}] }}"),
            ("{% for a in b[1:] if c -%}", "{% for a in (b.__slice__(1, none))|__iter__ if c -%}"),
            ("{{ '%s %s' % (a, b.c[0]) ~ d }}", "{{ '%s %s'|__percent__(a, b.c[0]) ~ d }}"),
            ("{{ '%s' % a.b|trim }}{{ a % 2 }}", "{{ '%s'|__percent__(a.b|trim) }}{{ a % 2 }}"),
            ("{{ 'a\\\nb' }}{{ {'}}': 1}['}}'] }}", "{{ 'ab'\n }}{{ {'}}': 1}['}}'] }}"),
            (r"{{ '\x41\101\d\'\\' }}", r"{{ 'AA\\d\'\\' }}"),
        ] {
            assert_eq!(rewrite(source).unwrap().text, expected);
        }
        assert!(rewrite(r"{{ '\N{BULLET}' }}").err().unwrap().contains(r"the escape \N"));
    }
}
