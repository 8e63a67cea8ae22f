//! Equality: placements and delays change no bit, and gradients agree with the CPU device within
//! bf16 precision.

use horizon::base::{DType, Dims, Shape};
use horizon::engine::{Trainer, TrainerOptions};
use horizon::host::Pinning;
use horizon::model::{ModelConfig, preset};
use horizon::schedule::{Accumulator, AdamWhen, Boundary, GradWait, LayerPlacement, Mode, Recompute};

use crate::rig::{self, Rig};
use support::fake_cuda::Injection;
use support::runs::{Data, Manner, data, fill, train};

/// A small model that the kernels support.
pub fn config(tied: bool) -> ModelConfig {
    ModelConfig {
        dims: Dims { c: 48, h: 2, g: 1, d: 64, f: 40, v: 67, l: 3 },
        tied,
        positions_max: 64,
        ..preset("tiny").expect("a preset")
    }
}

pub fn options() -> TrainerOptions {
    TrainerOptions {
        shape: Shape { b: 1, t: 13 },
        micros_max: 2,
        logits_chunk: Some(8),
        threads: Some(2),
        clip: 0.5,
        ..TrainerOptions::default()
    }
}

/// Placements that together use every kind of operation, by name.
fn placements(rig: &Rig) -> Vec<(&'static str, TrainerOptions)> {
    let layer = LayerPlacement::default();
    let selective = LayerPlacement { recompute: Recompute::Selective, ..layer };
    let spilled = LayerPlacement { boundary: Boundary::Spilled, recompute: Recompute::None, ..layer };
    let resident = LayerPlacement { resident: true, accumulator: Accumulator::OnDevice, ..layer };
    let plain = options();
    let mixed = vec![selective, spilled, resident];
    let mut placements = vec![
        ("mixed, 2 sweeps", TrainerOptions { layers: mixed, sweeps: 2, ..plain.clone() }),
        ("on the device", TrainerOptions { grad_wait: GradWait::Device, slabs: 4, ..plain.clone() }),
    ];
    // All on a GPU; the emulator is slow.
    if rig.is_gpu() {
        placements.extend([
            ("selective", TrainerOptions { layers: vec![selective; 3], ..plain.clone() }),
            ("spilled", TrainerOptions { layers: vec![spilled; 3], weight_slots: 3, ..plain.clone() }),
            ("resident", TrainerOptions { layers: vec![resident; 3], sweeps: 2, ..plain.clone() }),
            ("3 slabs, 1 thread", TrainerOptions { slabs: 3, threads: Some(1), ..plain.clone() }),
            ("CUDA's allocator", TrainerOptions { pinning: Pinning::Allocated, ..plain.clone() }),
            ("tracing", TrainerOptions { tracing: true, ..plain }),
        ]);
    }
    placements
}

#[test]
fn any_placement_gives_the_bits_of_the_plain_one() {
    let config = config(true);
    // One plain run for all rigs: delayed work must not change a bit, either.
    let mut plain = None;
    for rig in rig::all() {
        let want =
            plain.get_or_insert_with(|| train(&mut rig.open(&config, &options()), &options(), Manner::Plain));
        for (name, placed) in placements(&rig) {
            let got = train(&mut rig.open(&config, &placed), &placed, Manner::Evaluating);
            assert!(got == *want, "{name} changed a bit on {rig:?}");
        }
    }
}

#[test]
fn adam_under_backward_gives_the_same_bits() {
    if let Some(rig) = rig::gpu() {
        let plain = TrainerOptions { clip: 0.0, ..options() };
        let under = TrainerOptions { adam_when: Some(AdamWhen::UnderBackward), ..plain.clone() };
        let streamed = TrainerOptions { mode: Mode::Streamed, ..plain.clone() };
        for tied in [false, true] {
            let want = train(&mut rig.open(&config(tied), &plain), &plain, Manner::Plain);
            for other in [&under, &streamed] {
                assert!(train(&mut rig.open(&config(tied), other), other, Manner::Plain) == want);
            }
        }
    }
}

#[test]
fn delays_of_cuda_streams_change_no_bit() {
    if let Some(rig) = rig::gpu() {
        let config = config(false);
        for (name, placed) in placements(&rig) {
            let want = train(&mut rig.open(&config, &placed), &placed, Manner::Plain);
            for seed in 0..4 {
                let injection = Injection { delays: Some(seed), ..Injection::default() };
                let (trainer, _device) = rig.open_with_faults(injection, &config, &placed);
                let got = train(&mut trainer.expect("the model fits"), &placed, Manner::Plain);
                assert!(got == want, "{name}, seed {seed}");
            }
        }
    }
}

/// The gradients of a step, by tensor.
fn gradients(trainer: &mut Trainer, options: &TrainerOptions) -> Vec<(String, Vec<f32>)> {
    fill(trainer);
    let data = data(options, 0, trainer.config().dims.v);
    let batches: Vec<_> = data.iter().map(Data::batch).collect();
    trainer.step(&batches, 1e-3).expect("a step");
    let tensors: Vec<_> = trainer.layout().tensors().map(|(_, t)| (t.name.clone(), t.elements())).collect();
    let read = |(name, elements): (String, usize)| {
        let mut values = vec![0.0; elements];
        trainer.read_gradient(&name, &mut values).expect("a gradient");
        (name, values)
    };
    tensors.into_iter().map(read).collect()
}

/// On the emulated kernels the largest difference is about 2 % of the tensor's largest gradient.
#[test]
fn gradients_agree_with_the_cpu_device_within_bf16() {
    const BOUND: f32 = 0.04;
    if let Some(rig) = rig::any() {
        for tied in [false, true] {
            let options = TrainerOptions { grad_dtype: DType::F32, ..options() };
            let want = gradients(&mut Trainer::open(&config(tied), &options).expect("it fits"), &options);
            let got = gradients(&mut rig.open(&config(tied), &options), &options);
            let mut worst = 0.0f32;
            for ((name, got), (_, want)) in got.iter().zip(&want) {
                let largest = want.iter().fold(0.0f32, |max, value| max.max(value.abs()));
                for (at, (got, want)) in got.iter().zip(want).enumerate() {
                    let distance = (got - want).abs() / largest;
                    worst = worst.max(distance);
                    assert!(
                        distance <= BOUND,
                        "{name}[{at}]: {got} on {rig:?}, {want} on the CPU, the largest is {largest}"
                    );
                }
            }
            println!("{rig:?}, tied {tied}: the largest distance is {worst} of the largest gradient");
        }
    }
}
