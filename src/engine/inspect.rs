//! CUDA as this library finds it, for people: `horizon info`.

use std::path::PathBuf;

use serde::Serialize;

use crate::base::Result;
use crate::device::Device;
use crate::device::cuda::{CudaDevice, CudaOptions};
use crate::engine::missing_for_cuda;
use crate::ops::cuda::attention::has_wgmma;
use crate::ops::cuda::table::Attention;
use crate::sys::cuda::cublaslt::CublasLt;
use crate::sys::cuda::{device_count, memory_info, versions};

/// Driver, libraries and devices.
#[derive(Clone, Debug, Serialize)]
pub struct CudaReport {
    /// Targets that the kernels are built for, e.g. `sm_90a`; none in a build without kernels.
    pub targets: Option<&'static str>,
    /// CUDA's version that the library is built with.
    pub runtime: Option<String>,
    /// The newest version that the driver serves; none without a driver.
    pub driver: Option<String>,
    /// cuBLASLt, if it is found.
    pub cublaslt: Option<Library>,
    /// The devices that can be used.
    pub devices: Vec<CudaDeviceReport>,
    /// Missing requirements, each with its remedy.
    pub missing: Vec<String>,
}

/// A library that is opened at run time.
#[derive(Clone, Debug, Serialize)]
pub struct Library {
    /// Its own number, e.g. 130101 for 13.1.1.
    pub version: usize,
    /// The place, as the dynamic loader was given it.
    pub path: PathBuf,
}

/// A device, and how it is used.
#[derive(Clone, Debug, Serialize)]
pub struct CudaDeviceReport {
    /// Number and name, e.g. `cuda:0 (NVIDIA H200)`.
    pub name: String,
    /// E.g. `9.0`.
    pub compute_capability: String,
    /// Bytes of its memory.
    pub memory_bytes: usize,
    /// Bytes that are free.
    pub memory_free_bytes: usize,
    /// The NUMA node it is attached to, where the system tells.
    pub node: Option<u32>,
    /// The attention kernel for heads of 64 and 128, unless an autotune table chooses another; other heads take `mma`.
    pub attention: Attention,
    /// Whether streams wait for host threads by stream memory operations.
    pub stream_memory_operations: bool,
}

impl CudaReport {
    /// Looks at this machine. Takes a moment where there is a device, whose context is made.
    pub fn read() -> CudaReport {
        let version = |number: i32| (number > 0).then(|| format!("{}.{}", number / 1000, number % 1000 / 10));
        let versions = versions().ok();
        let mut missing = missing_for_cuda();
        let mut devices = Vec::new();
        for ordinal in 0..device_count().unwrap_or(0) {
            match CudaDeviceReport::read(ordinal) {
                Ok(device) => devices.push(device),
                Err(error) if missing.iter().any(|known| known == error.message()) => {}
                Err(error) => missing.push(error.message().to_owned()),
            }
        }
        CudaReport {
            targets: option_env!("HZ_CUDA_TARGETS"),
            runtime: versions.and_then(|versions| version(versions.runtime)),
            driver: versions.and_then(|versions| version(versions.driver)),
            cublaslt: CublasLt::open()
                .ok()
                .map(|library| Library { version: library.version(), path: library.place().to_owned() }),
            devices,
            missing,
        }
    }
}

impl CudaDeviceReport {
    /// Opens a device and asks it.
    fn read(ordinal: usize) -> Result<CudaDeviceReport> {
        let device = CudaDevice::open(ordinal, CudaOptions::default())?;
        let (major, minor) = device.properties().compute_capability;
        let (memory_free_bytes, memory_bytes) = memory_info()?;
        Ok(CudaDeviceReport {
            name: device.info().name,
            compute_capability: format!("{major}.{minor}"),
            memory_bytes,
            memory_free_bytes,
            node: device.node(),
            attention: if has_wgmma(ordinal)? { Attention::Wgmma } else { Attention::Mma },
            stream_memory_operations: device.has_words()?,
        })
    }
}
