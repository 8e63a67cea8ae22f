//! Filters and tests where Jinja's differ from minijinja's.

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, FormatStyle, format_filter};

use super::methods::{bind, capitalize, lines, replace, strip};
use super::python::{is_digits, text};
use super::source::{ITER, PERCENT};

/// Adds the filters and tests.
pub fn add(environment: &mut Environment<'static>) {
    environment.add_filter("string", text);
    environment
        .add_filter("trim", |text: String, chars: Option<String>| strip(&text, chars.as_deref()).to_owned());
    environment.add_filter("capitalize", |text: String| capitalize(&text));
    environment.add_filter("title", title);
    environment.add_filter("replace", |value: &Value, old: &str, new: &str, count: Option<i64>| {
        Ok::<_, Error>(replace(&text(value)?, old, new, count))
    });
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    environment.add_filter("list", list);
    environment.add_filter("join", join);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("round", round);
    environment.add_filter("indent", indent);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter(ITER, iterated);
    environment.add_filter(PERCENT, percent);
    // Python wraps lines and sorts keys.
    environment.remove_filter("pprint");
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_sequence);
    environment.add_test("mapping", |value: &Value| value.kind() == ValueKind::Map && !is_namespace(value));
    environment.add_test("number", |value: &Value| {
        matches!(value.kind(), ValueKind::Number | ValueKind::Bool) || is_digits(value)
    });
    environment.add_test("integer", |value: &Value| value.is_integer() || is_digits(value));
    environment.add_function("dict", dict);
}

fn failed(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// True for `namespace()`, which minijinja counts as a map.
pub fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("Namespace"))
}

/// Values accepted by Python's `iter`; undefined counts as iterable.
fn is_iterable(value: &Value) -> bool {
    !matches!(value.kind(), ValueKind::None | ValueKind::Bool | ValueKind::Number | ValueKind::Plain)
}

/// Values that have a length and can be indexed; undefined, too.
fn is_sequence(value: &Value) -> bool {
    value.is_undefined()
        || matches!(value.kind(), ValueKind::String | ValueKind::Bytes | ValueKind::Seq | ValueKind::Map)
}

/// Words begin behind spaces, hyphens and opening brackets.
fn title(text: String) -> String {
    text.split_inclusive(|c: char| c.is_whitespace() || "-({[<".contains(c)).map(capitalize).collect()
}

fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() {
        return Ok(0);
    }
    value.len().ok_or_else(|| failed(format!("{} has no length", value.kind())))
}

/// Returns a value that a loop can go over; minijinja's loops accept none.
fn iterated(value: Value) -> Result<Value, Error> {
    if is_iterable(&value) { Ok(value) } else { Err(failed(format!("{} cannot be iterated", value.kind()))) }
}

fn list(value: Value) -> Result<Value, Error> {
    Ok(iterated(value)?.try_iter()?.collect::<Vec<Value>>().into())
}

fn join(value: Value, given: Rest<Value>) -> Result<String, Error> {
    let [separator, attribute] = bind(&given, ["d", "attribute"])?;
    let item = |item: Value| match attribute.as_ref().and_then(Value::as_str) {
        Some(attribute) => text(&item.get_attr(attribute)?),
        None => text(&item),
    };
    let items: Vec<String> = iterated(value)?.try_iter()?.map(item).collect::<Result<_, _>>()?;
    Ok(items.join(&separator.map_or(Ok(String::new()), |separator| text(&separator))?))
}

/// Reads text as Python's `int`, else as `float`; `default` if it is neither.
fn int(value: &Value, default: Option<i64>) -> Result<Value, Error> {
    let of_float = |number: f64| Value::from(number.trunc() as i128);
    let found = match value.as_str() {
        _ if value.is_integer() || is_digits(value) => Some(value.clone()),
        Some(text) => {
            let text = strip(text, None);
            let float = || text.parse().ok().filter(|number: &f64| number.is_finite()).map(of_float);
            text.parse::<i128>().ok().map(Value::from).or_else(float)
        }
        None if value.kind() == ValueKind::Bool => Some(Value::from(i64::from(value.is_true()))),
        None => f64::try_from(value.clone()).ok().map(of_float),
    };
    Ok(found.unwrap_or_else(|| Value::from(default.unwrap_or(0))))
}

fn float(value: &Value, default: Option<f64>) -> Result<Value, Error> {
    let found = match value.as_str() {
        Some(text) => strip(text, None).parse().ok(),
        None => f64::try_from(value.clone()).ok(),
    };
    Ok(Value::from(found.or(default).unwrap_or(0.0)))
}

/// Rounds half to even.
fn round(value: Value, digits: Option<usize>) -> Result<Value, Error> {
    if value.is_integer() {
        return Ok(value);
    }
    let digits = digits.unwrap_or(0);
    let rounded = format!("{:.digits$}", f64::try_from(value)?).parse::<f64>();
    rounded.map(Value::from).map_err(|error| failed(error.to_string()))
}

fn indent(text: String, given: Rest<Value>) -> Result<String, Error> {
    let [width, first, blank] = bind(&given, ["width", "first", "blank"])?;
    let is = |option: Option<Value>| option.is_some_and(|option| option.is_true());
    let (first, blank) = (is(first), is(blank));
    let indent = match &width {
        Some(width) if width.as_str().is_some() => width.to_string(),
        Some(width) => " ".repeat(usize::try_from(width.clone())?),
        None => " ".repeat(4),
    };
    let mut out = if first { indent.clone() } else { String::new() };
    for (at, line) in lines(&(text + "\n"), false).into_iter().enumerate() {
        if at > 0 {
            out.push('\n');
            out.push_str(if line.is_empty() && !blank { "" } else { &indent });
        }
        out.push_str(&line);
    }
    Ok(out)
}

fn default(value: &Value, given: Rest<Value>) -> Result<Value, Error> {
    let [other, lax] = bind(&given, ["default_value", "boolean"])?;
    if value.is_undefined() || (lax.is_some_and(|lax| lax.is_true()) && !value.is_true()) {
        return Ok(other.unwrap_or_else(|| Value::from("")));
    }
    Ok(value.clone())
}

/// `dict(mapping or pairs, key=value, …)`.
fn dict(given: Option<Value>, more: Kwargs) -> Result<Value, Error> {
    let mut pairs: Vec<(Value, Value)> = Vec::new();
    if let Some(given) = given {
        let map = given.kind() == ValueKind::Map;
        for item in given.try_iter()? {
            pairs.push(match map {
                true => (item.clone(), given.get_item(&item)?),
                false => (item.get_item_by_index(0)?, item.get_item_by_index(1)?),
            });
        }
    }
    for key in more.args() {
        pairs.push((Value::from(key), more.get(key)?));
    }
    Ok(pairs.into_iter().collect())
}

/// `text % arguments`.
fn percent(text: &str, arguments: Rest<Value>) -> Result<String, Error> {
    match &arguments[..] {
        [dict] if dict.kind() == ValueKind::Map && !dict.is_kwargs() => {
            let pair = |key: Value| Ok((key.to_string(), dict.get_item(&key)?));
            let pairs: Vec<(String, Value)> = dict.try_iter()?.map(pair).collect::<Result<_, Error>>()?;
            format_filter(FormatStyle::Printf, text, &[Kwargs::from_iter(pairs).into()])
        }
        arguments => format_filter(FormatStyle::Printf, text, arguments),
    }
}
