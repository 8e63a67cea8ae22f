//! Saving: the disk lane writes the store's units one by one while training continues.
//!
//! The engine knows no file format. A caller passes a [`Sink`] to
//! [`Trainer::save`](super::Trainer::save); the sink receives the state of every unit in forward
//! order and then a call that ends the save. Saving a unit waits for the unit's AdamW of the step
//! before, and its next AdamW waits until it is saved; nothing else waits.

use parking_lot::Mutex;

use crate::base::{DType, Error, Result, UnitIndex};
use crate::model::UnitLayout;
use crate::optim::{Optimizer, STATE_ARRAYS_MAX};

/// The state of a unit that a resumed run needs.
///
/// Every span covers the elements of `layout`, at its offsets. Padding is included and zero. Spans
/// are aligned to their elements. They are borrowed until [`Sink::unit`] returns; AdamW of the unit
/// waits for that.
#[derive(Clone, Copy, Debug)]
pub struct UnitState<'a> {
    /// The unit.
    pub unit: UnitIndex,
    /// Its tensors: names, shapes, offsets.
    pub layout: &'a UnitLayout,
    /// bf16: the uploaded half of the master weights.
    pub weights: &'a [u8],
    /// i16: the residual that extends weights to f32 masters, see [`master`](crate::base::master).
    pub residual: &'a [u8],
    /// The optimizer of the trainer's mode.
    pub optimizer: Optimizer,
    /// The arrays that the optimizer declares, in its order.
    pub state: [&'a [u8]; STATE_ARRAYS_MAX],
}

/// One of the spans of a unit's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StateSpan {
    /// [`UnitState::weights`].
    Weights,
    /// [`UnitState::residual`].
    Residual,
    /// The array of [`UnitState::state`] with this index.
    Optimizer(usize),
}

impl StateSpan {
    /// All spans of a unit under an optimizer, in the order of saving.
    pub fn all(optimizer: Optimizer) -> impl Iterator<Item = StateSpan> {
        let arrays = (0..optimizer.state().len()).map(StateSpan::Optimizer);
        [StateSpan::Weights, StateSpan::Residual].into_iter().chain(arrays)
    }

    /// Its name in checkpoints: `weights`, `residual`, or the name of the optimizer's array.
    pub fn name(self, optimizer: Optimizer) -> &'static str {
        match self {
            StateSpan::Weights => "weights",
            StateSpan::Residual => "residual",
            StateSpan::Optimizer(number) => optimizer.state()[number].name,
        }
    }

    /// The dtype of an array of the optimizer; `None` for weights and residuals.
    pub fn dtype(self, optimizer: Optimizer) -> Option<DType> {
        match self {
            StateSpan::Weights | StateSpan::Residual => None,
            StateSpan::Optimizer(number) => Some(optimizer.state()[number].dtype),
        }
    }

    /// Bytes of an element.
    pub fn element_bytes(self, optimizer: Optimizer) -> usize {
        self.dtype(optimizer).map_or(2, DType::bytes)
    }
}

impl<'a> UnitState<'a> {
    /// The bytes of a span.
    pub fn span(&self, span: StateSpan) -> &'a [u8] {
        match span {
            StateSpan::Weights => self.weights,
            StateSpan::Residual => self.residual,
            StateSpan::Optimizer(number) => self.state[number],
        }
    }
}

/// A span of a unit's state, to be filled.
#[derive(Debug)]
pub struct Fill<'a> {
    /// The unit.
    pub unit: UnitIndex,
    /// Its tensors.
    pub layout: &'a UnitLayout,
    /// The optimizer of the trainer's mode.
    pub optimizer: Optimizer,
    /// The span to fill.
    pub span: StateSpan,
    /// Its memory, as in [`UnitState`].
    pub bytes: &'a mut [u8],
}

/// Fills a span of a unit's state. Called on any thread, see
/// [`Trainer::restore`](super::Trainer::restore).
pub type StateJob<'a> = dyn Fn(&mut Fill) -> Result<()> + Sync + 'a;

/// The destination of a save, in some file format. It receives the units only: the caller adds step
/// number, options and data position when it makes the sink.
///
/// The trainer owns the sink until the save has ended, and calls it on the disk lane's thread only:
/// [`Sink::unit`] once for every unit in forward order, then [`Sink::finish`]. Both may block for
/// any time; meanwhile only AdamW of the unit being written and [`Trainer::save_wait`] wait for
/// them. They must not call the trainer.
///
/// An error of either ends the save and is its outcome; training continues. The sink is then
/// dropped at once, without `finish`, and should remove its partial output when dropped. It is also
/// dropped unfinished if the device fails before AdamW of the saved step is done. A save that
/// begins after a failure of the device calls it on the calling thread. A panic is a bug and poisons
/// the trainer.
///
/// [`Trainer::save_wait`]: super::Trainer::save_wait
pub trait Sink: Send {
    /// Receives a unit's state. When it returns, AdamW may change the spans.
    fn unit(&mut self, state: &UnitState) -> Result<()>;

    /// Called after the last unit: makes the save durable, then visible.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// The save in progress, shared by the calling thread and the disk lane.
#[derive(Default)]
pub struct Saving(Mutex<State>);

#[derive(Default)]
enum State {
    /// No save; or the disk lane is calling the sink at this moment.
    #[default]
    Taken,
    Open(Box<dyn Sink>),
    /// The sink failed. Its error becomes the outcome after the last unit.
    Failed(Error),
    Ended(Result<()>),
}

impl Saving {
    /// Begins a save. The previous one must have ended.
    pub fn begin(&self, sink: Box<dyn Sink>) {
        *self.0.lock() = State::Open(sink);
    }

    /// Ends a save that has not ended, because the device has failed. The disk lane is idle.
    pub fn interrupt(&self, first: &Error) {
        let mut state = self.0.lock();
        if !matches!(*state, State::Ended(_)) {
            *state = State::Ended(Err(first.clone().within("the save was interrupted")));
        }
    }

    /// Takes the outcome of a save that has ended; `None` while it runs and once the outcome was
    /// taken.
    pub fn take_outcome(&self) -> Option<Result<()>> {
        let mut state = self.0.lock();
        match std::mem::take(&mut *state) {
            State::Ended(outcome) => Some(outcome),
            other => {
                *state = other;
                None
            }
        }
    }

    /// Passes a unit to the sink, on the disk lane. The lock is free while the sink runs.
    pub fn unit(&self, unit: &UnitState, is_last: bool) {
        let state = std::mem::take(&mut *self.0.lock());
        let next = match state {
            State::Open(mut sink) => match sink.unit(unit) {
                Ok(()) if is_last => State::Ended(sink.finish()),
                Ok(()) => State::Open(sink),
                Err(error) => State::Failed(error.within(format_args!("save {}", unit.unit))),
            },
            other => other,
        };
        *self.0.lock() = match next {
            State::Failed(error) if is_last => State::Ended(Err(error)),
            other => other,
        };
    }
}
