//! Simulated lanes over symbolic memory.
//!
//! Every resource holds a number that encodes its history: an operation writes a hash of its own
//! identity and of the numbers it read. Overlap has an effect: while an operation runs, the
//! resources it writes hold garbage, and those it reads are read at its start and again at its end.
//! So two conflicting operations that overlap give a number that no order of them gives.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use horizon::device::{Lane, Tick};
use horizon::schedule::{Access, EndUnit, Extent, Geometry, Operation, Resource};
use rand::{Rng, RngExt};

use crate::cases::Act;

/// The result of a run: memory, and the values that the issuing thread read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub masters: Vec<u64>,
    pub read: Vec<u64>,
    pub memory: Vec<(Resource, u64)>,
}

/// The order in which the lanes run.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// The order of the lists; waits are ignored.
    Program,
    /// Any order that the waits allow, every choice equally likely.
    Random,
    /// Like `Random`, but this lane runs only when no other can.
    Starve(Lane),
    /// Like `Random`, but this task ends only when nothing else can run.
    Hold(Tick),
}

pub fn digest(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The number that a resource holds at the start.
pub fn initial(resource: Resource) -> u64 {
    digest(("at the start", resource))
}

/// The identity of an operation, independent of the buffers it uses.
fn meaning(operation: &Operation) -> u64 {
    let chunk = match *operation {
        Operation::Round { chunk, .. }
        | Operation::Download { chunk, .. }
        | Operation::Adam { chunk, .. } => Some(chunk),
        _ => None,
    };
    // The result does not depend on the recomputed activations.
    let name =
        if matches!(operation, Operation::RecomputeBackward { .. }) { "backward" } else { operation.name() };
    digest((name, operation.unit(), operation.micro(), chunk))
}

/// The purpose of a resource, independent of its index: slots, slabs and ring slabs are
/// interchangeable.
fn role(resource: &Resource) -> u64 {
    match resource {
        Resource::Slot(_) | Resource::EndWeights(_) => digest("weights"),
        Resource::Slab(_) => digest("slab"),
        Resource::Norm(_) => digest("norm"),
        Resource::SavedActivations { .. } => digest("saved activations"),
        Resource::Ring(_) | Resource::HostGradient { .. } => digest("gradient"),
        Resource::Boundary { .. } | Resource::SpillBuffer { .. } | Resource::ResidualStream { .. } => {
            digest("residual stream")
        }
        Resource::Accumulator
        | Resource::AccumulatorSpill(_)
        | Resource::LayerAccumulator { .. }
        | Resource::EndAccumulator(EndUnit::First) => digest("accumulator"),
        other => digest(other),
    }
}

/// The number that an operation writes, given the numbers it read, in the order of its accesses.
pub fn result(operation: &Operation, resource: &Resource, inputs: &[u64]) -> u64 {
    match operation {
        // Copies to the host and back keep the number.
        Operation::SpillBoundary { .. }
        | Operation::FetchBoundary { .. }
        | Operation::SpillAccumulator { .. }
        | Operation::FetchAccumulator { .. } => inputs[0],
        _ => digest((meaning(operation), role(resource), inputs)),
    }
}

/// The inputs that affect the result. Saved activations do not if they are those that recomputation
/// from weights, batch and boundary (which come before them) would give; any other number there
/// does.
fn inputs_that_count(operation: &Operation, accesses: &[Access], inputs: &[u64]) -> Vec<u64> {
    let mut counting: Vec<u64> = Vec::new();
    for (access, &input) in accesses.iter().filter(|access| access.needs.is_some()).zip(inputs) {
        if let (
            Resource::SavedActivations { .. },
            Operation::RecomputeBackward { unit, slot, micro, recompute, from, .. },
        ) = (access.resource, *operation)
        {
            let forward = Operation::Forward { unit, slot, micro, recompute, from, to: from };
            if input == result(&forward, &access.resource, &counting) {
                continue;
            }
        }
        counting.push(input);
    }
    counting
}

struct Running {
    accesses: Vec<Access>,
    inputs: Vec<u64>,
    garbage: u64,
}

pub struct Machine<'a> {
    geometry: &'a Geometry,
    memory: HashMap<Resource, u64>,
    read: Vec<u64>,
    garbage: u64,
}

struct Task<'a> {
    operation: &'a Operation,
    extent: Extent,
    waits: &'a [Tick],
}

impl<'a> Machine<'a> {
    pub fn new(geometry: &'a Geometry) -> Self {
        Machine { geometry, memory: HashMap::new(), read: Vec::new(), garbage: 0 }
    }

    /// Runs all acts to their end.
    pub fn run(mut self, acts: &[Act], order: Order, random: &mut impl Rng) -> Outcome {
        let mut queues: [Vec<Task>; Lane::COUNT] = Default::default();
        let mut done = [0usize; Lane::COUNT];
        let mut running: [Option<Running>; Lane::COUNT] = Default::default();
        let mut next = 0;
        let arrived = |done: &[usize; Lane::COUNT], ticks: &[Tick]| {
            ticks.iter().all(|tick| done[tick.lane.at()] as u64 >= tick.count)
        };
        loop {
            // The issuing thread runs as far as it can, so that the queues are as full as possible.
            while let Some(act) = acts.get(next) {
                match act {
                    Act::Issue(list, synced) => {
                        for (index, operation) in list.operations.iter().enumerate() {
                            let waits = synced.waits(index);
                            let task = Task { operation, extent: list.extent, waits };
                            queues[operation.lane().at()].push(task);
                            if matches!(order, Order::Program) {
                                let running = self.start(operation, list.extent);
                                self.end(operation, running);
                                done[operation.lane().at()] += 1;
                            }
                        }
                    }
                    Act::Outside(ticks, accesses) if arrived(&done, ticks) => {
                        self.outside(next, accesses);
                    }
                    Act::Outside(..) => break,
                }
                next += 1;
            }
            let able = |lane: &Lane| {
                let at = lane.at();
                running[at].is_some()
                    || queues[at].get(done[at]).is_some_and(|task| arrived(&done, task.waits))
            };
            let able: Vec<Lane> = Lane::ALL.into_iter().filter(able).collect();
            let held_back = |lane: &Lane| match order {
                Order::Starve(starved) => *lane == starved,
                Order::Hold(tick) => *lane == tick.lane && done[lane.at()] as u64 + 1 == tick.count,
                Order::Program | Order::Random => false,
            };
            let willing: Vec<Lane> = able.iter().copied().filter(|lane| !held_back(lane)).collect();
            let choices = if willing.is_empty() { &able } else { &willing };
            if choices.is_empty() {
                assert_eq!(next, acts.len(), "deadlock: no lane can run");
                break;
            }
            let lane = choices[random.random_range(0..choices.len())].at();
            let Task { operation, extent, .. } = queues[lane][done[lane]];
            match running[lane].take() {
                None => running[lane] = Some(self.start(operation, extent)),
                Some(task) => {
                    self.end(operation, task);
                    done[lane] += 1;
                }
            }
        }
        let masters = self.geometry.units().map(|unit| self.value(Resource::Master { unit })).collect();
        let mut memory: Vec<_> =
            self.memory.into_iter().filter(|(resource, _)| *resource != Resource::Scratch).collect();
        memory.sort_by_key(|(resource, _)| digest(resource));
        Outcome { masters, read: self.read, memory }
    }

    fn value(&self, resource: Resource) -> u64 {
        self.memory.get(&resource).copied().unwrap_or_else(|| initial(resource))
    }

    fn inputs(&self, accesses: &[Access]) -> Vec<u64> {
        accesses
            .iter()
            .filter(|access| access.needs.is_some())
            .map(|access| self.value(access.resource))
            .collect()
    }

    fn start(&mut self, operation: &Operation, extent: Extent) -> Running {
        let mut accesses = Vec::new();
        operation.visit(self.geometry, extent, &mut |access| accesses.push(access));
        let inputs = self.inputs(&accesses);
        self.garbage += 1;
        let garbage = digest(("garbage", self.garbage));
        for access in accesses.iter().filter(|access| access.writes()) {
            self.memory.insert(access.resource, garbage);
        }
        Running { accesses, inputs, garbage }
    }

    fn end(&mut self, operation: &Operation, running: Running) {
        let Running { accesses, inputs, garbage } = running;
        // Resources it updates must still hold its garbage, the others the value read; otherwise another
        // operation overlapped.
        let expected = accesses.iter().filter(|access| access.needs.is_some()).zip(&inputs);
        let undisturbed = expected.clone().all(|(access, &input)| {
            self.value(access.resource) == if access.writes() { garbage } else { input }
        });
        let written = accesses.iter().filter(|access| access.writes());
        let counting = inputs_that_count(operation, &accesses, &inputs);
        for access in written {
            let alone = undisturbed && self.value(access.resource) == garbage;
            let value = result(operation, &access.resource, &counting);
            self.memory.insert(access.resource, if alone { value } else { digest(("torn", value, garbage)) });
        }
    }

    fn outside(&mut self, act: usize, accesses: &[Access]) {
        for access in accesses {
            if access.writes() {
                self.memory.insert(access.resource, digest(("from outside", act, access.resource)));
            } else {
                self.read.push(self.value(access.resource));
            }
        }
    }
}
