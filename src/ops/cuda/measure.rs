//! Which algorithm is the fastest for each product, measured on a device: what a [`Table`] is made of.

use std::sync::Arc;

use crate::base::Result;
use crate::device::DeviceSpan;
use crate::ops::cuda::matmul::Products;
use crate::ops::cuda::product::Product;
use crate::ops::cuda::table::Table;
use crate::ops::cuda::workspace::PRODUCTS_BYTES;
use crate::sys::cuda::cublaslt::CublasLt;
use crate::sys::cuda::{DeviceMemory, Driver, Event, Stream, fill, need_device, set_device};

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
    let measured = Products::new(Arc::clone(&library), device, Table::default(), spans[0])?;
    let mut table = Table::default();
    for product in products {
        let operands = [spans[1], spans[2], spans[3]];
        let (key, choice) =
            measured.fastest(product, CANDIDATES, operands, &stream, &mut |run| median(run, &stream))?;
        table.insert(key, choice);
    }
    Ok(table)
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
