//! `HZ_LANE_*`.

use std::ffi::{CStr, c_char};

use crate::capi::enums::Enum;
use crate::device::Lane;

/// Names by number.
const NAMES: [&CStr; Lane::COUNT] = [c"compute", c"h2d", c"d2h", c"host", c"disk"];

/// `HZ_LANE_*`.
pub static LANES: Enum<Lane> = Enum {
    name: "hz_lane_t",
    constants: &[
        (c"HZ_LANE_COMPUTE", 0, Lane::Compute),
        (c"HZ_LANE_H2D", 1, Lane::H2d),
        (c"HZ_LANE_D2H", 2, Lane::D2h),
        (c"HZ_LANE_HOST", 3, Lane::Host),
        (c"HZ_LANE_DISK", 4, Lane::Disk),
    ],
};

#[unsafe(no_mangle)]
pub extern "C" fn hz_lane_name(lane: u32) -> *const c_char {
    NAMES.get(lane as usize).map_or(std::ptr::null(), |name| name.as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_traces() {
        assert_eq!(NAMES.map(|name| name.to_str().unwrap()), Lane::ALL.map(Lane::name));
        assert!(hz_lane_name(Lane::COUNT as u32).is_null());
    }
}
