//! The operation lists of a trainer, and tasks: an operation of a list with a step state, packed
//! into 64 bits.

use once_cell::sync::OnceCell;

use crate::base::Result;
use crate::schedule::{self, Geometry, List, Operation, Policy, Resource};

/// The purpose of a list, with its number of micro-batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A training step.
    Train(usize),
    /// A training step when the tokens of the next step are known.
    TrainRowsFirst(usize),
    /// The loss without an update.
    Evaluate(usize),
    /// The logits of one row.
    Logits,
    /// A save of every unit.
    Save,
    /// The log-probabilities of the targets.
    Logprobs(usize),
    /// A training step with a custom loss.
    TrainWithLoss(usize),
}

impl Purpose {
    /// Returns true if AdamW runs.
    pub fn trains(self) -> bool {
        matches!(self, Purpose::Train(_) | Purpose::TrainRowsFirst(_) | Purpose::TrainWithLoss(_))
    }
}

/// An operation of a list, run with a step state.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    /// Number of the list, from [`Lists::get`].
    pub list: u32,
    /// Index of the step state.
    pub step_state: u8,
    /// Position in the list.
    pub operation: u32,
}

impl Task {
    /// The task's name on a lane: 24 bits of list, 8 of step state, 32 of operation.
    pub fn pack(self) -> u64 {
        u64::from(self.list) << 40 | u64::from(self.step_state) << 32 | u64::from(self.operation)
    }

    /// The inverse of [`Task::pack`].
    pub fn unpack(name: u64) -> Self {
        Task { list: (name >> 40) as u32, step_state: (name >> 32) as u8, operation: name as u32 }
    }
}

/// Every list of a trainer, built on first use and cached. Looking one up takes no lock.
pub struct Lists {
    policy: Policy,
    geometry: Geometry,
    micros_max: usize,
    scrubs: bool,
    built: Vec<OnceCell<Built>>,
}

struct Built {
    list: List,
    /// Position of each operation that is the last to use a resource, with that resource; empty
    /// unless retired memory is scrubbed.
    retired: Vec<(usize, Resource)>,
}

impl Lists {
    /// An empty set of lists. With `scrubs`, lists come with their [retired](Lists::retired)
    /// resources.
    pub fn new(policy: Policy, geometry: Geometry, micros_max: usize, scrubs: bool) -> Self {
        let built = std::iter::repeat_with(OnceCell::new).take(5 * micros_max + 2).collect();
        Lists { policy, geometry, micros_max, scrubs, built }
    }

    /// The list of a purpose and its number. Builds it on first use.
    pub fn get(&self, purpose: Purpose) -> Result<(u32, &List)> {
        let number = self.number(purpose);
        let cell = &self.built[number];
        if cell.get().is_none() {
            let list = match purpose {
                Purpose::Train(micros) => schedule::train(&self.policy, &self.geometry, micros)?,
                Purpose::TrainRowsFirst(micros) => {
                    schedule::train_rows_first(&self.policy, &self.geometry, micros)?
                }
                Purpose::Evaluate(micros) => schedule::evaluate(&self.policy, &self.geometry, micros)?,
                Purpose::Logits => schedule::logits(&self.policy, &self.geometry)?,
                Purpose::Save => schedule::save(&self.geometry),
                Purpose::Logprobs(micros) => schedule::logprobs(&self.policy, &self.geometry, micros)?,
                Purpose::TrainWithLoss(micros) => {
                    schedule::train_with_loss(&self.policy, &self.geometry, micros)?
                }
            };
            cell.get_or_init(|| self.built(list));
        }
        Ok((number as u32, &cell.get().expect("set just now").list))
    }

    fn number(&self, purpose: Purpose) -> usize {
        match purpose {
            Purpose::Train(micros) => micros - 1,
            Purpose::Evaluate(micros) => self.micros_max + micros - 1,
            Purpose::Logits => 2 * self.micros_max,
            Purpose::Save => 2 * self.micros_max + 1,
            Purpose::Logprobs(micros) => 2 * self.micros_max + 1 + micros,
            Purpose::TrainWithLoss(micros) => 3 * self.micros_max + 1 + micros,
            Purpose::TrainRowsFirst(micros) => 4 * self.micros_max + 1 + micros,
        }
    }

    fn built(&self, list: List) -> Built {
        let retired = if self.scrubs { schedule::retired(&list, &self.geometry) } else { Vec::new() };
        Built { list, retired }
    }

    /// Sets the list of a purpose instead of building it.
    #[cfg(test)]
    pub fn replace(&self, purpose: Purpose, list: List) {
        let cell = &self.built[self.number(purpose)];
        assert!(cell.set(self.built(list)).is_ok(), "the list was built already");
    }

    /// Returns true if the list is a training step or a save.
    pub fn trains_or_saves(&self, list: u32) -> bool {
        let list = list as usize;
        list < self.micros_max
            || list == self.number(Purpose::Save)
            || list >= self.number(Purpose::TrainWithLoss(1))
    }

    /// The list with this number, which was built.
    pub fn numbered(&self, list: u32) -> &List {
        &self.find(list).list
    }

    fn find(&self, list: u32) -> &Built {
        self.built[list as usize].get().expect("a number comes from a list that was built")
    }

    /// The device resources that a task's operation is the last to use.
    pub fn retired(&self, task: Task) -> impl Iterator<Item = Resource> {
        let (retired, index) = (&self.find(task.list).retired, task.operation as usize);
        let from = retired.partition_point(|&(other, _)| other < index);
        retired[from..].iter().take_while(move |&&(other, _)| other == index).map(|&(_, resource)| resource)
    }

    /// The operation of a task.
    pub fn operation(&self, task: Task) -> Operation {
        self.numbered(task.list).operations[task.operation as usize]
    }
}
