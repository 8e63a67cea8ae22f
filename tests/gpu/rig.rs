//! Ways to run the engine on CUDA: a GPU, or the emulated kernels on a fake device.

use std::fmt;

use horizon::base::Result;
use horizon::device::Lane;
use horizon::device::cuda::{CudaDevice, CudaOptions};
use horizon::engine::{Backend, KernelsSetting, MakeKernels, Trainer, TrainerOptions};
use horizon::model::ModelConfig;
use horizon::ops::cuda::CudaKernels;
use horizon::ops::cuda::table::Table;
use horizon::sys::cuda::cublaslt::{CublasLt, Handle};

use support::fake_cuda::{self, FakeCuda, Injection, Manner, Setting, emulated};

/// A way to run our kernels.
#[derive(Clone)]
pub enum Rig {
    /// By `tests/emulator`, on devices with this setting.
    Emulated(Setting),
    /// The first GPU.
    Gpu,
}

impl fmt::Debug for Rig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rig::Emulated(setting) => write!(f, "emulated kernels ({:?})", setting.manner),
            Rig::Gpu => f.write_str("the GPU"),
        }
    }
}

/// The GPU, unless there is none. Says so then.
///
/// # Panics
/// If there is none and `HZ_REQUIRE_GPU` is 1.
pub fn gpu() -> Option<Rig> {
    fake_cuda::has_gpu().then_some(Rig::Gpu)
}

/// The GPU, or else the emulated kernels, if they can be built, with work that runs at once.
pub fn any() -> Option<Rig> {
    gpu().or_else(|| emulated::is_there().then(|| Rig::Emulated(Setting::default())))
}

/// As [`any`], in every manner in which work may be late.
pub fn all() -> Vec<Rig> {
    let manners = [Manner::Eager, Manner::Lazy, Manner::Random(3)];
    match any() {
        Some(Rig::Emulated(setting)) => manners
            .into_iter()
            .enumerate()
            .map(|(at, manner)| Rig::Emulated(Setting { manner, words: at % 2 == 0, ..setting.clone() }))
            .collect(),
        other => other.into_iter().collect(),
    }
}

impl Rig {
    pub fn is_gpu(&self) -> bool {
        matches!(self, Rig::Gpu)
    }

    /// Opens a trainer.
    pub fn open(&self, config: &ModelConfig, options: &TrainerOptions) -> Trainer {
        let (opened, _) = self.open_with_faults(Injection::default(), config, options);
        opened.expect("the model fits")
    }

    /// Opens a trainer with faults injected into its calls of CUDA, on the device of the ordinal that is given, too.
    pub fn open_with_faults(
        &self,
        injection: Injection,
        config: &ModelConfig,
        options: &TrainerOptions,
    ) -> (Result<Trainer>, Opened) {
        let fake = match self {
            Rig::Emulated(setting) => Some(FakeCuda::new(setting.clone())),
            Rig::Gpu => None,
        };
        let ordinal = fake.as_ref().map_or(0, FakeCuda::ordinal);
        fake_cuda::inject(ordinal, injection);
        let cuda = CudaOptions { scrubs: true, pinning: options.pinning, ..CudaOptions::default() };
        let opened = backend(ordinal, cuda).and_then(|backend| Trainer::open_with(backend, config, options));
        (opened, Opened { ordinal, fake })
    }
}

/// The device that a trainer was opened on. No fault is injected any more once this is dropped.
pub struct Opened {
    pub ordinal: usize,
    pub fake: Option<FakeCuda>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        fake_cuda::inject(self.ordinal, Injection::default());
    }
}

fn backend(ordinal: usize, cuda: CudaOptions) -> Result<Backend> {
    let device = CudaDevice::open(ordinal, cuda)?;
    let (stream, handle) = (device.stream(Lane::Compute).clone(), Handle::new(CublasLt::open()?)?);
    let kernels: MakeKernels = Box::new(move |setting: KernelsSetting| {
        let kernels = CudaKernels::new(stream, setting.workspace, handle, Table::default(), ordinal)?;
        kernels.prepare(&setting.plan.passes.gemms())?;
        Ok(Box::new(kernels))
    });
    // SAFETY: the kernels are of this device's stream, and the trainer gives them a workspace of their own.
    Ok(unsafe { Backend::new(device, CudaKernels::ACTIVATION_DTYPE, kernels) })
}
