//! The floating-point environment of a thread: rounding, flushing of subnormals, exception masks
//! and flags.
//!
//! Rust assumes the default environment, and computing with floats in any other is undefined
//! behaviour. Callers in other languages may have changed it, so the C interface replaces it at
//! entry and restores it at exit; both need registers that only assembly reaches.

/// The registers of a floating-point environment, with the flags of raised exceptions.
#[derive(Clone, Copy, Debug)]
pub struct Environment(registers::Registers);

impl Environment {
    /// Sets the default environment on this thread (rounding to nearest, subnormals kept,
    /// exceptions masked, no flag raised) and returns the previous one.
    pub fn replace_by_default() -> Environment {
        Environment(registers::replace_by_default())
    }

    /// Sets this environment on this thread.
    ///
    /// # Safety
    /// Until the default environment is set again, no Rust code computes with floats on this
    /// thread.
    pub unsafe fn set(self) {
        registers::set(self.0);
    }
}

#[cfg(target_arch = "x86_64")]
mod registers {
    use std::arch::asm;

    #[derive(Clone, Copy, Debug)]
    pub struct Registers {
        mxcsr: u32,
        /// As `fnstenv` stores it: control, status and tag words, last instruction and operand.
        x87: [u32; 7],
    }

    /// Rounds to nearest, keeps subnormals, masks all exceptions.
    static DEFAULT_MXCSR: u32 = 0x1F80;

    pub fn replace_by_default() -> Registers {
        let mut own = Registers { mxcsr: 0, x87: [0; 7] };
        // SAFETY: reads and writes the three operands and no other memory; `fninit` sets the control
        // word to 0x37F, and the x87 stack stays empty, as it is at every call.
        unsafe {
            asm!(
                "stmxcsr [{mxcsr}]",
                "fnstenv [{x87}]",
                "fninit",
                "ldmxcsr [{default}]",
                mxcsr = in(reg) &raw mut own.mxcsr,
                x87 = in(reg) own.x87.as_mut_ptr(),
                default = in(reg) &raw const DEFAULT_MXCSR,
                options(nostack),
            );
        }
        own
    }

    pub fn set(registers: Registers) {
        // SAFETY: reads the operands, which the processor stored; the x87 stack was empty then, too.
        unsafe {
            asm!(
                "fldenv [{x87}]",
                "ldmxcsr [{mxcsr}]",
                mxcsr = in(reg) &raw const registers.mxcsr,
                x87 = in(reg) registers.x87.as_ptr(),
                options(nostack),
            );
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod registers {
    use std::arch::asm;

    #[derive(Clone, Copy, Debug)]
    pub struct Registers {
        fpcr: u64,
        fpsr: u64,
    }

    pub fn replace_by_default() -> Registers {
        let (fpcr, fpsr): (u64, u64);
        // SAFETY: accesses the two registers and no memory.
        unsafe { asm!("mrs {}, fpcr", "mrs {}, fpsr", out(reg) fpcr, out(reg) fpsr, options(nostack)) };
        set(Registers { fpcr: 0, fpsr: 0 });
        Registers { fpcr, fpsr }
    }

    pub fn set(Registers { fpcr, fpsr }: Registers) {
        // SAFETY: sets the two registers and accesses no memory.
        unsafe { asm!("msr fpcr, {}", "msr fpsr, {}", in(reg) fpcr, in(reg) fpsr, options(nostack)) };
    }
}
