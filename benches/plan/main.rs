//! The plan's accuracy, simulated steps on built-in machines, and the time of a search.
//!
//! ```text
//! cargo bench --bench plan -- accuracy [--device cpu] [--policies 36] [--threads 1] [--rounds 5]
//! cargo bench --bench plan -- simulated
//! cargo bench --bench plan -- fits
//! cargo bench --bench plan -- search [--rounds 5]
//! ```
//!
//! `accuracy` calibrates, predicts random policies and runs them on the device, in several rounds.
//! It compares the median measured and predicted step, and the busy time of each lane. `--threads`
//! defaults to 1 on the CPU device and to all cores with a CUDA device. A run is repeated if other
//! processes used more than a seventh of a core. It prints a line of JSON per policy, and one with
//! the median and worst error of steps and lanes. `simulated` writes `plan-simulated.md` and
//! `readme-peers.md` in `benches/results`, `fits` writes `plan-fits.md` and `readme-fits.md`.
//! Nothing in these files is measured here; the same program writes the same bytes.
//! `search` measures the time of a search.

mod accuracy;
mod fits;
mod original;
mod peers;
mod report;
mod search;
mod simulated;

use std::env;

use horizon::engine::DeviceChoice;
use support::bench::{number, option};

fn main() {
    match env::args().nth(1).as_deref() {
        Some("simulated") => simulated::tables(),
        Some("fits") => fits::tables(),
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
