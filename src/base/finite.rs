//! Checks of numbers: elements that are not finite, and values that are used as f32.

use std::fmt;

use crate::base::{Error, Result, Status};

/// Returns index and value of the first element that is not finite, `None` if all are. `widen`
/// converts an element.
pub fn find_non_finite<T: Copy>(elements: &[T], widen: impl Fn(T) -> f32) -> Option<(usize, f32)> {
    // No early exit, which would prevent vectorization.
    if elements.iter().fold(true, |all, &element| all & widen(element).is_finite()) {
        return None;
    }
    let at = elements.iter().position(|&element| !widen(element).is_finite())?;
    Some((at, widen(elements[at])))
}

/// The error of a weight that is not finite where it is saved or exported.
pub fn non_finite(tensor: &str, element: usize, value: f32) -> Error {
    let message = format!(
        "element {element} of {tensor} is {value}; weights must be finite: load other weights, or a \
         checkpoint from before, and lower the learning rate"
    );
    Error::new(Status::NonFinite, message)
}

/// Refuses a value of `name` that is below `least`, or not a finite f32 (`InvalidArgument`).
pub fn check_f32(name: impl fmt::Display, value: f64, least: f64) -> Result<()> {
    if (least..=f32::MAX.into()).contains(&value) {
        return Ok(());
    }
    let least = if least == 0.0 { "0".to_owned() } else { format!("{least:.1e}") };
    let value = if value.abs() < 1e6 { value.to_string() } else { format!("{value:e}") };
    Err(Error::argument(format!(
        "{name} is {value}; it must be finite, at least {least} and at most 3.4e38 (f32)"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_beyond_f32_are_refused() {
        let check = |value| check_f32("lr", value, 0.0).map_err(|error| error.message().to_owned());
        for good in [0.0, 1e-300, 0.5, f32::MAX.into()] {
            assert_eq!(check(good), Ok(()));
        }
        let must = "it must be finite, at least 0 and at most 3.4e38 (f32)";
        let bad =
            [(1e39, "1e39"), (3.5e38, "3.5e38"), (-0.5, "-0.5"), (f64::NAN, "NaN"), (f64::INFINITY, "inf")];
        for (value, shown) in bad {
            assert_eq!(check(value), Err(format!("lr is {shown}; {must}")));
        }
    }
}
