//! Misuse of devices, lanes, ops and CUDA, with or without a GPU.

use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::Arc;
use std::thread;

use horizon::base::{DType, Dims, Error, Result, Shape};
use horizon::device::cpu::CpuDevice;
use horizon::device::cuda::{CudaDevice, CudaOptions, Properties};
use horizon::device::{Device, DeviceInfo, DeviceSpan, Lane, Lanes, TaskSpan, Tick, Work};
use horizon::host::Pool;
use horizon::ops::cpu::CpuKernels;
use horizon::ops::cuda::gemm::{ColumnMajor, Direction as GemmDirection, Factor, Gemm, Operands};
use horizon::ops::cuda::matmul::{Clock, Gemms};
use horizon::ops::cuda::measure::{self, AttentionTimes};
use horizon::ops::cuda::table::{Attention, Choice, Key, Table};
use horizon::ops::cuda::{CudaKernels, attention, workspace};
use horizon::ops::{
    Access, Activation, Contract, Element, Field, Flops, GluForward, Heads, Kernels, Linear, LinearForward,
    NormSpan, Op, Operand, QkNormForward, QueryScaling, Rope, RopeDirection, Rotation, Scalars, Write, Zero,
};
use horizon::sys::cuda::cublaslt::{Addresses, Algorithm, CublasLt, Descriptors, Handle, Layout, Limits};
use horizon::sys::cuda::{
    Api, CublasLtFunctions, DeviceMemory, Direction, Driver, DriverFunctions, Event, Launchers, Matrix,
    PinnedMemory, Runtime, Stream, api, device_address, memory_info, need_device, pci_bus_id, set_device,
    versions,
};
use horizon::sys::cuda_status::{Presence, Versions};

use crate::{panics, survives};

/// A function as a lane's work.
struct Job<F>(F);

impl<F: Fn(Lane, u64) -> Result<()> + Send + Sync> Work for Job<F> {
    fn run(&self, lane: Lane, task: u64) -> Result<()> {
        (self.0)(lane, task)
    }
}

fn devices() -> [Arc<CpuDevice>; 3] {
    [CpuDevice::new(Some(1 << 20)), CpuDevice::adversarial(None, 3), CpuDevice::pattern_filled(Some(1 << 20))]
}

#[test]
fn a_span_that_outlives_its_device_is_only_an_address() {
    for mut device in devices() {
        let span: DeviceSpan = device.reserve(1 << 16).unwrap();
        assert!(device.reserve(16).is_err());
        for (offset, bytes) in [(0, (1 << 16) + 1), (usize::MAX, 1), (1 << 16, 256)] {
            survives(|| CpuDevice::written(&mut device, offset, bytes));
        }
        drop(device);
        assert_eq!(span.subspan(100, 10).bytes(), 10);
        panics(|| span.subspan(1 << 16, 1));
    }
    for bytes in [usize::MAX, 1 << 50] {
        assert!(CpuDevice::new(None).reserve(bytes).is_err());
    }
    let info: DeviceInfo = CpuDevice::new(Some(0)).info();
    assert_eq!(info.memory_free, 0);
    survives(|| CpuDevice::new(Some(0)).reserve(0));
}

#[test]
fn lanes_survive_forged_ticks_errors_and_panics() {
    for device in devices() {
        let work = Arc::new(Job(|_, task| match task {
            0 => Ok(()),
            1 => Err(Error::internal("an expected error")),
            _ => panic!("an expected panic"),
        }));
        let lanes: Box<dyn Lanes> = device.clone().open(work.clone(), true).unwrap();
        // A second set of lanes on the same device.
        let others = device.clone().open(work, false).unwrap();
        drop(device);
        let forged = Tick { lane: Lane::Disk, count: u64::MAX };
        panics(|| lanes.reach(forged));
        panics(|| lanes.issue(Lane::Host, 0, &[forged], true));
        thread::scope(|scope| {
            for lane in Lane::ALL {
                let (lanes, others) = (&lanes, &others);
                scope.spawn(move || {
                    for task in 0..2000 {
                        let tick = lanes.issue(
                            lane,
                            if task == 1500 { 2 } else { 0 },
                            &[lanes.last(Lane::H2d)],
                            task % 2 == 0,
                        );
                        others.issue(lane, task % 2, &[Tick { count: 0, ..tick }], false);
                    }
                });
            }
        });
        assert!(lanes.reach(lanes.last(Lane::Compute)).is_err());
        let spans: Vec<TaskSpan> = lanes.take_spans();
        assert!(spans.len() <= 10_000);
        // Dropped while tasks are unfinished.
        thread::spawn(move || drop(others)).join().unwrap();
    }
}

/// Work that opens lanes of the device it runs on.
#[test]
fn work_may_use_the_device_it_runs_on() {
    let device = CpuDevice::new(None);
    let again = device.clone();
    let work = Arc::new(Job(move |_, _| {
        let inner = again.clone().open(Arc::new(Job(|_, _| Ok(()))), false)?;
        survives(|| again.reserve(4096));
        inner.reach(inner.issue(Lane::Compute, 0, &[], false))
    }));
    let lanes = device.open(work, false).unwrap();
    for lane in Lane::ALL {
        lanes.reach(lanes.issue(lane, 0, &[], false)).unwrap();
    }
}

#[test]
fn ops_are_plain_data_until_unsafe_code_runs_them() {
    let device = CpuDevice::new(None);
    let span = device.reserve(4096).unwrap();
    drop(device);
    let sizes = Linear { n: usize::MAX, k: usize::MAX, m: 3, out_stride: 0 };
    let heads = Heads { h: usize::MAX, g: 1, d: usize::MAX };
    let queries = Some(QueryScaling { beta: f32::NAN, positions: 0 });
    let ops: [Op; 5] = [
        Zero { out: span, bytes: usize::MAX }.into(),
        LinearForward {
            out: span,
            x: span,
            weight: span,
            residual: Some(span),
            bias: None,
            scale: 1.0,
            sizes,
        }
        .into(),
        Rope {
            qkv: span,
            positions: span,
            inv_freq: span,
            direction: RopeDirection::Backward,
            rotation: Rotation { r: usize::MAX, queries, ..Rotation::whole(&heads) },
            n: usize::MAX,
            heads,
        }
        .into(),
        GluForward { out: span, gate_up: span, activation: Activation::GeluTanh, n: usize::MAX, f: 3 }.into(),
        QkNormForward {
            out: span,
            rstd: span,
            qkv: span,
            q_weight: span,
            k_weight: span,
            span: NormSpan::AllHeads,
            offset: f32::NAN,
            eps: f32::INFINITY,
            n: usize::MAX,
            heads,
        }
        .into(),
    ];
    for mut op in ops {
        op.set(&Scalars { loss_scale: f32::NAN, distinct: usize::MAX });
        let contract: &dyn Contract<DeviceSpan> = op.contract();
        survives(|| contract.traffic(DType::F32));
        survives(|| contract.scratch_bytes());
        survives(|| matches!(contract.flops(), Flops::None | Flops::Matmul(_)));
        survives(|| {
            contract.each_operand(&mut |operand: Operand<&DeviceSpan>| {
                assert!(operand.access != Access::Read || operand.element != Element::Byte);
                operand.bytes(DType::F32);
            })
        });
        let _ = op.map(&mut |span| span.bytes());
    }
    assert_eq!(Some(3).map_field(), Some(4));
    let kernels: Box<dyn Kernels> = Box::new(CpuKernels::new(Arc::new(Pool::new(1).unwrap())));
    assert!(kernels.settle().is_ok() && kernels.outcome().is_ok());
    assert_eq!((kernels.activation_dtype(), Access::from(Write::Add)), (DType::F32, Access::Update));
    survives(|| heads.qkv() + heads.attention_width() + heads.normed());
}

trait MapField {
    fn map_field(&self) -> Option<i32>;
}

impl MapField for Option<i32> {
    fn map_field(&self) -> Option<i32> {
        Field::<i32>::map(self, |number| number + 1)
    }
}

/// Runs with or without a GPU: without one, every call fails.
#[test]
fn cuda_refuses_missing_devices_and_absurd_sizes() {
    const NONE: usize = 1 << 20;
    assert!(need_device(NONE).is_err() && CudaDevice::open(NONE, CudaOptions::default()).is_err());
    let _: Option<(&Api, Runtime, Launchers)> = api().ok().map(|api| (api, api.runtime, api.kernels));
    let _: Option<CublasLtFunctions> = api().ok().and_then(|api| api.cublaslt);
    let _: Option<DriverFunctions> = None;
    for device in [NONE, usize::MAX] {
        survives(|| set_device(device).unwrap_err());
        survives(|| pci_bus_id(device).unwrap_err());
        survives(|| Driver::open().and_then(|driver| driver.device_name(device)).unwrap_err());
        survives(|| attention::has_wgmma(device).unwrap_err());
        survives(|| measure::table(device, &[]).unwrap_err());
    }
    survives(memory_info);
    survives(versions);
    for bytes in [0, usize::MAX] {
        survives(|| DeviceMemory::take(bytes).map(|memory| (memory.base(), memory.bytes())));
        survives(|| PinnedMemory::take(bytes).map(|memory| (memory.base(), memory.bytes())));
    }
    survives(|| device_address(NonNull::dangling()));
    // An event outlives its CUDA stream.
    survives(|| {
        let (stream, event) = (Stream::new()?, Event::new(true)?);
        event.record(&stream)?;
        drop(stream);
        event.synchronize()?;
        event.ns_since(&Event::new(true)?)
    });
    survives(|| Stream::default_stream().synchronize());
    survives(|| {
        let library = CublasLt::open()?;
        let matrix = Layout { dtype: DType::Bf16, rows: usize::MAX, columns: 0, stride: 1 };
        let described = Descriptors::new(&library, (matrix, true), (matrix, false), matrix, true)?;
        let handle = Handle::new(library)?;
        handle.algorithms(&described, Limits { workspace_bytes: 0, alignment: 3 }, usize::MAX)
    });
    survives(|| {
        CudaDevice::open(0, CudaOptions { memory_limit: Some(0), ..CudaOptions::default() }).map(|device| {
            let Properties { name, .. } = device.properties().clone();
            panics(|| device.stream(Lane::Disk).is_done());
            (name, device.reserve(1).unwrap_err())
        })
    });
    let versions = Versions { runtime: -1, driver: i32::MAX };
    let presence = Presence { versions, code: 0, text: String::new(), count: usize::MAX };
    survives(|| presence.admit(usize::MAX));
    let _ = (Direction::HostToDevice, Matrix { rows: usize::MAX, row_bytes: 1, stride_bytes: 0 });
}

#[test]
fn gemms_and_tables_are_checked() {
    let sizes = Linear { n: usize::MAX, k: 0, m: usize::MAX, out_stride: 1 };
    for direction in [GemmDirection::Forward, GemmDirection::BackwardInput, GemmDirection::BackwardWeight] {
        let gemm = Gemm::of(direction, Write::Add, sizes);
        survives(|| gemm.check());
        survives(|| {
            let Operands { a: Factor { matrix, .. }, out, .. } = gemm.operands();
            let columns: [ColumnMajor; 2] = [matrix, out];
            columns.map(|matrix| matrix.bytes())
        });
        let key = Key { device: "none".into(), library: 0, gemm };
        let mut table = Table::default();
        survives(|| {
            table.insert(key.clone(), Choice { algorithm: [u64::MAX; 8], workspace_bytes: usize::MAX })
        });
        survives(|| Table::from_json(&table.to_json(), "its own"));
        assert_ne!(table.attention("none", 7), Attention::Wgmma);
    }
    assert!(Table::read(&PathBuf::from("/nowhere")).is_err() && Table::from_json("{", "broken").is_err());
    let times = AttentionTimes { by: Attention::Mma, forward_ns: u64::MAX, backward_ns: 0 };
    let dims = Dims { c: 0, h: 0, g: 0, d: 0, f: 0, v: 0, l: 0 };
    survives(|| times.describe(&dims, Shape { b: 0, t: 0 }));
    survives(|| workspace::supports(&dims, 0, Some(NormSpan::AllHeads), Shape { b: usize::MAX, t: 2 }));
    survives(|| workspace::bytes(usize::MAX));
    // These need a CUDA stream of a device, and running them is `unsafe`.
    let _: Option<(CudaKernels, Gemms, Addresses, Algorithm, &mut Clock)> = None;
}
