//! The plan: how near it comes to what happens, and what it says of machines that are not here.
//!
//! ```text
//! cargo bench --bench plan -- accuracy [--device cpu] [--policies 36] [--threads 1] [--rounds 5]
//! cargo bench --bench plan -- simulated
//! cargo bench --bench plan -- search [--rounds 5]
//! ```
//!
//! `accuracy` calibrates, then predicts random policies and runs them on the device, in several rounds; of each policy it
//! compares the median measured step with the median predicted one, and what each lane was busy. Beside a CUDA device
//! `--threads` is by default all cores. A run during which other processes kept more than
//! a seventh of a core busy is repeated. A line of JSON for each policy, and one with median and worst, of steps and of lanes.
//! `simulated` writes the tables of `benches/results/plan-simulated.md`: nothing in them is measured here.
//! `search` says how long a plan takes to find.

mod accuracy;
mod original;
mod search;
mod simulated;

use std::env;

use horizon::engine::DeviceChoice;
use support::bench::{number, option};

fn main() {
    match env::args().nth(1).as_deref() {
        Some("simulated") => simulated::tables(),
        Some("search") => search::search(number("--rounds").unwrap_or(5)),
        _ => {
            let device = option("--device").map_or(DeviceChoice::Cpu, |name| name.parse().expect("a device"));
            let threads = number("--threads").or((device == DeviceChoice::Cpu).then_some(1));
            accuracy::accuracy(
                device,
                number("--policies").unwrap_or(36),
                threads,
                number("--rounds").unwrap_or(5),
            );
        }
    }
}
