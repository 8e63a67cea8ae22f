//! Faults under the command `horizon`: failing, short and interrupted I/O, kills, power cuts, and
//! several processes on one folder. Whatever happens, what lies on disk is complete or absent, and
//! the run ends with the bits of an uninterrupted one.
//!
//! A sample runs with all tests; `HZ_LONG=1` (`.ci/long injection kills power`) runs all of it.

mod inject;
mod injection;
mod invariants;
mod kills;
mod power;
mod sharing;
mod work;

fn is_long() -> bool {
    std::env::var_os("HZ_LONG").is_some()
}
