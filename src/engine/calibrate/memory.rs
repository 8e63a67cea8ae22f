//! What this machine's RAM gives, measured in a second or two.
//!
//! `cargo bench --bench memory` and `--bench adam` measure the same with care.
#![allow(unsafe_code)]

use std::hint::black_box;
use std::time::Instant;

use crate::base::{DType, Result};
use crate::host::{Arena, Limits, MemoryKind, Pool, Topology};
use crate::optim::{AdamOptions, AdamScalars, Master, Optimizer, Spans, Step, update, write_master};

/// Parameters that AdamW updates: larger than the caches of most processors.
const PARAMETERS: usize = 32 << 20;
/// The optimizer of exact mode.
const OPTIMIZER: Optimizer = Optimizer::AdamW { moments: DType::F32 };
/// Bytes of a tile of work.
const TILE: usize = 1 << 20;
const ROUNDS: usize = 5;

/// RAM: medians of a few rounds, by all threads.
#[derive(Clone, Copy, Debug)]
pub struct Ram {
    /// Threads that shared the work.
    pub threads: usize,
    /// The memory that was gone over, in bytes.
    pub bytes: usize,
    /// Bytes read a second.
    pub read: f64,
    /// Bytes written a second.
    pub write: f64,
    /// Parameters updated a second by AdamW in exact mode, with bf16 gradients.
    pub adam: f64,
}

impl Ram {
    /// Bytes that AdamW read and wrote a second.
    pub fn adam_bytes(&self) -> f64 {
        self.adam * OPTIMIZER.traffic_bytes(DType::Bf16) as f64
    }

    /// The most bytes a second that were seen to move, whatever moved them.
    pub fn most(&self) -> f64 {
        self.read.max(self.write).max(self.adam_bytes())
    }
}

/// Measures RAM with `threads` threads.
///
/// Errors: the memory for it is not there (`OutOfHostMemory`).
pub fn measure_ram(threads: usize) -> Result<Ram> {
    let bytes = PARAMETERS * (OPTIMIZER.parameter_bytes() + DType::Bf16.bytes());
    Limits::read(None).admit("the measurement", bytes)?;
    let pool = Pool::over(threads, &Topology::read())?;
    let mut arena = Arena::take(bytes, MemoryKind::Plain)?;
    arena.touch(&pool)?;

    let write = median(|| pool.run_chunks(arena.bytes_mut(), TILE, &|_, tile| tile.fill(0)));
    let read = median(|| {
        pool.run_chunks(arena.bytes_mut(), TILE, &|_, tile| {
            let mut near = [0u8; 8192]; // stays in the first cache
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
    // SAFETY: the spans are parts of the arena above, each its own, and nobody else knows them.
    let adam = median(|| unsafe { update(&pool, &spans, &step) });
    Ok(Ram {
        threads,
        bytes,
        read: bytes as f64 / read,
        write: bytes as f64 / write,
        adam: PARAMETERS as f64 / adam,
    })
}

/// Ordinary values: dividing zeros would be cheap.
fn fill(pool: &Pool, spans: &Spans) {
    const RUN: usize = 1 << 16;
    let values: Vec<f32> = (0..RUN).map(|at| (at * 7919 % 1999) as f32 / 1000.0 - 1.0).collect();
    let squares: Vec<f32> = values.iter().map(|value| value * value).collect();
    pool.run(PARAMETERS / RUN, &|_, run| {
        let chunk = spans.slice(run * RUN, RUN);
        let Master::Split { weights, residual } = chunk.master else { unreachable!("masters are split") };
        // SAFETY: the spans are parts of the caller's arena, each its own, and this run of them is this tile's.
        unsafe {
            // The weights' halves serve as a bf16 gradient, too.
            write_master(chunk.gradient.slice_mut(), residual.slice_mut(), &values);
            write_master(weights.slice_mut(), residual.slice_mut(), &values);
            chunk.state[0].write(&values);
            chunk.state[1].write(&squares);
        }
    });
}

/// Seconds of a round, the first of which warms up.
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
