//! CUDA status codes: the [`Status`] that each maps to, and the remedy that its message suggests.
//! Compiled in every build, so that messages about drivers are tested without a driver.

use std::fmt;

use crate::base::{Error, Name, Result, Status};

/// `cudaSuccess`.
pub const SUCCESS: u32 = 0;
/// `cudaErrorMemoryAllocation`.
pub const MEMORY_ALLOCATION: u32 = 2;
/// `cudaErrorInsufficientDriver`: no driver, or one that is too old.
pub const INSUFFICIENT_DRIVER: u32 = 35;
/// `cudaErrorDevicesUnavailable`.
pub const DEVICES_UNAVAILABLE: u32 = 46;
/// `cudaErrorNoDevice`.
pub const NO_DEVICE: u32 = 100;
/// `cudaErrorInvalidDevice`.
pub const INVALID_DEVICE: u32 = 101;
/// `cudaErrorNoKernelImageForDevice`.
pub const NO_KERNEL_IMAGE: u32 = 209;
/// `cudaErrorECCUncorrectable`.
pub const ECC_UNCORRECTABLE: u32 = 214;
/// `cudaErrorNvlinkUncorrectable`.
pub const NVLINK_UNCORRECTABLE: u32 = 220;
/// `cudaErrorContained`.
pub const CONTAINED: u32 = 226;
/// `cudaErrorIllegalAddress`.
pub const ILLEGAL_ADDRESS: u32 = 700;
/// `cudaErrorLaunchTimeout`.
pub const LAUNCH_TIMEOUT: u32 = 702;
/// `cudaErrorHostMemoryAlreadyRegistered`.
pub const HOST_MEMORY_REGISTERED: u32 = 712;
/// `cudaErrorLaunchFailure`.
pub const LAUNCH_FAILURE: u32 = 719;
/// `cudaErrorNotPermitted`.
pub const NOT_PERMITTED: u32 = 800;
/// `cudaErrorNotSupported`.
pub const NOT_SUPPORTED: u32 = 801;
/// `cudaErrorSystemNotReady`.
pub const SYSTEM_NOT_READY: u32 = 802;
/// `cudaErrorSystemDriverMismatch`.
pub const DRIVER_MISMATCH: u32 = 803;
/// `cudaErrorUnknown`: also returned for a device that has fallen off the bus.
pub const UNKNOWN: u32 = 999;

/// The error "cannot `what`: `text`" with a remedy. `text` is CUDA's name and description of the
/// code.
pub fn error(code: u32, what: impl fmt::Display, text: impl fmt::Display) -> Error {
    let (status, remedy) = meaning(code);
    Error::new(status, format!("cannot {what}: {text}{remedy}"))
}

/// As [`error`], for calls that page-lock host memory: out of memory then refers to the host.
pub fn pinning_error(code: u32, what: impl fmt::Display, text: impl fmt::Display) -> Error {
    let status = match code {
        MEMORY_ALLOCATION => Status::OutOfHostMemory,
        NOT_PERMITTED | NOT_SUPPORTED | HOST_MEMORY_REGISTERED => Status::Unsupported,
        _ => return error(code, what, text),
    };
    let pinning = Name::Pinning;
    Error::new(
        status,
        format!(
            "cannot {what}: {text}; free host memory, raise the limit on locked memory (ulimit -l, the container's \
             limit), or use the other {pinning} ({}, {})",
            pinning.value("registered"),
            pinning.value("allocated")
        ),
    )
}

fn meaning(code: u32) -> (Status, &'static str) {
    match code {
        MEMORY_ALLOCATION => (
            Status::OutOfDeviceMemory,
            "; nvidia-smi shows which processes use the device; shorter sequences or a smaller micro-batch need less",
        ),
        NO_DEVICE | INSUFFICIENT_DRIVER | INVALID_DEVICE => (Status::DeviceUnavailable, ""),
        DEVICES_UNAVAILABLE => (
            Status::DeviceUnavailable,
            "; another process has exclusive use of the device, or compute mode is prohibited: see nvidia-smi",
        ),
        NO_KERNEL_IMAGE => (
            Status::DeviceUnavailable,
            "; this library was built for other devices: rebuild it with HZ_CUDA_ARCH set for this device",
        ),
        SYSTEM_NOT_READY | DRIVER_MISMATCH => (
            Status::DeviceUnavailable,
            "; the versions of driver, its libraries or fabric manager do not match: restart the machine or its services",
        ),
        ECC_UNCORRECTABLE | NVLINK_UNCORRECTABLE | CONTAINED | UNKNOWN => (
            Status::DeviceFailed,
            "; the device is lost to this process: resume from the last checkpoint in a new process; if it \
             happens again, look for Xid messages in dmesg and check nvidia-smi",
        ),
        NOT_SUPPORTED => (Status::Unsupported, ""),
        _ => (Status::DeviceFailed, ""),
    }
}

/// CUDA versions, as 1000 · major + 10 · minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The newest CUDA version that the driver supports; 0 without a driver.
    pub driver: i32,
    /// The version of the runtime linked into this library.
    pub runtime: i32,
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = (self.runtime / 1000, self.runtime % 1000 / 10);
        match self.driver {
            0 => write!(f, "there is no driver; this library needs one for CUDA {major}.{minor}"),
            driver => write!(
                f,
                "the driver supports CUDA {}.{}, this library needs {major}.{minor}",
                driver / 1000,
                driver % 1000 / 10
            ),
        }
    }
}

/// The result of querying CUDA for a driver and devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// The versions of driver and runtime.
    pub versions: Versions,
    /// The status of `cudaGetDeviceCount`.
    pub code: u32,
    /// CUDA's name and description of `code`.
    pub text: String,
    /// The number of devices; valid if `code` is [`SUCCESS`].
    pub count: usize,
}

impl Presence {
    /// The number of devices: 0 if there is no device, no driver, or a driver that is too old. Any
    /// other failure is an error.
    pub fn devices(&self) -> Result<usize> {
        match self.code {
            SUCCESS => Ok(self.count),
            NO_DEVICE | INSUFFICIENT_DRIVER => Ok(0),
            code => Err(error(code, "count CUDA devices", &self.text)),
        }
    }

    /// Refuses a device that does not exist (`DeviceUnavailable`); the message says what was found
    /// and what to do.
    pub fn admit(&self, device: usize) -> Result<()> {
        let (versions, text) = (self.versions, &self.text);
        let found = match self.code {
            SUCCESS if device < self.count => return Ok(()),
            _ if versions.driver == 0 => {
                format!("{versions} ({text}): install NVIDIA's driver, or make it visible in the container")
            }
            SUCCESS if self.count > 0 => format!("available devices are cuda:0 to cuda:{}", self.count - 1),
            SUCCESS | NO_DEVICE => format!(
                "the driver reports no device ({text}): see nvidia-smi, and CUDA_VISIBLE_DEVICES, which may hide it"
            ),
            INSUFFICIENT_DRIVER => {
                format!("{versions} ({text}): install a newer driver, or NVIDIA's package cuda-compat")
            }
            _ => format!("{versions}: {text}"),
        };
        Err(Error::new(
            Status::DeviceUnavailable,
            format!("{} is not available: {found}{}", Name::cuda_device(device), Name::without_gpu()),
        ))
    }
}
