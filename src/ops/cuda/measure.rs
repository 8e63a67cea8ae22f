//! What is the fastest on a device, measured: each product's algorithm, and attention's instructions. What a [`Table`] is made of.

use std::sync::Arc;

use crate::base::{Dims, Error, Result, Shape};
use crate::device::DeviceSpan;
use crate::ops::cuda::CudaKernels;
use crate::ops::cuda::matmul::Products;
use crate::ops::cuda::product::Product;
use crate::ops::cuda::table::{Attention, Table, WGMMA_HEADS};
use crate::ops::cuda::workspace::{PRODUCTS_BYTES, attention_backward_scratch};
use crate::ops::{Kernels, Rows};
use crate::sys::cuda::cublaslt::{CublasLt, Handle};
use crate::sys::cuda::{
    DeviceMemory, Direction, Driver, Event, Stream, api, compute_capability, copy, fill, need_device,
    set_device,
};

/// Algorithms that are tried for a product at most.
const CANDIDATES: usize = 16;
/// Runs of each, after one that warms up; the median counts.
const RUNS: usize = 7;
/// A byte of the factors, twice a bf16 of 0.0115: zeros would take less power than a model's numbers.
const BYTE: u8 = 0x3c;

/// Measures the products of a model on device number `ordinal`. Takes seconds, and memory for the largest operands.
///
/// Errors: no such device, no cuBLASLt, too little memory.
pub fn table(ordinal: usize, products: &[Product]) -> Result<Table> {
    need_device(ordinal)?;
    set_device(ordinal)?;
    let (stream, library) = (Stream::new()?, CublasLt::open()?);
    let largest = |of: &dyn Fn(&Product) -> usize| products.iter().map(of).max().unwrap_or(0).max(1);
    let out = largest(&|product| product.operands().out.bytes());
    let a = largest(&|product| product.operands().a.matrix.bytes());
    let b = largest(&|product| product.operands().b.matrix.bytes());
    let memory = [PRODUCTS_BYTES, out, a, b].map(|bytes| filled(bytes, &stream));
    let mut spans = Vec::with_capacity(memory.len());
    for one in &memory {
        let one = one.as_ref().map_err(Clone::clone)?;
        // SAFETY: device memory of that length, which outlives the products: each is waited for.
        spans.push(unsafe { DeviceSpan::new(one.base(), one.bytes()) });
    }
    let device = Driver::open()?.device_name(ordinal)?;
    let measured = Products::new(Handle::new(library)?, device, Table::default(), spans[0])?;
    let mut table = Table::default();
    for product in products {
        let operands = [spans[1], spans[2], spans[3]];
        let (key, choice) =
            measured.fastest(product, CANDIDATES, operands, &stream, &mut |run| median(run, &stream))?;
        table.insert(key, choice);
    }
    Ok(table)
}

/// Whether there is code for attention by wgmma for a device.
pub(super) fn has_wgmma(device: usize) -> Result<bool> {
    Ok(api()?.wgmma && compute_capability(device)? == (9, 0))
}

/// By which instructions attention of a model is the fastest on device number `ordinal`, forward and backward together. Both are
/// asked for the same numbers.
///
/// Errors: no such device, too little memory; `Internal` where the two do not agree, up to rounding.
pub fn attention(ordinal: usize, dims: &Dims, shape: Shape) -> Result<Attention> {
    need_device(ordinal)?;
    set_device(ordinal)?;
    if !WGMMA_HEADS.contains(&dims.d) || !has_wgmma(ordinal)? {
        return Ok(Attention::Mma);
    }
    let (stream, library, n) = (Arc::new(Stream::new()?), CublasLt::open()?, shape.n());
    let device = Driver::open()?.device_name(ordinal)?;
    let activations = |columns: usize| filled(n * columns * 2, &stream);
    let workspace = filled(
        PRODUCTS_BYTES + attention_backward_scratch(n, dims.h, dims.g, dims.d).next_multiple_of(256) + 256,
        &stream,
    )?;
    let (qkv, dout) = (activations(dims.qkv())?, activations(dims.attended())?);
    let numbers =
        |memory: &DeviceMemory, seed: u64| upload(memory, &bf16_numbers(memory.bytes(), seed), &stream);
    numbers(&qkv, 1)?;
    numbers(&dout, 2)?;
    let rows = |of: &dyn Fn(usize) -> usize| -> Result<DeviceMemory> {
        let memory = filled(n * 4, &stream)?;
        let values: Vec<u8> = (0..n).flat_map(|row| (of(row) as i32).to_ne_bytes()).collect();
        upload(&memory, &values, &stream)?;
        Ok(memory)
    };
    let [positions, starts, ends] = [
        rows(&|row| row % shape.t)?,
        rows(&|row| row / shape.t * shape.t)?,
        rows(&|row| (row / shape.t + 1) * shape.t)?,
    ];
    // SAFETY: device memory of that length, which outlives every kernel: each is waited for.
    let span = |memory: &DeviceMemory| unsafe { DeviceSpan::new(memory.base(), memory.bytes()) };
    let rows = Rows { shape, positions: span(&positions), doc_start: span(&starts), doc_end: span(&ends) };
    let mut measured = Vec::new();
    for by in [Attention::Mma, Attention::Wgmma] {
        let mut table = Table::default();
        table.choose_attention(&device, dims.d, by);
        let handle = Handle::new(Arc::clone(&library))?;
        let kernels = CudaKernels::new(stream.clone(), span(&workspace), handle, table, ordinal)?;
        let (out, lse, dqkv) =
            (activations(dims.attended())?, filled(n * dims.h * 4, &stream)?, activations(dims.qkv())?);
        let ns = median(
            &|| {
                kernels.attention_forward(span(&out), span(&lse), span(&qkv), &rows, 0, dims);
                let [dqkv, dout, out] = [&dqkv, &dout, &out].map(span);
                kernels.attention_backward(dqkv, dout, out, span(&lse), span(&qkv), &rows, 0, dims);
                kernels.outcome()
            },
            &stream,
        )?;
        measured.push((ns, by, [download(&out, &stream)?, download(&dqkv, &stream)?]));
    }
    let [(mma_ns, _, mma), (wgmma_ns, _, wgmma)] = &measured[..] else { unreachable!("there are two") };
    for (what, (one, other)) in ["out", "dqkv"].iter().zip(mma.iter().zip(wgmma)) {
        let largest = one.iter().fold(0f32, |most, value| most.max(value.abs()));
        let differences = one.iter().zip(other).map(|(one, other)| (one - other).abs());
        // `max` passes over what is no number.
        let apart = differences
            .fold(0f32, |most, one| if one.is_nan() || most.is_nan() { f32::NAN } else { most.max(one) });
        if apart.is_nan() || apart > AGREES * largest {
            return Err(Error::internal(format!(
                "attention by wgmma is {apart} off that by mma in {what}, whose largest value is {largest}"
            )));
        }
    }
    Ok(if wgmma_ns < mma_ns { Attention::Wgmma } else { Attention::Mma })
}

/// Of the largest value, what two orders of f32 sums and one rounding to bf16 may be apart.
const AGREES: f32 = 0.02;

/// bf16 of −2 … 2, as bytes: the same for a seed.
fn bf16_numbers(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1u64 << 22) as f32 - 2.0).to_bits() >> 16
    };
    (0..bytes / 2).flat_map(|_| (next() as u16).to_ne_bytes()).collect()
}

fn upload(memory: &DeviceMemory, bytes: &[u8], stream: &Stream) -> Result<()> {
    let from = std::ptr::NonNull::from(bytes).cast();
    // SAFETY: both ends have that length, and the stream is waited for while they live.
    unsafe { copy(memory.base(), from, bytes.len(), Direction::HostToDevice, stream)? };
    stream.synchronize()
}

/// bf16 in device memory, as f32.
fn download(memory: &DeviceMemory, stream: &Stream) -> Result<Vec<f32>> {
    let mut values = vec![0u16; memory.bytes() / 2];
    let to = std::ptr::NonNull::from(values.as_mut_slice()).cast();
    // SAFETY: `values` are as many bytes as are copied, and stay until the stream has been waited for.
    unsafe { copy(to, memory.base(), values.len() * 2, Direction::DeviceToHost, stream)? };
    stream.synchronize()?;
    Ok(values.into_iter().map(|bits| f32::from_bits(u32::from(bits) << 16)).collect())
}

/// New memory with numbers in it.
fn filled(bytes: usize, stream: &Stream) -> Result<DeviceMemory> {
    let memory = DeviceMemory::take(bytes)?;
    // SAFETY: all of the new memory, which nobody else knows; the stream comes to whoever reads it later.
    unsafe { fill(memory.base(), BYTE, bytes, stream)? };
    Ok(memory)
}

/// Nanoseconds of one of some runs.
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
