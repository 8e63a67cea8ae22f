//! Proves that a list with its waits has the same result as its operations executed one by one, for
//! any timing of the lanes.
//!
//! Independent of [`sync`](super::Sync). The only assumptions: a lane runs its tasks in order, and
//! a task starts after the ticks it waits for. The checker proves that
//!
//! - any two accesses to a resource, at least one of which writes, are ordered as in the list, so
//!   that every possible execution gives the same result as the list executed one by one;
//! - executed one by one, every read finds the expected content: nothing is read before it is
//!   written, nothing is overwritten while a later reader expects it, no weights are older than
//!   their master;
//! - no result is unused, so that an operation whose result is needed cannot be missing;
//! - waits point backwards, at tasks that signal, so that lanes cannot deadlock;
//! - every resource exists for the policy.

use std::collections::{HashMap, VecDeque};

use super::access::Access;
use super::build::List;
use super::clock::Clock;
use super::fault::{Fault, Held, Party};
use super::policy::{Geometry, Policy};
use super::resource::{Content, Resource};
use super::sync::Synced;
use crate::device::{Lane, Tick};

/// The facts proved of the lists so far. One per opening of the lanes.
#[derive(Clone, Debug)]
pub struct Checker {
    policy: Policy,
    geometry: Geometry,
    lanes: [LaneState; Lane::COUNT],
    /// The tasks that the issuing thread knows to be done.
    caller: Clock,
    states: HashMap<Resource, ResourceState>,
    /// Device resources that have held weights.
    copies: Vec<Resource>,
    lists: u64,
}

/// The state of a lane.
#[derive(Clone, Debug, Default)]
struct LaneState {
    /// The lane's task count, and the tasks of other lanes known to be complete before its next
    /// task.
    clock: Clock,
    /// The lane's clock from the task of this number on. Entries that all lanes know are dropped.
    clocks: VecDeque<(u64, Clock)>,
    /// The lane's tasks that signal. Entries that all lanes know are dropped.
    signals: VecDeque<u64>,
}

impl LaneState {
    /// The clock after a tick of this lane.
    fn after(&self, tick: Tick) -> Clock {
        let later = self.clocks.partition_point(|&(from, _)| from <= tick.count);
        let mut clock = if later == 0 { Clock::default() } else { self.clocks[later - 1].1 };
        clock.learn(tick);
        clock
    }

    /// Drops entries implied by the lane's first `count` tasks, which all other lanes know.
    fn forget(&mut self, count: u64) {
        while self.clocks.get(1).is_some_and(|&(from, _)| from <= count) {
            self.clocks.pop_front();
        }
        while self.signals.front().is_some_and(|&signal| signal <= count) {
            self.signals.pop_front();
        }
    }
}

/// The state of a resource, in program order.
#[derive(Clone, Debug)]
struct ResourceState {
    holds: Option<Held>,
    /// The list that wrote it.
    list: u64,
    /// True if an operation has read it.
    used: bool,
    write: Option<(Tick, Party)>,
    /// The last read of each lane since the write.
    reads: [Option<(Tick, Party)>; Lane::COUNT],
}

impl ResourceState {
    fn new(resource: Resource) -> Self {
        let holds = resource.initially().map(|content| Held { content, by: None, stale: false });
        ResourceState { holds, list: 0, used: true, write: None, reads: Default::default() }
    }

    /// Fails if an operation's result in the resource has not been read and no operation can read
    /// it any more. Results for the issuing thread are exempt.
    fn used(&self, resource: Resource) -> Result<(), Box<Fault>> {
        let for_caller = matches!(
            resource,
            Resource::ClipDecision
                | Resource::HostLogits
                | Resource::HostLogprobs { .. }
                | Resource::Checkpoint
        );
        match (self.used, self.holds, self.write) {
            (false, Some(Held { content, .. }), Some((_, writer)))
                if content != Content::Scrap && !for_caller =>
            {
                Err(Box::new(Fault::Unused { writer, resource, content }))
            }
            _ => Ok(()),
        }
    }
}

impl Checker {
    /// The checker of lanes that have just been opened, for lists of this geometry and policy.
    pub fn new(policy: &Policy, geometry: &Geometry) -> Self {
        Checker {
            policy: policy.clone(),
            geometry: *geometry,
            lanes: Default::default(),
            caller: Clock::default(),
            states: HashMap::new(),
            copies: Vec::new(),
            lists: 0,
        }
    }

    /// Checks a list that is issued after all lists before it. After the first fault the checker
    /// must not be used any more.
    pub fn check(&mut self, list: &List, synced: &Synced) -> Result<(), Box<Fault>> {
        self.lists += 1;
        if list.operations.len() != synced.len() {
            return Err(Box::new(Fault::Mismatch { party: None }));
        }
        for (index, operation) in list.operations.iter().enumerate() {
            let party = Party { operation: Some(*operation), list: self.lists, index };
            let tick = synced.tick(index);
            let clock = self.start(party, operation.lane(), tick, synced.waits(index))?;
            if synced.signal(index) {
                self.lanes[tick.lane.at()].signals.push_back(tick.count);
            }
            let mut outcome = Ok(());
            let geometry = self.geometry;
            operation.visit(&geometry, list.extent, &mut |access| {
                if outcome.is_ok() {
                    outcome = if access.resource.exists(&self.policy, &geometry, list.extent) {
                        self.touch(party, Some(tick), &clock, access)
                    } else {
                        Err(Box::new(Fault::NoSuchResource { party, resource: access.resource }))
                    };
                }
            });
            outcome?;
        }
        for (resource, state) in &self.states {
            if state.list == self.lists && !resource.outlives_list() {
                state.used(*resource)?;
            }
        }
        for lane in Lane::ALL {
            let others = Lane::ALL.iter().filter(|other| **other != lane);
            let known = others.map(|other| self.lanes[other.at()].clock.of(lane)).min();
            self.lanes[lane.at()].forget(known.unwrap_or(0).min(self.caller.of(lane)));
        }
        Ok(())
    }

    /// Records that the issuing thread has seen these ticks arrive: every task issued from now on
    /// comes after them.
    pub fn settle(&mut self, ticks: &[Tick]) -> Result<(), Box<Fault>> {
        let waiter = self.between();
        for &tick in ticks {
            let issued = self.lanes[tick.lane.at()].clock.of(tick.lane);
            if tick.count > issued {
                return Err(Box::new(Fault::NotIssued { waiter, tick, issued }));
            }
            self.caller.join(&self.lanes[tick.lane.at()].after(tick));
        }
        for lane in &mut self.lanes {
            lane.clock.join(&self.caller);
        }
        Ok(())
    }

    /// Checks accesses by the issuing thread itself, between lists.
    pub fn outside(&mut self, accesses: &[Access]) -> Result<(), Box<Fault>> {
        let (party, clock) = (self.between(), self.caller);
        accesses.iter().try_for_each(|access| self.touch(party, None, &clock, *access))
    }

    fn between(&self) -> Party {
        Party { operation: None, list: self.lists, index: 0 }
    }

    /// Starts a task on its lane; returns the task's clock after its waits.
    fn start(&mut self, party: Party, lane: Lane, tick: Tick, waits: &[Tick]) -> Result<Clock, Box<Fault>> {
        let mut clock = self.lanes[lane.at()].clock;
        if tick != (Tick { lane, count: clock.of(lane) + 1 }) {
            return Err(Box::new(Fault::Mismatch { party: Some(party) }));
        }
        for &wait in waits {
            let other = &self.lanes[wait.lane.at()];
            let issued = other.clock.of(wait.lane);
            if wait.count > issued {
                return Err(Box::new(Fault::NotIssued { waiter: party, tick: wait, issued }));
            }
            if !self.lanes[lane.at()].clock.knows(wait) && other.signals.binary_search(&wait.count).is_err() {
                return Err(Box::new(Fault::NoSignal { waiter: party, tick: wait }));
            }
            clock.join(&other.after(wait));
        }
        clock.learn(tick);
        let state = &mut self.lanes[lane.at()];
        if state.after(tick) != clock {
            state.clocks.push_back((tick.count, clock));
        }
        state.clock = clock;
        Ok(clock)
    }

    /// Checks and records one access by a party that comes after everything in `clock`.
    fn touch(
        &mut self,
        party: Party,
        tick: Option<Tick>,
        clock: &Clock,
        access: Access,
    ) -> Result<(), Box<Fault>> {
        let Access { resource, needs, leaves } = access;
        let state = self.states.entry(resource).or_insert_with(|| ResourceState::new(resource));

        let reads = state.reads.iter().flatten().filter(|_| access.writes());
        for &(other, first) in state.write.iter().chain(reads) {
            if !clock.knows(other) {
                return Err(Box::new(Fault::Race { first, second: party, resource }));
            }
        }

        if let Some(needs) = needs {
            let current = state.list == self.lists || resource.outlives_list();
            if !state.holds.is_some_and(|held| held.content == needs && !held.stale && current) {
                return Err(Box::new(Fault::Content { reader: party, resource, needs, found: state.holds }));
            }
            state.used = true;
        }
        if let Some(content) = leaves {
            if let Some(tick) = tick {
                state.used(resource)?;
                state.write = Some((tick, party));
            } else {
                state.write = None;
            }
            state.holds = Some(Held { content, by: Some(party), stale: false });
            (state.list, state.used, state.reads) = (self.lists, false, Default::default());
            self.mark_copies(resource, tick.is_none());
        } else if let Some(tick) = tick {
            state.reads[tick.lane.at()] = Some((tick, party));
        }
        Ok(())
    }

    /// Registers a new copy of weights, or marks the copies of a written master as stale.
    /// Operations update the gathered rows of an embedding with its master; the issuing thread
    /// writes the master alone.
    fn mark_copies(&mut self, resource: Resource, outside: bool) {
        match resource {
            Resource::Slot(_) | Resource::EndWeights(_) if !self.copies.contains(&resource) => {
                self.copies.push(resource);
            }
            Resource::Master { unit } => {
                for copy in self.copies.iter().chain(outside.then_some(&Resource::HostRows)) {
                    let held = self.states.get_mut(copy).and_then(|state| state.holds.as_mut());
                    if let Some(held) = held.filter(|held| held.content == Content::Weights(unit)) {
                        held.stale = true;
                    }
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{DType, Error, Shape, Status};
    use crate::schedule::{AdamWhen, GradWait, Mode, Numeric, Placement, Sync, train, train_rows_first};

    const GEOMETRY: Geometry = Geometry { layers: 3, tied: false, embedding_chunks: 1, head_chunks: 1 };
    const POLICY: Policy = Policy {
        mode: Mode::Exact,
        numeric: Numeric { shape: Shape { b: 1, t: 8 }, logits_chunk: 8, grad_dtype: DType::Bf16 },
        placement: Placement {
            weight_slots: 2,
            slabs: 2,
            ring: 2,
            adam: AdamWhen::AfterNorm,
            grad_wait: GradWait::Host,
            sweeps: 1,
            layers: Vec::new(),
        },
    };

    /// Checks two steps. In the second, `list` may change the list before its waits are inferred,
    /// and `waits` the waits.
    fn second_step(
        list: impl Fn(&mut List),
        waits: impl Fn(&List, usize, Vec<Tick>) -> Vec<Tick>,
    ) -> Result<(), String> {
        let (mut sync, mut checker) = (Sync::new(&GEOMETRY), Checker::new(&POLICY, &GEOMETRY));
        let mut step = train(&POLICY, &GEOMETRY, 1).unwrap();
        checker.check(&step, &sync.infer(&step)).unwrap();
        list(&mut step);
        let synced = sync.infer(&step);
        let mut changed = Synced::default();
        for index in 0..synced.len() {
            let waits = waits(&step, index, synced.waits(index).to_vec());
            changed.push(synced.tick(index), &waits, synced.signal(index));
        }
        checker.check(&step, &changed).map_err(|fault| fault.to_string())
    }

    fn at(list: &List, text: &str) -> usize {
        list.operations.iter().position(|operation| operation.to_string() == text).expect("the list has it")
    }

    #[test]
    fn a_race_names_both_operations_and_the_resource() {
        let result = second_step(
            |_| {},
            |list, index, waits| {
                if index == at(list, "upload unit 3 → slot 0") { Vec::new() } else { waits }
            },
        );
        assert_eq!(
            result.unwrap_err(),
            "`upload unit 3 → slot 0` (h2d lane, list 2, operation 6) touches the master of unit 3 without \
             waiting for `adam unit 3 chunk 0 from store, guarded by the clip decision` (host lane, list 1, \
             operation 36)"
        );
    }

    #[test]
    fn wrong_content_is_reported_with_the_actual_content() {
        let result = second_step(
            |list| {
                list.operations.remove(at(list, "upload unit 3 → slot 0"));
            },
            |_, _, waits| waits,
        );
        assert_eq!(
            result.unwrap_err(),
            "`forward unit 3 in slot 0, micro 0` (compute lane, list 2, operation 8) needs the weights of unit 3 \
             in slot 0, which holds the weights of unit 1, left by `upload unit 1 → slot 0` (h2d lane, list 2, \
             operation 2)"
        );
    }

    #[test]
    fn weights_older_than_their_master_are_a_fault() {
        let result = second_step(
            |list| {
                list.operations.remove(at(list, "upload unit 1 → slot 0"));
            },
            |_, _, waits| waits,
        );
        let message = result.unwrap_err();
        let words = "holds the weights of unit 1 from before their last update, left by";
        assert!(message.contains(words), "{message}");
    }

    #[test]
    fn rows_gathered_before_the_issuing_thread_wrote_their_master_are_a_fault() {
        let embedding = GEOMETRY.embedding();
        let steps = |gathers: bool| {
            let (mut sync, mut checker) = (Sync::new(&GEOMETRY), Checker::new(&POLICY, &GEOMETRY));
            let outside = |accesses: &[Access], sync: &mut Sync, checker: &mut Checker| {
                let ticks = sync.before(accesses);
                sync.settle(&ticks);
                checker.settle(&ticks).and_then(|()| checker.outside(accesses)).unwrap();
            };
            let step = train_rows_first(&POLICY, &GEOMETRY, 1).unwrap();
            checker.check(&step, &sync.infer(&step)).unwrap();
            let weights = Content::Weights(embedding);
            let write = Access::write(Resource::Master { unit: embedding }, weights);
            outside(&[write], &mut sync, &mut checker);
            if gathers {
                outside(&[Access::write(Resource::HostRows, weights)], &mut sync, &mut checker);
            }
            checker.check(&step, &sync.infer(&step)).map_err(|fault| fault.to_string())
        };
        let message = steps(false).unwrap_err();
        let words = "needs the weights of unit 0 in the gathered rows of the embedding, which holds the weights of \
                     unit 0 from before their last update";
        assert!(message.contains(words), "{message}");
        assert_eq!(steps(true), Ok(()));
    }

    #[test]
    fn a_fault_is_an_internal_error() {
        let fault = Box::new(Fault::Mismatch { party: None });
        assert_eq!(Error::from(fault).status(), Status::Internal);
    }

    #[test]
    fn entries_known_to_all_lanes_are_dropped() {
        let (mut sync, mut checker) = (Sync::new(&GEOMETRY), Checker::new(&POLICY, &GEOMETRY));
        let step = train(&POLICY, &GEOMETRY, 2).unwrap();
        let mut entries = Vec::new();
        for _ in 0..20 {
            checker.check(&step, &sync.infer(&step)).unwrap();
            let clip_decision = [Access::read(Resource::ClipDecision, Content::ClipDecision)];
            let ticks = sync.before(&clip_decision);
            sync.settle(&ticks);
            checker.settle(&ticks).unwrap();
            checker.outside(&clip_decision).unwrap();
            entries
                .push(checker.lanes.iter().map(|lane| lane.clocks.len() + lane.signals.len()).sum::<usize>());
        }
        assert_eq!(entries[5], entries[19]);
    }
}
