//! The check for values that are not finite.

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
