//! Steps, evaluations, reads, writes and saves in any order: the waits that the schedule infers
//! between them give the results of a barrier after each call.

use horizon::device::cpu::CpuDevice;
use horizon::engine::{Batch, Trainer, TrainerOptions};
use horizon::model::ModelConfig;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::placements::{any_config, any_placed, any_plain};
use crate::saves;
use support::runs::{Data, fill};

/// A call of the trainer, with a number of micro-batches or the index of a tensor.
#[derive(Clone, Debug)]
enum Act {
    Step(usize),
    StepWithLoss(usize),
    /// Micro-batches accumulated one by one, with reads in between.
    Accumulate(usize),
    Evaluate(usize),
    Logprobs(usize),
    Logits,
    Read(usize),
    Write(usize),
    Gradient(usize),
    /// Waits for the save before it, if there is one.
    Save,
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (1..=4usize).prop_map(Act::Step),
        1 => (1..=4usize).prop_map(Act::StepWithLoss),
        1 => (1..=4usize).prop_map(Act::Accumulate),
        1 => (1..=4usize).prop_map(Act::Evaluate),
        1 => (1..=4usize).prop_map(Act::Logprobs),
        1 => Just(Act::Logits),
        3 => any::<usize>().prop_map(Act::Read),
        3 => any::<usize>().prop_map(Act::Write),
        2 => any::<usize>().prop_map(Act::Gradient),
        2 => Just(Act::Save),
    ]
}

/// The results of all calls, as bits, and the states of all saves.
type Answers = (Vec<Vec<u64>>, Vec<Vec<Vec<u8>>>);

/// Makes all calls; if `serial`, with a barrier after each.
fn answers(trainer: &mut Trainer, options: &TrainerOptions, acts: &[Act], serial: bool) -> Answers {
    fill(trainer);
    let tensors: Vec<_> = trainer.layout().tensors().map(|(_, tensor)| tensor.clone()).collect();
    let vocabulary = trainer.config().dims.v as i32;
    let bits = |values: &[f32]| values.iter().map(|value| u64::from(value.to_bits())).collect::<Vec<_>>();
    let mut found: Vec<Vec<u64>> = Vec::new();
    let mut saved: Vec<Box<dyn Fn() -> _>> = Vec::new();
    for (number, act) in acts.iter().enumerate() {
        let data: Vec<Data> = (0..options.micros_max)
            .map(|micro| Data::random((number * 7 + micro) as u64, options.shape, vocabulary))
            .collect();
        let batches = |count: usize| -> Vec<Batch> {
            data.iter().take(count.min(options.micros_max)).map(Data::batch).collect()
        };
        let read = |trainer: &mut Trainer, which: usize| {
            let tensor = &tensors[which % tensors.len()];
            let mut values = vec![0.0; tensor.elements()];
            trainer.read_tensor(&tensor.name, &mut values).unwrap();
            values
        };
        let reported = |report: horizon::engine::StepReport| {
            vec![report.step, report.loss.to_bits(), report.grad_norm.to_bits()]
        };
        let answer = match *act {
            Act::Step(count) => reported(trainer.step(&batches(count), 1e-2).unwrap()),
            Act::StepWithLoss(count) => {
                let count = if options.sweeps > 1 { 1 } else { count };
                let loss = |logprobs: &[f32], d: &mut [f32]| {
                    d.iter_mut().zip(logprobs).for_each(|(d, logprob)| *d = 0.1 * logprob);
                    Ok(logprobs.iter().map(|&logprob| f64::from(logprob)).sum())
                };
                reported(trainer.step_with_loss(&batches(count), 1e-2, &mut { loss }).unwrap())
            }
            Act::Accumulate(count) => {
                let mut answer = Vec::new();
                for (micro, batch) in batches(count).iter().enumerate() {
                    trainer.accumulate(batch).unwrap();
                    answer.extend(bits(&read(trainer, number + micro)));
                }
                answer.extend(reported(trainer.update(1e-2).unwrap()));
                answer
            }
            Act::Evaluate(count) => vec![trainer.eval(&batches(count)).unwrap().loss.to_bits()],
            Act::Logprobs(count) => bits(&trainer.logprobs(&batches(count)).unwrap()),
            Act::Logits => bits(&trainer.logits(&data[0].tokens[..1 + number % options.shape.t]).unwrap()),
            Act::Read(which) => bits(&read(trainer, which)),
            Act::Write(which) => {
                let mut values = read(trainer, which);
                values.iter_mut().for_each(|value| *value *= 1.03125);
                trainer.write_tensor(&tensors[which % tensors.len()].name, &values).unwrap();
                Vec::new()
            }
            Act::Gradient(which) => {
                let tensor = &tensors[which % tensors.len()];
                let mut values = vec![0.0; tensor.elements()];
                match trainer.read_gradient(&tensor.name, &mut values) {
                    Ok(()) => bits(&values),
                    Err(error) => vec![error.status() as u64],
                }
            }
            Act::Save => {
                if !saved.is_empty() && !serial {
                    trainer.save_wait().unwrap();
                }
                saved.push(Box::new(saves::begin(trainer)));
                if serial {
                    trainer.save_wait().unwrap();
                }
                Vec::new()
            }
        };
        found.push(answer);
        if serial {
            trainer.sync().unwrap();
        }
    }
    if !saved.is_empty() && !serial {
        trainer.save_wait().unwrap();
    }
    let bytes = |units: Vec<(_, Vec<u8>)>| units.into_iter().map(|(_, bytes)| bytes).collect();
    let mut saved: Vec<Vec<Vec<u8>>> = saved.iter().map(|saved| bytes(saved())).collect();
    saved.push(bytes(saves::state(trainer)));
    (found, saved)
}

#[derive(Clone, Debug)]
struct Case {
    config: ModelConfig,
    options: TrainerOptions,
    acts: Vec<Act>,
    seed: u64,
}

fn any_case() -> impl Strategy<Value = Case> {
    let acts = proptest::collection::vec(any_act(), 4..=14);
    (any_config(), any_plain(), acts, any::<u64>()).prop_flat_map(|(config, plain, acts, seed)| {
        any_placed(&config, &plain).prop_map(move |options| Case {
            config: config.clone(),
            options,
            acts: acts.clone(),
            seed,
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if std::env::var_os("HZ_LONG").is_some() { 2_000 } else { 100 },
        rng_seed: RngSeed::Fixed(0x0de5),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_order_of_calls_gives_the_results_of_barriers(case in any_case()) {
        let Case { config, options, acts, seed } = case;
        let mut calm = Trainer::open_on(CpuDevice::new(None), &config, &options).unwrap();
        let want = answers(&mut calm, &options, &acts, true);
        let mut wild = Trainer::open_on(CpuDevice::adversarial(None, seed), &config, &options).unwrap();
        let found = answers(&mut wild, &options, &acts, false);
        for (act, (found, want)) in acts.iter().zip(found.0.iter().zip(&want.0)) {
            prop_assert!(found == want, "{:?} of {:?}", act, acts);
        }
        prop_assert!(found.1 == want.1, "saved after {:?}", acts);
    }
}
