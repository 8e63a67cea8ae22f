//! Warm-up: runs every kind of compute operation once, on zeros, before the first step.
//!
//! CUDA loads a kernel at its first launch, and all other work waits until the device is idle;
//! cuBLASLt does so for every GEMM. In a step that would cost time, and could stall lanes that wait
//! for each other.

use std::mem::{Discriminant, discriminant};

use crate::base::{MicroIndex, Result, filled};
use crate::device::Lane;
use crate::engine::Batch;
use crate::engine::runner::Runner;
use crate::engine::step_state::Inputs;
use crate::engine::task::Purpose;
use crate::ops::{Op, Zero};
use crate::schedule::Operation;

/// Two, since micro-batches differ in kernels: the first sets gradients, later ones add to them.
const MICROS: usize = 2;

/// Operations with the same kernels and shapes.
#[derive(PartialEq)]
enum Kind {
    /// A pass, by its number.
    Pass(usize),
    /// Another operation; true if it squares a gradient while rounding it.
    Other(Discriminant<Operation>, bool),
}

impl Runner {
    /// Runs each kind of compute operation of every list once, then zeroes the device arena except
    /// its constants. Called before the lanes are opened.
    ///
    /// Errors: those of the launches, with their operation.
    pub fn warm_up(&self) -> Result<()> {
        let micros = self.plan.micros_max.min(MICROS);
        let zeros = filled(0, self.plan.policy.numeric.shape.n())?;
        let batch = Batch::new(&zeros, &zeros);
        for micro in (0..micros).map(MicroIndex::from) {
            self.store.stage(micro, &batch)?;
            self.upload(self.at(self.plan.device.batch(micro).whole), self.store.batch(micro))?;
        }
        let step_state = &self.step_states[0];
        step_state.open(Inputs { weight: 1.0, ..Inputs::default() });
        let mut purposes = vec![
            Purpose::Train(micros),
            Purpose::Evaluate(micros),
            Purpose::Logprobs(micros),
            Purpose::Logits,
        ];
        // With several sweeps there is no step with a custom loss.
        let with_loss = [1, micros].map(Purpose::TrainWithLoss);
        purposes.extend(with_loss.into_iter().filter(|purpose| self.lists.get(*purpose).is_ok()));
        let mut seen: Vec<Kind> = Vec::new();
        for purpose in purposes {
            let (_, list) = self.lists.get(purpose)?;
            for operation in list.operations.iter().filter(|operation| operation.lane() == Lane::Compute) {
                let kind = self.kind(operation);
                if !seen.contains(&kind) {
                    seen.push(kind);
                    let done = self
                        .perform(*operation, list.extent, step_state)
                        .and_then(|()| self.kernels.settle());
                    done.map_err(|error| error.within(operation))?;
                }
            }
        }
        let constants = self.plan.device.constants();
        let end = constants.offset + constants.bytes;
        for (from, to) in
            [(0, constants.offset), (end, self.memory.bytes())].into_iter().filter(|(from, to)| from < to)
        {
            let (out, bytes) = (self.memory.subspan(from, to - from), to - from);
            self.launch(&Op::from(Zero { out, bytes }));
        }
        self.kernels.settle()
    }

    fn kind(&self, operation: &Operation) -> Kind {
        if let Some(pass) = operation.pass() {
            return Kind::Pass(self.plan.passes.number(pass));
        }
        // One kernel rounds and squares a gradient of one chunk.
        let squares = matches!(*operation,
            Operation::Round { unit, .. } if self.plan.geometry.is_rounded_whole(unit));
        Kind::Other(discriminant(operation), squares)
    }
}
