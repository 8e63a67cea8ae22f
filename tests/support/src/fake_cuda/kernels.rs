//! The CPU kernels, queued on a CUDA stream of fake CUDA.

use std::sync::Arc;

use horizon::base::{DType, Error, Result};
use horizon::device::cuda::CudaDevice;
use horizon::device::{Device, Lane};
use horizon::engine::{Backend, KernelsSetting};
use horizon::ops::cpu::CpuKernels;
use horizon::ops::{Kernels, Op};
use parking_lot::Mutex;

use super::launch;

/// [`CpuKernels`] that run when the compute lane's CUDA stream reaches them.
pub struct StreamKernels {
    cpu: Arc<CpuKernels>,
    device: Arc<CudaDevice>,
    failed: Mutex<Option<Error>>,
}

impl StreamKernels {
    fn enqueue(&self, name: &'static str, kernel: impl FnOnce(&CpuKernels) + Send + 'static) {
        let cpu = self.cpu.clone();
        if let Err(error) = launch(self.device.stream(Lane::Compute), name, move || kernel(&cpu)) {
            self.failed.lock().get_or_insert(error);
        }
    }
}

/// A fake device with the CPU kernels.
pub fn backend(device: Arc<CudaDevice>) -> Backend {
    backend_around(device.clone(), device)
}

/// Like [`backend`], with another device around it.
pub fn backend_around(user: Arc<CudaDevice>, device: Arc<dyn Device>) -> Backend {
    let kernels = move |setting: KernelsSetting| -> Result<Box<dyn Kernels>> {
        let cpu = Arc::new(CpuKernels::new(setting.pool.clone()));
        Ok(Box::new(StreamKernels { cpu, device: user, failed: Mutex::default() }))
    };
    // SAFETY: the fake device's memory is memory of this process, which the CPU kernels can access;
    // they need no workspace.
    unsafe { Backend::new(device, CpuKernels::ACTIVATION_DTYPE, Box::new(kernels)) }
}

impl Kernels for StreamKernels {
    fn activation_dtype(&self) -> DType {
        CpuKernels::ACTIVATION_DTYPE
    }

    fn arithmetic(&self) -> String {
        self.cpu.arithmetic()
    }

    fn warms_up(&self) -> bool {
        true
    }

    fn outcome(&self) -> Result<()> {
        self.failed.lock().take().map_or(Ok(()), Err)
    }

    fn settle(&self) -> Result<()> {
        self.outcome().and_then(|()| self.device.stream(Lane::Compute).synchronize())
    }

    unsafe fn run(&self, op: &Op) {
        let op = *op;
        self.enqueue(op.contract().name(), move |cpu| {
            // SAFETY: the caller of this function keeps the operands until the CUDA stream has run the op.
            unsafe { cpu.run(&op) }
        });
    }
}
