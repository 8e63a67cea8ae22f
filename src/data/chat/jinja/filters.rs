//! Filters, tests and functions where Jinja's differ from minijinja's.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use minijinja::value::{Kwargs, Object, ObjectRepr, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, filters};

use super::methods::{bind, capitalize, center, items_of, lines, replace, strip};
use super::operators::{self, operate, order};
use super::python::{Tuple, is_digits, text};
use super::source::ITER;

/// Adds the filters and tests.
pub fn add(environment: &mut Environment<'static>) {
    environment.add_filter("string", text);
    environment.add_filter("trim", |value: &Value, chars: Option<String>| {
        text(value).map(|text| strip(&text, chars.as_deref()).to_owned())
    });
    environment.add_filter("upper", |value: &Value| text(value).map(|text| text.to_uppercase()));
    environment.add_filter("lower", |value: &Value| text(value).map(|text| text.to_lowercase()));
    environment.add_filter("capitalize", |value: &Value| text(value).map(|text| capitalize(&text)));
    environment.add_filter("title", |value: &Value| text(value).map(|text| title(&text)));
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
    environment.add_filter("escape", escape);
    environment.add_filter("e", escape);
    environment.add_filter("forceescape", escape);
    environment.add_filter("items", items);
    environment.add_filter("dictsort", dict_sort);
    environment.add_filter("sort", sort);
    environment.add_filter("unique", unique);
    environment.add_filter("min", |state: &State, value: Value, given: Rest<Value>| {
        extreme(state, value, &given, "<")
    });
    environment.add_filter("max", |state: &State, value: Value, given: Rest<Value>| {
        extreme(state, value, &given, ">")
    });
    environment.add_filter("sum", sum);
    environment.add_filter("wordcount", word_count);
    environment.add_filter("truncate", truncate);
    environment.add_filter("center", |text: String, width: Option<i64>| {
        center(&text, width.unwrap_or(80).min(1_000_000), " ")
    });
    // Python's `pprint` wraps lines and sorts keys; Jinja does not have the others.
    for name in ["pprint", "bool", "chain", "lines", "split", "zip"] {
        environment.remove_filter(name);
    }
    for name in ["endingwith", "int", "safe", "startingwith"] {
        environment.remove_test(name);
    }
    environment.remove_global("debug");
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_sequence);
    environment.add_test("mapping", |value: &Value| value.kind() == ValueKind::Map && !is_namespace(value));
    environment.add_test("number", |value: &Value| {
        matches!(value.kind(), ValueKind::Number | ValueKind::Bool) || is_digits(value)
    });
    environment.add_test("integer", |value: &Value| value.is_integer() || is_digits(value));
    environment.add_test("callable", is_callable);
    environment.add_function("dict", dict);
    environment.add_function("joiner", Joiner::value);
    environment.add_function("cycler", Cycler::value);
}

pub fn failed(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// True for `namespace()`, which minijinja counts as a map.
pub fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("Namespace"))
}

/// Values accepted by Python's `iter`; undefined counts as iterable.
pub fn is_iterable(value: &Value) -> bool {
    !matches!(value.kind(), ValueKind::None | ValueKind::Bool | ValueKind::Number | ValueKind::Plain)
}

/// Values that have a length and can be indexed; undefined, too.
fn is_sequence(value: &Value) -> bool {
    value.is_undefined()
        || matches!(value.kind(), ValueKind::String | ValueKind::Bytes | ValueKind::Seq | ValueKind::Map)
}

/// Words begin behind spaces, hyphens and opening brackets.
fn title(text: &str) -> String {
    let word = |word: &str| {
        let mut chars = word.chars();
        let first: String = chars.next().into_iter().flat_map(char::to_uppercase).collect();
        first + &chars.as_str().to_lowercase()
    };
    text.split_inclusive(|c: char| c.is_whitespace() || "-({[<".contains(c)).map(word).collect()
}

fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() {
        return Ok(0);
    }
    value.len().ok_or_else(|| failed(format!("{} has no length", value.kind())))
}

/// Functions, macros, and undefined.
fn is_callable(value: &Value) -> bool {
    let is_macro = value.as_object().is_some_and(|object| object.type_name().ends_with("Macro"));
    value.is_undefined() || is_macro || (value.kind() == ValueKind::Plain && !is_digits(value))
}

/// Returns a value that a loop can go over. Loops of minijinja accept none, and do not know the
/// length of a text.
fn iterated(value: Value) -> Result<Value, Error> {
    match value.as_str() {
        Some(text) => Ok(text.chars().map(Value::from).collect::<Vec<Value>>().into()),
        None if is_iterable(&value) => Ok(value),
        None => Err(failed(format!("{} cannot be iterated", value.kind()))),
    }
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
fn int(value: &Value, given: Rest<Value>) -> Result<Value, Error> {
    let [default, base] = bind(&given, ["default", "base"])?;
    let base = base.map_or(Ok(10), u32::try_from)?;
    if base == 1 || base > 36 {
        return Err(failed(format!("{base} is no base of an integer")));
    }
    let of_float = |number: f64| Value::from(number.trunc() as i128);
    let found = match value.as_str() {
        _ if value.is_integer() || is_digits(value) => Some(value.clone()),
        Some(text) => {
            let text = strip(text, None);
            let float = || text.parse().ok().filter(|number: &f64| number.is_finite()).map(of_float);
            integer(text, base).map(Value::from).or_else(float)
        }
        None if value.kind() == ValueKind::Bool => Some(Value::from(i64::from(value.is_true()))),
        None => f64::try_from(value.clone()).ok().filter(|number| number.is_finite()).map(of_float),
    };
    Ok(found.or(default).unwrap_or_else(|| Value::from(0)))
}

/// `int(text, base)`: a prefix such as `0x` may stand before digits of its base, and `_` between
/// digits.
fn integer(text: &str, base: u32) -> Option<i128> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let prefix = [("0x", 16), ("0o", 8), ("0b", 2)]
        .into_iter()
        .find(|(prefix, of)| (base == *of || base == 0) && digits.to_lowercase().starts_with(prefix));
    let (digits, base) = match prefix {
        Some((prefix, of)) => (digits[prefix.len()..].trim_start_matches('_'), of),
        None => (digits, if base == 0 { 10 } else { base }),
    };
    if digits.starts_with(['+', '-', '_']) || digits.ends_with('_') || digits.contains("__") {
        return None;
    }
    i128::from_str_radix(&format!("{sign}{}", digits.replace('_', "")), base).ok()
}

fn float(value: &Value, default: Option<f64>) -> Result<Value, Error> {
    let found = match value.as_str() {
        Some(text) => strip(text, None).parse().ok(),
        None => operators::float(value),
    };
    Ok(Value::from(found.or(default).unwrap_or(0.0)))
}

/// `round(precision=0, method='common')`: `common` rounds half to even.
fn round(value: Value, given: Rest<Value>) -> Result<Value, Error> {
    let [digits, method] = bind(&given, ["precision", "method"])?;
    let digits = digits.map_or(Ok(0), i32::try_from)?;
    let to_integer = match method.as_ref().map_or(Some("common"), Value::as_str) {
        Some("common") => None,
        Some("ceil") => Some(f64::ceil as fn(f64) -> f64),
        Some("floor") => Some(f64::floor as fn(f64) -> f64),
        _ => return Err(failed("the method of `round` must be common, ceil or floor")),
    };
    let number =
        operators::float(&value).ok_or_else(|| failed(format!("{} cannot be rounded", value.kind())))?;
    if let Some(to_integer) = to_integer {
        let scale = 10_f64.powi(digits);
        return Ok(Value::from(to_integer(number * scale) / scale));
    }
    match usize::try_from(digits) {
        Ok(_) if value.is_integer() => Ok(value),
        Ok(_) if value.kind() == ValueKind::Bool => Ok(Value::from(i64::from(value.is_true()))),
        Ok(digits) => {
            let rounded = format!("{number:.*}", digits.min(400)).parse::<f64>();
            rounded.map(Value::from).map_err(|error| failed(error.to_string()))
        }
        Err(_) => Err(failed("`round` to less than units is not supported")),
    }
}

/// Escapes `&<>'"` for HTML.
fn escape(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    for c in text(value)?.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    Ok(out)
}

fn items(value: &Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Map => items_of(value),
        ValueKind::Undefined => Ok(Value::from(Vec::<Value>::new())),
        kind => Err(failed(format!("items needs a dict, not {kind}"))),
    }
}

fn dict_sort(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let pairs = filters::dictsort(value, options)?.try_iter()?;
    let tuple = |pair: Value| Ok(Tuple::value(pair.try_iter()?.collect()));
    pairs.map(tuple).collect::<Result<Vec<_>, Error>>().map(Value::from)
}

/// Refuses what Python does not order.
fn sort(state: &State, value: Value, options: Kwargs) -> Result<Value, Error> {
    let items: Vec<Value> = iterated(value)?.try_iter()?.collect();
    if !options.has("attribute") {
        let pairs = items.iter().zip(items.iter().skip(1));
        if let Some((left, right)) = pairs.into_iter().find(|(left, right)| order(left, right).is_none()) {
            return Err(failed(format!("{} and {} have no order", left.kind(), right.kind())));
        }
    }
    filters::sort(state, items.into(), options)
}

/// Returns the items with the values of an attribute, by which they are compared.
fn keyed(value: Value, case: Option<Value>, attribute: Option<Value>) -> Result<Vec<(Value, Value)>, Error> {
    let respects_case = case.is_some_and(|case| case.is_true());
    let key = |item: Value| {
        let mut key = attribute_of(&item, attribute.as_ref())?;
        if let Some(text) = key.as_str().filter(|_| !respects_case) {
            key = Value::from(text.to_lowercase());
        }
        Ok((key, item))
    };
    iterated(value)?.try_iter()?.map(key).collect()
}

/// `a.0.b` of an item.
fn attribute_of(item: &Value, attribute: Option<&Value>) -> Result<Value, Error> {
    let Some(attribute) = attribute.filter(|attribute| !attribute.is_none()) else {
        return Ok(item.clone());
    };
    let mut value = item.clone();
    for name in text(attribute)?.split('.') {
        value = match name.parse::<i64>() {
            Ok(index) => value.get_item(&Value::from(index))?,
            Err(_) => value.get_attr(name)?,
        };
    }
    Ok(value)
}

fn unique(value: Value, given: Rest<Value>) -> Result<Value, Error> {
    let [case, attribute] = bind(&given, ["case_sensitive", "attribute"])?;
    let mut seen = BTreeSet::new();
    let items = keyed(value, case, attribute)?.into_iter();
    Ok(items.filter_map(|(key, item)| seen.insert(key).then_some(item)).collect::<Vec<Value>>().into())
}

/// The first item that is `operator` all others.
fn extreme(state: &State, value: Value, given: &[Value], operator: &str) -> Result<Value, Error> {
    let [case, attribute] = bind(given, ["case_sensitive", "attribute"])?;
    let mut best: Option<(Value, Value)> = None;
    for (key, item) in keyed(value, case, attribute)? {
        let is_better = match &best {
            Some((of_best, _)) => operate(state, &key, operator, of_best)?.is_true(),
            None => true,
        };
        if is_better {
            best = Some((key, item));
        }
    }
    Ok(best.map_or(Value::UNDEFINED, |(_, item)| item))
}

fn sum(state: &State, value: Value, given: Rest<Value>) -> Result<Value, Error> {
    let [attribute, start] = bind(&given, ["attribute", "start"])?;
    let mut total = start.unwrap_or_else(|| Value::from(0));
    for item in iterated(value)?.try_iter()? {
        total = operate(state, &total, "+", &attribute_of(&item, attribute.as_ref())?)?;
    }
    Ok(total)
}

/// Counts `\w+`.
fn word_count(text: String) -> usize {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).count()
}

/// `truncate(length=255, killwords=false, end='...', leeway=5)`.
fn truncate(text: String, given: Rest<Value>) -> Result<String, Error> {
    let [length, kills, end, leeway] = bind(&given, ["length", "killwords", "end", "leeway"])?;
    let length = length.map_or(Ok(255), usize::try_from)?;
    let leeway = leeway.filter(|leeway| !leeway.is_none()).map_or(Ok(5), usize::try_from)?;
    let end = end.map_or_else(|| "...".to_owned(), |end| end.to_string());
    let Some(kept) = length.checked_sub(end.chars().count()) else {
        return Err(failed(format!("truncate: {end:?} is longer than {length} characters")));
    };
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text);
    }
    let mut kept: String = text.chars().take(kept).collect();
    if !kills.is_some_and(|kills| kills.is_true()) {
        kept.truncate(kept.rfind(' ').unwrap_or(kept.len()));
    }
    Ok(kept + &end)
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

/// `joiner(sep=', ')`: a function that returns nothing the first time, then the separator.
#[derive(Debug)]
struct Joiner {
    separator: Value,
    is_used: AtomicBool,
}

impl Joiner {
    fn value(given: Rest<Value>) -> Result<Value, Error> {
        let [separator] = bind(&given, ["sep"])?;
        let separator = separator.unwrap_or_else(|| Value::from(", "));
        Ok(Value::from_object(Joiner { separator, is_used: AtomicBool::new(false) }))
    }
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
    fn call(self: &Arc<Self>, _: &State, _: &[Value]) -> Result<Value, Error> {
        let is_used = self.is_used.swap(true, Ordering::Relaxed);
        Ok(if is_used { self.separator.clone() } else { Value::from("") })
    }
}

/// `cycler(items…)` with `next()`, `reset()` and `current`.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

impl Cycler {
    fn value(items: Rest<Value>) -> Result<Value, Error> {
        if items.is_empty() {
            return Err(failed("cycler needs at least one item"));
        }
        Ok(Value::from_object(Cycler { items: items.0, at: AtomicUsize::new(0) }))
    }

    fn current(&self) -> Value {
        self.items[self.at.load(Ordering::Relaxed)].clone()
    }
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        (key.as_str() == Some("current")).then(|| self.current())
    }
    fn call_method(self: &Arc<Self>, _: &State, name: &str, _: &[Value]) -> Result<Value, Error> {
        let next = match name {
            "next" => (self.at.load(Ordering::Relaxed) + 1) % self.items.len(),
            "reset" => 0,
            _ => return Err(Error::from(ErrorKind::UnknownMethod)),
        };
        let current = self.current();
        self.at.store(next, Ordering::Relaxed);
        Ok(if name == "next" { current } else { Value::from(()) })
    }
}
