//! The time of a search for the deepest models.

use std::time::Instant;

use horizon::base::Shape;
use horizon::engine::TrainerOptions;
use horizon::model::shape;
use horizon::plan::{Description, Fixed, MemoryLimits};
use horizon::train::planning::{Planned, Why};
use serde_json::json;

/// Searches `rounds` times per model and prints medians: the search alone, and with the gains that
/// `horizon plan` prints.
pub fn search(rounds: usize) {
    for name in ["llama3.1-70b", "llama3.1-405b", "dense-1t"] {
        let config = shape(name).expect("a shape");
        // Enough RAM for every model.
        let machine = Description {
            host_bytes: 20_000_000_000_000,
            ..Description::shipped("h200").expect("a machine")
        };
        let options =
            TrainerOptions { shape: Shape { b: 4, t: 4096 }, micros_max: 8, ..TrainerOptions::default() };
        let spill = MemoryLimits::of(&machine, None, None);
        let timed = |why: Why| {
            let mut seconds: Vec<f64> = (0..rounds.max(1))
                .map(|_| {
                    let start = Instant::now();
                    Planned::search(name, &config, &options, &machine, spill, &Fixed::default(), why)
                        .expect("it fits");
                    start.elapsed().as_secs_f64()
                })
                .collect();
            seconds.sort_by(f64::total_cmp);
            seconds[seconds.len() / 2]
        };
        println!(
            "{}",
            json!({
                "bench": "search", "model": name, "layers": config.dims.l, "micros": options.micros_max,
                "search_seconds": timed(Why::Times), "explained_seconds": timed(Why::Gains),
            })
        );
    }
}
