//! Ceilings of this machine at this moment: what a bench's figures are held against.

use std::sync::Mutex;
use std::time::Instant;

use horizon::host::Pool;

/// Fused multiply-adds a second of all threads, times two.
pub fn flops_per_second(pool: &Pool) -> f64 {
    const ROUNDS: usize = 100_000;
    let start = Instant::now();
    let flops = Mutex::new(0f64);
    pool.run(pool.threads(), &|_, _| {
        let done = multiply_adds(ROUNDS);
        *flops.lock().expect("not poisoned") += done;
    });
    let flops = *flops.lock().expect("not poisoned");
    flops / start.elapsed().as_secs_f64()
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
