//! Our CUDA kernels under test: on the emulated device of `tests/emulator`, by the launchers and the cuBLASLt of its library,
//! and on a GPU. What is tested here beside the kernels is how they are called: every argument in its place.

use std::sync::{Arc, Mutex, PoisonError};

use horizon::ops::Kernels;
use horizon::ops::cuda::CudaKernels;
use horizon::ops::cuda::table::{Attention, Table, WGMMA_HEADS};
use horizon::ops::cuda::workspace::PRODUCTS_BYTES;
use horizon::sys::cuda::cublaslt::CublasLt;
use horizon::sys::cuda::{
    Driver, Launchers, Stream, compute_capability, device_count, need_device, set_device,
};

use super::memory::Memory;
use crate::emulator;

/// More than any operation of a test asks for.
const WORKSPACE_BYTES: usize = PRODUCTS_BYTES + (4 << 20);

/// The emulator's state is the process's: one launch at a time.
static EMULATOR: Mutex<()> = Mutex::new(());

/// Kernels, and the memory they work in.
pub struct Cuda {
    kernels: CudaKernels,
    /// What products are made by, and for which device.
    pub library: Arc<CublasLt>,
    pub device: String,
    _workspace: Memory,
    seed: Option<unsafe extern "C" fn(u64)>,
}

impl Cuda {
    /// The emulated device where it is to be built, and a GPU if there is one.
    pub fn all() -> impl Iterator<Item = Self> {
        let emulated = emulates().then(Cuda::emulated);
        emulated.into_iter().chain(Cuda::gpu(Attention::Mma))
    }

    /// The same where attention can be by wgmma, which it is then.
    pub fn by_wgmma() -> impl Iterator<Item = Self> {
        let emulated = emulates().then(|| Cuda::emulated_by(Attention::Wgmma));
        let is_hopper = |cuda: &Cuda| {
            let hopper = compute_capability(0).expect("a capability") == (9, 0);
            println!("attention by wgmma on {}: {}", cuda.device, if hopper { "tested" } else { "skipped" });
            hopper
        };
        emulated.into_iter().chain(Cuda::gpu(Attention::Wgmma).filter(is_hopper))
    }

    /// On the emulated device.
    ///
    /// # Panics
    /// If its library cannot be made: the toolkit that compiled the kernels is all it needs beside a C++ compiler.
    pub fn emulated() -> Self {
        Cuda::emulated_by(Attention::Mma)
    }

    fn emulated_by(attention: Attention) -> Self {
        let library = emulator::library();
        let (launchers, products) = emulated();
        let path = std::ffi::CString::new(library.to_str().expect("a path")).expect("a path");
        // SAFETY: the library is open already, and stays so; the symbol has this type in library.cc.
        let seed = unsafe {
            let open = libc::dlopen(path.as_ptr(), libc::RTLD_LAZY);
            let symbol = libc::dlsym(open, c"hz_emulated_seed".as_ptr());
            std::mem::transmute::<*mut libc::c_void, Option<unsafe extern "C" fn(u64)>>(symbol)
        };
        assert!(seed.is_some(), "{path:?} lacks hz_emulated_seed");
        let workspace = Memory::painted(WORKSPACE_BYTES);
        Cuda::of(launchers, products, "emulated".to_string(), attention, workspace, seed)
    }

    /// On the first GPU, if there is one.
    ///
    /// # Panics
    /// If there is none and `HZ_REQUIRE_GPU` is 1.
    fn gpu(attention: Attention) -> Option<Self> {
        if device_count().expect("a count of devices") == 0 {
            let why = need_device(0).expect_err("no device");
            let must = std::env::var_os("HZ_REQUIRE_GPU").is_some_and(|value| value == "1");
            assert!(!must, "HZ_REQUIRE_GPU=1, but {why}");
            println!("skipped on a GPU: {why}");
            return None;
        }
        set_device(0).expect("the first device");
        let device = Driver::open().and_then(|driver| driver.device_name(0)).expect("the device's name");
        let library = CublasLt::open().expect("cuBLASLt");
        let workspace = Memory::painted(WORKSPACE_BYTES).moved_to_cuda();
        Some(Cuda::of(Launchers::linked(), library, device, attention, workspace, None))
    }

    fn of(
        launchers: Launchers,
        library: Arc<CublasLt>,
        device: String,
        attention: Attention,
        workspace: Memory,
        seed: Option<unsafe extern "C" fn(u64)>,
    ) -> Self {
        let (stream, mut table) = (Arc::new(Stream::default_stream()), Table::default());
        WGMMA_HEADS.iter().for_each(|&head_dim| table.choose_attention(&device, head_dim, attention));
        let kernels =
            CudaKernels::of(launchers, stream, workspace.span(), library.clone(), table, device.clone());
        Cuda { kernels: kernels.expect("kernels"), library, device, _workspace: workspace, seed }
    }

    /// Memory where the device can use it.
    pub fn here(&self, memory: Memory) -> Memory {
        if self.is_gpu() { memory.moved_to_cuda() } else { memory }
    }

    pub fn is_gpu(&self) -> bool {
        self.seed.is_none()
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
        // A test that failed while it held the lock left nothing half done.
        let _one = EMULATOR.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seed) = self.seed {
            // SAFETY: a function of one number, called by one thread at a time.
            unsafe { seed(schedule) };
        }
        let results = run(&self.kernels);
        self.kernels.outcome().expect("launches that succeed");
        results
    }
}

/// Whether there is an emulated device: not where `HZ_NO_EMULATOR` says that there is no compiler to build it with.
pub fn emulates() -> bool {
    std::env::var_os("HZ_NO_EMULATOR").is_none()
}

/// The launchers and the cuBLASLt of the emulated device, which run work as it is queued.
pub fn emulated() -> (Launchers, Arc<CublasLt>) {
    let library = emulator::library();
    // SAFETY: the library is made of csrc's launchers and of memory calls of CUDA's types.
    let launchers = unsafe { Launchers::of_library(library) }.expect("the emulated device's library");
    (launchers, CublasLt::open_from(&[library.to_path_buf()]).expect("the emulated cuBLASLt"))
}
