//! The meter of a GPU: an op's time is the median of several runs between two events; the L2 cache
//! is overwritten before each. The ceilings are measured with every op: a copy within device memory
//! (bytes read and written), and a large square matmul.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use horizon::base::Result;
use horizon::device::DeviceSpan;
use horizon::ops::cuda::CudaKernels;
use horizon::ops::cuda::attention::has_wgmma;
use horizon::ops::cuda::table::{Attention, Table, WGMMA_HEADS};
use horizon::ops::{Kernels, Linear, LinearForward, Op};
use horizon::sys::cuda::cublaslt::{CublasLt, Handle};
use horizon::sys::cuda::{
    DeviceMemory, Direction, Driver, Event, Stream, copy, fill, need_device, set_device,
};
use support::bench::{median, rounded};
use support::spans;

use super::{Meter, Work, normal};

/// Sizes and repetitions of a measurement.
#[derive(Clone, Copy)]
pub struct Effort {
    /// Bytes to overwrite the L2 cache, more than its size.
    flush: usize,
    /// Bytes of the copy.
    copy: usize,
    /// Rows and columns of the square matmul.
    side: usize,
    runs: usize,
}

impl Effort {
    /// For figures.
    pub const FULL: Effort = Effort { flush: 512 << 20, copy: 1 << 30, side: 8192, runs: 15 };
    /// For rehearsals on emulated kernels.
    pub const TINY: Effort = Effort { flush: 256, copy: 256, side: 16, runs: 1 };
}

pub struct Cuda {
    /// One per attention kernel, in the order of [`ATTENTION`]; only available ones.
    kernels: Vec<CudaKernels>,
    selected: usize,
    effort: Effort,
    stream: Arc<Stream>,
    name: String,
    flush: DeviceMemory,
    copies: [DeviceMemory; 2],
    /// Operands of the square matmul: out, x, weight.
    square: [DeviceSpan; 3],
    _workspace: DeviceMemory,
    inputs: RefCell<Vec<DeviceMemory>>,
    /// Changes from run to run.
    flush_value: Cell<u8>,
    failures: usize,
}

const ATTENTION: [Attention; 2] = [Attention::Mma, Attention::Wgmma];

impl Cuda {
    /// Opens a GPU with this much workspace and, optionally, a GEMM autotune table. Errors: the GPU
    /// or cuBLASLt is missing; the table is for another device.
    pub fn new(
        device: usize,
        workspace_bytes: usize,
        gemm_table: Option<&Path>,
        effort: Effort,
    ) -> Result<Self> {
        need_device(device)?;
        set_device(device)?;
        let (stream, library) = (Arc::new(Stream::new()?), CublasLt::open()?);
        let name = Driver::open()?.device_name(device)?;
        let table = gemm_table.map_or(Ok(Table::default()), Table::read)?;
        if let Some(file) = gemm_table {
            table.admit(file.display(), &name, library.version())?;
        }
        let workspace = DeviceMemory::take(workspace_bytes)?;
        // SAFETY: device memory that lives as long as the kernels.
        let span = unsafe { DeviceSpan::new(workspace.base(), workspace.bytes()) };
        let mut kernels = Vec::new();
        for by in ATTENTION.into_iter().take(if has_wgmma(device)? { 2 } else { 1 }) {
            let mut table = table.clone();
            WGMMA_HEADS.into_iter().for_each(|head_dim| table.choose_attention(&name, head_dim, by));
            let handle = Handle::new(library.clone())?;
            kernels.push(CudaKernels::new(stream.clone(), span, handle, table, device)?);
        }
        let mut meter = Cuda {
            kernels,
            selected: 0,
            effort,
            stream,
            name,
            flush: DeviceMemory::take(effort.flush)?,
            copies: [DeviceMemory::take(effort.copy)?, DeviceMemory::take(effort.copy)?],
            square: [span; 3],
            _workspace: workspace,
            inputs: RefCell::default(),
            flush_value: Cell::new(0),
            failures: 0,
        };
        meter.square = [0; 3].map(|_| meter.memory(&normal(effort.side * effort.side, 0.1)));
        Ok(meter)
    }

    /// Number of ops that failed.
    pub fn failures(&self) -> usize {
        self.failures
    }

    fn selected(&self) -> &CudaKernels {
        &self.kernels[self.selected]
    }

    /// Median seconds of the work that `work` queues.
    fn seconds(&self, work: &dyn Fn() -> Result<()>) -> Result<f64> {
        work()?;
        let mut seconds = Vec::with_capacity(self.effort.runs);
        for _ in 0..self.effort.runs {
            let (start, end) = (Event::new(true)?, Event::new(true)?);
            self.flush_value.set(self.flush_value.get().wrapping_add(1));
            // SAFETY: memory of this meter, used by nothing else.
            unsafe { fill(self.flush.base(), self.flush_value.get(), self.flush.bytes(), &self.stream)? };
            start.record(&self.stream)?;
            work()?;
            end.record(&self.stream)?;
            end.synchronize()?;
            seconds.push(end.ns_since(&start)? as f64 / 1e9);
        }
        Ok(median(seconds))
    }

    /// The throughput that this GPU reaches now, per second.
    pub fn ceiling(&self, work: Work) -> Result<f64> {
        match work {
            Work::Bytes(_) => {
                let [to, from] = [0, 1].map(|at| self.copies[at].base());
                let bytes = self.effort.copy;
                let seconds = self.seconds(&|| {
                    // SAFETY: two allocations of `bytes` bytes each, used by nothing else.
                    unsafe { copy(to, from, bytes, Direction::DeviceToDevice, &self.stream) }
                })?;
                Ok(2.0 * bytes as f64 / seconds)
            }
            Work::Flops(_) => {
                let ([out, x, weight], side) = (self.square, self.effort.side);
                let sizes = Linear::dense(side, side, side);
                let seconds = self.run(
                    &LinearForward { scale: 1.0, out, x, weight, residual: None, bias: None, sizes }.into(),
                )?;
                Ok(2.0 * (side as f64).powi(3) / seconds)
            }
        }
    }

    /// Median seconds of an op.
    fn run(&self, op: &Op) -> Result<f64> {
        self.seconds(&|| {
            spans::run(self.selected(), op);
            self.selected().outcome()
        })
    }

    fn measure(&self, name: &str, op: &Op) -> Result<serde_json::Value> {
        let (seconds, work) = (self.run(op)?, Work::of(op, CudaKernels::ACTIVATION_DTYPE));
        let ceiling = self.ceiling(work)?;
        let rate = work.amount() / seconds;
        let (unit, scale) = if let Work::Flops(_) = work { ("TFLOP/s", 1e12) } else { ("GB/s", 1e9) };
        Ok(serde_json::json!({
            "bench": "ops",
            "device": self.name,
            "op": name,
            "us": rounded(seconds * 1e6, 1),
            "rate": rounded(rate / scale, 1),
            "unit": unit,
            "ceiling": rounded(ceiling / scale, 1),
            "percent": rounded(100.0 * rate / ceiling, 1),
        }))
    }
}

impl Meter for Cuda {
    fn kernels(&self) -> &dyn Kernels {
        self.selected()
    }

    fn attentions(&self, head_dim: usize) -> Vec<&'static str> {
        let built = if WGMMA_HEADS.contains(&head_dim) { self.kernels.len() } else { 1 };
        ATTENTION.into_iter().take(built).map(Attention::name).collect()
    }

    fn select_attention(&mut self, at: usize) {
        self.selected = at;
    }

    fn memory(&self, bytes: &[u8]) -> DeviceSpan {
        let memory = DeviceMemory::take(bytes.len()).expect("device memory");
        // SAFETY: both sides have `bytes.len()` bytes and outlive the copy, which is waited for below.
        let copied = unsafe {
            copy(
                memory.base(),
                NonNull::from(bytes).cast(),
                bytes.len(),
                Direction::HostToDevice,
                &self.stream,
            )
        };
        copied.and_then(|()| self.stream.synchronize()).expect("a copy");
        // SAFETY: device memory that this meter keeps.
        let span = unsafe { DeviceSpan::new(memory.base(), memory.bytes()) };
        self.inputs.borrow_mut().push(memory);
        span
    }

    fn time(&mut self, name: &str, op: &Op) {
        let line = self.measure(name, op).unwrap_or_else(|error| {
            self.failures += 1;
            serde_json::json!({ "bench": "ops", "op": name, "error": error.to_string() })
        });
        println!("{line}");
    }
}
