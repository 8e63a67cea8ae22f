//! The CUDA kernels under test: on a GPU if there is one, otherwise the emulated kernels of
//! `tests/emulator` on a fake device. Besides the kernels, this tests the arguments of every
//! launch.

use std::sync::Arc;

use horizon::ops::Kernels;
use horizon::ops::cuda::CudaKernels;
use horizon::ops::cuda::table::{Attention, Table, WGMMA_HEADS};
use horizon::ops::cuda::workspace::GEMM_BYTES;
use horizon::sys::cuda::cublaslt::{CublasLt, Handle};
use horizon::sys::cuda::{Driver, Stream, compute_capability, set_device};

use super::memory::Memory;
use crate::fake_cuda::{FakeCuda, Setting, emulated, has_gpu};

/// More than any op of a test needs.
const WORKSPACE_BYTES: usize = GEMM_BYTES + (4 << 20);

/// Kernels with their workspace.
pub struct Cuda {
    kernels: CudaKernels,
    /// The library of GEMMs.
    pub library: Arc<CublasLt>,
    /// The device's name.
    pub device: String,
    _workspace: Memory,
    /// `None` on a GPU.
    fake: Option<FakeCuda>,
}

impl Cuda {
    /// A GPU if there is one, otherwise the emulated kernels if they can be built.
    pub fn all() -> impl Iterator<Item = Self> {
        Cuda::open(Attention::Mma).into_iter()
    }

    /// As [`Cuda::all`], with wgmma attention; empty where that is not supported.
    pub fn by_wgmma() -> impl Iterator<Item = Self> {
        let hopper = !has_gpu() || compute_capability(0).expect("a capability") == (9, 0);
        if !hopper {
            println!("skipped wgmma attention: the GPU's compute capability is not 9.0");
        }
        hopper.then(|| Cuda::open(Attention::Wgmma)).flatten().into_iter()
    }

    fn open(attention: Attention) -> Option<Self> {
        let gpu = has_gpu();
        if !gpu && !emulated::is_there() {
            println!("skipped emulated kernels: HZ_NO_EMULATOR is set, or this build has no kernels");
            return None;
        }
        let fake = (!gpu).then(|| FakeCuda::new(Setting::default()));
        let ordinal = fake.as_ref().map_or(0, FakeCuda::ordinal);
        set_device(ordinal).expect("a device that is there");
        let device =
            Driver::open().and_then(|driver| driver.device_name(ordinal)).expect("the device's name");
        let library = CublasLt::open().expect("cuBLASLt");
        let workspace = Memory::poisoned(WORKSPACE_BYTES).moved_to_cuda();
        let (stream, mut table) = (Arc::new(Stream::default_stream()), Table::default());
        WGMMA_HEADS.iter().for_each(|&head_dim| table.choose_attention(&device, head_dim, attention));
        let handle = Handle::new(library.clone()).expect("a handle");
        let kernels = CudaKernels::new(stream, workspace.span(), handle, table, ordinal).expect("kernels");
        Some(Cuda { kernels, library, device, _workspace: workspace, fake })
    }

    /// Moves memory to the device.
    pub fn here(&self, memory: Memory) -> Memory {
        self.select();
        memory.moved_to_cuda()
    }

    fn select(&self) {
        set_device(self.fake.as_ref().map_or(0, FakeCuda::ordinal)).expect("the device still exists");
    }

    pub fn is_gpu(&self) -> bool {
        self.fake.is_none()
    }

    pub fn name(&self) -> &'static str {
        if self.is_gpu() { "cuda" } else { "emulated cuda" }
    }

    pub fn kernels(&self) -> &CudaKernels {
        &self.kernels
    }

    /// Schedules of the emulator to run (natural order, and by warp priority); on a GPU, two
    /// repetitions.
    pub fn schedules(&self) -> Vec<u64> {
        if self.is_gpu() { vec![0, 1] } else { vec![0, 2] }
    }

    /// Runs a computation and checks that all launches succeed.
    pub fn run(&self, schedule: u64, run: impl Fn(&dyn Kernels) -> Vec<Memory>) -> Vec<Memory> {
        self.select();
        let held = (!self.is_gpu()).then(emulated::hold);
        if held.is_some() {
            emulated::seed(schedule);
        }
        let results = run(&self.kernels);
        self.kernels.outcome().expect("launches that succeed");
        results
    }
}
