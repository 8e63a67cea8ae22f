//! Methods of Python's `str`, `list` and `dict`, and its slices. `dict` and `str.format` are those
//! of `minijinja-contrib`.

use minijinja::value::{Kwargs, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::characters::{is_decimal, is_digit, is_space, title_case};
use super::filters::{failed, is_namespace};
use super::operators::printable;
use super::python::Tuple;
use super::source::{FIELD, SLICE};

/// Calls a method of a Python value, e.g. `str.strip`.
pub fn method(state: &State, value: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    if name == SLICE {
        return slice(value, arguments);
    }
    if name == FIELD {
        return field(value, arguments);
    }
    let found = match (value.kind(), value.as_str()) {
        (_, Some(text)) => of_text(state, text, name, arguments)?,
        (ValueKind::Seq | ValueKind::Iterable, _) => of_list(value, name, arguments)?,
        (ValueKind::Map, _) => of_dict(value, name, arguments)?,
        _ => None,
    };
    found.map_or_else(|| unknown_method_callback(state, value, name, arguments), Ok)
}

/// A field whose name is that of a method of `dict`. Jinja finds the method first.
fn field(value: &Value, arguments: &[Value]) -> Result<Value, Error> {
    let (name,): (&str,) = from_args(arguments)?;
    if value.kind() == ValueKind::Map && !is_namespace(value) {
        return Err(failed(format!("`.{name}` is a method of dict, not a field; write ['{name}']")));
    }
    value.get_attr(name)
}

/// `str.strip(chars)`.
pub fn strip<'a>(text: &'a str, chars: Option<&str>) -> &'a str {
    strip_end(strip_start(text, chars), chars)
}

fn strip_start<'a>(text: &'a str, chars: Option<&str>) -> &'a str {
    text.trim_start_matches(|c| chars.map_or_else(|| is_space(c), |chars| chars.contains(c)))
}

fn strip_end<'a>(text: &'a str, chars: Option<&str>) -> &'a str {
    text.trim_end_matches(|c| chars.map_or_else(|| is_space(c), |chars| chars.contains(c)))
}

/// `str.capitalize`.
pub fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| title_case(first) + &chars.as_str().to_lowercase())
}

/// `str.replace`; a negative count is none.
pub fn replace(text: &str, old: &str, new: &str, count: Option<i64>) -> String {
    let count = count.and_then(|count| usize::try_from(count).ok());
    text.replacen(old, new, count.unwrap_or(usize::MAX))
}

/// `str.title`: a word begins behind every character without case.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.push_str(&title_case(c));
        }
        inside = is_cased(c);
    }
    out
}

fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase() || is_title(c)
}

fn is_title(c: char) -> bool {
    matches!(c, 'ǅ' | 'ǈ' | 'ǋ' | 'ǲ')
}

/// `str.istitle`.
fn has_title_case(text: &str) -> bool {
    let (mut inside, mut any) = (false, false);
    for c in text.chars() {
        let begins = c.is_uppercase() || is_title(c);
        if (begins && inside) || (c.is_lowercase() && !inside) {
            return false;
        }
        inside = is_cased(c);
        any |= inside;
    }
    any
}

/// `str.swapcase`.
fn swap_case(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_lowercase() {
            out.extend(c.to_uppercase());
        } else {
            out.extend(c.to_lowercase());
        }
    }
    out
}

/// `str.zfill`: zeros behind the sign.
fn fill_with_zeros(text: &str, width: i64) -> String {
    let sign = usize::from(text.starts_with(['+', '-']));
    format!("{}{}{}", &text[..sign], "0".repeat(missing(text, width)), &text[sign..])
}

/// Returns the number of characters from the end of a text to a width.
fn missing(text: &str, width: i64) -> usize {
    usize::try_from(width).unwrap_or(0).saturating_sub(text.chars().count())
}

/// `str.center(width, fill)`.
pub fn center(text: &str, width: i64, fill: &str) -> String {
    let missing = missing(text, width);
    // The odd one is on the left if the width is odd, as in CPython.
    let left = missing / 2 + (missing & width as usize & 1);
    fill.repeat(left) + text + &fill.repeat(missing - left)
}

/// Returns arguments by position or name; a name that begins with `_` is positional only.
pub fn bind<const N: usize>(arguments: &[Value], names: [&str; N]) -> Result<[Option<Value>; N], Error> {
    let named = arguments.last().filter(|last| last.is_kwargs());
    let positional = &arguments[..arguments.len() - usize::from(named.is_some())];
    if positional.len() > N {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let mut bound: [Option<Value>; N] = std::array::from_fn(|at| positional.get(at).cloned());
    if let Some(named) = named {
        let named = Kwargs::try_from(named.clone())?;
        for (value, name) in bound.iter_mut().zip(names).filter(|(_, name)| !name.starts_with('_')) {
            if named.has(name) {
                *value = Some(named.get(name)?);
            }
        }
        named.assert_all_used()?;
    }
    Ok(bound)
}

/// Returns an argument that may be none.
fn optional<T: TryFrom<Value, Error = Error>>(value: &Option<Value>) -> Result<Option<T>, Error> {
    value.clone().filter(|value| !value.is_none()).map(T::try_from).transpose()
}

fn text_of(value: &Option<Value>) -> Result<Option<&str>, Error> {
    let wrong = |value: &Value| failed(format!("a text is needed, not {}", value.kind()));
    let given = value.as_ref().filter(|value| !value.is_none());
    given.map(|value| value.as_str().ok_or_else(|| wrong(value))).transpose()
}

fn needed(value: &Option<Value>) -> Result<&str, Error> {
    text_of(value)?.ok_or_else(|| Error::from(ErrorKind::MissingArgument))
}

/// The width of a text that is filled.
fn width_of(value: Option<Value>) -> Result<i64, Error> {
    let width = i64::try_from(value.ok_or_else(|| Error::from(ErrorKind::MissingArgument))?)?;
    if width > 1_000_000 { Err(failed(format!("the width {width} is too large"))) } else { Ok(width) }
}

fn of_text(state: &State, text: &str, name: &str, arguments: &[Value]) -> Result<Option<Value>, Error> {
    let all = |is: fn(char) -> bool| !text.is_empty() && text.chars().all(is);
    let cased = |is: fn(char) -> bool, not: fn(char) -> bool| text.chars().any(is) && !text.chars().any(not);
    let plain = match name {
        "upper" => Value::from(text.to_uppercase()),
        "lower" => Value::from(text.to_lowercase()),
        "title" => Value::from(title(text)),
        "capitalize" => Value::from(capitalize(text)),
        "isspace" => Value::from(all(is_space)),
        "swapcase" => Value::from(swap_case(text)),
        "isdigit" => Value::from(all(is_digit)),
        "isdecimal" => Value::from(all(is_decimal)),
        "isnumeric" => Value::from(all(char::is_numeric)),
        "isascii" => Value::from(text.is_ascii()),
        "istitle" => Value::from(has_title_case(text)),
        "isalnum" => Value::from(all(char::is_alphanumeric)),
        "isalpha" => Value::from(all(char::is_alphabetic)),
        "islower" => Value::from(cased(char::is_lowercase, char::is_uppercase)),
        "isupper" => Value::from(cased(char::is_uppercase, char::is_lowercase)),
        _ => return text_with(state, text, name, arguments),
    };
    let () = from_args(arguments)?;
    Ok(Some(plain))
}

fn text_with(state: &State, text: &str, name: &str, arguments: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match name {
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = bind(arguments, ["_"])?;
            let strip = match name {
                "strip" => strip,
                "lstrip" => strip_start,
                _ => strip_end,
            };
            Value::from(strip(text, text_of(&chars)?))
        }
        "split" | "rsplit" => {
            let [separator, most] = bind(arguments, ["sep", "maxsplit"])?;
            let most = optional::<i64>(&most)?.and_then(|most| usize::try_from(most).ok());
            let most = most.unwrap_or(usize::MAX - 1);
            split(text, text_of(&separator)?, most, name == "rsplit")?.into_iter().collect()
        }
        "partition" | "rpartition" => {
            let [separator] = bind(arguments, ["_"])?;
            let separator = needed(&separator)?;
            let cut = match name {
                "partition" => text.split_once(separator),
                _ => text.rsplit_once(separator),
            };
            let parts = match (cut, name) {
                (Some((before, after)), _) => [before, separator, after],
                (None, "partition") => [text, "", ""],
                (None, _) => ["", "", text],
            };
            Tuple::value(parts.map(Value::from).to_vec())
        }
        "splitlines" => {
            let [keep] = bind(arguments, ["keepends"])?;
            lines(text, keep.is_some_and(|keep| keep.is_true())).into()
        }
        "startswith" | "endswith" => {
            let [affixes, start, end] = bind(arguments, ["_", "_", "_"])?;
            let text = part(text, start, end)?;
            let affixes = affixes.ok_or_else(|| Error::from(ErrorKind::MissingArgument))?;
            let fits = |affix: &Value| match affix.as_str() {
                Some(affix) if name == "startswith" => Ok(text.starts_with(affix)),
                Some(affix) => Ok(text.ends_with(affix)),
                None => Err(failed(format!("{name} needs a text or several, not {}", affix.kind()))),
            };
            if affixes.kind() == ValueKind::Seq {
                let fits: Vec<bool> =
                    affixes.try_iter()?.map(|affix| fits(&affix)).collect::<Result<_, _>>()?;
                Value::from(fits.contains(&true))
            } else {
                Value::from(fits(&affixes)?)
            }
        }
        "removeprefix" | "removesuffix" => {
            let [affix] = bind(arguments, ["_"])?;
            let affix = needed(&affix)?;
            let rest =
                if name == "removeprefix" { text.strip_prefix(affix) } else { text.strip_suffix(affix) };
            Value::from(rest.unwrap_or(text))
        }
        "zfill" => {
            let [width] = bind(arguments, ["_"])?;
            Value::from(fill_with_zeros(text, width_of(width)?))
        }
        "ljust" | "rjust" | "center" => {
            let [width, fill] = bind(arguments, ["_", "_"])?;
            let (width, fill) = (width_of(width)?, text_of(&fill)?.unwrap_or(" "));
            if fill.chars().count() != 1 {
                return Err(failed(format!("{name} fills with one character, not {fill:?}")));
            }
            Value::from(match name {
                "ljust" => text.to_owned() + &fill.repeat(missing(text, width)),
                "rjust" => fill.repeat(missing(text, width)) + text,
                _ => center(text, width, fill),
            })
        }
        "format" => {
            let arguments = arguments.iter().map(printable).collect::<Result<Vec<_>, _>>()?;
            return unknown_method_callback(state, &Value::from(text), name, &arguments).map(Some);
        }
        "replace" => {
            let [old, new, count] = bind(arguments, ["_", "_", "_"])?;
            Value::from(replace(text, needed(&old)?, needed(&new)?, optional(&count)?))
        }
        "find" | "rfind" | "index" | "rindex" => {
            let [what] = bind(arguments, ["_"])?;
            let what = needed(&what)?;
            let found = if name.starts_with('r') { text.rfind(what) } else { text.find(what) };
            match found {
                Some(at) => Value::from(text[..at].chars().count()),
                None if name.ends_with("find") => Value::from(-1),
                None => return Err(failed(format!("{what:?} is not in the text"))),
            }
        }
        "count" => {
            let [what] = bind(arguments, ["_"])?;
            Value::from(text.matches(needed(&what)?).count())
        }
        "join" => {
            let [items] = bind(arguments, ["_"])?;
            let items = items.ok_or_else(|| Error::from(ErrorKind::MissingArgument))?;
            let mut out = String::new();
            for (at, item) in items.try_iter()?.enumerate() {
                let wrong = || failed(format!("join needs texts, but item {at} is {}", item.kind()));
                out.push_str(if at > 0 { text } else { "" });
                out.push_str(item.as_str().ok_or_else(wrong)?);
            }
            Value::from(out)
        }
        _ => return Ok(None),
    }))
}

/// `str.split` and `str.rsplit`.
fn split<'a>(
    text: &'a str,
    separator: Option<&str>,
    most: usize,
    from_right: bool,
) -> Result<Vec<&'a str>, Error> {
    let mut parts = Vec::new();
    match separator {
        Some("") => return Err(failed("split: the separator is empty")),
        Some(separator) if from_right => parts.extend(text.rsplitn(most + 1, separator)),
        Some(separator) => parts.extend(text.splitn(most + 1, separator)),
        None => {
            let mut rest = text;
            loop {
                rest = if from_right { strip_end(rest, None) } else { strip_start(rest, None) };
                if rest.is_empty() {
                    break;
                }
                let cut = match from_right {
                    _ if parts.len() == most => None,
                    true => rest.rfind(is_space).map(|at| {
                        let space = rest[at..].chars().next().map_or(1, char::len_utf8);
                        (&rest[at + space..], &rest[..at])
                    }),
                    false => rest.find(is_space).map(|at| (&rest[..at], &rest[at..])),
                };
                let (part, more) = cut.unwrap_or((rest, ""));
                parts.push(part);
                rest = more;
            }
        }
    }
    if from_right {
        parts.reverse();
    }
    Ok(parts)
}

/// `str.splitlines`.
pub fn lines(text: &str, keep: bool) -> Vec<String> {
    let is_end =
        |c: char| matches!(c, '\n'..='\r' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let at = rest.find(is_end).unwrap_or(rest.len());
        let ending = match rest[at..].chars().next() {
            Some('\r') if rest[at..].starts_with("\r\n") => 2,
            ending => ending.map_or(0, char::len_utf8),
        };
        lines.push(rest[..if keep { at + ending } else { at }].to_owned());
        rest = &rest[at + ending..];
    }
    lines
}

/// The text from character `start` to character `end`.
fn part(text: &str, start: Option<Value>, end: Option<Value>) -> Result<String, Error> {
    let none = || Value::from(());
    let part = slice(&Value::from(text), &[start.unwrap_or_else(none), end.unwrap_or_else(none)])?;
    Ok(part.to_string())
}

fn of_list(list: &Value, name: &str, arguments: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match name {
        "index" => {
            let (what,): (&Value,) = from_args(arguments)?;
            let at = list.try_iter()?.position(|item| item == *what);
            Value::from(at.ok_or_else(|| failed(format!("{what} is not in the list")))?)
        }
        "copy" => list.clone(),
        _ => return Ok(None),
    }))
}

fn of_dict(dict: &Value, name: &str, arguments: &[Value]) -> Result<Option<Value>, Error> {
    match name {
        "copy" => Ok(Some(dict.clone())),
        "items" => {
            let [] = bind(arguments, [])?;
            items_of(dict).map(Some)
        }
        "get" => {
            bind(arguments, ["_", "_"])?;
            Ok(None)
        }
        _ => Ok(None),
    }
}

/// The pairs of a dict.
pub fn items_of(dict: &Value) -> Result<Value, Error> {
    let pair = |key: Value| Ok(Tuple::value(vec![key.clone(), dict.get_item(&key)?]));
    dict.try_iter()?.map(pair).collect::<Result<Vec<_>, _>>().map(Value::from)
}

/// The slice `value[start:stop:step]` of Python.
fn slice(value: &Value, arguments: &[Value]) -> Result<Value, Error> {
    let [start, stop, step] = bind(arguments, ["_"; 3])?;
    let (start, stop) = (optional(&start)?, optional(&stop)?);
    let step = optional(&step)?.unwrap_or(1);
    if step == 0 {
        return Err(failed("a slice's step is 0"));
    }
    match (value.kind(), value.as_str()) {
        (_, Some(text)) if text.is_ascii() && step == 1 => {
            let (start, stop) = range(start, stop, step, text.len());
            Ok(Value::from(text.get(start as usize..stop as usize).unwrap_or_default()))
        }
        (_, Some(text)) => {
            let chars: Vec<char> = text.chars().collect();
            Ok(Value::from(items(&chars, start, stop, step).into_iter().collect::<String>()))
        }
        (ValueKind::Seq | ValueKind::Iterable, _) => {
            let values: Vec<Value> = value.try_iter()?.collect();
            Ok(Tuple::like(value, items(&values, start, stop, step)))
        }
        (kind, _) => Err(failed(format!("{kind} cannot be sliced"))),
    }
}

fn items<T: Clone>(all: &[T], start: Option<i64>, stop: Option<i64>, step: i64) -> Vec<T> {
    let (mut at, stop) = range(start, stop, step, all.len());
    let mut items = Vec::new();
    while if step > 0 { at < stop } else { at > stop } {
        items.extend(usize::try_from(at).ok().and_then(|at| all.get(at)).cloned());
        at = at.saturating_add(step);
    }
    items
}

/// The bounds of a slice of `length` items (`PySlice_AdjustIndices`); −1 is before the first item.
fn range(start: Option<i64>, stop: Option<i64>, step: i64, length: usize) -> (i64, i64) {
    let length = length as i64;
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let bound = |given: Option<i64>, missing: i64| match given {
        None => missing,
        Some(at) if at < 0 => (at + length).max(low),
        Some(at) => at.min(high),
    };
    if step > 0 { (bound(start, low), bound(stop, high)) } else { (bound(start, high), bound(stop, low)) }
}
