//! Our CUDA kernels under test: on a GPU where there is one, and else the emulated kernels of `tests/emulator` on a fake
//! device. What is tested here besides the kernels is how they are called: every argument in its place.

use std::sync::Arc;

use horizon::ops::Kernels;
use horizon::ops::cuda::CudaKernels;
use horizon::ops::cuda::table::{Attention, Table, WGMMA_HEADS};
use horizon::ops::cuda::workspace::GEMM_BYTES;
use horizon::sys::cuda::cublaslt::{CublasLt, Handle};
use horizon::sys::cuda::{Driver, Stream, compute_capability, set_device};

use super::memory::Memory;
use crate::fake_cuda::{FakeCuda, Setting, emulated, has_gpu};

/// More than any operation of a test asks for.
const WORKSPACE_BYTES: usize = GEMM_BYTES + (4 << 20);

/// Kernels, and the memory they work in.
pub struct Cuda {
    kernels: CudaKernels,
    /// What products are made by, and for which device.
    pub library: Arc<CublasLt>,
    pub device: String,
    _workspace: Memory,
    /// None on a GPU.
    fake: Option<FakeCuda>,
}

impl Cuda {
    /// A GPU if there is one, else the emulated kernels where they can be built.
    pub fn all() -> impl Iterator<Item = Self> {
        Cuda::open(Attention::Mma).into_iter()
    }

    /// The same where attention can be by wgmma, which it is then.
    pub fn by_wgmma() -> impl Iterator<Item = Self> {
        let hopper = !has_gpu() || compute_capability(0).expect("a capability") == (9, 0);
        if !hopper {
            println!("skipped on a GPU that has no wgmma");
        }
        hopper.then(|| Cuda::open(Attention::Wgmma)).flatten().into_iter()
    }

    fn open(attention: Attention) -> Option<Self> {
        let gpu = has_gpu();
        if !gpu && !emulated::is_there() {
            println!("skipped on emulated kernels: HZ_NO_EMULATOR is set, or this build has no kernels");
            return None;
        }
        let fake = (!gpu).then(|| FakeCuda::new(Setting::default()));
        let ordinal = fake.as_ref().map_or(0, FakeCuda::ordinal);
        set_device(ordinal).expect("a device that is there");
        let device =
            Driver::open().and_then(|driver| driver.device_name(ordinal)).expect("the device's name");
        let library = CublasLt::open().expect("cuBLASLt");
        let workspace = Memory::painted(WORKSPACE_BYTES).moved_to_cuda();
        let (stream, mut table) = (Arc::new(Stream::default_stream()), Table::default());
        WGMMA_HEADS.iter().for_each(|&head_dim| table.choose_attention(&device, head_dim, attention));
        let handle = Handle::new(library.clone()).expect("a handle");
        let kernels = CudaKernels::new(stream, workspace.span(), handle, table, ordinal).expect("kernels");
        Some(Cuda { kernels, library, device, _workspace: workspace, fake })
    }

    /// Memory where the device can use it.
    pub fn here(&self, memory: Memory) -> Memory {
        self.select();
        memory.moved_to_cuda()
    }

    fn select(&self) {
        set_device(self.fake.as_ref().map_or(0, FakeCuda::ordinal)).expect("it was there");
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

    /// Seeds of the emulator's schedule (natural, and by warps' priorities), or just runs.
    pub fn schedules(&self) -> Vec<u64> {
        if self.is_gpu() { vec![0, 1] } else { vec![0, 2] }
    }

    /// Runs a computation whose launches all succeed.
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
