//! The n-th call of CUDA fails: an error with its place, a clean close, and the next trainer works.

use std::sync::atomic::Ordering;

use horizon::base::{Result, Status};
use horizon::device::Device;
use horizon::device::cuda::{Cuda, CudaDevice, CudaOptions};
use horizon::engine::{Trainer, TrainerOptions};

use crate::equal::{config, options};
use crate::fault_injection::{FaultInjector, Injection};
use crate::rig;
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

#[test]
fn every_call_may_fail_and_the_next_trainer_works() {
    if let Some(rig) = rig::gpu() {
        let (config, options) = (config(true), options());
        let open =
            |failing| rig.open_with_faults(Injection { failing, ..Injection::default() }, &config, &options);
        let want = two_steps(open(None), &options).expect("nothing fails");
        let mut failures = 0;
        for call in (1..).step_by(3) {
            match two_steps(open(Some(call)), &options) {
                Ok(weights) => {
                    assert!(weights == want, "call {call}");
                    if failures + 3 < call / 3 {
                        break;
                    }
                }
                Err(error) => {
                    failures += 1;
                    assert_eq!(error.status(), Status::DeviceFailed, "call {call}: {error}");
                    assert!(error.message().contains(&format!("call {call} was made to fail")), "{error}");
                }
            }
        }
        assert!(failures > 50, "{failures} calls were seen to fail");
        let again = train(&mut rig.open(&config, &options), &options, Manner::Plain);
        assert!(again == train(&mut rig.open(&config, &options), &options, Manner::Plain));
    }
}

#[test]
fn more_memory_than_there_is_is_refused_and_a_limit_holds() {
    if rig::gpu().is_some() {
        let open = |memory_limit| {
            let cuda = CudaOptions { memory_limit, ..CudaOptions::default() };
            let injector = FaultInjector::new(Cuda::default(), Injection::default());
            let calls = injector.calls.clone();
            (calls, CudaDevice::open(injector, 0, cuda).expect("a device"))
        };
        let (_, device) = open(None);
        let error = device.reserve(device.capacity().expect("a number") + (1 << 40)).unwrap_err();
        assert_eq!(error.status(), Status::OutOfDeviceMemory, "{error}");
        let (calls, device) = open(Some(1 << 20));
        let before = calls.load(Ordering::Relaxed);
        let error = device.reserve((1 << 20) + 1).unwrap_err();
        assert!(error.message().contains("--device-mem"), "{error}");
        assert_eq!(calls.load(Ordering::Relaxed), before + 1, "nothing but a question was asked");
    }
}
