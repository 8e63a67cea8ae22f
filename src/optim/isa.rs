//! Loops compiled for each instruction set.
//!
//! A formula is written once, in plain Rust over slices that cannot overlap; the compiler
//! vectorises it for the target features of each entry function. Rust never fuses a multiplication
//! and an addition, and square roots and divisions are correctly rounded everywhere, so all
//! versions give the same bits.

use crate::host::Isa;

/// A loop over a run of parameters, compiled once per instruction set.
pub trait Pass {
    /// Runs the loop. Implementations are `#[inline(always)]`, so that they get the target features
    /// of the entry function.
    fn pass(self);
}

/// Runs a pass compiled for an instruction set, which this processor must support.
pub fn by_isa(isa: Isa, pass: impl Pass) {
    match isa {
        Isa::Portable => portable(pass),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller checked that this processor has AVX2 and FMA.
        Isa::Avx2 => unsafe { avx2(pass) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller checked that this processor has AVX-512 F, BW, DQ and VL.
        Isa::Avx512 => unsafe { avx512(pass) },
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::Avx512 => unreachable!("no processor of this architecture has {isa}"),
    }
}

fn portable(pass: impl Pass) {
    pass.pass();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(pass: impl Pass) {
    pass.pass();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn avx512(pass: impl Pass) {
    pass.pass();
}
