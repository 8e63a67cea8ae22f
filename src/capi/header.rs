//! `include/horizon.h` in tests.

const HEADER: &str = include_str!("../../include/horizon.h");

/// Asserts that an enum of the header has these constants and no others, except the one that sets
/// its width.
pub fn assert_enum(name: &str, ours: &[(&str, u32)]) {
    let opening = format!("typedef enum {name} {{");
    let (_, body) = HEADER.split_once(&opening).unwrap_or_else(|| panic!("the header has no {name}"));
    let (body, _) = body.split_once(&format!("}} {name};")).unwrap();
    let listed: Vec<(&str, u32)> = body
        .lines()
        .filter_map(|line| line.split("/*").next().unwrap().trim().split_once(" = "))
        .filter(|(name, _)| name.starts_with("HZ_") && !name.contains(' ') && !name.ends_with("_MAX_ENUM"))
        .map(|(name, number)| (name, number.trim().trim_end_matches(',').parse().unwrap()))
        .collect();
    assert_eq!(listed, ours, "{name}: include/horizon.h on the left, the library on the right");
}
