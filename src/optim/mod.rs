//! L4, optimizers: arithmetic on *host* memory, run by CPU threads on any device.
//!
//! An [`Optimizer`] declares its state arrays; host memory, checkpoints and costs follow from the
//! declaration. [`update`] is the one operation: it reads and writes the memory of a run of
//! parameters once. AdamW ([`AdamOptions`]) is the only optimizer so far; another one is a file
//! next to `adamw`, with its state, scalars and formula, and a variant of [`Optimizer`].
//!
//! All element arithmetic is f32, each operation rounded separately (no fused multiply-add), so the
//! bits depend on the inputs alone: not on the instruction set, the number of threads or the
//! alignment of spans.
//!
//! bf16 state uses stochastic rounding, which is unbiased. With rounding to nearest, AdamW's v
//! would stop changing as soon as a step changed it by less than 2⁻⁹ of itself, which with β2 =
//! 0.999 is always.
//!
//! The [rules of spans](crate::host::Span) hold for the spans of this module.

mod adamw;
mod arrays;
mod isa;
mod master;
mod random;
mod rows;
mod tiles;

use std::ops::Range;

use crate::base::DType;
use crate::host::{HostSpan, Isa, Pool};

pub use adamw::{AdamOptions, AdamScalars, EPS_MIN};
pub use master::{read_master, write_master};
use random::RandomBits;
pub use random::Rounding;
pub use rows::Rows;
use tiles::over_tiles;

/// An optimizer and the storage of its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Optimizer {
    /// AdamW.
    AdamW {
        /// The dtype of both moments; bf16 is rounded stochastically.
        moments: DType,
    },
}

/// A state array: one number per parameter, kept from step to step, initially zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateArray {
    /// Its name in checkpoints.
    pub name: &'static str,
    /// Its region in plans; arrays of the same region are summed.
    pub region: &'static str,
    /// The dtype of its numbers.
    pub dtype: DType,
}

/// The maximum number of state arrays.
pub const STATE_ARRAYS_MAX: usize = 2;

impl Optimizer {
    /// The state arrays, at most [`STATE_ARRAYS_MAX`]. Other code refers to them by index in this
    /// list.
    pub fn state(self) -> &'static [StateArray] {
        match self {
            Optimizer::AdamW { moments } => adamw::state(moments),
        }
    }

    /// Host bytes per parameter: bf16 weight, 16-bit residual, state.
    pub fn parameter_bytes(self) -> usize {
        2 + 2 + self.state().iter().map(|array| array.dtype.bytes()).sum::<usize>()
    }

    /// Bytes per parameter that an update of a split master reads and writes.
    pub fn traffic_bytes(self, gradient_dtype: DType) -> usize {
        2 * self.parameter_bytes() + gradient_dtype.bytes()
    }
}

/// The memory of master weights.
#[derive(Clone, Copy, Debug)]
pub enum Master {
    /// Split masters, the format of Horizon's store.
    Split {
        /// bf16: in and out.
        weights: HostSpan,
        /// i16: the residuals that extend the weights to f32. In and out.
        residual: HostSpan,
    },
    /// Whole f32 masters, the format of other trainers. An update gives the same bits as joining,
    /// updating and splitting.
    Whole {
        /// f32: in and out.
        params: HostSpan,
        /// Output: the updated parameters as bf16, rounded like the weights of a split master.
        copy: Option<HostSpan>,
    },
}

impl Master {
    /// Bytes of a weight.
    fn weight_bytes(&self) -> usize {
        match self {
            Master::Split { .. } => 2,
            Master::Whole { .. } => 4,
        }
    }

    /// The weights, and the residuals or the copy; an empty span without a copy.
    fn halves(&self) -> (HostSpan, HostSpan) {
        match *self {
            Master::Split { weights, residual } => (weights, residual),
            Master::Whole { params, copy } => (params, copy.unwrap_or(params.subspan(0, 0))),
        }
    }

    fn slice(&self, start: usize, count: usize) -> Master {
        let cut = |span: HostSpan, size: usize| span.subspan(start * size, count * size);
        match *self {
            Master::Split { weights, residual } => {
                Master::Split { weights: cut(weights, 2), residual: cut(residual, 2) }
            }
            Master::Whole { params, copy } => {
                Master::Whole { params: cut(params, 4), copy: copy.map(|copy| cut(copy, 2)) }
            }
        }
    }
}

/// The memory of a run of parameters. All spans have the same number of elements.
#[derive(Clone, Copy, Debug)]
pub struct Spans {
    /// The parameters.
    pub master: Master,
    /// The gradient before scaling. In.
    pub gradient: HostSpan,
    /// The dtype of the gradient.
    pub gradient_dtype: DType,
    /// The optimizer, which declares the state.
    pub optimizer: Optimizer,
    /// The state arrays by index; those that the optimizer does not declare are ignored. In and
    /// out.
    pub state: [HostSpan; STATE_ARRAYS_MAX],
}

impl Spans {
    /// The number of parameters.
    pub fn elements(&self) -> usize {
        self.master.halves().0.bytes() / self.master.weight_bytes()
    }

    /// The spans of `count` elements from `start`.
    ///
    /// # Panics
    /// If they are outside the spans.
    pub fn slice(&self, start: usize, count: usize) -> Spans {
        let cut = |span: HostSpan, dtype: DType| span.subspan(start * dtype.bytes(), count * dtype.bytes());
        let mut state = self.state;
        for (span, array) in state.iter_mut().zip(self.optimizer.state()) {
            *span = cut(*span, array.dtype);
        }
        Spans {
            master: self.master.slice(start, count),
            gradient: cut(self.gradient, self.gradient_dtype),
            state,
            ..*self
        }
    }

    fn check(&self) {
        let elements = self.elements();
        let fits = |name: &str, span: HostSpan, size: usize| {
            assert_eq!(span.bytes(), elements * size, "bytes of {name} for {elements} parameters");
        };
        match self.master {
            Master::Split { residual, .. } => fits("residual", residual, 2),
            Master::Whole { copy: Some(copy), .. } => fits("copy", copy, 2),
            Master::Whole { copy: None, .. } => (),
        }
        fits("gradient", self.gradient, self.gradient_dtype.bytes());
        for (span, array) in self.state.iter().zip(self.optimizer.state()) {
            fits(array.name, *span, array.dtype.bytes());
        }
    }
}

/// The inputs that all elements of an update share.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    /// The scalars of the step.
    pub scalars: AdamScalars,
    /// The clip factor, or 1.
    pub gradient_scale: f32,
    /// True if weight decay applies to these parameters.
    pub decay: bool,
    /// The seed and position for stochastic rounding of bf16 state.
    pub rounding: Rounding,
    /// If set, only these rows of a matrix are updated. Their bits are the same either way.
    pub rows: Option<Rows<'a>>,
    /// The instruction set to use.
    pub isa: Isa,
}

impl Step<'_> {
    /// An update of all elements, with weight decay, without gradient scaling.
    pub fn new(scalars: AdamScalars) -> Self {
        Step {
            scalars,
            gradient_scale: 1.0,
            decay: true,
            rounding: Rounding::default(),
            rows: None,
            // `AdamOptions::check` has refused an invalid `HZ_ISA`.
            isa: Isa::chosen().unwrap_or(Isa::Portable),
        }
    }
}

/// Runs one optimizer step over a run of parameters, on the threads of a pool.
///
/// # Panics
/// If the spans differ in their number of elements, or one is misaligned; if masters are whole and
/// moments bf16; if this processor does not support the instruction set.
///
/// # Safety
/// By the [rules of spans](crate::host::Span): the caller has shared access to the gradient and
/// exclusive access to the rest, and no two spans overlap.
pub unsafe fn update(pool: &Pool, spans: &Spans, step: &Step) {
    assert!(step.isa.is_here(), "this processor does not have {}", step.isa);
    spans.check();
    let (weights, _) = spans.master.halves();
    over_tiles(pool, spans.elements(), weights.address(), spans.master.weight_bytes(), &|start, count| {
        match &step.rows {
            // SAFETY: promised by the caller; tiles are disjoint, and so are the runs of rows within one.
            Some(rows) => rows.runs(start..start + count, |run| unsafe { update_run(spans, run, step) }),
            // SAFETY: promised by the caller; no other thread has this tile.
            None => unsafe { update_run(spans, start..start + count, step) },
        }
    });
}

/// Updates a range of elements on this thread.
///
/// # Safety
/// As [`update`], for these elements.
unsafe fn update_run(spans: &Spans, elements: Range<usize>, step: &Step) {
    let Range { mut start, end } = elements;
    while start < end {
        let (random, valid) = RandomBits::new(&step.rounding, start);
        let count = valid.min(end - start);
        let slice = spans.slice(start, count);
        match spans.optimizer {
            // SAFETY: the caller's promise covers a slice of the elements.
            Optimizer::AdamW { moments } => unsafe { adamw::run(&slice, moments, step, random) },
        }
        start += count;
    }
}
