//! The enums of the header: one table each, of names, numbers and values in Rust.

use std::ffi::CStr;

use crate::base::{Error, Result};

/// An enum of the header.
pub struct Enum<T: 'static> {
    /// The name in C.
    pub name: &'static str,
    /// Name, number and value of its constants, in order, without the one that sets its width.
    pub constants: &'static [(&'static CStr, u32, T)],
}

impl<T: Copy + PartialEq> Enum<T> {
    /// The number of a value, which is in the table.
    pub fn number(&self, value: T) -> u32 {
        let constant = self.constants.iter().find(|(_, _, known)| *known == value);
        constant.expect("every value is in the table").1
    }

    /// The value of the argument or field `what`.
    pub fn value(&self, number: u32, what: &str) -> Result<T> {
        self.find(number, what, Some)
    }

    /// The value of a number among those that `part` accepts. Errors name them.
    fn find<V>(&self, number: u32, what: &str, part: impl Fn(T) -> Option<V>) -> Result<V> {
        let mut names = Vec::new();
        for &(name, known, value) in self.constants {
            let Some(value) = part(value) else { continue };
            if known == number {
                return Ok(value);
            }
            names.push(format!("{} ({known})", text(name)));
        }
        let last = names.pop().expect("an enum has values");
        // Enums may be signed in C.
        let number = number as i32;
        Err(Error::argument(format!("{what} is {number}; it must be {} or {last}", names.join(", "))))
    }
}

impl<V: Copy + PartialEq> Enum<Option<V>> {
    /// The value of the argument or field `what`, which must be set.
    pub fn required(&self, number: u32, what: &str) -> Result<V> {
        self.find(number, what, |value| value)
    }
}

fn text(name: &'static CStr) -> &'static str {
    name.to_str().expect("names in C are ASCII")
}

/// The names of an enum, whatever its values are in Rust.
pub trait Names {
    /// The name in C.
    fn name(&self) -> &'static str;

    /// Names and numbers of the constants.
    fn numbers(&self) -> Vec<(&'static str, u32)>;
}

impl<T> Names for Enum<T> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn numbers(&self) -> Vec<(&'static str, u32)> {
        self.constants.iter().map(|(name, number, _)| (text(name), *number)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capi::options::{ADAM_TIMES, DTYPES, MODES, PINNINGS, PLACES, RECOMPUTES};
    use crate::capi::{adam, arena, device, lane, log, model, progress, status};
    use crate::device::Lane;
    use crate::schedule::Recompute;

    /// All enums of `include/horizon.h`, except the constants that set their width.
    fn header() -> Vec<(&'static str, Vec<(&'static str, u32)>)> {
        let enums = include_str!("../../include/horizon.h").split("typedef enum ").skip(1);
        let constant = |line: &'static str| {
            let (name, number) = line.trim().split_once(" = ").filter(|(name, _)| name.starts_with("HZ_"))?;
            let number = number.split([',', ' ']).next()?.parse().ok()?;
            Some((name, number))
        };
        enums
            .map(|text| {
                let (name, body) = text.split_once(" {").unwrap();
                (name, body.split_once('}').unwrap().0.lines().filter_map(constant).collect())
            })
            .collect()
    }

    #[test]
    fn enums_are_those_of_the_header() {
        let ours: [&dyn Names; 15] = [
            &status::STATUSES,
            &log::LEVELS,
            &device::DEVICES,
            &model::ROPES,
            &MODES,
            &DTYPES,
            &ADAM_TIMES,
            &PINNINGS,
            &RECOMPUTES,
            &PLACES,
            &lane::LANES,
            &progress::WORKS,
            &adam::MODES,
            &arena::KINDS,
            &arena::PAGES,
        ];
        assert_eq!(header(), ours.map(|listed| (listed.name(), listed.numbers())));
    }

    #[test]
    fn values_have_numbers_and_numbers_values() {
        for lane in Lane::ALL {
            assert_eq!(lane::LANES.value(lane::LANES.number(lane), "lane"), Ok(lane));
        }
        for recompute in Recompute::ALL {
            assert_eq!(RECOMPUTES.value(RECOMPUTES.number(recompute), "recompute"), Ok(recompute));
        }
    }

    #[test]
    fn unknown_numbers_are_refused_with_the_values() {
        let refused = |outcome: Result<()>| outcome.unwrap_err().message().to_owned();
        assert_eq!(
            refused(MODES.value(9, "mode").map(drop)),
            "mode is 9; it must be HZ_MODE_EXACT (1), HZ_MODE_STREAMED (2) or HZ_MODE_COMPACT (3)"
        );
        assert_eq!(
            refused(DTYPES.required(0, "dtype").map(drop)),
            "dtype is 0; it must be HZ_DTYPE_BF16 (1) or HZ_DTYPE_F32 (2)"
        );
        assert!(refused(log::LEVELS.value(u32::MAX, "level").map(drop)).starts_with("level is -1; "));
    }
}
