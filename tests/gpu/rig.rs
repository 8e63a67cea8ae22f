//! Ways to run the engine on CUDA: emulated kernels behind the fake CUDA, and a GPU.

use std::sync::Arc;

use horizon::base::Result;
use horizon::device::Lane;
use horizon::device::cuda::{Cuda, CudaDevice, CudaOptions};
use horizon::engine::{Backend, KernelsSetting, Trainer, TrainerOptions};
use horizon::model::{ModelConfig, products};
use horizon::ops::Kernels;
use horizon::ops::cuda::CudaKernels;
use horizon::ops::cuda::table::Table;
use horizon::sys::cuda::cublaslt::CublasLt;
use horizon::sys::cuda::{Stream, device_count, need_device};
use parking_lot::{Mutex, MutexGuard};

use crate::fault_injection::{FaultInjector, Injection};
use support::fake_cuda::{FakeCuda, Manner, Setting};
use support::reference::cuda;

/// A way to run our kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rig {
    /// By `tests/emulator`. Its kernels run when they are launched, so streams run as soon as they can and the issuing
    /// thread waits for thread lanes: then everything a kernel waits for is done when it is launched.
    Emulated,
    /// The first GPU.
    Gpu,
}

/// The emulator's state is the process's.
static EMULATOR: Mutex<()> = Mutex::new(());

/// The GPU, unless there is none. Says so then.
///
/// # Panics
/// If there is none and `HZ_REQUIRE_GPU` is 1.
pub fn gpu() -> Option<Rig> {
    if device_count().expect("a count of devices") > 0 {
        return Some(Rig::Gpu);
    }
    let why = need_device(0).expect_err("no device");
    let must = std::env::var_os("HZ_REQUIRE_GPU").is_some_and(|value| value == "1");
    assert!(!must, "HZ_REQUIRE_GPU=1, but {why}");
    println!("skipped on a GPU: {why}");
    None
}

/// All that are there.
pub fn all() -> Vec<Rig> {
    let emulated = cuda::emulates().then_some(Rig::Emulated);
    emulated.into_iter().chain(gpu()).collect()
}

impl Rig {
    /// Held while a rig is in use.
    pub fn hold(self) -> Option<MutexGuard<'static, ()>> {
        (self == Rig::Emulated).then(|| EMULATOR.lock())
    }

    /// Opens a trainer.
    pub fn open(self, config: &ModelConfig, options: &TrainerOptions) -> Trainer {
        self.open_with_faults(Injection::default(), config, options).expect("the model fits")
    }

    /// Opens a trainer with faults injected into its calls of CUDA.
    pub fn open_with_faults(
        self,
        injection: Injection,
        config: &ModelConfig,
        options: &TrainerOptions,
    ) -> Result<Trainer> {
        let cuda = CudaOptions { scrubs: true, pinning: options.pinning, ..CudaOptions::default() };
        let backend = match self {
            Rig::Emulated => {
                let setting = Setting { manner: Manner::Eager, words: false, ..Setting::default() };
                emulated(CudaDevice::open(FaultInjector::new(FakeCuda::new(setting), injection), 0, cuda)?)
            }
            Rig::Gpu => real(CudaDevice::open(FaultInjector::new(Cuda::default(), injection), 0, cuda)?)?,
        };
        Trainer::open_with(backend, config, options)
    }
}

fn prepared(kernels: CudaKernels, setting: &KernelsSetting) -> Result<Box<dyn Kernels>> {
    let numeric = &setting.plan.policy.numeric;
    kernels.prepare(&products(setting.config, numeric.shape, numeric.logits_chunk))?;
    Ok(Box::new(kernels))
}

fn emulated(device: Arc<CudaDevice<FaultInjector<FakeCuda>>>) -> Backend {
    let kernels = |setting: KernelsSetting| {
        let (launchers, library) = cuda::emulated();
        let stream = Arc::new(Stream::default_stream());
        let (workspace, table) = (setting.workspace, Table::default());
        let kernels = CudaKernels::of(launchers, stream, workspace, library, table, "emulated".into())?;
        prepared(kernels, &setting)
    };
    Backend { device, storage: CudaKernels::STORAGE, kernels: Box::new(kernels) }
}

fn real(device: Arc<CudaDevice<FaultInjector<Cuda>>>) -> Result<Backend> {
    let (stream, library) = (device.stream(Lane::Compute).clone(), CublasLt::open()?);
    let kernels = move |setting: KernelsSetting| {
        let kernels = CudaKernels::new(stream, setting.workspace, library, Table::default(), 0)?;
        prepared(kernels, &setting)
    };
    Ok(Backend { device, storage: CudaKernels::STORAGE, kernels: Box::new(kernels) })
}
