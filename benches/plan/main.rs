//! The plan: how near it comes to what happens, and what it says of machines that are not here.
//!
//! ```text
//! cargo bench --bench plan -- accuracy [--policies 36] [--threads 1]
//! cargo bench --bench plan -- simulated
//! ```
//!
//! `accuracy` calibrates, then runs random policies on the CPU device and compares each step's measured time with
//! the predicted one: a line of JSON for each policy, and one with median and worst.
//! `simulated` writes the tables of `benches/results/plan-simulated.md`: nothing in them is measured here.

mod accuracy;
mod original;
mod simulated;

use std::env;

fn main() {
    let option = |name: &str, default: usize| {
        let mut given = env::args().skip_while(|argument| argument != name).skip(1);
        given.next().map_or(default, |value| value.parse().expect("a number"))
    };
    match env::args().nth(1).as_deref() {
        Some("simulated") => simulated::tables(),
        _ => accuracy::accuracy(option("--policies", 36), option("--threads", 1)),
    }
}
