//! L3, the ops: one op a file, forward and backward, a value with named operands and sizes.
//!
//! An op's file holds its struct, declared by `op!`, from which follow the operands read and written, bytes, FLOPs and
//! scratch; and two functions over that struct: the CPU's and the launch on CUDA. A backend is [`Kernels`]; its one entry is
//! [`Kernels::run`]. [`cpu`] and [`cuda`] hold what the functions of each backend share. [`cpu::CpuKernels`] is the reference.
//!
//! # The law
//! - Rows are row-major; sizes are in elements; letters are those of [`crate::base::Dims`].
//! - *Activations* are of the type [`Kernels::storage`] names (f32 on the CPU, bf16 on CUDA). *Weights* are bf16 `[out, in]`, as
//!   Hugging Face stores them. *Accumulators* (weight gradients), `rstd`, `lse`, losses are f32; sums over many rows that
//!   leave the device are f64.
//! - Every output says whether it is set (`=`) or added to (`+=`); [`Write`] chooses where both exist.
//! - The bits of a result depend on shapes and inputs alone: never on threads, never on timing.
//! - A span that is too short for its shape is a bug and panics.
//! - Outputs overlap no input, except where an op says "may be": then the two start at the same byte. They never overlap in
//!   part.
//! - Spans carry no borrow. The caller of an op holds the right to read the inputs and to write the outputs for the length of
//!   the call: in the engine the schedule gives that right and `check` proves it.

pub mod cpu;
pub mod cuda;
mod op;

use crate::base::{DType, Dims, Result};

pub use linear::Linear;
pub use op::{Access, Contract, Element, Field, Flops, Operand};
pub use rope::Way;

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
            /// What follows from the op's declaration.
            pub fn contract(&self) -> &dyn Contract<P> {
                match self {
                    $($(Op::$op(op) => op,)*)*
                }
            }

            /// The op on other operands: those that `f` gives for its own.
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
    gradient: Zero, Squares, Round, Widen;
    linear: LinearForward, LinearBackwardInput, LinearBackwardWeight;
    qk_norm: QkNormForward, QkNormBackward;
    rmsnorm: RmsnormForward, RmsnormBackward;
    rope: Rope;
    swiglu: SwigluForward, SwigluBackward;
}

/// Elements of a block of a gradient's norm: its squares are summed alone, from the start of each tensor on, so that no bit of a
/// norm depends on where the gradient is cut.
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
    /// Key heads, and value heads.
    pub g: usize,
    /// Head size.
    pub d: usize,
}

impl Heads {
    /// Columns of a packed row.
    pub fn qkv(&self) -> usize {
        (self.h + 2 * self.g) * self.d
    }

    /// Columns of the query heads, and of attention's output.
    pub fn attention_width(&self) -> usize {
        self.h * self.d
    }

    /// Heads that have a norm of their own: those of queries and of keys.
    pub fn normed(&self) -> usize {
        self.h + self.g
    }
}

impl From<&Dims> for Heads {
    fn from(&Dims { h, g, d, .. }: &Dims) -> Self {
        Heads { h, g, d }
    }
}

/// The numbers in ops that differ from run to run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scalars {
    /// 1 / Σ weights over the unmasked targets of the whole step.
    pub loss_scale: f32,
    /// Distinct tokens of the micro-batch.
    pub distinct: usize,
}

impl<P> Op<P> {
    /// Sets the numbers that differ from run to run.
    pub fn set(&mut self, scalars: &Scalars) {
        match self {
            Op::CrossEntropyForwardBackward(op) => op.scale = scalars.loss_scale,
            Op::EmbeddingBackward(op) => op.distinct = scalars.distinct,
            _ => {}
        }
    }
}

/// A backend: runs ops on memory of a device. See the module for the law.
pub trait Kernels: Send + Sync {
    /// The type activations are stored in.
    fn activation_dtype(&self) -> DType;

    /// What decides the order of sums: kernels that give the same text here give the same bits, wherever they run.
    fn arithmetic(&self) -> String;

    /// Whether the first run of an op may hold up the device, as CUDA does when it loads a kernel: each is then run once before
    /// the first step.
    fn warms_up(&self) -> bool {
        false
    }

    /// The first failure since this was last asked, naming the op; asked once a task. On a device whose work is queued, what
    /// fails later than its launch shows where the device is waited for.
    fn outcome(&self) -> Result<()> {
        Ok(())
    }

    /// As [`Kernels::outcome`], once all work so far is done.
    fn settle(&self) -> Result<()> {
        self.outcome()
    }

    /// Runs an op, or queues it where work is queued.
    ///
    /// # Safety
    /// The law of spans and that of the [module](self), until the op is done: for its operands, which are memory that these kernels
    /// run on, and for the workspace that they were made with. Tokens, rows and positions that an op reads lie within what they
    /// count.
    unsafe fn run(&self, op: &Op);
}
