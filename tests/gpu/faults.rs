//! Fault injection: the n-th call of a CUDA function fails. The trainer returns an error that names
//! it and closes cleanly, and the next trainer works.

use horizon::base::{DType, Result, Status};
use horizon::device::Device;
use horizon::device::cuda::{CudaDevice, CudaOptions};
use horizon::engine::{Trainer, TrainerOptions};

use crate::equal::{config, options};
use crate::rig::{self, Opened, Rig};
use support::fake_cuda::{FUNCTIONS, Fault, Injection, calls_of};
use support::runs::{Data, Manner, data, fill, train, weights};

fn two_steps(opened: Result<Trainer>, options: &TrainerOptions) -> Result<Vec<u32>> {
    let mut trainer = opened?;
    trainer.sync()?;
    fill(&mut trainer);
    let data = data(options, 0, trainer.config().dims.v);
    let batches: Vec<_> = data.iter().map(Data::batch).collect();
    trainer.step(&batches, 1e-2)?;
    trainer.step(&batches, 1e-2)?;
    trainer.sync()?;
    Ok(weights(&mut trainer))
}

/// Trains one layer with a fault. Returns the weights, and the device.
fn run(rig: &Rig, fault: Option<Fault>, options: &TrainerOptions) -> (Result<Vec<u32>>, Opened) {
    let injection = Injection { fault, ..Injection::default() };
    let mut config = config(true);
    config.dims.l = 1;
    let (opened, device) = rig.open_with_faults(injection, &config, options);
    (two_steps(opened, options), device)
}

/// Injects a fault into the first and the last call of each function; with `HZ_LONG` into every
/// call, or about 20 of many. Returns the number of failed runs.
fn each_fails(rig: &Rig, functions: [&[&'static str]; 2]) -> usize {
    let options = TrainerOptions { micros_max: 1, ..options() };
    let (want, device) = run(rig, None, &options);
    let want = want.expect("nothing fails");
    let functions = functions.concat().into_iter();
    let made: Vec<_> = functions.map(|function| (function, calls_of(device.ordinal, function))).collect();
    drop(device);
    let long = std::env::var_os("HZ_LONG").is_some();
    let mut failures = 0;
    for (function, calls) in made {
        let mut tried: Vec<u64> = match (long, calls) {
            (true, 300..) => (1..=calls).step_by(calls as usize / 20).collect(),
            (true, _) => (1..=calls).collect(),
            (false, 0) => vec![],
            (false, _) => vec![1, calls],
        };
        tried.dedup();
        for call in tried {
            let (outcome, device) = run(rig, Some(Fault::of(function, call)), &options);
            if let Some(fake) = &device.fake {
                assert_eq!(fake.violations(), Vec::<String>::new(), "{function}, call {call}");
                assert_eq!((fake.device_bytes(), fake.pinned()), (0, 0), "{function}, call {call}");
            }
            drop(device);
            match outcome {
                Ok(weights) => assert!(weights == want, "{function}, call {call}"),
                Err(error) => {
                    failures += 1;
                    assert_ne!(error.status(), Status::Internal, "{function}, call {call}: {error}");
                    assert!(error.message().contains("cannot "), "{function}, call {call}: {error}");
                    // The fault leaves no error behind.
                    if rig.is_gpu() {
                        assert!(run(rig, None, &options).0.expect("the next trainer works") == want);
                    }
                }
            }
        }
    }
    failures
}

#[test]
fn each_call_of_the_runtime_may_fail_and_the_next_trainer_works() {
    if let Some(rig) = rig::gpu() {
        assert!(each_fails(&rig, [FUNCTIONS[0], FUNCTIONS[1]]) > 20);
        let (config, options) = (config(true), options());
        let again = train(&mut rig.open(&config, &options), &options, Manner::Plain);
        assert!(again == train(&mut rig.open(&config, &options), &options, Manner::Plain));
    }
}

#[test]
fn each_launch_and_product_may_fail() {
    if let Some(rig) = rig::any() {
        assert!(each_fails(&rig, [FUNCTIONS[2], FUNCTIONS[3]]) > 20);
    }
}

#[test]
fn no_kernel_is_loaded_in_a_step() {
    let Some(rig) = rig::any().filter(|rig| !rig.is_gpu()) else { return };
    // Gradients of head and embedding in several chunks, which are squared before they are rounded;
    // several sweeps; layers of two units.
    for (vocabulary, sweeps, grad_dtype, split_layers) in [
        (67, 1, DType::Bf16, true),
        (67, 1, DType::Bf16, false),
        (1000, 1, DType::F32, false),
        (1000, 2, DType::Bf16, false),
    ] {
        let mut config = config(false);
        (config.dims.l, config.dims.v, config.split_layers) = (2, vocabulary, split_layers);
        let options = TrainerOptions { micros_max: 2, sweeps, grad_dtype, ..options() };
        let (opened, device) = rig.open_with_faults(Injection::default(), &config, &options);
        let mut trainer = opened.expect("the model fits");
        fill(&mut trainer);
        let fake = device.fake.as_ref().expect("no GPU");
        let loads = fake.loads();
        let data = data(&options, 0, vocabulary);
        let batches: Vec<_> = data.iter().map(Data::batch).collect();
        trainer.step(&batches, 1e-2).expect("a step");
        trainer
            .step_with_loss(&batches[..1], 1e-3, &mut |_, gradient| {
                gradient.fill(0.01);
                Ok(1.0)
            })
            .expect("a step with a loss");
        trainer.eval(&batches).expect("an evaluation");
        trainer.sync().expect("all is done");
        assert_eq!(
            fake.loads(),
            loads,
            "vocabulary {vocabulary}, {sweeps} sweeps, {grad_dtype:?}, {split_layers}"
        );
    }
}

#[test]
fn too_much_memory_is_refused_and_a_limit_holds() {
    if rig::gpu().is_some() {
        let open = |memory_limit| {
            let cuda = CudaOptions { memory_limit, ..CudaOptions::default() };
            CudaDevice::open(0, cuda).expect("a device")
        };
        let device = open(None);
        let error = device.reserve(device.capacity().expect("a number") + (1 << 40)).unwrap_err();
        assert_eq!(error.status(), Status::OutOfDeviceMemory, "{error}");
        let device = open(Some(1 << 20));
        let before = calls_of(0, "cudaMalloc");
        let error = device.reserve((1 << 20) + 1).unwrap_err();
        assert!(error.message().contains("--device-mem"), "{error}");
        assert_eq!(calls_of(0, "cudaMalloc"), before, "the limit was checked too late");
    }
}
