//! Measures the RAM bandwidth of this machine in a second or two.
//!
//! `cargo bench --bench memory` and `--bench adam` measure it more thoroughly.
#![allow(unsafe_code)]

use std::hint::black_box;
use std::time::Instant;

use crate::base::{DType, Result};
use crate::host::{Arena, Limits, MemoryKind, Pool, Topology};
use crate::optim::{AdamOptions, AdamScalars, Master, Optimizer, Spans, Step, update, write_master};

/// Parameters that AdamW updates: too many for the caches of most processors.
const PARAMETERS: usize = 32 << 20;
/// The optimizer of exact mode.
const OPTIMIZER: Optimizer = Optimizer::AdamW { moments: DType::F32 };
/// Bytes of a tile of work.
const TILE: usize = 1 << 20;
const ROUNDS: usize = 5;

/// Measured RAM bandwidth: medians of a few rounds on all threads.
#[derive(Clone, Copy, Debug)]
pub struct Ram {
    /// Threads that shared the work.
    pub threads: usize,
    /// Bytes of the measured memory.
    pub bytes: usize,
    /// Bytes read per second.
    pub read: f64,
    /// Bytes written per second.
    pub write: f64,
    /// Parameters that AdamW updates per second in mode exact, with bf16 gradients.
    pub adam: f64,
}

impl Ram {
    /// Bytes that AdamW reads and writes per second.
    pub fn adam_bytes(&self) -> f64 {
        self.adam * OPTIMIZER.traffic_bytes(DType::Bf16) as f64
    }

    /// The highest of the three bandwidths, in bytes per second.
    pub fn most(&self) -> f64 {
        self.read.max(self.write).max(self.adam_bytes())
    }
}

/// Measures RAM with `threads` threads.
///
/// Errors: too little free memory (`OutOfHostMemory`).
pub fn measure_ram(threads: usize) -> Result<Ram> {
    let bytes = PARAMETERS * (OPTIMIZER.parameter_bytes() + DType::Bf16.bytes());
    Limits::read(None).admit("the measurement", bytes)?;
    let pool = Pool::over(threads, &Topology::read())?;
    let mut arena = Arena::take(bytes, MemoryKind::Plain)?;
    arena.touch(&pool)?;

    let write = median(|| pool.run_chunks(arena.bytes_mut(), TILE, &|_, tile| tile.fill(0)));
    let read = median(|| {
        pool.run_chunks(arena.bytes_mut(), TILE, &|_, tile| {
            let mut near = [0u8; 8192]; // stays in the L1 cache
            for chunk in tile.chunks_exact(near.len()) {
                near.copy_from_slice(chunk);
                black_box(&near);
            }
        })
    });

    let whole = arena.whole();
    let chunk = |start: usize, size: usize| whole.subspan(start * PARAMETERS, size * PARAMETERS);
    let [weights, residual] = [chunk(8, 2), chunk(10, 2)];
    let spans = Spans {
        master: Master::Split { weights, residual },
        gradient: chunk(12, 2),
        gradient_dtype: DType::Bf16,
        optimizer: OPTIMIZER,
        state: [chunk(0, 4), chunk(4, 4)],
    };
    fill(&pool, &spans);
    let step = Step::new(AdamScalars::new(&AdamOptions::default(), 1e-4, 10));
    // SAFETY: the spans are disjoint ranges of the arena above, which nothing else uses.
    let adam = median(|| unsafe { update(&pool, &spans, &step) });
    Ok(Ram {
        threads,
        bytes,
        read: bytes as f64 / read,
        write: bytes as f64 / write,
        adam: PARAMETERS as f64 / adam,
    })
}

/// Fills the spans with ordinary values: division of zeros would be faster.
fn fill(pool: &Pool, spans: &Spans) {
    const RUN: usize = 1 << 16;
    let values: Vec<f32> = (0..RUN).map(|at| (at * 7919 % 1999) as f32 / 1000.0 - 1.0).collect();
    let squares: Vec<f32> = values.iter().map(|value| value * value).collect();
    pool.run(PARAMETERS / RUN, &|_, run| {
        let chunk = spans.slice(run * RUN, RUN);
        let Master::Split { weights, residual } = chunk.master else { unreachable!("masters are split") };
        // SAFETY: the spans are disjoint ranges of the caller's arena, and only this tile uses this
        // run.
        unsafe {
            // The bf16 halves serve as gradient, too.
            write_master(chunk.gradient.slice_mut(), residual.slice_mut(), &values);
            write_master(weights.slice_mut(), residual.slice_mut(), &values);
            chunk.state[0].write(&values);
            chunk.state[1].write(&squares);
        }
    });
}

/// The median seconds of some rounds, after one to warm up.
fn median(mut round: impl FnMut()) -> f64 {
    round();
    let mut seconds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            round();
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[ROUNDS / 2]
}
