//! Stopping after any step and resuming under any placement, bit for bit; errors of a restore.

use horizon::base::{DType, Error, Status};
use horizon::device::cpu::CpuDevice;
use horizon::engine::{StateSpan, Trainer, TrainerOptions};
use horizon::schedule::{Accumulator, AdamWhen, Boundary, GradWait, LayerPlacement, Mode, Recompute};

use crate::saves::{Saved, state};
use crate::{config, options};
use support::runs::{Data, data, fill};

const STEPS: usize = 12;

fn step(trainer: &mut Trainer, options: &TrainerOptions, number: usize) {
    let data = data(options, number, 67);
    // Steps differ in their number of micro-batches.
    let batches: Vec<_> = data.iter().take(1 + number % options.micros_max).map(Data::batch).collect();
    trainer.step(&batches, 1e-2 / (1 + number) as f64).unwrap();
}

/// Restores a saved state.
pub fn restore(trainer: &mut Trainer, steps: u64, saved: &Saved) {
    trainer
        .restore(steps, 7, &|to| {
            let (unit, bytes) = &saved[to.unit.at()];
            assert_eq!(*unit, to.unit);
            let spans = StateSpan::all(to.optimizer).take_while(|&other| other != to.span);
            let size: usize = spans.map(|other| other.element_bytes(to.optimizer)).sum();
            to.bytes.copy_from_slice(&bytes[size * to.layout.elements..][..to.bytes.len()]);
            Ok(())
        })
        .unwrap();
}

/// Placements, each with the seed of adversarial lanes.
fn placements(plain: &TrainerOptions) -> Vec<(TrainerOptions, Option<u64>)> {
    let layer = LayerPlacement::default();
    let selective = LayerPlacement { recompute: Recompute::Selective, ..layer };
    let none = LayerPlacement { recompute: Recompute::None, ..layer };
    let spilled = LayerPlacement { boundary: Boundary::Spilled, ..layer };
    let resident = LayerPlacement { resident: true, ..layer };
    let own = LayerPlacement { accumulator: Accumulator::OnDevice, ..spilled };
    let vary = |vary: &dyn Fn(&mut TrainerOptions)| {
        let mut options = plain.clone();
        vary(&mut options);
        options
    };
    vec![
        (vary(&|o| o.threads = Some(1)), None),
        (vary(&|o| (o.weight_slots, o.slabs) = (3, 3)), None),
        (vary(&|o| o.layers = vec![selective; 5]), Some(1)),
        (vary(&|o| o.layers = vec![none, none, selective]), None),
        (vary(&|o| o.layers = vec![spilled; 5]), Some(2)),
        (vary(&|o| o.layers = vec![resident, spilled, resident]), None),
        (vary(&|o| o.sweeps = 2), None),
        (vary(&|o| (o.sweeps, o.layers) = (3, vec![own; 5])), Some(3)),
        (vary(&|o| o.grad_wait = GradWait::Device), None),
        (vary(&|o| o.device_mem = Some(1 << 26)), None),
        (plain.clone(), Some(4)),
        (plain.clone(), None),
    ]
}

#[test]
fn a_run_resumes_bit_for_bit_from_any_step_under_any_placement() {
    for (mode, tied) in
        [(Mode::Exact, false), (Mode::Exact, true), (Mode::Streamed, false), (Mode::Compact, true)]
    {
        let under_backward = (mode == Mode::Streamed).then_some(AdamWhen::UnderBackward);
        let clip = if mode == Mode::Streamed { 0.0 } else { 0.5 };
        let plain = TrainerOptions { mode, clip, adam_when: under_backward, ..options() };
        let mut whole = Trainer::open(&config(tied), &plain).unwrap();
        fill(&mut whole);
        let mut saved = vec![state(&mut whole)];
        for number in 0..STEPS {
            step(&mut whole, &plain, number);
            saved.push(state(&mut whole));
        }
        for (stop, (mut options, seed)) in placements(&plain).into_iter().enumerate() {
            if options.grad_wait == GradWait::Device {
                options.adam_when = None;
            }
            let device = seed.map_or_else(|| CpuDevice::new(None), |seed| CpuDevice::adversarial(None, seed));
            let mut trainer = Trainer::open_on(device, &config(tied), &options).unwrap();
            // The state before the restore must not matter.
            fill(&mut trainer);
            step(&mut trainer, &options, 3);
            restore(&mut trainer, stop as u64, &saved[stop]);
            assert_eq!((trainer.stats().steps, trainer.stats().tokens), (stop as u64, 7));
            // Compares the next step and the last; the stops cover every step as the next one.
            step(&mut trainer, &options, stop);
            assert!(state(&mut trainer) == saved[stop + 1], "{mode:?}, tied {tied}, step {stop}");
            (stop + 1..STEPS).for_each(|number| step(&mut trainer, &options, number));
            assert!(state(&mut trainer) == saved[STEPS], "{mode:?}, tied {tied}, from step {stop}");
        }
    }
}

#[test]
fn a_restore_waits_for_adamw_and_saves() {
    let mut trainer = Trainer::open(&config(false), &options()).unwrap();
    fill(&mut trainer);
    let before = state(&mut trainer);
    // AdamW of this step and a save of its state still run when the restore begins.
    step(&mut trainer, &options(), 0);
    let saved = crate::saves::begin(&mut trainer);
    restore(&mut trainer, 0, &before);
    trainer.save_wait().unwrap();
    let after = saved();
    assert!(state(&mut trainer) == before);
    step(&mut trainer, &options(), 0);
    assert!(state(&mut trainer) == after);
}

#[test]
fn a_failed_restore_poisons_the_trainer() {
    let mut trainer = Trainer::open(&config(false), &options()).unwrap();
    let batch = data(&options(), 0, 67);
    trainer.accumulate(&batch[0].batch()).unwrap();
    let staged = trainer.restore(1, 1, &|_| unreachable!("nothing may be filled")).unwrap_err();
    assert_eq!(staged.status(), Status::InvalidState);
    trainer.update(1e-3).unwrap();
    let failing = |to: &mut horizon::engine::Fill| match to.span {
        StateSpan::Optimizer(1) if to.unit.at() >= 2 => {
            Err(Error::new(Status::Io, format!("no {}", to.unit)))
        }
        _ => Ok(()),
    };
    let error = trainer.restore(1, 1, &failing).unwrap_err();
    assert!(error.message().starts_with("no unit 2. "), "not the error of the earliest span: {error}");
    assert_eq!(trainer.step(&[batch[0].batch()], 1e-3).unwrap_err(), error);
}

#[test]
fn moments_are_of_the_dtype_of_the_mode() {
    for (mode, want) in [(Mode::Exact, DType::F32), (Mode::Compact, DType::Bf16)] {
        let mut trainer = Trainer::open(&config(false), &TrainerOptions { mode, ..options() }).unwrap();
        trainer
            .restore(0, 0, &|to| {
                let size = match to.span {
                    StateSpan::Optimizer(_) => want.bytes(),
                    StateSpan::Weights | StateSpan::Residual => 2,
                };
                assert_eq!(to.bytes.len(), to.layout.elements * size);
                Ok(())
            })
            .unwrap();
    }
}
