//! Values of arguments and fields: limits, types and units, which `sized_struct!` states, and
//! conversions.

use std::thread;

use serde_json::{Value, json};

use crate::base::{Error, Result};
use crate::capi::argument::{Array, LentText, Numbers, Text};
use crate::capi::enums::Names;
use crate::capi::sized::In;

/// The values of a field.
#[derive(Clone, Copy)]
pub struct Values {
    /// The enum that is the type of the field.
    pub names: Option<&'static dyn Names>,
    /// The smallest and the largest value.
    pub range: [Option<f64>; 2],
    /// True if the largest value itself is not allowed.
    pub below: bool,
    /// A value outside the range that is allowed, too.
    pub special: Option<f64>,
    /// The unit, unless the name of the field tells it.
    pub unit: Option<&'static str>,
}

impl Values {
    /// All values of the type, unless other fields exclude some.
    pub const ANY: Values =
        Values { names: None, range: [None, None], below: false, special: None, unit: None };
    /// 0 or 1.
    pub const FLAG: Values = Values::between(0.0, 1.0);
    /// 0: for later versions.
    pub const RESERVED: Values = Values::between(0.0, 0.0);

    /// The numbers of an enum.
    pub const fn of(names: &'static dyn Names) -> Values {
        Values { names: Some(names), ..Values::ANY }
    }

    /// At least `min`.
    pub const fn at_least(min: f64) -> Values {
        Values { range: [Some(min), None], ..Values::ANY }
    }

    /// At least `min`, and finite as f32.
    pub const fn f32_at_least(min: f64) -> Values {
        Values::between(min, f32::MAX as f64)
    }

    /// From `min` to `max`.
    pub const fn between(min: f64, max: f64) -> Values {
        Values { range: [Some(min), Some(max)], ..Values::ANY }
    }

    /// From `min` to less than `max`.
    pub const fn below(min: f64, max: f64) -> Values {
        Values { below: true, ..Values::between(min, max) }
    }

    /// The same values, or `value`.
    pub const fn or(self, value: f64) -> Values {
        Values { special: Some(value), ..self }
    }

    /// A value as text: for an enum the name of the constant.
    pub fn text(&self, value: &Value) -> String {
        let numbers = self.names.map(Names::numbers).unwrap_or_default();
        let constant = numbers.into_iter().find(|(_, number)| value == number);
        constant.map_or_else(|| value.to_string(), |(name, _)| name.to_owned())
    }

    /// The same values, of a unit.
    pub const fn unit(self, unit: &'static str) -> Values {
        Values { unit: Some(unit), ..self }
    }
}

/// The type of a field.
pub trait FieldType {
    /// The type in C; `pointer` for all pointers.
    const NAME: &'static str;

    /// The value in JSON; null for a pointer.
    fn json(&self) -> Value;
}

macro_rules! field_types {
    ($($kind:ty: $name:expr,)*) => {
        $(impl FieldType for $kind {
            const NAME: &'static str = $name;

            fn json(&self) -> Value {
                json!(self)
            }
        })*
    };
}

field_types! {
    u32: "uint32_t",
    u64: "uint64_t",
    f64: "double",
    [u64; 4]: "uint64_t[4]",
}

impl FieldType for [f64; 128] {
    const NAME: &'static str = "double[128]";

    fn json(&self) -> Value {
        json!(self[..])
    }
}

/// Text of the library, terminated by NUL.
impl FieldType for [u8; 128] {
    const NAME: &'static str = "char[128]";

    fn json(&self) -> Value {
        json!(String::from_utf8_lossy(self).trim_end_matches('\0'))
    }
}

macro_rules! pointers {
    ($($kind:ty $(; $parameter:ident)?,)*) => {
        $(impl$(<$parameter>)? FieldType for $kind {
            const NAME: &'static str = "pointer";

            fn json(&self) -> Value {
                Value::Null
            }
        })*
    };
}

pointers! {
    Text,
    LentText,
    Numbers,
    Array<T>; T,
    In<T>; T,
}

/// A size as a `usize`.
pub fn size(value: u64, what: &str) -> Result<usize> {
    usize::try_from(value)
        .map_err(|_| Error::argument(format!("{what} is {value}; it must be at most {}", usize::MAX)))
}

/// A size; `None` for 0.
pub fn chosen_size(value: u64, what: &str) -> Result<Option<usize>> {
    Ok(Some(size(value, what)?).filter(|&value| value != 0))
}

/// A number of threads; for 0 all that this process may run on. The pool checks the maximum.
pub fn threads_or_all(value: u64) -> Result<usize> {
    let threads = chosen_size(value, "threads")?;
    Ok(threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from)))
}

/// A field that is 0 or 1.
pub fn flag(value: u32, field: &str) -> Result<bool> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(Error::argument(format!("{field} is {other}; it must be 0 or 1"))),
    }
}

/// Checks a reserved field.
pub fn reserved(value: u32, field: &str) -> Result<()> {
    if value == 0 { Ok(()) } else { Err(Error::argument(format!("{field} is {value}; it must be 0"))) }
}
