//! A device that cancels the trainer's running call before its n-th task.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use horizon::base::Result;
use horizon::device::cpu::CpuDevice;
use horizon::device::cuda::CudaDevice;
use horizon::device::{Device, DeviceInfo, DeviceSpan, Lane, Lanes, Work};
use horizon::engine::{Backend, Canceller, KernelsSetting, MakeKernels};
use horizon::host::{HostSpan, MemoryKind};
use horizon::ops::cpu::CpuKernels;
use once_cell::sync::OnceCell;

use crate::fake_cuda::backend_around;

/// Counts tasks, those of the disk lane excepted, and cancels.
#[derive(Default)]
pub struct Trigger {
    canceller: OnceCell<Canceller>,
    left: AtomicI64,
}

impl Trigger {
    /// The canceller of the trainer that uses the device.
    pub fn set(&self, canceller: Canceller) {
        assert!(self.canceller.set(canceller).is_ok(), "one trainer");
    }

    /// Cancels before the task after the next `tasks` ones.
    pub fn arm(&self, tasks: i64) {
        self.left.store(tasks + 1, SeqCst);
    }

    /// Returns true if there have been enough tasks since [`Trigger::arm`], and disarms.
    pub fn disarm(&self) -> bool {
        self.left.swap(0, SeqCst) <= 0
    }

    fn before_task(&self) {
        if self.left.fetch_sub(1, SeqCst) == 1 {
            self.canceller.get().expect("set before it is armed").cancel();
        }
    }
}

/// A CPU device with a trigger.
pub fn cpu(device: Arc<CpuDevice>, trigger: &Arc<Trigger>) -> Backend {
    let kernels: MakeKernels =
        Box::new(|setting: KernelsSetting| Ok(Box::new(CpuKernels::new(setting.pool.clone()))));
    let device = Arc::new(Cancelling { device, trigger: trigger.clone() });
    // SAFETY: the CPU kernels can access the CPU device's memory, and need no workspace.
    unsafe { Backend::new(device, CpuKernels::ACTIVATION_DTYPE, kernels) }
}

/// A device of fake CUDA with a trigger.
pub fn fake_cuda(device: Arc<CudaDevice>, trigger: &Arc<Trigger>) -> Backend {
    backend_around(device.clone(), Arc::new(Cancelling { device, trigger: trigger.clone() }))
}

/// A device with a [`Trigger`].
struct Cancelling {
    device: Arc<dyn Device>,
    trigger: Arc<Trigger>,
}

struct Counting {
    work: Arc<dyn Work>,
    trigger: Arc<Trigger>,
}

impl Work for Counting {
    fn run(&self, lane: Lane, task: u64) -> Result<()> {
        if lane != Lane::Disk {
            self.trigger.before_task();
        }
        self.work.run(lane, task)
    }

    fn describe(&self, task: u64) -> String {
        self.work.describe(task)
    }
}

// SAFETY: every function is that of a device, which keeps the contract.
unsafe impl Device for Cancelling {
    fn info(&self) -> DeviceInfo {
        self.device.info()
    }

    fn capacity(&self) -> Result<usize> {
        self.device.capacity()
    }

    fn reserve(&self, bytes: usize) -> Result<DeviceSpan> {
        self.device.reserve(bytes)
    }

    fn open(self: Arc<Self>, work: Arc<dyn Work>, tracing: bool) -> Result<Box<dyn Lanes>> {
        let trigger = self.trigger.clone();
        self.device.clone().open(Arc::new(Counting { work, trigger }), tracing)
    }

    unsafe fn upload(&self, to: DeviceSpan, from: HostSpan) -> Result<()> {
        // SAFETY: the caller's contract.
        unsafe { self.device.upload(to, from) }
    }

    fn scrubs(&self) -> bool {
        self.device.scrubs()
    }

    unsafe fn scrub(&self, lane: Lane, span: DeviceSpan) -> Result<()> {
        // SAFETY: the caller's contract.
        unsafe { self.device.scrub(lane, span) }
    }

    unsafe fn download(&self, to: HostSpan, from: DeviceSpan) -> Result<()> {
        // SAFETY: the caller's contract.
        unsafe { self.device.download(to, from) }
    }

    fn runs_on_cores(&self, lane: Lane) -> bool {
        self.device.runs_on_cores(lane)
    }

    fn wire_memory(&self, bytes: usize) -> MemoryKind {
        self.device.wire_memory(bytes)
    }
}
