//! `HZ_LANE_*`.

use std::ffi::{CStr, c_char};

use crate::base::{Error, Result};
use crate::device::Lane;

/// Names by number.
const NAMES: [&CStr; Lane::COUNT] = [c"compute", c"h2d", c"d2h", c"host", c"disk"];

/// The lane with a number.
pub fn lane_of(number: u32) -> Result<Lane> {
    Lane::ALL.get(number as usize).copied().ok_or_else(|| {
        let most = Lane::COUNT - 1;
        Error::argument(format!("lane is {number}; it must be one of HZ_LANE_*, 0 .. {most}"))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_lane_name(lane: u32) -> *const c_char {
    NAMES.get(lane as usize).map_or(std::ptr::null(), |name| name.as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capi::header::assert_enum;

    #[test]
    fn numbers_are_those_of_the_header() {
        let number = |lane| Lane::ALL.iter().position(|&other| other == lane).unwrap() as u32;
        assert_enum(
            "hz_lane_t",
            &[
                ("HZ_LANE_COMPUTE", number(Lane::Compute)),
                ("HZ_LANE_H2D", number(Lane::H2d)),
                ("HZ_LANE_D2H", number(Lane::D2h)),
                ("HZ_LANE_HOST", number(Lane::Host)),
                ("HZ_LANE_DISK", number(Lane::Disk)),
            ],
        );
    }

    #[test]
    fn names_are_those_of_traces() {
        assert_eq!(NAMES.map(|name| name.to_str().unwrap()), Lane::ALL.map(Lane::name));
        assert!(hz_lane_name(Lane::COUNT as u32).is_null());
    }
}
