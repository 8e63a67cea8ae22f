//! Python's operators.

use std::cmp::Ordering;

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, FormatStyle, State, format_filter, tests};

use super::expression::{CONCAT, NEGATE, OPERATE, TUPLE};
use super::filters::{failed, is_iterable};
use super::python::{Tuple, is_list, text};

/// The longest text or list that `*` makes.
const LONGEST: usize = 100_000_000;

/// Adds the filters that replace operators.
pub fn add(environment: &mut Environment<'static>) {
    environment.add_filter(OPERATE, operate);
    environment.add_filter(CONCAT, concat);
    environment.add_function(TUPLE, |items: Rest<Value>| Tuple::value(items.0));
    environment.add_filter("format", |format: &str, arguments: Rest<Value>| formatted(format, &arguments));
    environment.add_test("in", contains);
}

/// `left operator right`.
pub fn operate(state: &State, left: &Value, operator: &str, right: &Value) -> Result<Value, Error> {
    let result = match operator {
        "in" => Some(Value::from(contains(state, left, right)?)),
        "<" | "<=" | ">" | ">=" => compare(left, operator, right),
        "+" if is_list(left) && is_list(right) => add_lists(left, right)?,
        "*" if Number::of(left).is_none() => repeat(left, right)?,
        "*" if Number::of(right).is_none() => repeat(right, left)?,
        _ => match (operator, left.as_str(), right.as_str()) {
            ("%", Some(format), _) => Some(percent(format, right)?),
            ("+", Some(left), Some(right)) => Some(Value::from([left, right].concat())),
            _ => match (Number::of(left), Number::of(right)) {
                (Some(left), Some(right)) => Some(left.operate(operator, right)?.into()),
                _ => None,
            },
        },
    };
    result.ok_or_else(|| {
        failed(format!("{operator} is not supported between {} and {}", left.kind(), right.kind()))
    })
}

/// `left ~ …`.
fn concat(left: &Value, others: Rest<Value>) -> Result<String, Error> {
    let mut out = text(left)?;
    for other in others.iter() {
        out.push_str(&text(other)?);
    }
    Ok(out)
}

fn contains(state: &State, item: &Value, all: &Value) -> Result<bool, Error> {
    if !is_iterable(all) || (all.as_str().is_some() && item.as_str().is_none()) {
        return Err(failed(format!("{} cannot be in {}", item.kind(), all.kind())));
    }
    tests::is_in(state, item, all)
}

fn compare(left: &Value, operator: &str, right: &Value) -> Option<Value> {
    let order = order(left, right)?;
    Some(Value::from(match operator {
        "<" => order.is_some_and(Ordering::is_lt),
        "<=" => order.is_some_and(Ordering::is_le),
        ">" => order.is_some_and(Ordering::is_gt),
        _ => order.is_some_and(Ordering::is_ge),
    }))
}

/// Returns the order of two values, `Some(None)` if one is NaN; `None` if Python refuses to order
/// them.
pub fn order(left: &Value, right: &Value) -> Option<Option<Ordering>> {
    if let (Some(left), Some(right)) = (left.as_str(), right.as_str()) {
        return Some(Some(left.cmp(right)));
    }
    if is_list(left) && is_list(right) && Tuple::is(left) == Tuple::is(right) {
        let mut pairs = left.try_iter().ok()?.zip(right.try_iter().ok()?);
        return match pairs.find(|(left, right)| left != right) {
            Some((left, right)) => order(&left, &right),
            None => Some(Some(left.len().cmp(&right.len()))),
        };
    }
    Some(match (Number::of(left)?, Number::of(right)?) {
        (Number::Integer(left), Number::Integer(right)) => Some(left.cmp(&right)),
        (left, right) => left.float().partial_cmp(&right.float()),
    })
}

fn add_lists(left: &Value, right: &Value) -> Result<Option<Value>, Error> {
    if Tuple::is(left) != Tuple::is(right) {
        return Ok(None);
    }
    let items = left.try_iter()?.chain(right.try_iter()?).collect();
    Ok(Some(Tuple::like(left, items)))
}

/// `value * count` of a text or a list; a negative count is 0.
fn repeat(value: &Value, count: &Value) -> Result<Option<Value>, Error> {
    let Some(Number::Integer(count)) = Number::of(count) else { return Ok(None) };
    let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
    let length = value.as_str().map(str::len).or_else(|| value.len()).unwrap_or(0);
    if length.saturating_mul(count) > LONGEST {
        return Err(failed("the repeated value is too long"));
    }
    Ok(match value.as_str() {
        Some(text) => Some(Value::from(text.repeat(count))),
        None if is_list(value) => {
            let items: Vec<Value> = value.try_iter()?.collect();
            Some(Tuple::like(value, std::iter::repeat_n(items, count).flatten().collect()))
        }
        None => None,
    })
}

/// `format % value`; a tuple is several arguments.
fn percent(format: &str, value: &Value) -> Result<Value, Error> {
    let text = match value.kind() {
        _ if Tuple::is(value) => formatted(format, &value.try_iter()?.collect::<Vec<Value>>()),
        ValueKind::Map => {
            let pair = |key: Value| Ok((key.to_string(), printable(&value.get_item(&key)?)?));
            let pairs: Vec<(String, Value)> = value.try_iter()?.map(pair).collect::<Result<_, Error>>()?;
            format_filter(FormatStyle::Printf, format, &[Kwargs::from_iter(pairs).into()])
        }
        _ => formatted(format, std::slice::from_ref(value)),
    };
    text.map(Value::from)
}

fn formatted(format: &str, arguments: &[Value]) -> Result<String, Error> {
    let arguments: Vec<Value> = arguments.iter().map(printable).collect::<Result<_, _>>()?;
    format_filter(FormatStyle::Printf, format, &arguments)
}

/// Returns a list or a dict as Python prints it.
pub fn printable(value: &Value) -> Result<Value, Error> {
    let is_dict = value.kind() == ValueKind::Map && !value.is_kwargs();
    if is_dict || is_list(value) { text(value).map(Value::from) } else { Ok(value.clone()) }
}

/// Returns a number or a bool as a float.
pub fn float(value: &Value) -> Option<f64> {
    Number::of(value).map(Number::float)
}

/// A number of Python.
#[derive(Clone, Copy)]
enum Number {
    Integer(i128),
    Float(f64),
}

impl Number {
    fn of(value: &Value) -> Option<Number> {
        match value.kind() {
            ValueKind::Bool => Some(Number::Integer(i128::from(value.is_true()))),
            ValueKind::Number if value.is_integer() => {
                i128::try_from(value.clone()).ok().map(Number::Integer)
            }
            ValueKind::Number => f64::try_from(value.clone()).ok().map(Number::Float),
            _ => None,
        }
    }

    fn float(self) -> f64 {
        match self {
            Number::Integer(integer) => integer as f64,
            Number::Float(float) => float,
        }
    }

    fn operate(self, operator: &str, right: Number) -> Result<Number, Error> {
        if matches!(operator, "/" | "//" | "%") && right.float() == 0.0 {
            return Err(failed("division by zero"));
        }
        if let (Number::Integer(left), Number::Integer(right)) = (self, right) {
            let result = match operator {
                NEGATE => left.checked_neg(),
                "+" => left.checked_add(right),
                "-" => left.checked_sub(right),
                "*" => left.checked_mul(right),
                "//" => left
                    .checked_div(right)
                    .map(|quotient| quotient - i128::from(left % right != 0 && (left < 0) != (right < 0))),
                "%" => left
                    .checked_rem(right)
                    .map(|rest| if rest != 0 && (rest < 0) != (right < 0) { rest + right } else { rest }),
                "**" if right >= 0 => u32::try_from(right).ok().and_then(|right| left.checked_pow(right)),
                _ => return floats(left as f64, operator, right as f64),
            };
            let too_large = || failed(format!("{left} {operator} {right} is too large a number"));
            return result.map(Number::Integer).ok_or_else(too_large);
        }
        floats(self.float(), operator, right.float())
    }
}

impl From<Number> for Value {
    fn from(number: Number) -> Value {
        match number {
            Number::Integer(integer) => {
                i64::try_from(integer).map_or_else(|_| Value::from(integer), Value::from)
            }
            Number::Float(float) => Value::from(float),
        }
    }
}

fn floats(left: f64, operator: &str, right: f64) -> Result<Number, Error> {
    let result = match operator {
        NEGATE => -left,
        "+" => left + right,
        "-" => left - right,
        "*" => left * right,
        "/" => left / right,
        "//" => divided(left, right).0,
        "%" => divided(left, right).1,
        _ => {
            let result = left.powf(right);
            let is_finite = left.is_finite() && right.is_finite();
            if is_finite && !result.is_finite() {
                return Err(failed(format!("{left} ** {right} is no number")));
            }
            result
        }
    };
    Ok(Number::Float(result))
}

/// Returns the quotient, rounded down, and the remainder (`float_divmod` of Python).
fn divided(left: f64, right: f64) -> (f64, f64) {
    let mut rest = left % right;
    let mut quotient = (left - rest) / right;
    if rest == 0.0 {
        rest = rest.copysign(right);
    } else if (right < 0.0) != (rest < 0.0) {
        rest += right;
        quotient -= 1.0;
    }
    if quotient == 0.0 {
        return (0.0_f64.copysign(left / right), rest);
    }
    let floor = quotient.floor();
    (if quotient - floor > 0.5 { floor + 1.0 } else { floor }, rest)
}
