//! Fresh weights.

use std::time::Instant;

use horizon::base::{Dims, Shape};
use horizon::engine::{Trainer, TrainerOptions};
use horizon::model::ModelConfig;
use support::runs::weights;

/// Prints parameters per second: run with `--release -- --nocapture fresh`.
#[test]
fn fresh_weights_do_not_depend_on_the_number_of_threads() {
    // The embedding has more elements than a thread takes at a time.
    let config = ModelConfig::llama(Dims { c: 64, h: 2, g: 1, d: 32, f: 96, v: 20_001, l: 2 });
    let fresh = |threads, seed| {
        let shape = Shape { b: 1, t: 8 };
        let options = TrainerOptions { shape, threads: Some(threads), ..TrainerOptions::default() };
        let mut trainer = Trainer::open(&config, &options).unwrap();
        let start = Instant::now();
        trainer.write_fresh(seed).unwrap();
        let seconds = start.elapsed().as_secs_f64();
        let parameters = trainer.layout().parameters();
        println!("{threads} threads: {:.1} million parameters a second", parameters as f64 / seconds / 1e6);
        weights(&mut trainer)
    };
    let one = fresh(1, 5);
    for threads in [2, 3, 8] {
        assert!(fresh(threads, 5) == one, "{threads} threads");
    }
    assert!(fresh(2, 6) != one, "another seed");
}
