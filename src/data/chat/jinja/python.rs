//! Values as Python has them: Jinja's `{{ … }}` is `str`, and `tojson` is `json.dumps`, as
//! transformers configures them.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{DynObject, Enumerator, Kwargs, Object, ObjectRepr, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, escape_formatter};
use serde_json::Value as Json;

use super::characters::is_printable;
use super::methods::method;
use super::{filters, operators};
use crate::base::json;

/// Makes an environment print, filter and call values as Python and Jinja do.
pub fn configure(environment: &mut Environment<'static>) {
    environment.set_unknown_method_callback(method);
    environment.set_formatter(print);
    environment.add_filter("tojson", to_json);
    filters::add(environment);
    operators::add(environment);
}

/// A list or a dict of JSON, which prints as in Python wherever it is printed.
#[derive(Debug)]
struct Printed(DynObject);

impl Object for Printed {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        self.0.repr()
    }
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get_value(key)
    }
    fn enumerate(self: &Arc<Self>) -> Enumerator {
        self.0.enumerate()
    }
    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&repr(&Value::from_dyn_object(self.0.clone())).map_err(|_| fmt::Error)?)
    }
}

/// A tuple of Python, which prints in parentheses.
#[derive(Debug)]
pub struct Tuple(Vec<Value>);

impl Tuple {
    pub fn value(items: Vec<Value>) -> Value {
        Value::from_object(Tuple(items))
    }

    pub fn is(value: &Value) -> bool {
        value.downcast_object_ref::<Tuple>().is_some()
    }

    /// Returns items as a tuple if `value` is one, else as a list.
    pub fn like(value: &Value, items: Vec<Value>) -> Value {
        if Tuple::is(value) { Tuple::value(items) } else { Value::from(items) }
    }
}

impl Object for Tuple {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).cloned()
    }
    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }
    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&repr(&Value::from_dyn_object(self.clone())).map_err(|_| fmt::Error)?)
    }
}

/// True for lists, tuples and what minijinja has instead of iterators.
pub fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

/// An integer beyond 128 bits.
#[derive(Debug)]
struct Digits(String);

impl Object for Digits {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns the value of JSON. Numbers under a mark (see [`json`]) are numbers again.
pub fn value(json: &Json) -> Value {
    let printed = |value: Value| match value.as_object() {
        Some(object) => Value::from_object(Printed(object.clone())),
        None => value,
    };
    match json {
        Json::String(text) => match json::number(text) {
            Some("NaN") => Value::from(f64::NAN),
            Some("Infinity") => Value::from(f64::INFINITY),
            Some("-Infinity") => Value::from(f64::NEG_INFINITY),
            Some(digits) if digits.trim_start_matches('-').bytes().all(|digit| digit.is_ascii_digit()) => {
                match digits.parse::<i128>() {
                    Ok(number) => Value::from(number),
                    Err(_) => Value::from_object(Digits(digits.to_owned())),
                }
            }
            _ => Value::from(&text[..]),
        },
        Json::Array(items) => printed(items.iter().map(value).collect::<Vec<Value>>().into()),
        Json::Object(fields) => printed(
            fields.iter().map(|(key, field)| (Value::from(&key[..]), value(field))).collect::<Value>(),
        ),
        Json::Bool(is) => Value::from(*is),
        Json::Null => Value::from(()),
        Json::Number(_) => Value::from_serialize(json),
    }
}

/// Prints a value for `{{ … }}`.
fn print(out: &mut Output, state: &State, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None | ValueKind::Bool | ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => {}
        ValueKind::Number if !value.is_integer() => {}
        _ => return escape_formatter(out, state, value),
    }
    Ok(out.write_str(&repr(value)?)?)
}

/// Python's `str`.
pub fn text(value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None if value.is_undefined() => Ok(String::new()),
        None => repr(value),
    }
}

/// The filter `tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent = match options.get::<Option<Value>>("indent")? {
        Some(text) if text.as_str().is_some() => text.as_str().map(str::to_owned),
        Some(width) => Some(" ".repeat(usize::try_from(width)?)),
        None => None,
    };
    let separators: Option<(String, String)> =
        options.get::<Option<Vec<String>>>("separators")?.and_then(|pair| {
            let mut pair = pair.into_iter();
            Some((pair.next()?, pair.next()?))
        });
    let between = if indent.is_some() { "," } else { ", " };
    let (item, key) = separators.unwrap_or_else(|| (between.to_owned(), ": ".to_owned()));
    let dump = Dump {
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sorted: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        item,
        key,
    };
    options.assert_all_used()?;
    let mut out = String::new();
    dump.value(&mut out, value, 0)?;
    Ok(out)
}

/// True for an integer beyond 128 bits.
pub fn is_digits(value: &Value) -> bool {
    value.downcast_object_ref::<Digits>().is_some()
}

struct Dump {
    ascii: bool,
    sorted: bool,
    indent: Option<String>,
    item: String,
    key: String,
}

impl Dump {
    fn value(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value, ["NaN", "Infinity", "-Infinity"])),
            _ if is_digits(value) => out.push_str(&value.to_string()),
            ValueKind::String => self.string(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                self.items(out, ('[', ']'), value.try_iter()?, depth, |out, item| {
                    self.value(out, &item, depth + 1)
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sorted {
                    keys.sort();
                }
                self.items(out, ('{', '}'), keys.into_iter(), depth, |out, key| {
                    match key.as_str() {
                        Some(text) => self.string(out, text),
                        // Python writes keys that are no texts as texts of their JSON.
                        None => {
                            let mut text = String::new();
                            self.value(&mut text, &key, depth)?;
                            self.string(out, &text);
                        }
                    }
                    out.push_str(&self.key);
                    self.value(out, &value.get_item(&key)?, depth + 1)
                })?;
            }
            kind => {
                let message = format!("tojson cannot write a value that is {kind}");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        }
        Ok(())
    }

    fn items(
        &self,
        out: &mut String,
        (open, close): (char, char),
        items: impl Iterator<Item = Value>,
        depth: usize,
        mut write: impl FnMut(&mut String, Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let line = |out: &mut String, depth: usize| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                out.extend(std::iter::repeat_n(&indent[..], depth));
            }
        };
        out.push(open);
        let mut is_empty = true;
        for item in items {
            if !is_empty {
                out.push_str(&self.item);
            }
            is_empty = false;
            line(out, depth + 1);
            write(out, item)?;
        }
        if !is_empty {
            line(out, depth);
        }
        out.push(close);
        Ok(())
    }

    fn string(&self, out: &mut String, text: &str) {
        out.push('"');
        for character in text.chars() {
            match character {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                ' '..='~' => out.push(character),
                _ if self.ascii || character < ' ' => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                _ => out.push(character),
            }
        }
        out.push('"');
    }
}

/// Python's `repr`; `str` gives the same for everything but text.
fn repr(value: &Value) -> Result<String, Error> {
    Ok(match value.kind() {
        ValueKind::None => "None".to_owned(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.to_owned(),
        ValueKind::Undefined => "Undefined".to_owned(),
        ValueKind::Number => number(value, ["nan", "inf", "-inf"]),
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<String> = value.try_iter()?.map(|item| repr(&item)).collect::<Result<_, _>>()?;
            match (Tuple::is(value), &items[..]) {
                (true, [item]) => format!("({item},)"),
                (true, _) => format!("({})", items.join(", ")),
                (false, _) => format!("[{}]", items.join(", ")),
            }
        }
        ValueKind::Map => {
            let pair = |key: Value| Ok(format!("{}: {}", repr(&key)?, repr(&value.get_item(&key)?)?));
            let pairs: Vec<String> = value.try_iter()?.map(pair).collect::<Result<_, Error>>()?;
            format!("{{{}}}", pairs.join(", "))
        }
        _ => value.to_string(),
    })
}

fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if character == quote => out.extend(['\\', quote]),
            // Marks are found again in the rendered text.
            '\u{fdd0}'..='\u{fdd4}' => out.push(character),
            _ if is_printable(character) => out.push(character),
            _ => out.push_str(&match character as u32 {
                code @ ..0x100 => format!("\\x{code:02x}"),
                code @ ..0x1_0000 => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    out.push(quote);
    out
}

/// Python's shortest form of a number: scientific below 10⁻⁴ and from 10¹⁶, with at least two
/// digits of exponent. `words` are the names of what is not finite.
fn number(value: &Value, [nan, infinity, negative]: [&str; 3]) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(float) = f64::try_from(value.clone()) else { return value.to_string() };
    if !float.is_finite() {
        let word = match float {
            _ if float.is_nan() => nan,
            _ if float > 0.0 => infinity,
            _ => negative,
        };
        return word.to_owned();
    }
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').expect("the format has an exponent");
    let exponent: i32 = exponent.parse().expect("an exponent is a number");
    if float != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = float.to_string();
    if plain.contains('.') { plain } else { format!("{plain}.0") }
}

#[cfg(test)]
mod tests {
    use minijinja::Environment;
    use serde_json::json;

    use super::*;

    fn rendered(source: &str, value: serde_json::Value) -> String {
        let mut environment = Environment::new();
        configure(&mut environment);
        let context = Value::from_iter([("x", super::value(&value))]);
        environment.render_str(source, context).unwrap()
    }

    /// The expected texts come from Python: `str(x)`, `json.dumps(x, ensure_ascii=False)` and so
    /// on.
    #[test]
    fn values_print_as_in_python() {
        let value = json!({"b": [1, 2.0, null, true], "a": "it's", "é": {"<&>": "\n\u{1}\""}});
        assert_eq!(
            rendered("{{ x }}", value.clone()),
            r#"{'b': [1, 2.0, None, True], 'a': "it's", 'é': {'<&>': '\n\x01"'}}"#
        );
        assert_eq!(
            rendered("{{ x | tojson }}", value.clone()),
            r#"{"b": [1, 2.0, null, true], "a": "it's", "é": {"<&>": "\n\u0001\""}}"#
        );
        assert_eq!(
            rendered("{{ x | tojson(ensure_ascii=true, sort_keys=true, separators=(',', ':')) }}", value),
            r#"{"a":"it's","b":[1,2.0,null,true],"\u00e9":{"<&>":"\n\u0001\""}}"#
        );
        assert_eq!(
            rendered("{{ x | tojson(indent=2) }}", json!({"a": [], "b": [1, {}]})),
            "{\n  \"a\": [],\n  \"b\": [\n    1,\n    {}\n  ]\n}"
        );
        assert_eq!(rendered("{{ x }}{{ missing }}", json!(null)), "None");
        assert_eq!(rendered("{{ x | tojson }}", json!("😀")), "\"😀\"");
        assert_eq!(rendered("{{ x | tojson(ensure_ascii=true) }}", json!("😀")), r#""\ud83d\ude00""#);
    }

    #[test]
    fn iterable_and_sequence_agree_with_jinja() {
        let source = "{{ x is iterable }} {{ x is sequence }}";
        for (value, text) in [
            (json!(null), "False False"),
            (json!(3), "False False"),
            (json!("a"), "True True"),
            (json!([1]), "True True"),
            (json!({"a": 1}), "True True"),
        ] {
            assert_eq!(rendered(source, value), text);
        }
        assert_eq!(rendered("{{ y is iterable }}", json!(1)), "True");
    }

    #[test]
    fn numbers_print_as_in_python() {
        for (value, text) in [
            (json!(1e16), "1e+16"),
            (json!(123456789012345.6), "123456789012345.6"),
            (json!(1e-5), "1e-05"),
            (json!(0.0001), "0.0001"),
            (json!(-2.5e-7), "-2.5e-07"),
            (json!(0.0), "0.0"),
            (json!(3), "3"),
            (json!(1e22), "1e+22"),
        ] {
            assert_eq!(rendered("{{ x }}", value), text);
        }
    }
}
