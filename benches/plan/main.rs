//! The plan: how near it comes to what happens, and what it says of machines that are not here.
//!
//! ```text
//! cargo bench --bench plan -- accuracy [--policies 36] [--threads 1] [--rounds 5]
//! cargo bench --bench plan -- simulated
//! cargo bench --bench plan -- search [--rounds 5]
//! ```
//!
//! `accuracy` calibrates, then predicts random policies and runs them on the CPU device, in several rounds; of each policy it
//! compares the median measured step with the median predicted one. A run during which other processes kept more than
//! a seventh of a core busy is repeated. A line of JSON for each policy, and one with median and worst.
//! `simulated` writes the tables of `benches/results/plan-simulated.md`: nothing in them is measured here.
//! `search` says how long a plan takes to find.

mod accuracy;
mod original;
mod search;
mod simulated;

use std::env;

fn main() {
    let option = |name: &str, default: usize| {
        let mut given = env::args().skip_while(|argument| argument != name).skip(1);
        given.next().map_or(default, |value| value.parse().expect("a number"))
    };
    match env::args().nth(1).as_deref() {
        Some("simulated") => simulated::tables(),
        Some("search") => search::search(option("--rounds", 5)),
        _ => accuracy::accuracy(option("--policies", 36), option("--threads", 1), option("--rounds", 5)),
    }
}
