//! Loops compiled for each instruction set.
//!
//! A formula is written once, in plain Rust over slices that cannot overlap; the compiler turns it into
//! vectors of the width that each entry's target features allow. Rust never contracts a multiplication and an
//! addition, square roots and divisions are rounded correctly everywhere, so all versions give the same bits
//! by construction.

use crate::host::Isa;

/// A way over a run of parameters, compiled into each instruction set's entry.
pub trait Pass {
    /// Does it. Implementations are `#[inline(always)]`: only inside an entry are there its vectors.
    fn pass(self);
}

/// Compiled for an instruction set that this processor has.
pub fn by_isa(isa: Isa, pass: impl Pass) {
    match isa {
        Isa::Portable => portable(pass),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller says that this processor has AVX2 and FMA.
        Isa::Avx2 => unsafe { avx2(pass) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller says that this processor has AVX-512 F, BW, DQ and VL.
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
