//! Mode compact: bit equality under all placements, closeness to mode exact, memory.

use horizon::base::{DType, Result, Status};
use horizon::device::cpu::CpuDevice;
use horizon::engine::{Sink, Trainer, TrainerOptions, UnitState};
use horizon::optim::Optimizer;
use horizon::schedule::{AdamWhen, Boundary, GradWait, LayerPlacement, Mode, Recompute};

use crate::{config, options};
use support::runs::{Data, Manner, data, fill, outcome, train, weights};

fn compact() -> TrainerOptions {
    TrainerOptions { mode: Mode::Compact, ..options() }
}

#[test]
fn placement_changes_no_bit_of_compact() {
    let config = config(true);
    for clip in [0.5, 0.0] {
        let plain = TrainerOptions { clip, ..compact() };
        let want = outcome(&config, &plain, Manner::Plain);
        let vary = |what: &str, vary: &dyn Fn(&mut TrainerOptions), manner: Manner| {
            let mut options = plain.clone();
            vary(&mut options);
            assert!(outcome(&config, &options, manner) == want, "{what} changed a bit (clip {clip})");
        };
        vary("running again", &|_| (), Manner::Plain);
        vary("1 thread", &|o| o.threads = Some(1), Manner::Plain);
        vary("7 threads", &|o| o.threads = Some(7), Manner::Plain);
        vary("serial AdamW", &|_| (), Manner::Serial);
        vary("3 slots and slabs", &|o| (o.weight_slots, o.slabs) = (3, 3), Manner::Evaluating);
        let layer = LayerPlacement {
            boundary: Boundary::Spilled,
            recompute: Recompute::Selective,
            ..LayerPlacement::default()
        };
        vary("spilled boundaries", &|o| o.layers = vec![layer; 5], Manner::Accumulating);
        vary("2 sweeps", &|o| o.sweeps = 2, Manner::Plain);
        vary("gradients waiting on the device", &|o| o.grad_wait = GradWait::Device, Manner::Plain);
        if clip == 0.0 {
            let under = Some(AdamWhen::UnderBackward);
            vary("AdamW under backward", &|o| o.adam_when = under, Manner::Plain);
        }
        for seed in 0..3 {
            let mut trainer = Trainer::open_on(CpuDevice::adversarial(None, seed), &config, &plain).unwrap();
            assert!(train(&mut trainer, &plain, Manner::Plain) == want, "adversarial lanes, seed {seed}");
        }
    }
}

/// Moments are rounded after their use, so the first step equals that of mode exact.
#[test]
fn compact_differs_slightly_from_exact_from_the_second_step_on() {
    let config = config(false);
    let run = |mode: Mode, steps: usize| {
        let options = TrainerOptions { mode, ..options() };
        let mut trainer = Trainer::open(&config, &options).unwrap();
        fill(&mut trainer);
        for step in 0..steps {
            let data = data(&options, step, 67);
            trainer.step(&data.iter().map(Data::batch).collect::<Vec<_>>(), 1e-3).unwrap();
        }
        weights(&mut trainer)
    };
    assert!(run(Mode::Exact, 1) == run(Mode::Compact, 1));
    let (exact, compact) = (run(Mode::Exact, 8), run(Mode::Compact, 8));
    assert!(exact != compact);
    // A moment is off by less than 2⁻⁷ of itself at each rounding and an update is about the
    // learning rate long. Bound: a fifth of a learning rate in the root of the mean square, after 8
    // steps.
    let squares = exact.iter().zip(&compact).map(|(a, b)| {
        let difference = f64::from(f32::from_bits(*a)) - f64::from(f32::from_bits(*b));
        difference * difference
    });
    let mean = (squares.sum::<f64>() / exact.len() as f64).sqrt();
    assert!(mean > 0.0 && mean < 0.2e-3, "{mean}");
}

#[test]
fn compact_trains_as_exact_does() {
    let config = config(true);
    let run = |mode: Mode| {
        let options = TrainerOptions { mode, ..options() };
        let mut trainer = Trainer::open(&config, &options).unwrap();
        fill(&mut trainer);
        let data = data(&options, 0, 67);
        let batches: Vec<_> = data.iter().map(Data::batch).collect();
        (0..60).map(|_| trainer.step(&batches, 3e-3).unwrap().loss).collect::<Vec<f64>>()
    };
    let (exact, compact) = (run(Mode::Exact), run(Mode::Compact));
    assert!(compact[59] < 0.8 * compact[0], "from {} to {}", compact[0], compact[59]);
    let difference = (compact[59] - exact[59]).abs();
    assert!(difference < 0.05 * exact[59], "{} for {}", compact[59], exact[59]);
}

#[test]
fn compact_takes_ten_or_eight_bytes_per_parameter() {
    let config = config(false);
    let of_parameters = |options: &TrainerOptions| {
        let plan = Trainer::plan_for(&config, options).unwrap();
        let names = ["weights (bf16)", "residuals (i16)", "gradients", "moments (f32)", "moments (bf16)"];
        let regions = plan.host.regions();
        let bytes = |name| regions.iter().find(|region| region.name == name).map_or(0, |region| region.bytes);
        let elements = bytes("weights (bf16)") / 2;
        names.map(bytes).iter().sum::<usize>() as f64 / elements as f64
    };
    let streams = TrainerOptions { clip: 0.0, adam_when: Some(AdamWhen::UnderBackward), ..compact() };
    let waits = TrainerOptions { grad_wait: GradWait::Device, ..compact() };
    assert_eq!(of_parameters(&options()), 14.0);
    assert_eq!(of_parameters(&compact()), 10.0);
    assert_eq!((of_parameters(&streams), of_parameters(&waits)), (8.0, 8.0));

    let mut value = [0.0; 24];
    let mut read = |options: &TrainerOptions| {
        Trainer::open(&config, options).unwrap().read_gradient("model.norm.weight", &mut value)
    };
    assert!(read(&compact()).is_ok());
    assert_eq!(read(&streams).unwrap_err().status(), Status::Unsupported);
    assert_eq!(read(&waits).unwrap_err().status(), Status::Unsupported);
}

/// A sink that checks the dtype and length of moments.
struct CheckMoments;

impl Sink for CheckMoments {
    fn unit(&mut self, state: &UnitState) -> Result<()> {
        assert_eq!(state.optimizer, Optimizer::AdamW { moments: DType::Bf16 });
        assert_eq!(state.state.map(<[u8]>::len), [2 * state.layout.elements; 2]);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

#[test]
fn compact_saves_bf16_moments() {
    let mut trainer = Trainer::open(&config(true), &compact()).unwrap();
    trainer.save(Box::new(CheckMoments)).unwrap();
    trainer.save_wait().unwrap();
}
