//! Which device, and whose arithmetic on it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::base::{DType, Error, Result, Shape};
use crate::device::cpu::CpuDevice;
use crate::device::cuda::{CudaDevice, CudaOptions};
use crate::device::{Device, DeviceInfo, DeviceSpan};
use crate::engine::TrainerOptions;
use crate::host::{Pinning, Pool};
use crate::model::{Layout, ModelConfig, Passes, Sizes};
use crate::ops::Kernels;
use crate::ops::cpu::CpuKernels;
use crate::ops::cuda::table::Table;
use crate::ops::cuda::workspace;
use crate::plan::Plan;
use crate::schedule::Numeric;

/// The device that somebody asks for: `auto`, `cpu`, `cuda` or `cuda:i`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first CUDA device where there is one whose kernels can compute the model, else the CPU.
    Auto,
    /// This machine's CPU.
    #[default]
    Cpu,
    /// A CUDA device, by its number.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<DeviceChoice> {
        let number = |text: &str| text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            "cuda" => Ok(DeviceChoice::Cuda(0)),
            _ => number(text).map(DeviceChoice::Cuda).ok_or_else(|| {
                Error::argument(format!(
                    "there is no device `{text}`: a device is auto, cpu, cuda, or cuda: and a number"
                ))
            }),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl DeviceChoice {
    /// What `auto` comes to on this machine, for a model and the shape of its micro-batches. Errors: CUDA is there
    /// and cannot say how many devices it has.
    pub fn resolve(self, config: &ModelConfig, shape: Shape) -> Result<DeviceChoice> {
        if self != DeviceChoice::Auto {
            return Ok(self);
        }
        let fits = cuda::device_count()? > 0 && workspace::supports(&config.dims, shape).is_ok();
        Ok(if fits { DeviceChoice::Cuda(0) } else { DeviceChoice::Cpu })
    }

    /// Whether a CUDA device that was asked for is there.
    ///
    /// Errors: as [`Backend::open`].
    pub(super) fn is_there(self) -> Result<()> {
        match self {
            DeviceChoice::Cuda(ordinal) if cuda::device_count()? <= ordinal => {
                cuda::open(ordinal, CudaOptions::default(), None).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// The type that activations are stored in there. The choice is [resolved](DeviceChoice::resolve).
    pub fn activation_dtype(self) -> DType {
        match self {
            DeviceChoice::Auto | DeviceChoice::Cpu => CpuKernels::ACTIVATION_DTYPE,
            DeviceChoice::Cuda(_) => DType::Bf16,
        }
    }
}

/// The devices of this machine: the CPU, then what CUDA shows.
pub fn devices() -> Vec<DeviceInfo> {
    std::iter::once(CpuDevice::new(None).info()).chain(cuda::infos()).collect()
}

/// Describes a [resolved](DeviceChoice::resolve) device. Errors: as [`Backend::open`].
pub fn device_info(choice: DeviceChoice) -> Result<DeviceInfo> {
    match choice {
        DeviceChoice::Cuda(ordinal) => Ok(CudaDevice::open(ordinal, CudaOptions::default())?.info()),
        DeviceChoice::Auto | DeviceChoice::Cpu => Ok(CpuDevice::new(None).info()),
    }
}

/// What keeps this library from computing on CUDA, one sentence each, with the remedy; nothing where nothing does.
pub fn missing_for_cuda() -> Vec<String> {
    cuda::missing()
}

/// Autotunes a CUDA device: for every GEMM shape of the model under these options the fastest cuBLASLt algorithm, and for its
/// attention the fastest kernel. Returns the table for [`TrainerOptions::products`]. `note` gets lines for people: the times of
/// attention, and a warning where its kernels do not agree.
///
/// Errors: the device that the options choose is none of CUDA's (`InvalidArgument`), is not there, or cannot compute the
/// model; the options are no good.
pub fn autotune(config: &ModelConfig, options: &TrainerOptions, note: &mut dyn FnMut(&str)) -> Result<Table> {
    let DeviceChoice::Cuda(ordinal) = options.device else {
        return Err(Error::argument(format!(
            "a GEMM autotune table is for a CUDA device, not of `{}`: --device cuda, or cuda: and a number",
            options.device
        )));
    };
    config.validate()?;
    workspace::supports(&config.dims, options.shape)?;
    let layout = Layout::new(config);
    let numeric = options.numeric(&layout, options.device.activation_dtype())?;
    let Numeric { shape, logits_chunk, .. } = numeric;
    let sizes = Sizes { shape, logits_chunk, activation_dtype: options.device.activation_dtype() };
    let gemms = Passes::new(config, &layout, sizes).gemms();
    let mut table = cuda::table(ordinal, &gemms)?;
    cuda::choose_attention(&mut table, ordinal, &config.dims, numeric.shape, note)?;
    Ok(table)
}

/// What kernels are made with.
pub struct KernelsSetting<'a> {
    /// The pool of the host lane, which a CPU's kernels share.
    pub pool: &'a Arc<Pool>,
    /// Memory of the plan's region for kernels.
    pub workspace: DeviceSpan,
    /// The plan whose shapes they will see.
    pub plan: &'a Plan,
}

/// Makes kernels for memory that is taken.
pub type MakeKernels = Box<dyn FnOnce(KernelsSetting<'_>) -> Result<Box<dyn Kernels>> + Send>;

/// A device, and the arithmetic on it.
pub struct Backend {
    /// The device, opened.
    pub(super) device: Arc<dyn Device>,
    /// The type that the kernels store activations in.
    pub(super) activation_dtype: DType,
    /// The kernels to be.
    pub(super) kernels: MakeKernels,
}

impl Backend {
    /// An opened device and kernels for it, which store activations as `storage`.
    ///
    /// # Safety
    /// The kernels that `kernels` makes can run on memory of the device. The workspace that it is given is there, and theirs alone,
    /// until they are dropped; nothing else keeps it.
    #[allow(unsafe_code)]
    pub unsafe fn new(device: Arc<dyn Device>, activation_dtype: DType, kernels: MakeKernels) -> Backend {
        Backend { device, activation_dtype, kernels }
    }

    /// Opens the device that the options choose, [resolved](DeviceChoice::resolve).
    ///
    /// Errors: `DeviceUnavailable`, with what is missing and the remedy; a table of products that cannot be read, or is of
    /// another device.
    pub fn open(options: &TrainerOptions) -> Result<Backend> {
        match options.device {
            DeviceChoice::Cuda(ordinal) => {
                let cuda = CudaOptions {
                    memory_limit: options.device_mem,
                    pinning: options.pinning,
                    ..CudaOptions::default()
                };
                cuda::open(ordinal, cuda, options.gemm_table.as_deref())
            }
            // Its memory is host memory, which the user may have stated.
            _ => Ok(Backend::cpu(CpuDevice::new(options.device_mem.or(options.host_mem)))),
        }
    }

    /// The CPU's kernels on a CPU device.
    pub fn cpu(device: Arc<CpuDevice>) -> Backend {
        let kernels: MakeKernels =
            Box::new(|setting: KernelsSetting| Ok(Box::new(CpuKernels::new(setting.pool.clone()))));
        Backend { device, activation_dtype: CpuKernels::ACTIVATION_DTYPE, kernels }
    }
}

/// What a device asks of a plan: that its kernels can compute the model, and that its memory is its own.
pub fn fit(choice: DeviceChoice, config: &ModelConfig, plan: Plan, pinning: Pinning) -> Result<Plan> {
    match choice {
        DeviceChoice::Auto | DeviceChoice::Cpu => Ok(plan),
        DeviceChoice::Cuda(_) => {
            workspace::supports(&config.dims, plan.policy.numeric.shape)?;
            Ok(plan.discrete(pinning))
        }
    }
}

mod cuda {
    use std::path::Path;

    use super::{Backend, CudaOptions, DeviceInfo, KernelsSetting, MakeKernels};
    use crate::base::{Dims, Result, Shape, Status};
    use crate::device::cuda::CudaDevice;
    use crate::device::{Device, Lane};
    use crate::ops::cuda::table::{Attention, Table};
    use crate::ops::cuda::{CudaKernels, measure};
    use crate::sys::cuda::cublaslt::{CublasLt, Handle};
    use crate::sys::cuda::{Driver, api};

    pub use crate::ops::cuda::measure::table;
    pub use crate::sys::cuda::device_count;

    pub fn choose_attention(
        table: &mut Table,
        ordinal: usize,
        dims: &Dims,
        shape: Shape,
        note: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let by = match measure::attention(ordinal, dims, shape) {
            Ok(times) => {
                times.iter().for_each(|times| note(&times.describe(dims, shape)));
                times.iter().min_by_key(|times| times.total_ns()).expect("mma, at least").by
            }
            Err(error) if error.status() == Status::Internal => {
                note(&format!("warning: {}; mma is used. Please report this", error.message()));
                Attention::Mma
            }
            Err(error) => return Err(error),
        };
        table.choose_attention(&Driver::open()?.device_name(ordinal)?, dims.d, by);
        Ok(())
    }

    pub fn infos() -> Vec<DeviceInfo> {
        let open = |ordinal| CudaDevice::open(ordinal, CudaOptions::default());
        let devices = (0..device_count().unwrap_or(0)).filter_map(|ordinal| open(ordinal).ok());
        devices.map(|device| device.info()).collect()
    }

    pub fn missing() -> Vec<String> {
        let errors = match api() {
            Err(error) => [Some(error), None],
            Ok(_) => [CudaDevice::open(0, CudaOptions::default()).err(), CublasLt::open().err()],
        };
        errors.into_iter().flatten().map(|error| error.message().to_string()).collect()
    }

    pub fn open(ordinal: usize, options: CudaOptions, gemm_table: Option<&Path>) -> Result<Backend> {
        let table = gemm_table.map_or(Ok(Table::default()), Table::read)?;
        let device = CudaDevice::open(ordinal, options)?;
        let library = CublasLt::open()?;
        if let Some(path) = gemm_table {
            table.admit(path.display(), &device.properties().name, library.version())?;
        }
        // It takes memory of the device's, so it is made before the device says how much is free.
        let (stream, handle) = (device.stream(Lane::Compute).clone(), Handle::new(library)?);
        let kernels: MakeKernels = Box::new(move |setting: KernelsSetting| {
            let kernels = CudaKernels::new(stream, setting.workspace, handle, table, ordinal)?;
            // What is described now is not looked for inside a step.
            kernels.prepare(&setting.plan.passes.gemms())?;
            Ok(Box::new(kernels))
        });
        Ok(Backend { device, activation_dtype: CudaKernels::ACTIVATION_DTYPE, kernels })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_chosen_by_name() {
        for (text, choice) in [
            ("auto", DeviceChoice::Auto),
            ("cpu", DeviceChoice::Cpu),
            ("cuda", DeviceChoice::Cuda(0)),
            ("cuda:3", DeviceChoice::Cuda(3)),
        ] {
            assert_eq!(text.parse(), Ok(choice));
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CPU"] {
            let error = text.parse::<DeviceChoice>().unwrap_err();
            assert!(error.message().contains(&format!("`{text}`")), "{error}");
        }
    }
}
