//! Infers the waits of every operation, so that no wait is written by hand.
//!
//! Two accesses to a resource conflict unless both read. An operation must come after every earlier
//! operation that it conflicts with. Per lane only the latest of these matters, since a lane runs
//! in order. Of these, an operation does not wait for those that its own lane already knows to be
//! done, nor for those that are implied by another wait. The rest is the minimal set: without any
//! one of them two conflicting operations could overlap.
//!
//! The knowledge is a vector clock over lanes. Each lane has one, each last access keeps that of
//! its operation, and both carry over from list to list, so that the border between steps needs no
//! special case.

use std::collections::HashMap;

use rustc_hash::FxHashMap;

use super::access::Access;
use super::build::List;
use super::clock::Clock;
use super::policy::Geometry;
use super::resource::Resource;
use crate::device::{Lane, Tick};

/// The known state of the lanes and the last accesses to every resource. One per opening of the
/// lanes.
#[derive(Clone, Debug)]
pub struct Sync {
    geometry: Geometry,
    /// Per lane: its task count, and the tasks of other lanes known to be complete before its next
    /// task.
    lanes: [Clock; Lane::COUNT],
    /// The tasks that the issuing thread knows to be done.
    caller: Clock,
    last: FxHashMap<Resource, Last>,
}

/// A list's waits and signals, operation by operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    entries: Vec<Entry>,
    waits: Vec<Tick>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tick: Tick,
    /// End of the entry's waits; they start at the previous entry's end.
    waits_end: usize,
    signal: bool,
}

impl Synced {
    /// Number of operations.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if the list is empty.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The tick that arrives when operation `index` of the list is done.
    pub fn tick(&self, index: usize) -> Tick {
        self.entries[index].tick
    }

    /// The ticks of other lanes that operation `index` waits for.
    pub fn waits(&self, index: usize) -> &[Tick] {
        let start = if index == 0 { 0 } else { self.entries[index - 1].waits_end };
        &self.waits[start..self.entries[index].waits_end]
    }

    /// True if another lane waits for operation `index`, or an operation of a later list may have
    /// to.
    pub fn signal(&self, index: usize) -> bool {
        self.entries[index].signal
    }

    /// The waits of all operations of these lists, by the tick of each operation.
    pub fn waits_by_tick<'a>(lists: impl IntoIterator<Item = &'a Synced>) -> HashMap<Tick, &'a [Tick]> {
        let of_list = |list: &'a Synced| (0..list.len()).map(|at| (list.tick(at), list.waits(at)));
        lists.into_iter().flat_map(of_list).collect()
    }

    /// Appends an operation. [`Sync::infer`] returns the minimal set; this function makes others,
    /// e.g. for tests of the checker.
    pub fn push(&mut self, tick: Tick, waits: &[Tick], signal: bool) {
        self.waits.extend_from_slice(waits);
        self.entries.push(Entry { tick, waits_end: self.waits.len(), signal });
    }
}

/// The accesses to a resource that a later one may conflict with.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    /// The last write; all earlier accesses came before it.
    write: Option<Mark>,
    /// The last read of each lane since.
    reads: [Option<Mark>; Lane::COUNT],
}

impl Last {
    fn marks(&self) -> impl Iterator<Item = &Mark> {
        self.write.iter().chain(self.reads.iter().flatten())
    }
}

/// An operation, and the tasks known to be complete when it completes.
#[derive(Clone, Copy, Debug)]
struct Mark {
    tick: Tick,
    clock: Clock,
}

impl Sync {
    /// The state of lanes that have just been opened, for lists of this geometry.
    pub fn new(geometry: &Geometry) -> Self {
        Sync {
            geometry: *geometry,
            lanes: Default::default(),
            caller: Clock::default(),
            last: FxHashMap::default(),
        }
    }

    /// Returns the waits and signals of the list that is issued next, after all lists inferred
    /// before it.
    pub fn infer(&mut self, list: &List) -> Synced {
        let before = self.lanes;
        let mut synced = Synced::default();
        // Per lane, the positions of its tasks in the list.
        let mut positions: [Vec<usize>; Lane::COUNT] = Default::default();
        let mut accesses = Vec::new();
        for (index, operation) in list.operations.iter().enumerate() {
            let lane = operation.lane();
            accesses.clear();
            operation.visit(&self.geometry, list.extent, &mut |access| {
                if !access.resource.is_private() {
                    accesses.push(access);
                }
            });

            let mut clock = self.lanes[lane.at()];
            let mut waits = [Tick { lane, count: 0 }; Lane::COUNT];
            let mut waits_len = 0;
            for mark in minimal(&self.conflicts(&accesses), clock).into_iter().flatten() {
                clock.join(&mark.clock);
                waits[waits_len] = mark.tick;
                waits_len += 1;
                let earlier = before[mark.tick.lane.at()].of(mark.tick.lane);
                if mark.tick.count > earlier {
                    let position = positions[mark.tick.lane.at()][(mark.tick.count - earlier - 1) as usize];
                    synced.entries[position].signal = true;
                }
            }
            let tick = Tick { lane, count: clock.of(lane) + 1 };
            clock.learn(tick);
            self.lanes[lane.at()] = clock;
            positions[lane.at()].push(index);
            synced.push(tick, &waits[..waits_len], false);

            let mark = Mark { tick, clock };
            for access in &accesses {
                let last = self.last.entry(access.resource).or_default();
                if access.writes() {
                    *last = Last { write: Some(mark), ..Last::default() };
                } else {
                    last.reads[lane.at()] = Some(mark);
                }
            }
        }
        // Later lists may wait for a last access, unless every lane that could already knows of it.
        for (resource, last) in &self.last {
            for Mark { tick, .. } in last.marks() {
                let earlier = before[tick.lane.at()].of(tick.lane);
                let unknown = |lane: &Lane| !self.lanes[lane.at()].knows(*tick);
                if tick.count > earlier && resource.lanes().iter().any(unknown) {
                    let position = positions[tick.lane.at()][(tick.count - earlier - 1) as usize];
                    synced.entries[position].signal = true;
                }
            }
        }
        synced
    }

    /// Returns the ticks that must arrive before the issuing thread itself makes these accesses
    /// between lists, e.g. reads a clip decision, writes the next batch or reads a master. Wait
    /// for them, then call [`Sync::settle`].
    pub fn before(&self, accesses: &[Access]) -> Vec<Tick> {
        let marks = minimal(&self.conflicts(accesses), self.caller);
        marks.into_iter().flatten().map(|mark| mark.tick).collect()
    }

    /// Records that the issuing thread has seen these ticks arrive: every task issued from now on
    /// comes after them.
    pub fn settle(&mut self, ticks: &[Tick]) {
        let mut known = self.caller;
        for &tick in ticks {
            known.learn(tick);
        }
        let arrived = known;
        for lane in Lane::ALL {
            let own = self.lanes[lane.at()];
            assert!(arrived.of(lane) <= own.of(lane), "a tick of {lane} that was never issued cannot arrive");
            if arrived.of(lane) == own.of(lane) {
                known.join(&own);
            }
        }
        for mark in self.last.values().flat_map(Last::marks) {
            if arrived.knows(mark.tick) {
                known.join(&mark.clock);
            }
        }
        self.caller = known;
        for clock in &mut self.lanes {
            clock.join(&known);
        }
    }

    /// For each lane, the latest operation that one of the accesses conflicts with.
    fn conflicts(&self, accesses: &[Access]) -> [Option<Mark>; Lane::COUNT] {
        let mut latest: [Option<Mark>; Lane::COUNT] = Default::default();
        let mut consider = |mark: &Mark| {
            let slot = &mut latest[mark.tick.lane.at()];
            if slot.is_none_or(|other| other.tick.count < mark.tick.count) {
                *slot = Some(*mark);
            }
        };
        for access in accesses {
            let Some(last) = self.last.get(&access.resource) else { continue };
            match access.writes() {
                true => last.marks().for_each(&mut consider),
                false => last.write.iter().for_each(&mut consider),
            }
        }
        latest
    }
}

/// Drops candidates that are already known, and those known to another candidate. Of two operations
/// at most one can know the other, so no candidate is dropped without another that implies it.
fn minimal(candidates: &[Option<Mark>; Lane::COUNT], known: Clock) -> [Option<Mark>; Lane::COUNT] {
    let unknown = candidates.map(|mark| mark.filter(|mark| !known.knows(mark.tick)));
    unknown.map(|mark| {
        mark.filter(|mark| {
            let implies = |other: &Mark| other.tick.lane != mark.tick.lane && other.clock.knows(mark.tick);
            !unknown.iter().flatten().any(implies)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{MicroIndex, SlotIndex, UnitIndex};
    use crate::schedule::{BoundaryBuffer, Content, Extent, Operation, Recompute, WeightBuffer};

    const GEOMETRY: Geometry = Geometry { layers: 4, tied: true, embedding_chunks: 1, head_chunks: 1 };

    fn upload(unit: u32, slot: u32) -> Operation {
        Operation::Upload { unit: UnitIndex(unit), place: WeightBuffer::Slot(SlotIndex(slot)) }
    }

    fn forward(unit: u32, slot: u32, micro: u32) -> Operation {
        Operation::Forward {
            unit: UnitIndex(unit),
            slot: SlotIndex(slot),
            micro: MicroIndex(micro),
            recompute: Recompute::Full,
            from: BoundaryBuffer::Own,
            to: BoundaryBuffer::Own,
        }
    }

    fn list(operations: &[Operation]) -> List {
        List { operations: operations.to_vec(), extent: Extent { micros: 2, sweep: 2 } }
    }

    fn tick(lane: Lane, count: u64) -> Tick {
        Tick { lane, count }
    }

    #[test]
    fn an_upload_waits_only_for_the_last_reader_of_its_slot() {
        let mut sync = Sync::new(&GEOMETRY);
        let operations = [
            upload(1, 0),
            upload(2, 1),
            forward(1, 0, 0),
            forward(1, 0, 1),
            upload(3, 0),
            forward(2, 1, 0),
            forward(3, 0, 0),
        ];
        let synced = sync.infer(&list(&operations));
        let waits: Vec<&[Tick]> = (0..synced.len()).map(|index| synced.waits(index)).collect();
        let h2d = |count| vec![tick(Lane::H2d, count)];
        let none = Vec::new();
        assert_eq!(
            waits,
            [none.clone(), none.clone(), h2d(1), none, vec![tick(Lane::Compute, 2)], h2d(2), h2d(3)]
        );
        let signals: Vec<bool> = (0..synced.len()).map(|index| synced.signal(index)).collect();
        // The last two are the last readers of their slots: a later list may wait for them.
        assert_eq!(signals, [true, true, false, true, true, true, true]);

        let next = sync.infer(&list(&[upload(1, 0)]));
        assert_eq!((next.waits(0), next.tick(0)), (&[tick(Lane::Compute, 4)][..], tick(Lane::H2d, 4)));
    }

    #[test]
    fn a_wait_implied_by_another_is_left_out() {
        let mut sync = Sync::new(&GEOMETRY);
        let batch = |micro: u32| Operation::UploadBatch { micro: MicroIndex(micro) };
        let synced =
            sync.infer(&list(&[batch(0), upload(1, 0), forward(1, 0, 0), batch(1), forward(1, 0, 1)]));
        // The weights are uploaded after the first batch, so one wait covers both; the second batch needs
        // its own.
        assert_eq!(synced.waits(2), [tick(Lane::H2d, 2)]);
        assert_eq!(synced.waits(4), [tick(Lane::H2d, 3)]);
    }

    #[test]
    fn ticks_seen_by_the_issuing_thread_are_not_waited_for_again() {
        let mut sync = Sync::new(&GEOMETRY);
        sync.infer(&list(&[upload(1, 0), forward(1, 0, 0), forward(1, 0, 1)]));
        let write = Access::write(Resource::Master { unit: UnitIndex(1) }, Content::Weights(UnitIndex(1)));
        assert_eq!(sync.before(&[write]), [tick(Lane::H2d, 1)]);
        sync.settle(&[tick(Lane::H2d, 1)]);
        assert!(sync.before(&[write]).is_empty());
        let mut settled = sync.clone();
        settled.settle(&[tick(Lane::Compute, 2)]);
        assert_eq!(sync.infer(&list(&[upload(2, 0)])).waits(0), [tick(Lane::Compute, 2)]);
        assert!(settled.infer(&list(&[upload(2, 0)])).waits(0).is_empty());
    }

    #[test]
    #[should_panic(expected = "never issued")]
    fn a_tick_that_was_never_issued_cannot_be_settled() {
        Sync::new(&GEOMETRY).settle(&[tick(Lane::Host, 1)]);
    }
}
