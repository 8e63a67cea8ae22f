//! Proves that a list with its waits does what the list says, whatever the lanes' timing.
//!
//! Independent of [`sync`](super::Sync): it takes nothing for granted but that a lane runs its tasks in order
//! and that a task starts after the ticks it waits for. It shows
//!
//! - that any two accesses to a resource, one of which writes, are ordered as in the list, so that every
//!   possible execution gives what the list gives when executed one by one;
//! - that, one by one, every read finds the contents it expects: nothing is read before it is written,
//!   nothing is overwritten while a later reader still expects it, no weights are older than their master;
//! - that nothing is computed or copied in vain, so that no operation is missing whose absence shows;
//! - that waits point backwards, at tasks that signal, so that the lanes always get on;
//! - that nothing is touched that the policy has not reserved.

use std::collections::{HashMap, VecDeque};

use super::access::Access;
use super::build::List;
use super::clock::Clock;
use super::fault::{Fault, Held, Party};
use super::policy::{Geometry, Policy};
use super::resource::{Content, Resource};
use super::sync::Synced;
use crate::device::{Lane, Tick};

/// What has been proved of the lists so far. One for the life of opened lanes.
#[derive(Clone, Debug)]
pub struct Checker {
    policy: Policy,
    geometry: Geometry,
    lanes: [Line; Lane::COUNT],
    /// What the issuing thread has seen arrive.
    caller: Clock,
    places: HashMap<Resource, ResourceState>,
    /// Places on the device that have held weights.
    copies: Vec<Resource>,
    lists: u64,
}

/// A lane.
#[derive(Clone, Debug, Default)]
struct Line {
    /// Its own count, and what its next task will know of the others.
    clock: Clock,
    /// From which of its tasks on it knew what, as far back as some lane has not learned it.
    knew: VecDeque<(u64, Clock)>,
    /// Which of its tasks signal, as far back as some lane has not learned of them.
    signals: VecDeque<u64>,
}

impl Line {
    /// What is known to be done once the lane's first `count` tasks are.
    fn after(&self, tick: Tick) -> Clock {
        let later = self.knew.partition_point(|&(from, _)| from <= tick.count);
        let mut clock = if later == 0 { Clock::default() } else { self.knew[later - 1].1 };
        clock.learn(tick);
        clock
    }

    /// Forgets what everybody knows who knows the lane's first `count` tasks.
    fn forget(&mut self, count: u64) {
        while self.knew.get(1).is_some_and(|&(from, _)| from <= count) {
            self.knew.pop_front();
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
    /// The list that left it.
    list: u64,
    /// Whether somebody has read it.
    used: bool,
    write: Option<(Tick, Party)>,
    /// Of each lane the last read since.
    reads: [Option<(Tick, Party)>; Lane::COUNT],
}

impl ResourceState {
    fn new(resource: Resource) -> Self {
        let holds = resource.initially().map(|content| Held { content, by: None, stale: false });
        ResourceState { holds, list: 0, used: true, write: None, reads: Default::default() }
    }

    /// Objects if what an operation left here has not been read and now never will be. What the issuing
    /// thread may read is its own affair.
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
    /// Lanes that have just been opened, for lists of a model of this geometry placed by this policy.
    pub fn new(policy: &Policy, geometry: &Geometry) -> Self {
        Checker {
            policy: policy.clone(),
            geometry: *geometry,
            lanes: Default::default(),
            caller: Clock::default(),
            places: HashMap::new(),
            copies: Vec::new(),
            lists: 0,
        }
    }

    /// Checks a list that is issued after all lists before it. The first fault ends it, and the checker with
    /// it: what it says of later lists then means nothing.
    pub fn check(&mut self, list: &List, synced: &Synced) -> Result<(), Box<Fault>> {
        self.lists += 1;
        if list.operations.len() != synced.len() {
            return Err(Box::new(Fault::Misfit { party: None }));
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
                        Err(Box::new(Fault::Beyond { party, resource: access.resource }))
                    };
                }
            });
            outcome?;
        }
        for (resource, place) in &self.places {
            if place.list == self.lists && !resource.outlives_list() {
                place.used(*resource)?;
            }
        }
        for lane in Lane::ALL {
            let others = Lane::ALL.iter().filter(|other| **other != lane);
            let known = others.map(|other| self.lanes[other.at()].clock.of(lane)).min();
            self.lanes[lane.at()].forget(known.unwrap_or(0).min(self.caller.of(lane)));
        }
        Ok(())
    }

    /// The issuing thread has seen these ticks arrive: every task issued from now on comes after them.
    pub fn settle(&mut self, ticks: &[Tick]) -> Result<(), Box<Fault>> {
        let waiter = self.between();
        for &tick in ticks {
            let issued = self.lanes[tick.lane.at()].clock.of(tick.lane);
            if tick.count > issued {
                return Err(Box::new(Fault::Ahead { waiter, tick, issued }));
            }
            self.caller.join(&self.lanes[tick.lane.at()].after(tick));
        }
        for line in &mut self.lanes {
            line.clock.join(&self.caller);
        }
        Ok(())
    }

    /// The issuing thread itself makes these accesses, between lists.
    pub fn outside(&mut self, accesses: &[Access]) -> Result<(), Box<Fault>> {
        let (party, clock) = (self.between(), self.caller);
        accesses.iter().try_for_each(|access| self.touch(party, None, &clock, *access))
    }

    fn between(&self) -> Party {
        Party { operation: None, list: self.lists, index: 0 }
    }

    /// Lets a task start on its lane: what it knows once its waits are over.
    fn start(&mut self, party: Party, lane: Lane, tick: Tick, waits: &[Tick]) -> Result<Clock, Box<Fault>> {
        let mut clock = self.lanes[lane.at()].clock;
        if tick != (Tick { lane, count: clock.of(lane) + 1 }) {
            return Err(Box::new(Fault::Misfit { party: Some(party) }));
        }
        for &wait in waits {
            let other = &self.lanes[wait.lane.at()];
            let issued = other.clock.of(wait.lane);
            if wait.count > issued {
                return Err(Box::new(Fault::Ahead { waiter: party, tick: wait, issued }));
            }
            if !self.lanes[lane.at()].clock.knows(wait) && other.signals.binary_search(&wait.count).is_err() {
                return Err(Box::new(Fault::Silent { waiter: party, tick: wait }));
            }
            clock.join(&other.after(wait));
        }
        clock.learn(tick);
        let line = &mut self.lanes[lane.at()];
        if line.after(tick) != clock {
            line.knew.push_back((tick.count, clock));
        }
        line.clock = clock;
        Ok(clock)
    }

    /// One access by a party that comes after everything in `clock`.
    fn touch(
        &mut self,
        party: Party,
        tick: Option<Tick>,
        clock: &Clock,
        access: Access,
    ) -> Result<(), Box<Fault>> {
        let Access { resource, needs, leaves } = access;
        let place = self.places.entry(resource).or_insert_with(|| ResourceState::new(resource));

        let reads = place.reads.iter().flatten().filter(|_| access.writes());
        for &(other, first) in place.write.iter().chain(reads) {
            if !clock.knows(other) {
                return Err(Box::new(Fault::Race { first, second: party, resource }));
            }
        }

        if let Some(needs) = needs {
            let current = place.list == self.lists || resource.outlives_list();
            if !place.holds.is_some_and(|held| held.content == needs && !held.stale && current) {
                return Err(Box::new(Fault::Content { reader: party, resource, needs, found: place.holds }));
            }
            place.used = true;
        }
        if let Some(content) = leaves {
            if let Some(tick) = tick {
                place.used(resource)?;
                place.write = Some((tick, party));
            } else {
                place.write = None;
            }
            place.holds = Some(Held { content, by: Some(party), stale: false });
            (place.list, place.used, place.reads) = (self.lists, false, Default::default());
            self.left(resource, tick.is_none());
        } else if let Some(tick) = tick {
            place.reads[tick.lane.at()] = Some((tick, party));
        }
        Ok(())
    }

    /// Keeps account of copies: those of a master that has been written are stale. Operations update the
    /// rows of an embedding with its master; the issuing thread writes the master alone.
    fn left(&mut self, resource: Resource, outside: bool) {
        match resource {
            Resource::Slot(_) | Resource::EndWeights(_) if !self.copies.contains(&resource) => {
                self.copies.push(resource);
            }
            Resource::Master { unit } => {
                for copy in self.copies.iter().chain(outside.then_some(&Resource::HostRows)) {
                    let held = self.places.get_mut(copy).and_then(|place| place.holds.as_mut());
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

    /// Two steps, of the second of which `change` may change the list before and the waits after inferring.
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
        list.operations.iter().position(|operation| operation.to_string() == text).expect("it is in the list")
    }

    #[test]
    fn a_race_is_told_with_both_operations_and_the_resource() {
        let told = second_step(
            |_| {},
            |list, index, waits| {
                if index == at(list, "upload unit 3 → slot 0") { Vec::new() } else { waits }
            },
        );
        assert_eq!(
            told.unwrap_err(),
            "`upload unit 3 → slot 0` (h2d lane, list 2, operation 6) touches the master of unit 3 without \
             waiting for `adam unit 3 chunk 0 from store, guarded by the clip decision` (host lane, list 1, operation 36)"
        );
    }

    #[test]
    fn wrong_contents_are_told_with_what_is_there() {
        let told = second_step(
            |list| {
                list.operations.remove(at(list, "upload unit 3 → slot 0"));
            },
            |_, _, waits| waits,
        );
        assert_eq!(
            told.unwrap_err(),
            "`forward unit 3 in slot 0, micro 0` (compute lane, list 2, operation 8) needs the weights of unit 3 \
             in slot 0, which holds the weights of unit 1, left by `upload unit 1 → slot 0` (h2d lane, list 2, \
             operation 2)"
        );
    }

    #[test]
    fn weights_older_than_their_master_are_not_weights() {
        let told = second_step(
            |list| {
                list.operations.remove(at(list, "upload unit 1 → slot 0"));
            },
            |_, _, waits| waits,
        );
        let told = told.unwrap_err();
        assert!(told.contains("holds the weights of unit 1 as before their last update, left by"), "{told}");
    }

    #[test]
    fn rows_gathered_before_the_issuing_thread_wrote_their_master_are_not_the_rows() {
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
        let told = steps(false).unwrap_err();
        let words = "needs the weights of unit 0 in the next rows of the embedding, which holds the weights of unit 0 \
                     as before their last update";
        assert!(told.contains(words), "{told}");
        assert_eq!(steps(true), Ok(()));
    }

    #[test]
    fn a_fault_is_a_bug_of_ours() {
        let fault = Box::new(Fault::Misfit { party: None });
        assert_eq!(Error::from(fault).status(), Status::Internal);
    }

    #[test]
    fn what_everybody_knows_is_forgotten() {
        let (mut sync, mut checker) = (Sync::new(&GEOMETRY), Checker::new(&POLICY, &GEOMETRY));
        let step = train(&POLICY, &GEOMETRY, 2).unwrap();
        let mut kept = Vec::new();
        for _ in 0..20 {
            checker.check(&step, &sync.infer(&step)).unwrap();
            let clip_decision = [Access::read(Resource::ClipDecision, Content::ClipDecision)];
            let ticks = sync.before(&clip_decision);
            sync.settle(&ticks);
            checker.settle(&ticks).unwrap();
            checker.outside(&clip_decision).unwrap();
            kept.push(checker.lanes.iter().map(|line| line.knew.len() + line.signals.len()).sum::<usize>());
        }
        assert_eq!(kept[5], kept[19]);
    }
}
