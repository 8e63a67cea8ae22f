//! The state after a failure of the device: that of a completed step, bit for bit, or refused.

use horizon::base::Result;
use horizon::device::cuda::CudaOptions;
use horizon::engine::{Trainer, TrainerOptions};
use horizon::model::ModelConfig;
use horizon::sys::cuda_status as codes;

use crate::config;
use crate::cuda::{open, placements};
use crate::saves::{Saved, begin, state};
use support::fake_cuda::{FakeCuda, Manner, Setting};
use support::runs::{Data, data, fill, weights};

const STEPS: usize = 3;

fn step(trainer: &mut Trainer, options: &TrainerOptions, step: usize) -> Result<()> {
    let data = data(options, step, trainer.config().dims.v);
    let batches: Vec<_> = data.iter().map(Data::batch).collect();
    trainer.step(&batches, 1e-2).map(drop)
}

/// The state after every step, its weights, and the kernels and copies before the first and after
/// the last.
fn undisturbed(config: &ModelConfig, options: &TrainerOptions) -> (Vec<(Saved, Vec<u32>)>, [u64; 2]) {
    let calls = FakeCuda::new(Setting::default());
    let mut trainer = open(&calls, CudaOptions::default(), config, options).unwrap();
    fill(&mut trainer);
    let opened = calls.worked();
    let mut states = vec![(state(&mut trainer), weights(&mut trainer))];
    for at in 0..STEPS {
        step(&mut trainer, options, at).unwrap();
        states.push((state(&mut trainer), weights(&mut trainer)));
    }
    (states, [opened, calls.worked()])
}

/// Fails one kernel or copy after the other. Returns how often the state was whole, and how often
/// it was not.
fn failures(options: &TrainerOptions, stride: usize) -> [usize; 2] {
    let config = config(true);
    let (want, [opened, worked]) = undisturbed(&config, options);
    let mut found = [0, 0];
    for work in (opened + 1..=worked).step_by(stride) {
        for manner in [Manner::Eager, Manner::Lazy, Manner::Random(work)] {
            let failing_work = Some((work, codes::ECC_UNCORRECTABLE));
            let calls = FakeCuda::new(Setting { manner, failing_work, ..Setting::default() });
            let mut trainer = open(&calls, CudaOptions::default(), &config, options).unwrap();
            fill(&mut trainer);
            let mut saved: Option<(u64, Box<dyn Fn() -> Saved>)> = None;
            let mut run = || {
                for at in 0..STEPS {
                    step(&mut trainer, options, at)?;
                    if at == 0 {
                        saved = Some((1, Box::new(begin(&mut trainer))));
                    }
                }
                trainer.sync()
            };
            let Err(first) = run() else { continue };
            let place = format!("work {work} of {worked}, {manner:?}");
            if !trainer.is_whole() {
                assert_eq!(trainer.may_save().unwrap_err(), first, "{place}");
                assert_eq!(trainer.save_wait().unwrap_err(), first, "{place}");
                found[1] += 1;
                continue;
            }
            if let Some((step, saved)) = saved {
                match trainer.save_wait() {
                    Ok(()) => assert!(saved() == want[step as usize].0, "{place}"),
                    Err(error) => assert!(error.message().contains("was interrupted"), "{place}: {error}"),
                }
            }
            let (state, values) = &want[trainer.stats().steps as usize];
            let saved = begin(&mut trainer);
            trainer.save_wait().unwrap();
            assert!(saved() == *state && weights(&mut trainer) == *values, "{place}");
            assert_eq!(step(&mut trainer, options, 0).unwrap_err(), first, "{place}");
            assert_eq!(trainer.write_fresh(1).unwrap_err(), first, "{place}");
            found[0] += 1;
        }
    }
    found
}

/// AdamW of a committed step completes without the device if its gradients are in host memory.
/// Otherwise a part of it may be missing.
#[test]
fn after_a_failure_of_the_device_the_state_of_a_completed_step_can_be_saved() {
    let stride = if std::env::var_os("HZ_LONG").is_some() { 1 } else { 83 };
    for (at, options) in placements().into_iter().enumerate() {
        let [whole, partial] = failures(&options, stride);
        let waits_on_host = at < 2;
        assert!(whole > 0 && (partial > 0) != waits_on_host, "placement {at}: {whole} whole, {partial} not");
    }
}
