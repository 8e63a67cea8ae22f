//! Backends: a device together with its kernels. Also the choice of a device by name, and its
//! autotune.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::base::format::shortened;
use crate::base::{DType, Error, Message, Name, Result, Shape};
use crate::device::cpu::CpuDevice;
use crate::device::cuda::CudaOptions;
use crate::device::{Device, DeviceInfo, DeviceSpan};
use crate::engine::TrainerOptions;
use crate::host::{Pinning, Pool};
use crate::model::{Layout, ModelConfig, Passes, Sizes};
use crate::ops::Kernels;
use crate::ops::cpu::CpuKernels;
use crate::ops::cuda::table::Table;
use crate::plan::Plan;
use crate::schedule::Numeric;

/// The device to train on: `auto`, `cpu`, `cuda` or `cuda:N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first CUDA device if there is one and its kernels support the model, otherwise the CPU.
    Auto,
    /// The CPU of this machine.
    #[default]
    Cpu,
    /// A CUDA device, by its ordinal.
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
                let text = shortened(text);
                Error::argument(format!("there is no device `{text}`: write auto, cpu, cuda or cuda:N"))
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
    /// Replaces `auto` by a device of this machine, for a model and the shape of its micro-batches.
    ///
    /// Errors: CUDA is installed and cannot count its devices.
    pub fn resolve(self, config: &ModelConfig, shape: Shape) -> Result<DeviceChoice> {
        let first = self.or_first()?;
        let fits = self == first || first.supports(config, shape).is_ok();
        Ok(if fits { first } else { DeviceChoice::Cpu })
    }

    /// Replaces `auto` by the first CUDA device of this machine, or by the CPU if there is none.
    fn or_first(self) -> Result<DeviceChoice> {
        Ok(match self {
            DeviceChoice::Auto if cuda::device_count()? > 0 => DeviceChoice::Cuda(0),
            DeviceChoice::Auto => DeviceChoice::Cpu,
            other => other,
        })
    }

    /// Fails, as [`Backend::open`] would, if the chosen CUDA device does not exist.
    pub(super) fn require(self) -> Result<()> {
        match self {
            DeviceChoice::Cuda(ordinal) if cuda::device_count()? <= ordinal => {
                cuda::open(ordinal, CudaOptions::default(), None).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Checks that the kernels of a [resolved](DeviceChoice::resolve) device support a model and the
    /// shape of its micro-batches (`Unsupported`).
    pub fn supports(self, config: &ModelConfig, shape: Shape) -> Result<()> {
        match self {
            DeviceChoice::Auto | DeviceChoice::Cpu => Ok(()),
            DeviceChoice::Cuda(_) => config.check_cuda(shape),
        }
    }

    /// The activation dtype of a [resolved](DeviceChoice::resolve) device.
    pub fn activation_dtype(self) -> DType {
        match self {
            DeviceChoice::Auto | DeviceChoice::Cpu => CpuKernels::ACTIVATION_DTYPE,
            DeviceChoice::Cuda(_) => DType::Bf16,
        }
    }
}

/// The devices of this machine that can train: the CPU, then CUDA devices.
pub fn devices() -> Vec<DeviceInfo> {
    std::iter::once(CpuDevice::new(None).info()).chain(cuda::infos()).collect()
}

/// Describes a device that can train. `auto` is the device that trainers choose for models that
/// CUDA kernels support.
///
/// Errors: `DeviceUnavailable`, with the missing requirement and its remedy.
pub fn device_info(choice: DeviceChoice) -> Result<DeviceInfo> {
    match choice.or_first()? {
        DeviceChoice::Cuda(ordinal) => cuda::info(ordinal),
        DeviceChoice::Auto | DeviceChoice::Cpu => Ok(CpuDevice::new(None).info()),
    }
}

/// The number of CUDA devices that the driver shows to this process, whether they can train or not;
/// 0 if there is no driver, or no CUDA in this build.
///
/// Errors: CUDA is installed and cannot count its devices.
pub fn cuda_device_count() -> Result<usize> {
    cuda::device_count()
}

/// Missing requirements of CUDA, one sentence each, with the remedy; empty if there are none.
pub fn missing_for_cuda() -> Vec<Message> {
    cuda::missing()
}

/// Autotunes a CUDA device: for every GEMM shape of the model under these options, finds the
/// fastest cuBLASLt algorithm; for its attention, the fastest kernel. Returns the table for
/// [`TrainerOptions::gemm_table`]. `note` receives messages for people: the times of attention, and
/// a warning if its kernels disagree.
///
/// Errors: the chosen device is not a CUDA device (`InvalidArgument`), does not exist, or does not
/// support the model; an option has an invalid value.
pub fn autotune(config: &ModelConfig, options: &TrainerOptions, note: &mut dyn FnMut(&str)) -> Result<Table> {
    let DeviceChoice::Cuda(ordinal) = options.device else {
        return Err(Error::argument(format!(
            "a GEMM autotune table needs a CUDA device, not `{}`: use {} or cuda:N",
            options.device,
            Name::Device.is("cuda")
        )));
    };
    config.validate()?;
    options.device.supports(config, options.shape)?;
    let layout = Layout::new(config);
    let numeric = options.numeric(&layout, options.device.activation_dtype())?;
    let Numeric { shape, logits_chunk, .. } = numeric;
    let sizes = Sizes { shape, logits_chunk, activation_dtype: options.device.activation_dtype() };
    let gemms = Passes::new(config, &layout, sizes).gemms();
    let mut table = cuda::table(ordinal, &gemms)?;
    cuda::choose_attention(&mut table, ordinal, &config.dims, numeric.shape, note)?;
    Ok(table)
}

/// The arguments of [`MakeKernels`].
pub struct KernelsSetting<'a> {
    /// The thread pool of the host lane, which CPU kernels share.
    pub pool: &'a Arc<Pool>,
    /// The plan's workspace region, allocated.
    pub workspace: DeviceSpan,
    /// The plan, with all shapes that the kernels will run.
    pub plan: &'a Plan,
}

/// Makes kernels, after the device arena is allocated.
pub type MakeKernels = Box<dyn FnOnce(KernelsSetting<'_>) -> Result<Box<dyn Kernels>> + Send>;

/// A device and its kernels.
pub struct Backend {
    /// The device, opened.
    pub(super) device: Arc<dyn Device>,
    /// The activation dtype of the kernels.
    pub(super) activation_dtype: DType,
    /// Makes the kernels.
    pub(super) kernels: MakeKernels,
}

impl Backend {
    /// An opened device and kernels for it with this activation dtype.
    ///
    /// # Safety
    /// The kernels made by `kernels` can access memory of the device. They may use the workspace
    /// exclusively until they are dropped, and must not keep it longer.
    #[allow(unsafe_code)]
    pub unsafe fn new(device: Arc<dyn Device>, activation_dtype: DType, kernels: MakeKernels) -> Backend {
        Backend { device, activation_dtype, kernels }
    }

    /// Opens the device that the options choose, [resolved](DeviceChoice::resolve).
    ///
    /// Errors: `DeviceUnavailable`, with the missing requirement and its remedy; a GEMM autotune
    /// table that cannot be read or was made for another device.
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
            // Device memory is host memory here, so a limit of host memory holds, too.
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

/// Adapts a plan to a resolved device: a CUDA device has memory of its own.
///
/// Errors: its kernels do not support the model.
pub fn plan_on(choice: DeviceChoice, config: &ModelConfig, plan: Plan, pinning: Pinning) -> Result<Plan> {
    choice.supports(config, plan.policy.numeric.shape)?;
    Ok(match choice {
        DeviceChoice::Auto | DeviceChoice::Cpu => plan,
        DeviceChoice::Cuda(_) => plan.discrete(pinning),
    })
}

mod cuda {
    use std::path::Path;

    use super::{Backend, CudaOptions, DeviceInfo, KernelsSetting, MakeKernels};
    use crate::base::{Dims, Error, Message, Result, Shape, Status};
    use crate::device::cuda::CudaDevice;
    use crate::device::{Device, Lane};
    use crate::ops::cuda::attention::wgmma_heads;
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

    pub fn info(ordinal: usize) -> Result<DeviceInfo> {
        let device = CudaDevice::open(ordinal, CudaOptions::default())?;
        CublasLt::open()?;
        Ok(device.info())
    }

    pub fn infos() -> Vec<DeviceInfo> {
        (0..device_count().unwrap_or(0)).filter_map(|ordinal| info(ordinal).ok()).collect()
    }

    pub fn missing() -> Vec<Message> {
        let errors = match api() {
            Err(error) => [Some(error), None],
            Ok(_) => [CudaDevice::open(0, CudaOptions::default()).err(), CublasLt::open().err()],
        };
        errors.into_iter().flatten().map(Error::into_message).collect()
    }

    pub fn open(ordinal: usize, options: CudaOptions, gemm_table: Option<&Path>) -> Result<Backend> {
        let mut table = gemm_table.map_or(Ok(Table::default()), Table::read)?;
        let device = CudaDevice::open(ordinal, options)?;
        let library = CublasLt::open()?;
        if let Some(path) = gemm_table {
            let name = &device.properties().name;
            table.admit(path.display(), name, library.version())?;
            // Refuses attention kernels that the device does not have.
            wgmma_heads(&mut table, name, ordinal)?;
        }
        // The handle takes device memory, so it is made before free device memory is read.
        let (stream, handle) = (device.stream(Lane::Compute).clone(), Handle::new(library)?);
        let kernels: MakeKernels = Box::new(move |setting: KernelsSetting| {
            let kernels = CudaKernels::new(stream, setting.workspace, handle, table, ordinal)?;
            // Selects all GEMM algorithms now, so that no step searches for one.
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
    fn devices_parse_and_print() {
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
