//! The engine on the CUDA device over fake CUDA, with the CPU's kernels on its CUDA stream: the
//! bits of the CPU device, and fault injection in every call.

use horizon::base::{Result, Status};
use horizon::device::cuda::{CudaDevice, CudaOptions};
use horizon::engine::{Trainer, TrainerOptions};
use horizon::host::Pinning;
use horizon::model::ModelConfig;
use horizon::schedule::{Accumulator, AdamWhen, Boundary, GradWait, LayerPlacement, Mode, Recompute};
use horizon::sys::cuda_status as codes;

use crate::{config, options};
use horizon::sys::cuda::set_device;
use support::fake_cuda::{FUNCTIONS, FakeCuda, Fault, Manner, Setting, backend, calls_of};
use support::runs::{Data, Manner as Way, data, fill, outcome, train, weights};

pub fn open(
    calls: &FakeCuda,
    cuda: CudaOptions,
    config: &ModelConfig,
    options: &TrainerOptions,
) -> Result<Trainer> {
    let device = CudaDevice::open(calls.ordinal(), cuda)?;
    Trainer::open_with(backend(device), config, options)
}

/// Placements of five layers that together use every kind of operation.
pub fn placements() -> Vec<TrainerOptions> {
    let layer = LayerPlacement::default();
    let spilled = LayerPlacement { boundary: Boundary::Spilled, ..layer };
    let selective = LayerPlacement { recompute: Recompute::Selective, ..layer };
    let stored = LayerPlacement { recompute: Recompute::None, ..spilled };
    let resident = LayerPlacement { resident: true, accumulator: Accumulator::OnDevice, ..layer };
    let plain = options();
    vec![
        plain.clone(),
        TrainerOptions {
            layers: vec![spilled, selective, stored, resident, spilled],
            sweeps: 2,
            ..plain.clone()
        },
        TrainerOptions { grad_wait: GradWait::Device, slabs: 4, ..plain.clone() },
        TrainerOptions { adam_when: Some(AdamWhen::UnderBackward), clip: 0.0, ..plain.clone() },
        TrainerOptions { mode: Mode::Streamed, clip: 0.0, tracing: true, ..plain },
    ]
}

#[test]
fn fake_cuda_gives_the_bits_of_the_cpu_device() {
    let seeds = if std::env::var_os("HZ_LONG").is_some() { 60 } else { 3 };
    for (at, options) in placements().into_iter().enumerate() {
        let config = config(at % 2 == 0);
        let want = outcome(&config, &options, Way::Plain);
        let manners = [Manner::Eager, Manner::Lazy].into_iter().chain((0..seeds).map(Manner::Random));
        for (number, manner) in manners.enumerate() {
            // Scrubbing overwrites unused memory, so that reads of stale contents are noticed.
            let pinning = if number % 2 == 0 { Pinning::Registered } else { Pinning::Allocated };
            let cuda = CudaOptions { scrubs: true, pinning, ..CudaOptions::default() };
            let words = number % 3 != 2;
            let calls = FakeCuda::new(Setting { manner, words, ..Setting::default() });
            let mut trainer = open(&calls, cuda, &config, &options).unwrap();
            assert_eq!(calls.device_bytes(), trainer.plan().device.bytes());
            let way =
                [Way::Plain, Way::Accumulating, Way::Evaluating, Way::Serial, Way::Announcing][number % 5];
            let (made, loads) = (calls.made(), calls.loads());
            let got = train(&mut trainer, &options, way);
            assert!(got == want, "placement {at}, {manner:?}, words {words}, {way:?}");
            assert_eq!(
                (calls.made(), calls.loads()),
                (made, loads),
                "a step creates a CUDA object or loads a kernel"
            );
            drop(trainer);
            assert_eq!(calls.violations(), Vec::<String>::new(), "placement {at}, {manner:?}");
            assert_eq!((calls.device_bytes(), calls.pinned()), (0, 0));
        }
    }
}

#[test]
fn logits_and_traces_come_through_fake_cuda() {
    let (config, options) = (config(true), TrainerOptions { tracing: true, ..options() });
    let tokens: Vec<i32> = (0..9).map(|at| at * 7 % 67).collect();
    let mut plain = Trainer::open(&config, &options).unwrap();
    fill(&mut plain);
    let want = plain.logits(&tokens).unwrap();
    let calls = FakeCuda::in_manner(Manner::Lazy);
    let mut trainer = open(&calls, CudaOptions::default(), &config, &options).unwrap();
    fill(&mut trainer);
    assert_eq!(trainer.logits(&tokens).unwrap(), want);
    assert_eq!(trainer.spans().unwrap().len(), plain.spans().unwrap().len());
    let mut text = Vec::new();
    trainer.trace(&mut text).unwrap();
    assert!(serde_json::from_slice::<serde_json::Value>(&text).is_ok());
}

/// One step, one evaluation and another step of a small model: it runs once per injected fault.
fn short_run(calls: &FakeCuda, options: &TrainerOptions) -> Result<Vec<u32>> {
    let mut config = config(true);
    config.dims.l = 2;
    let mut trainer = open(calls, CudaOptions::default(), &config, options)?;
    fill_quietly(&mut trainer)?;
    let data = data(options, 0, config.dims.v);
    let batches: Vec<_> = data.iter().map(Data::batch).collect();
    let run = |trainer: &mut Trainer| -> Result<()> {
        trainer.step(&batches, 1e-2)?;
        trainer.eval(&batches)?;
        trainer.step(&batches, 1e-2)?;
        trainer.sync()
    };
    match run(&mut trainer) {
        Ok(()) => Ok(weights(&mut trainer)),
        Err(first) => {
            assert_eq!(run(&mut trainer).unwrap_err(), first, "the first error is not returned again");
            assert_eq!(trainer.sync().unwrap_err(), first);
            Err(first)
        }
    }
}

fn fill_quietly(trainer: &mut Trainer) -> Result<()> {
    trainer.sync()?;
    fill(trainer);
    Ok(())
}

fn short_options() -> TrainerOptions {
    TrainerOptions { micros_max: 1, threads: Some(1), ..options() }
}

#[test]
fn every_call_of_a_run_may_fail_and_the_trainer_closes() {
    let options = short_options();
    let clean = FakeCuda::new(Setting::default());
    let want = short_run(&clean, &options).unwrap();
    let calls = clean.calls();
    // Most calls before the lanes are open create events, one like the other: a sample suffices.
    let opening = (1..=40).chain((41..3100).step_by(211));
    let mut named = 0;
    for call in opening.chain(3100..=calls) {
        for (manner, code) in
            [(Manner::Eager, codes::LAUNCH_FAILURE), (Manner::Lazy, codes::MEMORY_ALLOCATION)]
        {
            let fault = Some(Fault { function: None, call, code });
            let fake = FakeCuda::new(Setting { manner, fault, ..Setting::default() });
            match short_run(&fake, &options) {
                // Errors while closing are not reported.
                Ok(weights) => assert!(weights == want, "call {call} failed and the weights differ"),
                Err(error) => {
                    assert_ne!(error.status(), Status::Internal, "call {call}: {error}");
                    assert!(error.message().contains(&format!("cudaError{code}")), "call {call}: {error}");
                    named += usize::from(
                        ["layer", "embedding", "head", "unit"]
                            .iter()
                            .any(|word| error.message().contains(word)),
                    );
                }
            }
            assert_eq!(fake.violations(), Vec::<String>::new(), "call {call}");
            assert_eq!(fake.device_bytes(), 0, "call {call}");
        }
    }
    assert!(named > 50, "{named} failures named their unit");
}

/// Injects a fault into calls 1, 2, 3, 5, 8, … of each function until a run makes fewer calls; with
/// `HZ_LONG` into every call.
#[test]
fn every_function_of_the_runtime_may_fail_and_the_trainer_closes() {
    let options = short_options();
    let want = short_run(&FakeCuda::new(Setting::default()), &options).unwrap();
    let long = std::env::var_os("HZ_LONG").is_some();
    for function in [FUNCTIONS[0], FUNCTIONS[1]].concat() {
        let (mut call, mut next) = (1, 2);
        loop {
            let fault = Fault::of(function, call);
            let manner = if call % 2 == 0 { Manner::Eager } else { Manner::Lazy };
            let fake = FakeCuda::new(Setting { manner, fault: Some(fault), ..Setting::default() });
            set_device(fake.ordinal()).ok();
            let outcome = short_run(&fake, &options);
            assert_eq!(fake.violations(), Vec::<String>::new(), "{function}, call {call}");
            // A call that fails to free memory leaks it.
            if !["cudaFree", "cudaFreeHost", "cudaHostUnregister"].contains(&function) {
                assert_eq!((fake.device_bytes(), fake.pinned()), (0, 0), "{function}, call {call}");
            }
            match outcome {
                // Errors of freeing and of optional calls are not reported.
                Ok(weights) => assert!(weights == want, "{function}, call {call}"),
                Err(error) => {
                    assert_ne!(error.status(), Status::Internal, "{function}, call {call}: {error}");
                    let code = format!("cudaError{}", fault.code);
                    assert!(error.message().contains(&code), "{function}, call {call}: {error}");
                }
            }
            if calls_of(fake.ordinal(), function) < call {
                break;
            }
            (call, next) = if long { (call + 1, call + 2) } else { (next, call + next) };
        }
    }
}

#[test]
fn every_task_may_fail_and_the_trainer_closes() {
    let options = short_options();
    let clean = FakeCuda::new(Setting::default());
    short_run(&clean, &options).unwrap();
    let worked = clean.worked();
    let stride = if std::env::var_os("HZ_LONG").is_some() { 1 } else { 11 };
    for work in (1..=worked).step_by(stride) {
        for manner in [Manner::Eager, Manner::Lazy, Manner::Random(work)] {
            let failing_work = Some((work, codes::ECC_UNCORRECTABLE));
            let calls = FakeCuda::new(Setting { manner, failing_work, ..Setting::default() });
            let Err(error) = short_run(&calls, &options) else {
                // In the lazy manner the last tasks run when the lanes close.
                assert!(manner != Manner::Eager, "work {work}");
                continue;
            };
            assert_eq!(error.status(), Status::DeviceFailed, "work {work}, {manner:?}: {error}");
            assert!(error.message().contains("the device is lost to this process"), "{error}");
            assert_eq!(calls.violations(), Vec::<String>::new(), "work {work}, {manner:?}");
        }
    }
}

#[test]
fn a_model_that_does_not_fit_is_refused_before_memory_is_allocated() {
    let (config, options) = (config(true), options());
    let need = Trainer::plan_for(&config, &options).unwrap().device.bytes();
    let calls = FakeCuda::new(Setting { memory: need, ..Setting::default() });
    let error = open(&calls, CudaOptions::default(), &config, &options).err().unwrap();
    assert_eq!(error.status(), Status::OutOfDeviceMemory);
    assert!(error.message().contains(&format!("({need} bytes); limit ")), "{error}");
    assert_eq!(calls.device_bytes(), 0);

    let calls = FakeCuda::new(Setting { pin_error: Some(codes::MEMORY_ALLOCATION), ..Setting::default() });
    let error = open(&calls, CudaOptions::default(), &config, &options).err().unwrap();
    assert_eq!(error.status(), Status::OutOfHostMemory);
    assert!(error.message().contains("ulimit -l"), "{error}");
    assert_eq!((calls.device_bytes(), calls.violations()), (0, vec![]));
}
