//! Lists in virtual time: when everything would happen if every operation took as long as a cost says.
//!
//! A lane starts its next task when it is free and the task's waits are over; that is all a device promises,
//! so it is all there is to simulate. What comes out are the spans that a device would record: [`usage`] and
//! the trace treat measured and simulated ones alike.

use std::collections::HashMap;

use super::build::List;
use super::operation::Operation;
use super::policy::Geometry;
use super::resource::Resource;
use super::sync::Synced;
use crate::device::{Lane, TaskSpan, Tick};

/// Lanes in virtual time, from their opening on; lists run on them one after the other.
#[derive(Clone, Debug, Default)]
pub struct Simulator {
    /// When each task of each lane was done, ns.
    ends: [Vec<u64>; Lane::COUNT],
    /// When the issuing thread got as far as it has got, ns.
    caller_ns: u64,
}

/// A list as it would happen.
#[derive(Clone, Debug)]
pub struct Simulation {
    /// Its operations in the list's order; the task of a span is its position there.
    pub spans: Vec<TaskSpan>,
    /// For each operation the one of the same list whose end it started at, if it was one.
    behind: Vec<Option<usize>>,
}

impl Simulator {
    /// Lanes that have just been opened, at time 0.
    pub fn new() -> Self {
        Simulator::default()
    }

    /// Runs a list that is issued now, in no time. `cost_ns` says how long an operation takes once it has
    /// started.
    ///
    /// # Panics
    /// If the waits point at tasks that have not been issued; [`Checker`](super::Checker) says which.
    pub fn run(&mut self, list: &List, synced: &Synced, cost_ns: impl Fn(&Operation) -> u64) -> Simulation {
        let before = Lane::ALL.map(|lane| self.ends[lane.at()].len());
        let mut places: [Vec<usize>; Lane::COUNT] = Default::default();
        let mut spans = Vec::with_capacity(list.operations.len());
        let mut behind = Vec::with_capacity(list.operations.len());
        for (index, operation) in list.operations.iter().enumerate() {
            let lane = operation.lane();
            let free_ns = self.ends[lane.at()].last().copied().unwrap_or(0);
            let ready_ns = free_ns.max(self.caller_ns);
            // The task that holds it up longest, on this lane or another.
            let mut start_ns = ready_ns;
            let mut cause = places[lane.at()].last().copied().filter(|_| free_ns >= self.caller_ns);
            for wait in synced.waits(index) {
                let place = (wait.count - 1) as usize;
                let end_ns = self.ends[wait.lane.at()][place];
                if end_ns > start_ns {
                    start_ns = end_ns;
                    let since = place.checked_sub(before[wait.lane.at()]);
                    cause = since.map(|since| places[wait.lane.at()][since]);
                }
            }
            let end_ns = start_ns + cost_ns(operation);
            let count = synced.tick(index).count;
            spans.push(TaskSpan { lane, task: index as u64, count, ready_ns, start_ns, end_ns });
            behind.push(cause);
            self.ends[lane.at()].push(end_ns);
            places[lane.at()].push(index);
        }
        Simulation { spans, behind }
    }

    /// The issuing thread waits for a tick: what it issues afterwards starts no earlier.
    ///
    /// # Panics
    /// If the tick was never issued.
    pub fn reach(&mut self, tick: Tick) {
        if tick.count > 0 {
            self.caller_ns = self.caller_ns.max(self.ends[tick.lane.at()][tick.count as usize - 1]);
        }
    }

    /// When the issuing thread got as far as it has got, ns.
    pub fn caller_ns(&self) -> u64 {
        self.caller_ns
    }
}

impl Simulation {
    /// The chain of operations that ends with the last to end, each started by the end of the one before it,
    /// as positions in the list. It begins where what held an operation up was no operation of this list.
    pub fn critical_path(&self) -> Vec<usize> {
        let last = (0..self.spans.len()).max_by_key(|&index| self.spans[index].end_ns);
        self.path_to(last)
    }

    /// The same chain, ending with a given operation.
    pub fn path_to(&self, last: Option<usize>) -> Vec<usize> {
        let mut path: Vec<usize> = std::iter::successors(last, |&index| self.behind[index]).collect();
        path.reverse();
        path
    }
}

/// What a lane did in a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time in tasks.
    pub busy_ns: u64,
    /// Time between tasks.
    pub idle_ns: u64,
}

/// Per lane, what spans (measured or simulated) say of the time from `from_ns` to `to_ns`.
pub fn usage(spans: &[TaskSpan], from_ns: u64, to_ns: u64) -> [Usage; Lane::COUNT] {
    let mut busy = [0; Lane::COUNT];
    for span in spans {
        let (start, end) = (span.start_ns.max(from_ns), span.end_ns.min(to_ns));
        busy[span.lane.at()] += end.saturating_sub(start);
    }
    let whole = to_ns.saturating_sub(from_ns);
    busy.map(|busy_ns| Usage { busy_ns, idle_ns: whole.saturating_sub(busy_ns) })
}

/// The memory of a category while a list runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peak {
    /// The plan's name for it.
    pub category: &'static str,
    /// The most bytes that hold something still needed, at one time.
    pub live_bytes_max: usize,
    /// Bytes of every place that the list touches.
    pub touched_bytes: usize,
}

/// The memory a list uses when it happens like this. `size` gives a resource's category and bytes, and
/// nothing for what should not be counted. A place counts as live from the start of the operation that fills
/// it to the end of the last that touches it before it is filled again. Categories come in the order of
/// first use.
pub fn peaks(
    geometry: &Geometry,
    list: &List,
    simulation: &Simulation,
    size: impl Fn(&Resource) -> Option<(&'static str, usize)>,
) -> Vec<Peak> {
    let mut peaks: Vec<Peak> = Vec::new();
    let mut open: HashMap<Resource, (usize, usize, u64, u64)> = HashMap::new();
    // When, category, bytes more or less.
    let mut changes: Vec<(u64, isize, usize)> = Vec::new();
    let mut close = |(category, bytes, from_ns, to_ns): (usize, usize, u64, u64)| {
        changes.push((from_ns, bytes as isize, category));
        changes.push((to_ns, -(bytes as isize), category));
    };
    for (operation, span) in list.operations.iter().zip(&simulation.spans) {
        operation.visit(geometry, list.extent, &mut |access| {
            let Some((name, bytes)) = size(&access.resource) else { return };
            let fresh = access.needs.is_none();
            match open.get_mut(&access.resource) {
                Some(life) if fresh => {
                    close(*life);
                    (life.2, life.3) = (span.start_ns, span.end_ns);
                }
                Some(life) => life.3 = life.3.max(span.end_ns),
                None => {
                    let known = peaks.iter().position(|peak| peak.category == name);
                    let category = known.unwrap_or_else(|| {
                        peaks.push(Peak { category: name, live_bytes_max: 0, touched_bytes: 0 });
                        peaks.len() - 1
                    });
                    peaks[category].touched_bytes += bytes;
                    open.insert(access.resource, (category, bytes, span.start_ns, span.end_ns));
                }
            }
        });
    }
    open.into_values().for_each(&mut close);
    // What ends when something else begins makes room for it.
    changes.sort_unstable();
    let mut live = vec![0isize; peaks.len()];
    for (_, bytes, category) in changes {
        live[category] += bytes;
        let peak = &mut peaks[category];
        peak.live_bytes_max = peak.live_bytes_max.max(live[category].max(0) as usize);
    }
    peaks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{MicroIndex, SlotIndex, UnitIndex};
    use crate::schedule::{BoundaryPlace, Extent, Recompute, Sync, WeightPlace};

    const GEOMETRY: Geometry = Geometry { layers: 3, tied: false, embedding_parts: 1, head_parts: 1 };

    fn upload(unit: u32, slot: u32) -> Operation {
        Operation::Upload { unit: UnitIndex(unit), place: WeightPlace::Slot(SlotIndex(slot)) }
    }

    fn forward(unit: u32, slot: u32) -> Operation {
        Operation::Forward {
            unit: UnitIndex(unit),
            slot: SlotIndex(slot),
            micro: MicroIndex(0),
            recompute: Recompute::Full,
            from: BoundaryPlace::Own,
            to: BoundaryPlace::Own,
        }
    }

    fn cost(operation: &Operation) -> u64 {
        if operation.lane() == Lane::H2d { 30 } else { 100 }
    }

    fn example() -> List {
        let operations =
            vec![upload(1, 0), upload(2, 1), forward(1, 0), upload(3, 0), forward(2, 1), forward(3, 0)];
        List { operations, extent: Extent { micros: 1, sweep: 1 } }
    }

    #[test]
    fn a_lane_starts_when_it_is_free_and_its_waits_are_over() {
        let (mut sync, mut simulator, list) = (Sync::new(&GEOMETRY), Simulator::new(), example());
        let run = simulator.run(&list, &sync.infer(&list), cost);
        let times: Vec<_> =
            run.spans.iter().map(|span| (span.ready_ns, span.start_ns, span.end_ns)).collect();
        // Slot 0 is free at 130, when layer 1 is done.
        let expected =
            [(0, 0, 30), (30, 30, 60), (0, 30, 130), (60, 130, 160), (130, 130, 230), (230, 230, 330)];
        assert_eq!(times, expected);
        assert_eq!(run.critical_path(), [0, 2, 4, 5]);
        assert_eq!(run.path_to(Some(3)), [0, 2, 3]);
        let usage = usage(&run.spans, 0, 330);
        assert_eq!(usage[Lane::Compute.at()], Usage { busy_ns: 300, idle_ns: 30 });
        assert_eq!(usage[Lane::H2d.at()], Usage { busy_ns: 90, idle_ns: 240 });
        assert_eq!(super::usage(&run.spans, 100, 150)[Lane::H2d.at()], Usage { busy_ns: 20, idle_ns: 30 });
    }

    #[test]
    fn time_goes_on_from_list_to_list() {
        let (mut sync, mut simulator, list) = (Sync::new(&GEOMETRY), Simulator::new(), example());
        let first = sync.infer(&list);
        simulator.run(&list, &first, cost);
        let mut patient = simulator.clone();
        let again = sync.infer(&list);
        // The h2d lane was free at 160; slot 0 is only when the last forward is done.
        let run = simulator.run(&list, &again, cost);
        assert_eq!((run.spans[0].ready_ns, run.spans[0].start_ns), (160, 330));
        assert_eq!(run.critical_path()[0], 0, "what held it up is of another list");
        patient.reach(first.tick(5));
        assert_eq!(patient.caller_ns(), 330);
        assert_eq!(patient.run(&list, &again, cost).spans[0].ready_ns, 330);
    }

    #[test]
    fn a_place_is_live_from_its_filling_to_its_last_use() {
        let (mut sync, mut simulator, list) = (Sync::new(&GEOMETRY), Simulator::new(), example());
        let run = simulator.run(&list, &sync.infer(&list), cost);
        let size = |resource: &Resource| match resource {
            Resource::Slot(_) => Some(("slots", 7)),
            Resource::Boundary { .. } | Resource::Stream { .. } => Some(("boundaries", 5)),
            _ => None,
        };
        let peaks = peaks(&GEOMETRY, &list, &run, size);
        assert_eq!(
            peaks,
            [
                Peak { category: "slots", live_bytes_max: 14, touched_bytes: 14 },
                // Below and above the layer in work; the place above is the next one's place below.
                Peak { category: "boundaries", live_bytes_max: 10, touched_bytes: 20 },
            ]
        );
    }
}
