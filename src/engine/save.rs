//! Saving: units leave the store one by one, on the disk lane, while training goes on. And the way back.
//!
//! The engine knows no file format. A caller hands [`Trainer::save`](super::Trainer::save) a [`Sink`], which gets
//! the state of every unit in forward order and then is told that it has all of it. The schedule makes each unit
//! wait for its own AdamW of the step before, and the next AdamW of a unit wait until that unit has been saved;
//! nothing else waits.

use parking_lot::Mutex;

use crate::base::{DType, Error, Result, UnitIndex};
use crate::model::UnitLayout;
use crate::optim::{Optimizer, STATE_ARRAYS_MAX};

/// A unit as the store holds it: what a resumed run needs of it, and nothing that can be made again.
///
/// Every span covers the same elements, those of `layout` with its padding, in the order and at the offsets that
/// it names; the padding is zero. They are lent until [`Sink::unit`] returns: AdamW of the unit waits for that. Spans are aligned to
/// their elements.
#[derive(Clone, Copy, Debug)]
pub struct UnitState<'a> {
    /// Which.
    pub unit: UnitIndex,
    /// Its tensors: names, shapes, offsets.
    pub layout: &'a UnitLayout,
    /// bf16: the weights that are streamed.
    pub weights: &'a [u8],
    /// i16: what makes them whole, see [`master`](crate::base::master).
    pub residual: &'a [u8],
    /// The mode's optimizer.
    pub optimizer: Optimizer,
    /// The arrays that the optimizer declares, by number.
    pub state: [&'a [u8]; STATE_ARRAYS_MAX],
}

/// One of the spans of a unit's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StateSpan {
    /// [`UnitState::weights`].
    Weights,
    /// [`UnitState::residual`].
    Residual,
    /// The array of [`UnitState::state`] with this number.
    Optimizer(usize),
}

impl StateSpan {
    /// All spans of a unit under an optimizer, in the order in which they are saved.
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

    /// The type of an array of the optimizer; none for weights and residuals.
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
    /// A span by name.
    pub fn span(&self, span: StateSpan) -> &'a [u8] {
        match span {
            StateSpan::Weights => self.weights,
            StateSpan::Residual => self.residual,
            StateSpan::Optimizer(number) => self.state[number],
        }
    }
}

/// A span of a unit's state that is to be filled.
#[derive(Debug)]
pub struct Fill<'a> {
    /// The unit.
    pub unit: UnitIndex,
    /// Its tensors.
    pub layout: &'a UnitLayout,
    /// The mode's optimizer.
    pub optimizer: Optimizer,
    /// The span's name.
    pub span: StateSpan,
    /// Its memory, as in [`UnitState`].
    pub bytes: &'a mut [u8],
}

/// Fills a span of a unit's state, by any thread; see [`Trainer::restore`](super::Trainer::restore).
pub type StateJob<'a> = dyn Fn(&mut Fill) -> Result<()> + Sync + 'a;

/// Where a save goes. Made by whoever knows a format, with all that is not a unit's: step number, options, data
/// position are the caller's to know and to write.
///
/// The trainer owns it until the save has ended. It is used by the disk lane's thread alone: [`Sink::unit`] for
/// every unit, in forward order, each once; then [`Sink::finish`]. Both may block for as long as they like; what
/// waits for them is AdamW of the unit that is being written, and in the end [`Trainer::save_wait`]. They must
/// not call the trainer.
///
/// An error of either ends the save and is its outcome. The trainer is not poisoned and training does not notice. The
/// sink is dropped at once, without `finish`: dropping an unfinished sink is the place to remove what it has
/// begun. It is dropped unfinished, too, when the device fails under the save. A panic is a bug and poisons the trainer.
///
/// [`Trainer::save_wait`]: super::Trainer::save_wait
pub trait Sink: Send {
    /// Takes a unit's state. `Ok` means that the spans are no longer needed.
    fn unit(&mut self, state: &UnitState) -> Result<()>;

    /// Every unit has been taken: the place to make the save durable, and then visible.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// The save that is under way, between the thread that asked for it and the disk lane.
#[derive(Default)]
pub struct Saving(Mutex<State>);

#[derive(Default)]
enum State {
    /// No save, or the disk lane holds its sink at this moment.
    #[default]
    Away,
    Open(Box<dyn Sink>),
    /// Units are passed over until the last.
    Failed(Error),
    Ended(Result<()>),
}

impl Saving {
    /// A save begins; the one before has ended.
    pub fn begin(&self, sink: Box<dyn Sink>) {
        *self.0.lock() = State::Open(sink);
    }

    /// Its outcome, once it has ended and nobody has asked yet.
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

    /// The disk lane has come to a unit. The lock is not held while the sink is at work.
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
