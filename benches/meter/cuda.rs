//! A GPU: the median of several runs between two events, the second level of its cache flushed before each. The ceilings
//! are measured beside every op: a copy within device memory, read and written, and a large square product by cuBLASLt.

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;

use horizon::base::Result;
use horizon::device::DeviceSpan;
use horizon::ops::cuda::CudaKernels;
use horizon::ops::cuda::table::Table;
use horizon::ops::{Addends, Kernels, Linear};
use horizon::sys::cuda::cublaslt::{CublasLt, Handle};
use horizon::sys::cuda::{
    DeviceMemory, Direction, Driver, Event, Stream, copy, fill, need_device, set_device,
};

use super::{Inputs, Meter, Work};

/// Bytes: more than any second-level cache.
const FLUSH: usize = 512 << 20;
/// Bytes that the copy moves.
const COPY: usize = 1 << 30;
/// Rows and columns of the product.
const SIDE: usize = 8192;
const RUNS: usize = 15;

pub struct Cuda {
    kernels: CudaKernels,
    stream: Arc<Stream>,
    name: String,
    flush: DeviceMemory,
    copies: [DeviceMemory; 2],
    /// Factors and result of the product.
    square: [DeviceSpan; 3],
    _workspace: DeviceMemory,
    /// For values that differ from run to run.
    painted: Cell<u8>,
}

impl Cuda {
    /// The GPU of this number, with this much workspace. Errors: it is not there, or cuBLASLt is not.
    pub fn new(device: usize, workspace_bytes: usize) -> Result<Self> {
        need_device(device)?;
        set_device(device)?;
        let (stream, library) = (Arc::new(Stream::new()?), CublasLt::open()?);
        let workspace = DeviceMemory::take(workspace_bytes)?;
        // SAFETY: device memory that lives as long as the kernels.
        let span = unsafe { DeviceSpan::new(workspace.base(), workspace.bytes()) };
        let kernels =
            CudaKernels::new(stream.clone(), span, Handle::new(library)?, Table::default(), device)?;
        let mut meter = Cuda {
            kernels,
            stream,
            name: Driver::open()?.device_name(device)?,
            flush: DeviceMemory::take(FLUSH)?,
            copies: [DeviceMemory::take(COPY)?, DeviceMemory::take(COPY)?],
            square: [span; 3],
            _workspace: workspace,
            painted: Cell::new(0),
        };
        let inputs = Inputs(&meter);
        meter.square = [0; 3].map(|_| inputs.bf16s(SIDE * SIDE));
        Ok(meter)
    }

    /// Median seconds of what is queued by `work`.
    fn seconds(&self, work: &dyn Fn()) -> Result<f64> {
        work();
        let mut seconds = Vec::with_capacity(RUNS);
        for _ in 0..RUNS {
            let (start, end) = (Event::new(true)?, Event::new(true)?);
            self.painted.set(self.painted.get().wrapping_add(1));
            // SAFETY: memory of this value's that nothing else uses.
            unsafe { fill(self.flush.base(), self.painted.get(), FLUSH, &self.stream)? };
            start.record(&self.stream)?;
            work();
            end.record(&self.stream)?;
            end.synchronize()?;
            seconds.push(end.ns_since(&start)? as f64 / 1e9);
        }
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[RUNS / 2])
    }

    /// What this GPU reaches now, per second.
    fn ceiling(&self, work: Work) -> Result<f64> {
        match work {
            Work::Bytes(_) => {
                let [to, from] = [0, 1].map(|at| self.copies[at].base());
                let seconds = self.seconds(&|| {
                    // SAFETY: two pieces of device memory of COPY bytes each, used by nothing else.
                    let copied = unsafe { copy(to, from, COPY, Direction::DeviceToDevice, &self.stream) };
                    copied.expect("a copy");
                })?;
                Ok(2.0 * COPY as f64 / seconds)
            }
            Work::Flops(_) => {
                let [out, x, weight] = self.square;
                let sizes = Linear::dense(SIDE, SIDE, SIDE);
                let seconds =
                    self.seconds(&|| self.kernels.matmul_forward(out, x, weight, Addends::default(), sizes))?;
                Ok(2.0 * (SIDE as f64).powi(3) / seconds)
            }
        }
    }
}

impl Meter for Cuda {
    fn kernels(&self) -> &dyn Kernels {
        &self.kernels
    }

    fn memory(&self, bytes: &[u8]) -> DeviceSpan {
        let memory = ManuallyDrop::new(DeviceMemory::take(bytes.len()).expect("device memory"));
        // SAFETY: both ends are as long; the stream is waited for before the bytes can go.
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
        // SAFETY: device memory that is never given back.
        unsafe { DeviceSpan::new(memory.base(), memory.bytes()) }
    }

    fn time(&mut self, name: &str, work: Work, op: &dyn Fn(&dyn Kernels)) {
        let run = || -> Result<()> {
            let seconds = self.seconds(&|| op(&self.kernels))?;
            self.kernels.outcome()?;
            let ceiling = self.ceiling(work)?;
            let rate = work.amount() / seconds;
            let (unit, scale) = if let Work::Flops(_) = work { ("TFLOP/s", 1e12) } else { ("GB/s", 1e9) };
            let rounded = |value: f64| (value * 10.0).round() / 10.0;
            let line = serde_json::json!({
                "bench": "ops",
                "device": self.name,
                "op": name,
                "us": rounded(seconds * 1e6),
                "rate": rounded(rate / scale),
                "unit": unit,
                "ceiling": rounded(ceiling / scale),
                "percent": rounded(100.0 * rate / ceiling),
            });
            println!("{line}");
            Ok(())
        };
        run().unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}
