//! Autotuning: measures the fastest algorithm of each GEMM and the fastest attention kernel for a
//! [`Table`].

use std::ptr::NonNull;
use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::base::{Dims, Error, Result, Shape, master};
use crate::device::DeviceSpan;
use crate::ops::cuda::CudaKernels;
use crate::ops::cuda::attention::has_wgmma;
use crate::ops::cuda::gemm::Gemm;
use crate::ops::cuda::matmul::Gemms;
use crate::ops::cuda::table::{Attention, Table, WGMMA_HEADS};
use crate::ops::cuda::workspace::GEMM_BYTES;
use crate::ops::{AttentionBackward, AttentionForward, Contract, Heads, Kernels, Op};
use crate::sys::cuda::cublaslt::{CublasLt, Handle};
use crate::sys::cuda::{DeviceMemory, Direction, Driver, Event, Stream, copy, need_device, set_device};

/// Maximum number of algorithms tried per GEMM.
const CANDIDATES: usize = 16;
/// Timed runs per algorithm, after one warm-up run; the median counts.
const RUNS: usize = 7;

/// Autotunes GEMMs on device number `ordinal`. Takes seconds, and memory for the largest operands.
///
/// Errors: no such device, no cuBLASLt, too little memory.
pub fn table(ordinal: usize, gemms: &[Gemm]) -> Result<Table> {
    need_device(ordinal)?;
    set_device(ordinal)?;
    let (stream, library) = (Stream::new()?, CublasLt::open()?);
    let largest = |of: &dyn Fn(&Gemm) -> usize| gemms.iter().map(of).max().unwrap_or(0).max(1);
    let out = largest(&|gemm| gemm.operands().out.bytes());
    let a = largest(&|gemm| gemm.operands().a.matrix.bytes());
    let b = largest(&|gemm| gemm.operands().b.matrix.bytes());
    let (workspace, out) = (DeviceMemory::take(GEMM_BYTES)?, random(out, 1, &stream)?);
    let (a, b) = (random(a, 2, &stream)?, random(b, 3, &stream)?);
    // SAFETY: device memory of that length, which outlives the GEMMs: `median` waits for each.
    let span = |memory: &DeviceMemory| unsafe { DeviceSpan::new(memory.base(), memory.bytes()) };
    let device = Driver::open()?.device_name(ordinal)?;
    let measured = Gemms::new(Handle::new(library)?, device, Table::default(), span(&workspace))?;
    let mut table = Table::default();
    for gemm in gemms {
        let operands = [&out, &a, &b].map(span);
        let clock = &mut |run: &dyn Fn() -> Result<()>| median(run, &stream);
        // SAFETY: nothing else uses this memory, each operand is as long as the largest, and `median` waits
        // for every run.
        let (key, choice) = unsafe { measured.fastest(gemm, CANDIDATES, operands, &stream, clock)? };
        table.insert(key, choice);
    }
    Ok(table)
}

/// Times of an attention kernel on a micro-batch.
#[derive(Clone, Copy, Debug)]
pub struct AttentionTimes {
    /// The kernel.
    pub by: Attention,
    /// Nanoseconds of a forward pass.
    pub forward_ns: u64,
    /// Nanoseconds of a backward pass.
    pub backward_ns: u64,
}

impl AttentionTimes {
    /// Nanoseconds of forward and backward.
    pub fn total_ns(&self) -> u64 {
        self.forward_ns + self.backward_ns
    }

    /// Times and throughput, e.g. `attention by wgmma: forward 0.412 ms (351 TFLOP/s), …`. FLOPs
    /// are those below the diagonal: two matmuls forward, five backward.
    pub fn describe(&self, dims: &Dims, shape: Shape) -> String {
        let matmul = (shape.b * dims.h * shape.t * (shape.t + 1) * dims.d) as f64;
        let pass = |name: &str, ns: u64, matmuls: f64| {
            format!("{name} {:.3} ms ({:.0} TFLOP/s)", ns as f64 / 1e6, matmuls * matmul / ns as f64 / 1e3)
        };
        format!(
            "attention by {}: {}, {}",
            self.by.name(),
            pass("forward", self.forward_ns, 2.0),
            pass("backward", self.backward_ns, 5.0)
        )
    }
}

/// Times the attention of a model on device number `ordinal` with each available kernel, on the
/// same operands.
///
/// Errors: no such device, too little memory; `Internal` if the kernels' results differ by more
/// than rounding.
pub fn attention(ordinal: usize, dims: &Dims, shape: Shape) -> Result<Vec<AttentionTimes>> {
    need_device(ordinal)?;
    set_device(ordinal)?;
    let (stream, library, n) = (Arc::new(Stream::new()?), CublasLt::open()?, shape.n());
    let device = Driver::open()?.device_name(ordinal)?;
    let qkv = random(n * dims.qkv() * 2, 1, &stream)?;
    let dout = random(n * dims.attention_width() * 2, 2, &stream)?;
    let rows = |of: &dyn Fn(usize) -> usize| -> Result<DeviceMemory> {
        let values: Vec<u8> = (0..n).flat_map(|row| (of(row) as i32).to_ne_bytes()).collect();
        let memory = DeviceMemory::take(n * 4)?;
        upload(&memory, 0, &values, &stream)?;
        Ok(memory)
    };
    let starts = rows(&|row| row / shape.t * shape.t)?;
    let ends = rows(&|row| (row / shape.t + 1) * shape.t)?;
    let (out, lse) =
        (DeviceMemory::take(n * dims.attention_width() * 2)?, DeviceMemory::take(n * dims.h * 4)?);
    let dqkv = DeviceMemory::take(n * dims.qkv() * 2)?;
    // SAFETY: device memory of that length, which outlives every kernel: `median` waits for each.
    let span = |memory: &DeviceMemory| unsafe { DeviceSpan::new(memory.base(), memory.bytes()) };
    let [qkv, dout, dqkv_span, out_span, lse] = [&qkv, &dout, &dqkv, &out, &lse].map(span);
    let (doc_start, doc_end, heads) = (span(&starts), span(&ends), Heads::from(dims));
    let scale = 1.0 / (dims.d as f32).sqrt();
    let forward = AttentionForward { out: out_span, lse, qkv, doc_start, scale, window: 0, shape, heads };
    let backward = AttentionBackward {
        dqkv: dqkv_span,
        dout,
        out: out_span,
        lse,
        qkv,
        doc_start,
        doc_end,
        scale,
        window: 0,
        shape,
        heads,
    };
    let workspace = DeviceMemory::take(GEMM_BYTES + backward.scratch_bytes().next_multiple_of(256) + 256)?;
    let wgmma = WGMMA_HEADS.contains(&dims.d) && has_wgmma(ordinal)?;
    let (mut times, mut results) = (Vec::new(), Vec::new());
    for by in std::iter::once(Attention::Mma).chain(wgmma.then_some(Attention::Wgmma)) {
        let mut table = Table::default();
        table.choose_attention(&device, dims.d, by);
        let handle = Handle::new(Arc::clone(&library))?;
        let kernels = CudaKernels::new(stream.clone(), span(&workspace), handle, table, ordinal)?;
        let time = |op: Op| {
            let run = || {
                // SAFETY: all memory above outlives the run, which `median` waits for, and nothing else uses
                // it.
                unsafe { kernels.run(&op) };
                kernels.outcome()
            };
            median(&run, &stream)
        };
        let (forward_ns, backward_ns) = (time(forward.into())?, time(backward.into())?);
        times.push(AttentionTimes { by, forward_ns, backward_ns });
        results.push([download(&out, &stream)?, download(&dqkv, &stream)?]);
    }
    if let [mma, wgmma] = &results[..] {
        agree("out", &mma[0], &wgmma[0])?;
        agree("dqkv", &mma[1], &wgmma[1])?;
    }
    Ok(times)
}

/// Fails if two results differ by more than rounding.
fn agree(name: &str, mma: &[f32], wgmma: &[f32]) -> Result<()> {
    let largest = mma.iter().fold(0f32, |most, value| most.max(value.abs()));
    // `max` ignores NaN.
    let nan_or_max =
        |most: f32, one: f32| if one.is_nan() || most.is_nan() { f32::NAN } else { most.max(one) };
    let difference = mma.iter().zip(wgmma).map(|(mma, wgmma)| (mma - wgmma).abs()).fold(0f32, nan_or_max);
    if difference.is_nan() || difference > AGREES * largest {
        return Err(Error::internal(format!(
            "wgmma attention differs from mma attention by {difference} in {name}, whose largest value is {largest}"
        )));
    }
    Ok(())
}

/// Allowed difference, relative to the largest value, between two orders of f32 sums rounded to
/// bf16.
const AGREES: f32 = 0.02;

/// New device memory of bf16 numbers with mean 0 and standard deviation 1, determined by the seed,
/// which repeat after about 8 million. Random because a GPU draws less power and runs faster on
/// constant data.
pub fn random(bytes: usize, seed: u64, stream: &Stream) -> Result<DeviceMemory> {
    const PERIOD: usize = (1 << 23) - 9;
    let memory = DeviceMemory::take(bytes)?;
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    // The sum of four uniform 16-bit numbers is nearly normal.
    let deviation = f32::from(u16::MAX) * (4.0f32 / 12.0).sqrt();
    let mut number = || {
        let bits = generator.random::<u64>();
        let sum: i32 = (0..4).map(|at| (bits >> (16 * at)) as u16).map(i32::from).sum();
        master::round((sum - 2 * i32::from(u16::MAX)) as f32 / deviation)
    };
    let numbers: Vec<u8> = (0..PERIOD.min(bytes.div_ceil(2))).flat_map(|_| number().to_ne_bytes()).collect();
    for start in (0..bytes).step_by(numbers.len()) {
        upload(&memory, start, &numbers[..numbers.len().min(bytes - start)], stream)?;
    }
    Ok(memory)
}

/// Copies bytes to device memory at offset `start`.
fn upload(memory: &DeviceMemory, start: usize, bytes: &[u8], stream: &Stream) -> Result<()> {
    assert!(
        start + bytes.len() <= memory.bytes(),
        "an upload of {} bytes at {start} is out of bounds",
        bytes.len()
    );
    // SAFETY: within the memory, as just checked.
    let to = unsafe { memory.base().add(start) };
    // SAFETY: both sides have that length and outlive the copy, which is waited for below.
    unsafe { copy(to, NonNull::from(bytes).cast(), bytes.len(), Direction::HostToDevice, stream)? };
    stream.synchronize()
}

/// Copies bf16 device memory to the host as f32.
fn download(memory: &DeviceMemory, stream: &Stream) -> Result<Vec<f32>> {
    let mut values = vec![0u16; memory.bytes() / 2];
    let to = NonNull::from(values.as_mut_slice()).cast();
    // SAFETY: `values` has as many bytes as are copied, and outlives the copy, which is waited for
    // below.
    unsafe { copy(to, memory.base(), values.len() * 2, Direction::DeviceToHost, stream)? };
    stream.synchronize()?;
    Ok(values.into_iter().map(|bits| f32::from_bits(u32::from(bits) << 16)).collect())
}

/// Median time of a run in nanoseconds.
fn median(run: &dyn Fn() -> Result<()>, stream: &Stream) -> Result<u64> {
    run()?;
    let mut taken = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let (start, end) = (Event::new(true)?, Event::new(true)?);
        start.record(stream)?;
        run()?;
        end.record(stream)?;
        end.synchronize()?;
        taken.push(end.ns_since(&start)?.unsigned_abs());
    }
    taken.sort_unstable();
    Ok(taken[RUNS / 2])
}
