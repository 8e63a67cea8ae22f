//! Admission: what [`Trainer::open`] would refuse, without opening.

use horizon::base::{Error, Shape, Status};
use horizon::device::cuda::{CudaDevice, CudaOptions};
use horizon::engine::{
    DeviceChoice, Trainer, TrainerOptions, cuda_device_count, device_info, devices, missing_for_cuda,
};
use horizon::model::{ModelConfig, preset, shape};
use horizon::schedule::{AdamWhen, Mode};
use horizon::sys::cuda_status::{NO_DEVICE, Presence, Versions};
use support::fake_cuda::{FakeCuda, Setting, backend, emulated};

use crate::{config, options};

/// The message without the free memory, which changes from call to call.
fn stable(error: Error) -> (Status, String) {
    (error.status(), error.message().split("; the machine reports").next().unwrap().to_owned())
}

#[test]
fn what_opening_refuses_is_not_admitted_for_the_same_reason() {
    let plain = options();
    let cases = [
        (Status::OutOfDeviceMemory, TrainerOptions { device_mem: Some(1000), ..plain.clone() }),
        (Status::OutOfHostMemory, TrainerOptions { host_mem: Some(1000), ..plain.clone() }),
        (Status::InvalidArgument, TrainerOptions { threads: Some(1 << 20), ..plain.clone() }),
        (Status::InvalidArgument, TrainerOptions { clip: -1.0, ..plain.clone() }),
        (
            Status::InvalidArgument,
            TrainerOptions {
                mode: Mode::Streamed,
                adam_when: Some(AdamWhen::AfterNorm),
                clip: 0.0,
                ..plain.clone()
            },
        ),
        (Status::InvalidArgument, TrainerOptions { layers: vec![Default::default(); 99], ..plain.clone() }),
        (Status::Unsupported, TrainerOptions { device: DeviceChoice::Cuda(0), ..plain.clone() }),
        (Status::DeviceUnavailable, TrainerOptions { device: DeviceChoice::Cuda(1 << 20), ..plain.clone() }),
    ];
    let config = config(true);
    Trainer::admit(&config, &plain).unwrap();
    for (status, options) in cases {
        // Without a GPU, a missing device is found before the unsupported model.
        let admitted = stable(Trainer::admit(&config, &options).unwrap_err());
        assert!(admitted.0 == status || admitted.0 == Status::DeviceUnavailable, "{admitted:?}");
        assert_eq!(admitted, stable(Trainer::open(&config, &options).err().unwrap()));
    }
}

fn refused(config: &ModelConfig, options: &TrainerOptions) -> String {
    Trainer::admit(config, options).unwrap_err().message().to_owned()
}

#[test]
fn a_refusal_proposes_changes_that_are_admitted() {
    let config = preset("tiny").unwrap();
    let plain = TrainerOptions { shape: Shape { b: 4, t: 512 }, micros_max: 2, ..options() };
    let bytes = |options: &TrainerOptions| Trainer::plan_for(&config, options).unwrap().device.bytes();
    let halved = TrainerOptions {
        shape: Shape { b: 2, t: 512 },
        micros_max: 4,
        logits_chunk: Some(16),
        ..plain.clone()
    };
    let short = TrainerOptions { device_mem: Some(bytes(&halved)), logits_chunk: Some(16), ..plain.clone() };
    let message = refused(&config, &short);
    assert!(message.starts_with("the model needs "), "{message}");
    assert!(message.contains("; limit ") && message.contains(" (device_mem): "), "{message}");
    assert!(message.contains("4 micro-batches of 2 × 512 tokens"), "{message}");
    Trainer::admit(&config, &TrainerOptions { device_mem: short.device_mem, ..halved }).unwrap();

    let compact = TrainerOptions { mode: Mode::Compact, ..plain.clone() };
    let host = |options: &TrainerOptions| {
        let plan = Trainer::plan_for(&config, options).unwrap();
        plan.device.bytes() + plan.host.bytes()
    };
    let short = TrainerOptions { host_mem: Some(host(&compact)), ..plain };
    assert!(refused(&config, &short).contains("mode = Mode::Compact"), "{}", refused(&config, &short));
    Trainer::admit(&config, &TrainerOptions { host_mem: short.host_mem, ..compact }).unwrap();
}

/// Without a bound, the advice for thousands of micro-batches and sweeps would take minutes.
#[test]
fn a_refusal_of_a_huge_step_comes_without_all_advice() {
    let config = shape("llama3.1-405b").unwrap();
    let options = TrainerOptions {
        shape: Shape { b: 1, t: 128 },
        micros_max: 8000,
        sweeps: 8000,
        device_mem: Some(1 << 20),
        ..options()
    };
    assert!(refused(&config, &options).contains("bytes short"));
}

#[test]
fn a_device_too_small_for_the_plan_is_refused_with_its_free_memory() {
    let calls = FakeCuda::new(Setting { memory: 1 << 17, ..Setting::default() });
    let device = CudaDevice::open(calls.ordinal(), CudaOptions::default()).unwrap();
    let error = Trainer::open_with(backend(device), &config(true), &options()).err().unwrap();
    assert_eq!(error.status(), Status::OutOfDeviceMemory);
    for word in ["the model needs ", "(free device memory less a margin for kernels)", "short"] {
        assert!(error.message().contains(word), "{error}");
    }
}

#[test]
fn devices_are_described_or_missing_with_a_reason() {
    let cpu = device_info(DeviceChoice::Cpu).unwrap();
    assert_eq!((cpu.ordinal, &cpu.hardware, &devices()[0].name), (None, &None, &cpu.name));
    assert!(0 < cpu.memory_free && cpu.memory_free <= cpu.memory);

    let calls = FakeCuda::new(Setting { memory: 1 << 28, memory_of_others: 1 << 26, ..Setting::default() });
    let ordinal = calls.ordinal();
    assert!(cuda_device_count().unwrap() > ordinal);
    match device_info(DeviceChoice::Cuda(ordinal)) {
        Ok(gpu) => {
            assert_eq!((gpu.ordinal, gpu.memory), (Some(ordinal), 1 << 28));
            assert!(gpu.memory_free < (1 << 28) - (1 << 26));
        }
        Err(error) => assert!(!emulated::is_there() && error.message().contains("cublasLt"), "{error}"),
    }
    drop(calls);

    let versions = Versions { driver: 13_000, runtime: 13_000 };
    let presence = Presence { versions, code: NO_DEVICE, text: "cudaErrorNoDevice".to_owned(), count: 0 };
    let _none = FakeCuda::new(Setting { presence: Some(presence), ..Setting::default() });
    assert_eq!(cuda_device_count(), Ok(0));
    assert_eq!(device_info(DeviceChoice::Auto).unwrap().ordinal, None);
    let error = device_info(DeviceChoice::Cuda(0)).unwrap_err();
    assert_eq!(error.status(), Status::DeviceUnavailable);
    assert!(missing_for_cuda().contains(&error.clone().into_message()), "{error}");
}
