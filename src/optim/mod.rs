//! L4, optimizers: arithmetic on *host* memory, run by CPU workers whatever the device.
//!
//! An [`Optimizer`] declares the arrays it keeps per parameter. Host memory, checkpoints and costs follow from that
//! declaration. [`update`] is the one operation: a single pass over the memory of a run of parameters. AdamW
//! ([`AdamOptions`]) is the only optimizer so far; another one is a file beside `adamw`, with its state, its scalars
//! and its formula, and a variant of [`Optimizer`].
//!
//! All arithmetic on elements is f32, each operation rounded by itself (no fused multiply-add), so the bits depend
//! on the inputs alone: not on the instruction set, the number of threads, or where a span starts.
//!
//! State stored as bf16 is rounded at random, so that on average nothing is lost. Rounded to nearest, AdamW's v would
//! stand still as soon as a step changed it by less than 2⁻⁹ of itself, which with β2 = 0.999 is always.
//!
//! The [law of spans](crate::host::Span) holds for the spans of this module.

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

pub use adamw::{AdamOptions, AdamScalars};
pub use master::{read_master, write_master};
use random::RandomBits;
pub use random::Rounding;
pub use rows::Rows;
use tiles::over_tiles;

/// An optimizer and how it stores its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Optimizer {
    /// AdamW.
    AdamW {
        /// The type of both moments; bf16 is rounded at random.
        moments: DType,
    },
}

/// An array with one number per parameter that an optimizer keeps from step to step. It is zero at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateArray {
    /// Its name in checkpoints.
    pub name: &'static str,
    /// The name of its memory in plans; arrays of the same name are summed.
    pub region: &'static str,
    /// How its numbers are stored.
    pub dtype: DType,
}

/// The most arrays that an optimizer keeps.
pub const STATE_ARRAYS_MAX: usize = 2;

impl Optimizer {
    /// The arrays it keeps, at most [`STATE_ARRAYS_MAX`]. Elsewhere they go by their number in this list.
    pub fn state(self) -> &'static [StateArray] {
        match self {
            Optimizer::AdamW { moments } => adamw::state(moments),
        }
    }

    /// Bytes per parameter that stay in host memory: bf16 weight, 16-bit residual, state.
    pub fn parameter_bytes(self) -> usize {
        2 + 2 + self.state().iter().map(|array| array.dtype.bytes()).sum::<usize>()
    }

    /// Bytes per parameter that an update of a split master reads and writes.
    pub fn traffic_bytes(self, gradient_dtype: DType) -> usize {
        2 * self.parameter_bytes() + gradient_dtype.bytes()
    }
}

/// The memory of some masters.
#[derive(Clone, Copy, Debug)]
pub enum Master {
    /// Split masters, as Horizon keeps them.
    Split {
        /// bf16: in and out.
        weights: HostSpan,
        /// i16: the residuals that extend the weights to f32. In and out.
        residual: HostSpan,
    },
    /// Masters that are f32 numbers, as other trainers keep them. An update gives the bits of joining, updating and
    /// splitting.
    Whole {
        /// f32: in and out.
        params: HostSpan,
        /// Where the new parameters go as bf16, rounded as the weights of a split master are. Out.
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

    /// The weights, and the residuals or the copy; without a copy an empty span.
    fn halves(&self) -> (HostSpan, HostSpan) {
        match *self {
            Master::Split { weights, residual } => (weights, residual),
            Master::Whole { params, copy } => (params, copy.unwrap_or(params.subspan(0, 0))),
        }
    }

    fn slice(&self, start: usize, count: usize) -> Master {
        let part = |span: HostSpan, size: usize| span.subspan(start * size, count * size);
        match *self {
            Master::Split { weights, residual } => {
                Master::Split { weights: part(weights, 2), residual: part(residual, 2) }
            }
            Master::Whole { params, copy } => {
                Master::Whole { params: part(params, 4), copy: copy.map(|copy| part(copy, 2)) }
            }
        }
    }
}

/// The memory of a run of parameters, all of the same number of elements.
#[derive(Clone, Copy, Debug)]
pub struct Spans {
    /// The parameters.
    pub master: Master,
    /// The gradient, before the scale. In.
    pub gradient: HostSpan,
    /// How the gradient is stored.
    pub gradient_dtype: DType,
    /// The optimizer, which declares the state.
    pub optimizer: Optimizer,
    /// The arrays of the state by number; more than the optimizer declares are not used. In and out.
    pub state: [HostSpan; STATE_ARRAYS_MAX],
}

impl Spans {
    /// The number of parameters.
    pub fn elements(&self) -> usize {
        self.master.halves().0.bytes() / self.master.weight_bytes()
    }

    /// The elements from `start`, `count` of them.
    ///
    /// # Panics
    /// If they leave the spans.
    pub fn slice(&self, start: usize, count: usize) -> Spans {
        let part = |span: HostSpan, dtype: DType| span.subspan(start * dtype.bytes(), count * dtype.bytes());
        let mut state = self.state;
        for (span, array) in state.iter_mut().zip(self.optimizer.state()) {
            *span = part(*span, array.dtype);
        }
        Spans {
            master: self.master.slice(start, count),
            gradient: part(self.gradient, self.gradient_dtype),
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

/// Everything that the elements of one update share.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    /// The numbers of the step.
    pub scalars: AdamScalars,
    /// The clip factor, or 1.
    pub gradient_scale: f32,
    /// Whether weight decay applies to these parameters.
    pub decay: bool,
    /// The randomness of state that is stored as bf16.
    pub rounding: Rounding,
    /// The rows of a matrix to update, in place of all elements. An element gets the same bits either way.
    pub rows: Option<Rows<'a>>,
    /// The instruction set to use.
    pub isa: Isa,
}

impl Step<'_> {
    /// An update of all elements, with decay, of unscaled gradients.
    pub fn new(scalars: AdamScalars) -> Self {
        Step {
            scalars,
            gradient_scale: 1.0,
            decay: true,
            rounding: Rounding::default(),
            rows: None,
            // An `HZ_ISA` that cannot be followed was refused by `AdamOptions::check`.
            isa: Isa::chosen().unwrap_or(Isa::Portable),
        }
    }
}

/// One step of an optimizer over a run of parameters, by the threads of a pool.
///
/// # Panics
/// If a span has another length than the number of parameters asks for, or does not start on one of its elements; if
/// masters are whole and moments bf16; if this processor does not have the instruction set.
///
/// # Safety
/// The [law of spans](crate::host::Span): the caller may read the gradient and write the rest, and no two of the spans overlap.
pub unsafe fn update(pool: &Pool, spans: &Spans, step: &Step) {
    assert!(step.isa.is_here(), "this processor does not have {}", step.isa);
    spans.check();
    let (weights, _) = spans.master.halves();
    over_tiles(pool, spans.elements(), weights.address(), spans.master.weight_bytes(), &|start, count| {
        match &step.rows {
            // SAFETY: the caller's promise; tiles are disjoint, and so are the runs of rows in one.
            Some(rows) => rows.runs(start..start + count, |run| unsafe { update_run(spans, run, step) }),
            // SAFETY: the caller's promise, of a tile that no other thread has.
            None => unsafe { update_run(spans, start..start + count, step) },
        }
    });
}

/// Updates some elements on this thread.
///
/// # Safety
/// As [`update`], of these elements.
unsafe fn update_run(spans: &Spans, elements: Range<usize>, step: &Step) {
    let Range { mut start, end } = elements;
    while start < end {
        let (random, good) = RandomBits::new(&step.rounding, start);
        let count = good.min(end - start);
        let part = spans.slice(start, count);
        match spans.optimizer {
            // SAFETY: what the caller promises of the elements holds for some of them.
            Optimizer::AdamW { moments } => unsafe { adamw::run(&part, moments, step, random) },
        }
        start += count;
    }
}
