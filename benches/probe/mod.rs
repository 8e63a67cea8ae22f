//! Ceilings of this machine at this moment: what a bench's figures are held against.

// Each bench uses its part of it.
#![allow(dead_code)]

use std::sync::Mutex;
use std::time::{Duration, Instant};

use horizon::host::Pool;
use nix::time::ClockId;

/// Which clock.
#[derive(Clone, Copy)]
pub enum Clock {
    /// Time passed.
    Wall,
    /// Processor seconds of this process.
    Processor,
}

impl Clock {
    /// Seconds that `what` takes.
    pub fn seconds(self, what: impl FnOnce()) -> f64 {
        match self {
            Clock::Wall => {
                let start = Instant::now();
                what();
                start.elapsed().as_secs_f64()
            }
            Clock::Processor => {
                let start = processor_time();
                what();
                (processor_time() - start).as_secs_f64()
            }
        }
    }
}

/// Processor time of this process.
fn processor_time() -> Duration {
    let clock = ClockId::CLOCK_PROCESS_CPUTIME_ID;
    clock.now().expect("every process has a clock of its own").into()
}

/// Fused multiply-adds a second of all threads, times two: the best of a few goes of some
/// milliseconds, each far longer than threads take to wake.
pub fn flops_per_second(pool: &Pool, clock: Clock) -> f64 {
    const ROUNDS: usize = 1_000_000;
    const GOES: usize = 3;
    let go = || {
        let flops = Mutex::new(0f64);
        let seconds = clock.seconds(|| {
            pool.run(pool.threads(), &|_, _| {
                let done = multiply_adds(ROUNDS);
                *flops.lock().expect("not poisoned") += done;
            });
        });
        flops.into_inner().expect("not poisoned") / seconds
    };
    (0..GOES).map(|_| go()).fold(0.0, f64::max)
}

/// FLOPs done in `rounds` of independent multiply-adds.
fn multiply_adds(rounds: usize) -> f64 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;
        const CHAINS: usize = 12;
        #[target_feature(enable = "avx512f")]
        fn wide(rounds: usize) -> f64 {
            let (mut chains, factor) = ([_mm512_set1_ps(1.0); CHAINS], _mm512_set1_ps(0.999));
            for _ in 0..rounds {
                for chain in &mut chains {
                    *chain = _mm512_fmadd_ps(*chain, factor, factor);
                }
            }
            std::hint::black_box(chains);
            (rounds * CHAINS * 16 * 2) as f64
        }
        #[target_feature(enable = "avx2,fma")]
        fn narrow(rounds: usize) -> f64 {
            let (mut chains, factor) = ([_mm256_set1_ps(1.0); CHAINS], _mm256_set1_ps(0.999));
            for _ in 0..rounds {
                for chain in &mut chains {
                    *chain = _mm256_fmadd_ps(*chain, factor, factor);
                }
            }
            std::hint::black_box(chains);
            (rounds * CHAINS * 8 * 2) as f64
        }
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has AVX-512.
            return unsafe { wide(rounds) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has AVX2 and FMA.
            return unsafe { narrow(rounds) };
        }
    }
    let mut chains = [1f32; 32];
    for _ in 0..rounds {
        for chain in &mut chains {
            *chain = *chain * 0.999 + 0.999;
        }
    }
    std::hint::black_box(chains);
    (rounds * 32 * 2) as f64
}

/// Bytes read and written a second by all threads, in place.
pub fn bytes_per_second(pool: &Pool, clock: Clock, traffic: &mut [f32]) -> f64 {
    let chunks: Vec<_> = traffic.chunks_mut(1 << 16).map(Mutex::new).collect();
    let seconds = clock.seconds(|| {
        pool.run(chunks.len(), &|_, tile| {
            for x in chunks[tile].lock().expect("not poisoned").iter_mut() {
                *x += 1.0;
            }
        });
    });
    (chunks.len() * (1 << 16) * 8) as f64 / seconds
}
