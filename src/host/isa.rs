//! The vector instruction sets of this processor.

use std::fmt;

use once_cell::sync::OnceCell;

use crate::base::{Error, Result};

/// An instruction set for which CPU AdamW is compiled, in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// The baseline of the compilation target.
    Portable,
    /// AVX2 and FMA: 256-bit vectors.
    Avx2,
    /// AVX-512 F, BW, DQ and VL: 512-bit vectors.
    Avx512,
}

impl Isa {
    /// All instruction sets, in ascending order.
    pub const ALL: [Isa; 3] = [Isa::Portable, Isa::Avx2, Isa::Avx512];

    /// The name used by `HZ_ISA` and in reports: `portable`, `avx2`, `avx512`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    /// Returns true if this processor has it.
    pub fn is_here(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => false,
        }
    }

    /// The highest that this processor has.
    pub fn best() -> Isa {
        Isa::ALL.into_iter().rev().find(|isa| isa.is_here()).unwrap_or(Isa::Portable)
    }

    /// The instruction set for this value of `HZ_ISA`; without a value, the best.
    ///
    /// Errors: an unknown name, or one that this processor does not have (`InvalidArgument`).
    pub fn asked_for(value: Option<&str>) -> Result<Isa> {
        let Some(value) = value else { return Ok(Isa::best()) };
        let isa = Isa::ALL.into_iter().find(|isa| isa.name() == value).ok_or_else(|| {
            Error::argument(format!("HZ_ISA is \"{value}\"; it may be portable, avx2 or avx512"))
        })?;
        if !isa.is_here() {
            return Err(Error::argument(format!(
                "HZ_ISA asks for {isa}, which this processor does not have; its best is {}",
                Isa::best()
            )));
        }
        Ok(isa)
    }

    /// The instruction set of CPU AdamW: `HZ_ISA` if set, else the best; all give the same bits.
    /// Matmuls of the CPU device always use the best. Read once per process.
    pub fn chosen() -> Result<Isa> {
        static CHOSEN: OnceCell<Result<Isa>> = OnceCell::new();
        CHOSEN.get_or_init(|| Isa::asked_for(std::env::var("HZ_ISA").ok().as_deref())).clone()
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Status;

    #[test]
    fn hz_isa_chooses_an_instruction_set_or_is_refused() {
        assert_eq!(Isa::asked_for(None).unwrap(), Isa::best());
        assert_eq!(Isa::asked_for(Some("portable")).unwrap(), Isa::Portable);
        assert_eq!(Isa::asked_for(Some("sse9")).unwrap_err().status(), Status::InvalidArgument);
        for isa in Isa::ALL {
            assert_eq!(Isa::asked_for(Some(isa.name())).is_ok(), isa.is_here(), "{isa}");
        }
    }
}
