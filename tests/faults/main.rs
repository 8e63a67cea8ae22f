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

/// Classes of findings that are printed and do not fail yet, by the first words of their message.
const PENDING: &[&str] = &["left over", "not retried", "lost records"];

/// Prints the findings of pending classes; returns the others.
fn failing(findings: &[String]) -> Vec<&String> {
    let is_pending = |finding: &&String| PENDING.iter().any(|class| finding.starts_with(class));
    let (pending, failing): (Vec<_>, Vec<_>) = findings.iter().partition(is_pending);
    pending.iter().for_each(|finding| println!("pending: {finding}"));
    failing
}

fn is_long() -> bool {
    std::env::var_os("HZ_LONG").is_some()
}
