//! The meter of the CPU: an op's time is the minimum of several runs. The ceilings are measured in
//! between: fused multiply-adds on registers for matmuls and attention, reading and writing memory
//! larger than the caches for other ops.

use std::alloc::{Layout, alloc};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Instant;

use horizon::device::DeviceSpan;
use horizon::host::Pool;
use horizon::ops::cpu::CpuKernels;
use horizon::ops::{Kernels, Op};

use super::{Meter, Work};
use crate::probe::{self, Clock};
use support::spans;

pub struct Cpu {
    kernels: CpuKernels,
    pool: Arc<Pool>,
    clock: Clock,
    /// Memory of the bandwidth probe, larger than the caches.
    traffic: Vec<f32>,
}

impl Cpu {
    pub fn new(threads: usize, clock: Clock) -> Self {
        let pool = Arc::new(Pool::new(threads).expect("a pool"));
        println!("{threads} threads");
        Cpu { kernels: CpuKernels::new(pool.clone()), pool, clock, traffic: vec![0.0; 1 << 24] }
    }
}

impl Meter for Cpu {
    fn kernels(&self) -> &dyn Kernels {
        &self.kernels
    }

    fn attentions(&self, _head_dim: usize) -> Vec<&'static str> {
        vec![""]
    }

    fn select_attention(&mut self, _at: usize) {}

    fn memory(&self, bytes: &[u8]) -> DeviceSpan {
        let layout = Layout::from_size_align(bytes.len(), 4096).expect("a size");
        // SAFETY: the size is not zero.
        let base = NonNull::new(unsafe { alloc(layout) }).expect("memory");
        // SAFETY: the allocation has `bytes.len()` bytes, is initialised here and never freed.
        unsafe {
            base.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len());
            DeviceSpan::new(base, bytes.len())
        }
    }

    fn time(&mut self, name: &str, op: &Op) {
        let work = Work::of(op, self.kernels.activation_dtype());
        spans::run(&self.kernels, op);
        let (mut op_seconds, mut ceiling) = (f64::INFINITY, 0f64);
        let begin = Instant::now();
        while begin.elapsed().as_secs_f64() < 0.6 {
            op_seconds = op_seconds.min(self.clock.seconds(|| spans::run(&self.kernels, op)));
            ceiling = ceiling.max(match work {
                Work::Flops(_) => probe::flops_per_second(&self.pool, self.clock),
                Work::Bytes(_) => probe::bytes_per_second(&self.pool, self.clock, &mut self.traffic),
            });
        }
        let unit = if let Work::Flops(_) = work { "GFLOP/s" } else { "GB/s" };
        let rate = work.amount() / op_seconds;
        println!(
            "{name:34} {:9.3} ms {:7.1} {unit:8} {:5.1} % of {:.0}",
            op_seconds * 1e3,
            rate / 1e9,
            100.0 * rate / ceiling,
            ceiling / 1e9
        );
    }
}
