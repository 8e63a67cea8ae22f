//! The report of `horizon info` on CUDA: driver, libraries, devices and missing requirements.

use std::path::PathBuf;

use serde::Serialize;

use crate::base::{Front, Message, Result};
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
    /// Architectures that the kernels are built for, e.g. `sm_90a`; `None` in a build without
    /// kernels.
    pub targets: Option<&'static str>,
    /// The CUDA version that this library was built with.
    pub runtime: Option<String>,
    /// The newest CUDA version that the driver supports; `None` without a driver.
    pub driver: Option<String>,
    /// cuBLASLt, if it was found.
    pub cublaslt: Option<Library>,
    /// The usable devices.
    pub devices: Vec<CudaDeviceReport>,
    /// Missing requirements, each with its remedy, for users of the command.
    pub missing: Vec<String>,
}

/// A library loaded at run time.
#[derive(Clone, Debug, Serialize)]
pub struct Library {
    /// Its version number, e.g. 130101 for 13.1.1.
    pub version: usize,
    /// The path that was passed to the dynamic loader.
    pub path: PathBuf,
}

/// A CUDA device.
#[derive(Clone, Debug, Serialize)]
pub struct CudaDeviceReport {
    /// Ordinal and name, e.g. `cuda:0 (NVIDIA H200)`.
    pub name: String,
    /// E.g. `9.0`.
    pub compute_capability: String,
    /// Bytes of device memory.
    pub memory_bytes: usize,
    /// Bytes of free device memory.
    pub memory_free_bytes: usize,
    /// The NUMA node of the device, if the system reports one.
    pub node: Option<u32>,
    /// The attention kernel for head sizes 64 and 128, unless an autotune table selects another.
    /// Other head sizes use `mma`.
    pub attention: Attention,
    /// True if CUDA streams wait for host threads with stream memory operations.
    pub stream_memory_operations: bool,
}

impl CudaReport {
    /// Inspects this machine. Creates a context on each device, which takes a moment.
    pub fn read() -> CudaReport {
        let version = |number: i32| (number > 0).then(|| format!("{}.{}", number / 1000, number % 1000 / 10));
        let versions = versions().ok();
        let shown = |message: Message| message.render(Front::Command).into_owned();
        let mut missing: Vec<String> = missing_for_cuda().into_iter().map(shown).collect();
        let mut devices = Vec::new();
        for ordinal in 0..device_count().unwrap_or(0) {
            match CudaDeviceReport::read(ordinal) {
                Ok(device) => devices.push(device),
                Err(error) => {
                    let message = shown(error.into_message());
                    if !missing.contains(&message) {
                        missing.push(message);
                    }
                }
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
    /// Opens and inspects a device.
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
