//! [`Kernels`] on CUDA: the launchers of `csrc/kernels.h` and cuBLASLt, bf16 activations, one CUDA
//! stream.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::base::{DType, Error, Result};
use crate::device::DeviceSpan;
use crate::ops::cuda::address::base;
use crate::ops::cuda::attention::wgmma_heads;
use crate::ops::cuda::gemm::Gemm;
use crate::ops::cuda::heads::HeadColumns;
use crate::ops::cuda::matmul::Gemms;
use crate::ops::cuda::table::Table;
use crate::ops::cuda::workspace::{ALIGNMENT, GEMM_BYTES};
use crate::ops::{Contract, Heads, Kernels, Op, Write};
use crate::sys::cuda::cublaslt::Handle;
use crate::sys::cuda::{self, Api, Driver, Stream, api, fill};

/// [`Kernels`] that queue their work on a CUDA stream and return. [`Kernels::outcome`] returns the
/// first failed launch; later ops are still queued, and their results are invalid.
pub struct CudaKernels {
    pub(in crate::ops) api: &'static Api,
    pub(in crate::ops) stream: Arc<Stream>,
    gemms: Gemms,
    /// Head dimensions that use wgmma attention.
    pub(in crate::ops) by_wgmma: Vec<usize>,
    scratch: DeviceSpan,
    failed: Mutex<Option<Error>>,
}

/// Calls a launcher on the kernels' CUDA stream and stores its failure.
macro_rules! launch {
    ($kernels:ident.$launcher:ident($($argument:expr),* $(,)?)) => {
        $crate::ops::cuda::launch!(
            $kernels, ($kernels.api.kernels.$launcher, stringify!($launcher)), $($argument,)*
        )
    };
    ($kernels:ident, $launcher:expr, $($argument:expr),* $(,)?) => {{
        let (launcher, name) = $launcher;
        // SAFETY: every address comes from `address`, which compared its span with the bytes that the launcher
        // accesses; the caller of `run` has access to them (the rules of `ops`), and nothing else uses the
        // scratch memory.
        let launch = |stream| $crate::sys::cuda::launched(unsafe { launcher($($argument,)* stream) }, name);
        $kernels.keep($kernels.stream.command().and_then(launch));
    }};
}
pub(in crate::ops) use launch;

impl CudaKernels {
    /// The dtype of activations.
    pub const ACTIVATION_DTYPE: DType = DType::Bf16;

    /// Kernels for the thread's current device, number `device`, that queue their work on `stream`.
    /// `workspace` is [`bytes`](crate::ops::cuda::workspace::bytes) of device memory at a
    /// multiple of 256 bytes, used by nothing else.
    ///
    /// Errors: no driver; a workspace that is too small or misaligned; a table that selects wgmma
    /// attention where it is not available.
    pub fn new(
        stream: Arc<Stream>,
        workspace: DeviceSpan,
        handle: Handle,
        mut table: Table,
        device: usize,
    ) -> Result<Self> {
        if workspace.bytes() <= GEMM_BYTES || !workspace.address().addr().is_multiple_of(ALIGNMENT) {
            return Err(Error::internal(format!(
                "the workspace of the kernels must be over {GEMM_BYTES} bytes at a multiple of {ALIGNMENT}, not {} bytes at {:p}",
                workspace.bytes(),
                workspace.address()
            )));
        }
        let (api, name) = (api()?, Driver::open()?.device_name(device)?);
        let by_wgmma = wgmma_heads(&mut table, &name, device)?;
        let gemms = Gemms::new(handle, name, table, workspace.subspan(0, GEMM_BYTES))?;
        let scratch = workspace.subspan(GEMM_BYTES, workspace.bytes() - GEMM_BYTES);
        Ok(CudaKernels { api, stream, gemms, by_wgmma, scratch, failed: Mutex::default() })
    }

    /// Creates the descriptors of GEMMs and selects their algorithms, so that steps need not.
    pub fn prepare(&self, gemms: &[Gemm]) -> Result<()> {
        gemms.iter().try_for_each(|gemm| self.gemms.prepare(gemm))
    }

    /// The selected algorithms of all GEMMs so far, as a table that reproduces the same bits.
    pub fn choices(&self) -> Table {
        self.gemms.choices()
    }

    pub(in crate::ops) fn keep(&self, result: Result<()>) {
        if let Err(error) = result {
            self.failed.lock().get_or_insert(error);
        }
    }

    /// Zeroes the first `bytes` bytes of a span.
    pub(in crate::ops) fn zero(&self, out: &DeviceSpan, bytes: usize) {
        // SAFETY: `base` compared the length with the span's; the caller of `run` may write it.
        self.keep(unsafe { fill(base(out, bytes), 0, bytes, &self.stream) });
    }

    /// For [`Write::Set`], zeroes f32 accumulators that the next kernel adds to.
    pub(in crate::ops) fn start_accumulator(&self, accumulator: &DeviceSpan, elements: usize, write: Write) {
        if write == Write::Set {
            self.zero(accumulator, elements * 4);
        }
    }

    /// Copies the value heads of `n` packed rows.
    pub(in crate::ops) fn copy_values(&self, to: &DeviceSpan, from: &DeviceSpan, n: usize, heads: &Heads) {
        let rows = cuda::Matrix {
            rows: n,
            row_bytes: heads.g * heads.d * Self::ACTIVATION_DTYPE.bytes(),
            stride_bytes: heads.qkv() * Self::ACTIVATION_DTYPE.bytes(),
        };
        let [to, from] = [to, from].map(|span| HeadColumns::of(span, n, heads).v);
        let [to, from] = [to, from].map(|v| NonNull::new(v.cast()).expect("a span is not null"));
        // SAFETY: `HeadColumns` compared both spans with their rows, which include the values; the spans
        // are disjoint; the caller of `run` has access to them.
        self.keep(unsafe { cuda::copy_rows(to, from, rows, &self.stream) });
    }

    /// Queues a GEMM; operands as in [`Gemms::multiply`].
    pub(in crate::ops) fn multiply(
        &self,
        gemm: &Gemm,
        matrices: [DeviceSpan; 3],
        scale: f32,
        addends: [Option<DeviceSpan>; 2],
    ) {
        if gemm.n > 0 {
            // SAFETY: the caller of `run` has access to the operands; nothing else uses the workspace.
            let queued = unsafe { self.gemms.multiply(gemm, matrices, scale, addends, &self.stream) };
            self.keep(queued);
        }
    }

    /// Scratch memory between the kernels of one op.
    pub(in crate::ops) fn scratch_of(&self, op: &impl Contract<DeviceSpan>) -> *mut c_void {
        self.scratch.first::<u8>(op.scratch_bytes()).cast()
    }
}

impl Kernels for CudaKernels {
    fn activation_dtype(&self) -> DType {
        Self::ACTIVATION_DTYPE
    }

    fn arithmetic(&self) -> String {
        self.gemms.arithmetic()
    }

    fn warms_up(&self) -> bool {
        true
    }

    fn outcome(&self) -> Result<()> {
        self.failed.lock().take().map_or(Ok(()), Err)
    }

    fn settle(&self) -> Result<()> {
        self.outcome().and_then(|()| self.stream.synchronize())
    }

    unsafe fn run(&self, op: &Op) {
        op.cuda(self);
    }
}
