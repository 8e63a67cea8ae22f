//! Rigs run the engine on CUDA: on a GPU, or with emulated kernels on fake CUDA.

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

/// A GPU or an emulation of one.
#[derive(Clone)]
pub enum Rig {
    /// The kernels of `tests/emulator` on fake CUDA with this setting.
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

/// The GPU. Reports a skip and returns `None` if there is none.
///
/// # Panics
/// If there is no GPU and `HZ_REQUIRE_GPU` is 1.
pub fn gpu() -> Option<Rig> {
    fake_cuda::has_gpu().then_some(Rig::Gpu)
}

/// The GPU; otherwise the emulated kernels, if they can be built, with work that runs at once.
pub fn any() -> Option<Rig> {
    gpu().or_else(|| emulated::is_there().then(|| Rig::Emulated(Setting::default())))
}

/// Like [`any`], but the emulation once in each manner of delaying work.
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

    /// Opens a trainer with faults injected into its CUDA calls. Also returns its device.
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

/// The device of a trainer. Dropping it ends fault injection.
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
    // SAFETY: the kernels run on a CUDA stream of this device, and drop the workspace with
    // themselves.
    Ok(unsafe { Backend::new(device, CudaKernels::ACTIVATION_DTYPE, kernels) })
}
