//! Host memory use of a trainer equals its plan. The only test of its process, since it measures
//! the process's memory.

use horizon::base::{Dims, Shape};
use horizon::engine::{Batch, Trainer, TrainerOptions};
use horizon::host::resident_bytes;
use horizon::model::{ModelConfig, preset};

#[test]
fn growth_is_within_two_percent_of_the_plan() {
    let dims = Dims { c: 1024, h: 16, g: 4, d: 64, f: 2816, v: 16_384, l: 12 };
    let config = ModelConfig { dims, tied: false, positions_max: 64, ..preset("tiny").unwrap() };
    let shape = Shape { b: 1, t: 32 };
    let options = TrainerOptions { shape, threads: Some(2), ..TrainerOptions::default() };
    let plan = Trainer::plan_for(&config, &options).unwrap();
    let planned = plan.device.bytes() + plan.host.bytes();
    assert!(planned >= 2 << 30, "{planned} bytes are planned, the test needs at least 2 GiB");
    let before = resident_bytes();
    let mut trainer = Trainer::open(&config, &options).unwrap();
    let tokens: Vec<i32> = (0..=shape.n() as i32).collect();
    let batch = Batch::new(&tokens[..shape.n()], &tokens[1..]);
    trainer.write_fresh(1).unwrap();
    for _ in 0..2 {
        trainer.step(&[batch], 1e-4).unwrap();
    }
    trainer.sync().unwrap();
    let grown = resident_bytes() - before;
    let off = grown as f64 / planned as f64 - 1.0;
    assert!(
        off.abs() <= 0.02,
        "the process grew by {grown} bytes, {planned} were planned: {:.2} %",
        100.0 * off
    );
}
