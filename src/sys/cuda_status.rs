//! CUDA's status numbers: which of our statuses each is, and what a person can do about it. In every build, so that
//! what is said of a driver can be tested without one.

use std::fmt;

use crate::base::{Error, Result, Status};

/// `cudaSuccess`.
pub const SUCCESS: u32 = 0;
/// `cudaErrorMemoryAllocation`.
pub const MEMORY_ALLOCATION: u32 = 2;
/// `cudaErrorInsufficientDriver`: there is no driver, or it is too old.
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
/// `cudaErrorUnknown`: also what a device answers that has fallen off the bus.
pub const UNKNOWN: u32 = 999;

/// The error of a call that did not do `what`. `text` is CUDA's own name and text for the number.
pub fn error(code: u32, what: impl fmt::Display, text: impl fmt::Display) -> Error {
    let (status, remedy) = meaning(code);
    Error::new(status, format!("cannot {what}: {text}{remedy}"))
}

/// As [`error`], of a call that page-locks host memory: what runs out there is the host's.
pub fn pinning_error(code: u32, what: impl fmt::Display, text: impl fmt::Display) -> Error {
    let status = match code {
        MEMORY_ALLOCATION => Status::OutOfHostMemory,
        NOT_PERMITTED | NOT_SUPPORTED | HOST_MEMORY_REGISTERED => Status::Unsupported,
        _ => return error(code, what, text),
    };
    Error::new(
        status,
        format!(
            "cannot {what}: {text}; free host memory or raise the limits on locked memory (ulimit -l, the \
             container's), or choose the other way of pinning"
        ),
    )
}

fn meaning(code: u32) -> (Status, &'static str) {
    match code {
        MEMORY_ALLOCATION => (
            Status::OutOfDeviceMemory,
            "; nvidia-smi shows who else uses the device; shorter sequences or a smaller micro-batch need less",
        ),
        NO_DEVICE | INSUFFICIENT_DRIVER | INVALID_DEVICE => (Status::DeviceUnavailable, ""),
        DEVICES_UNAVAILABLE => (
            Status::DeviceUnavailable,
            "; another process holds the device alone, or it is switched off: see nvidia-smi",
        ),
        NO_KERNEL_IMAGE => (
            Status::DeviceUnavailable,
            "; this library was built for other devices: build it with HZ_CUDA_ARCH naming this one",
        ),
        SYSTEM_NOT_READY | DRIVER_MISMATCH => (
            Status::DeviceUnavailable,
            "; driver, its libraries or the fabric manager do not fit together: restart the machine or its services",
        ),
        ECC_UNCORRECTABLE | NVLINK_UNCORRECTABLE | CONTAINED | UNKNOWN => (
            Status::DeviceFailed,
            "; the device is lost to this process: open the trainer again in a new process from the last \
             checkpoint, and look for Xid messages (dmesg) and at nvidia-smi if it happens again",
        ),
        NOT_SUPPORTED => (Status::Unsupported, ""),
        _ => (Status::DeviceFailed, ""),
    }
}

/// CUDA's version numbers: 1000 · major + 10 · minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The newest CUDA that the driver serves; 0 without a driver.
    pub driver: i32,
    /// The runtime linked into this library.
    pub runtime: i32,
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = (self.runtime / 1000, self.runtime % 1000 / 10);
        match self.driver {
            0 => write!(f, "there is no driver; this library needs one for CUDA {major}.{minor}"),
            driver => write!(
                f,
                "the driver serves CUDA {}.{}, this library needs {major}.{minor}",
                driver / 1000,
                driver % 1000 / 10
            ),
        }
    }
}

/// What CUDA says of drivers and devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Of driver and runtime.
    pub versions: Versions,
    /// How counting the devices went.
    pub code: u32,
    /// CUDA's name and text of `code`.
    pub text: String,
    /// Number of devices, where counting went well.
    pub count: usize,
}

impl Presence {
    /// Number of devices: 0 where there is none, no driver, or one that is too old. Errors: anything else.
    pub fn devices(&self) -> Result<usize> {
        match self.code {
            SUCCESS => Ok(self.count),
            NO_DEVICE | INSUFFICIENT_DRIVER => Ok(0),
            code => Err(error(code, "count CUDA devices", &self.text)),
        }
    }

    /// Refuses a device that is not there, with what is and what to do (`DeviceUnavailable`).
    pub fn admit(&self, device: usize) -> Result<()> {
        let (versions, text) = (self.versions, &self.text);
        let found = match self.code {
            SUCCESS if device < self.count => return Ok(()),
            _ if versions.driver == 0 => {
                format!("{versions} ({text}): install NVIDIA's driver, or let the container see it")
            }
            SUCCESS if self.count > 0 => format!("the devices are cuda:0 to cuda:{}", self.count - 1),
            SUCCESS | NO_DEVICE => format!(
                "the driver shows no device ({text}): see nvidia-smi, and CUDA_VISIBLE_DEVICES, which may hide it"
            ),
            INSUFFICIENT_DRIVER => {
                format!("{versions} ({text}): install a newer driver, or NVIDIA's package cuda-compat")
            }
            _ => format!("{versions}: {text}"),
        };
        Err(Error::new(
            Status::DeviceUnavailable,
            format!("device cuda:{device} is not there: {found}; --device cpu runs without"),
        ))
    }
}
