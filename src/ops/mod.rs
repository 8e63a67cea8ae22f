//! L3, the ops: one op per file, forward and backward. An op is a value with named operands and
//! sizes.
//!
//! An op's file declares its struct with `op!`, which derives the operands read and written, bytes,
//! FLOPs and scratch from the declaration. Two functions run it: the CPU implementation and the
//! CUDA launch. A backend implements [`Kernels`], whose entry is [`Kernels::run`]. [`cpu`] and
//! [`cuda`] hold the shared code of each backend. [`cpu::CpuKernels`] is the numerical reference.
//!
//! # Rules of all ops
//! - Matrices are row-major; sizes are in elements; size letters are those of
//!   [`crate::base::Dims`].
//! - *Activations* have the dtype [`Kernels::activation_dtype`] (f32 on the CPU, bf16 on CUDA).
//!   *Weights* are bf16 `[out, in]`, as in Hugging Face files. *Accumulators* (weight gradients),
//!   `rstd`, `lse` and log-probabilities are f32. Losses and squared norms are f64.
//! - Every output is either set (`=`) or added to (`+=`); an op that supports both takes a
//!   [`Write`].
//! - Results depend on shapes and inputs alone, bit for bit: never on threads or timing.
//! - A span that is too short for its shape is a bug and panics.
//! - Outputs do not overlap inputs, except where an op says "may be": then both start at the same
//!   byte. Partial overlap is never allowed.
//! - Spans carry no borrow. For the length of the call, the caller must have exclusive access to
//!   the outputs and shared access to the inputs. In the engine the schedule provides this and
//!   `check` proves it.

pub mod cpu;
pub mod cuda;
mod op;

use crate::base::{DType, Dims, Result};

pub use glu::Activation;
pub use linear::Linear;
pub use op::{Access, Contract, Element, Field, Flops, Operand};
pub use qk_norm::NormSpan;
pub use rope::{QueryScaling, RopeDirection, Rotation};

use op::op;

/// Lists the ops, file by file.
macro_rules! ops {
    ($($file:ident: $($op:ident),*;)*) => {
        $(mod $file;)*
        $(pub use $file::{$($op),*};)*

        /// Any op.
        #[derive(Clone, Copy, Debug, PartialEq)]
        #[allow(missing_docs)]
        pub enum Op<P = crate::device::DeviceSpan> {
            $($($op($op<P>),)*)*
        }

        $($(impl<P> From<$op<P>> for Op<P> {
            fn from(op: $op<P>) -> Self {
                Op::$op(op)
            }
        })*)*

        impl<P> Op<P> {
            /// The op's operands and costs.
            pub fn contract(&self) -> &dyn Contract<P> {
                match self {
                    $($(Op::$op(op) => op,)*)*
                }
            }

            /// The same op with each operand replaced by `f`.
            pub fn map<Q>(&self, f: &mut dyn FnMut(&P) -> Q) -> Op<Q> {
                match self {
                    $($(Op::$op(op) => Op::$op(op.map(f)),)*)*
                }
            }
        }

        impl Op {
            fn cpu(&self, cpu: &cpu::CpuKernels) {
                match *self {
                    $($(Op::$op(op) => op.cpu(cpu),)*)*
                }
            }

            fn cuda(&self, cuda: &cuda::CudaKernels) {
                match *self {
                    $($(Op::$op(op) => op.cuda(cuda),)*)*
                }
            }
        }
    };
}

ops! {
    attention: AttentionForward, AttentionBackward;
    bias: BiasBackward;
    cross_entropy: CrossEntropyForward, CrossEntropyForwardBackward, CrossEntropyLogprobs, CrossEntropyBackward;
    embedding: EmbeddingForward, EmbeddingBackward;
    glu: GluForward, GluBackward;
    gradient: Zero, Squares, Round, Widen;
    linear: LinearForward, LinearBackwardInput, LinearBackwardWeight;
    qk_norm: QkNormForward, QkNormBackward;
    rmsnorm: RmsnormForward, RmsnormBackward;
    rope: Rope;
}

/// Elements of a norm block. Squares are summed per block, counted from each tensor's start, so the
/// norm does not depend on how a gradient is cut for transfer.
pub const NORM_BLOCK: usize = 1 << 16;

/// `=` or `+=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Write {
    /// `=`
    Set,
    /// `+=`
    Add,
}

/// The heads of a packed row: H of queries, then G of keys, then G of values, each of D elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub h: usize,
    /// Key heads (and as many value heads).
    pub g: usize,
    /// Head size.
    pub d: usize,
}

impl Heads {
    /// Columns of a packed row.
    pub fn qkv(&self) -> usize {
        (self.h + 2 * self.g) * self.d
    }

    /// Columns of the query heads, which is the width of the attention output.
    pub fn attention_width(&self) -> usize {
        self.h * self.d
    }

    /// Heads that QK-norm normalises: queries and keys.
    pub fn normed(&self) -> usize {
        self.h + self.g
    }
}

impl From<&Dims> for Heads {
    fn from(&Dims { h, g, d, .. }: &Dims) -> Self {
        Heads { h, g, d }
    }
}

/// Scalars of ops that change from run to run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scalars {
    /// 1 / Σ weights over the unmasked targets of the whole step.
    pub loss_scale: f32,
    /// Distinct tokens of the micro-batch.
    pub distinct: usize,
}

impl<P> Op<P> {
    /// Sets the scalars that change from run to run.
    pub fn set(&mut self, scalars: &Scalars) {
        match self {
            Op::CrossEntropyForwardBackward(op) => op.scale = scalars.loss_scale,
            Op::EmbeddingBackward(op) => op.distinct = scalars.distinct,
            _ => {}
        }
    }
}

/// A backend: runs ops on device memory, by the rules of the [module](self).
pub trait Kernels: Send + Sync {
    /// The dtype of activations.
    fn activation_dtype(&self) -> DType;

    /// Identifies the order of floating-point sums: kernels that return the same text give the same
    /// bits on any machine.
    fn arithmetic(&self) -> String;

    /// Returns true if the first run of an op can stall the device, as on CUDA, which loads kernels
    /// lazily. Each op is then run once before the first step.
    fn warms_up(&self) -> bool {
        false
    }

    /// Returns and clears the first failure since the last call; the error names the op. Called
    /// once per task. On a device with queued work, errors after the launch appear when the
    /// device is synchronised.
    fn outcome(&self) -> Result<()> {
        Ok(())
    }

    /// As [`Kernels::outcome`], and waits for all work so far.
    fn settle(&self) -> Result<()> {
        self.outcome()
    }

    /// Runs an op, or queues it on devices that queue work.
    ///
    /// # Safety
    /// Until the op is done, its operands and the kernels' workspace obey the rules of spans and
    /// those of the [module](self). The operands are memory that these kernels can access.
    /// Tokens, row numbers and positions in the inputs are within range.
    unsafe fn run(&self, op: &Op);
}
