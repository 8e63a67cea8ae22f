//! Runs lists in virtual time, given the cost of every operation.
//!
//! A lane starts its next task when it is free and the task's waits have arrived: the only
//! guarantee of a device, so the only rule here. Lanes may share resources (cores, memory
//! bandwidth, a link). If the running lanes together demand more of one than there is, all of them
//! slow down in proportion. A task that waited for another lane starts a handoff time later. The
//! results are spans like those that a device records: [`usage`] and the trace treat measured and
//! simulated spans alike.

use std::collections::HashMap;
use std::ops::Range;

use super::build::List;
use super::operation::Operation;
use super::policy::Geometry;
use super::resource::Resource;
use super::sync::Synced;
use crate::device::{Lane, TaskSpan, Tick};

/// For each lane, the fraction of a resource that it uses while it runs alone.
pub type Share = [f64; Lane::COUNT];

/// Lanes in virtual time, from their opening on.
#[derive(Clone, Debug, Default)]
pub struct Simulator {
    shares: Vec<Share>,
    handoff_ns: u64,
    lanes: [Queue; Lane::COUNT],
    waits: Vec<Tick>,
    runs: Vec<Simulation>,
    now_ns: f64,
    /// The present time of the issuing thread.
    caller_ns: u64,
}

/// A lane's tasks; the first `ends.len()` of them are done, and the next may run.
#[derive(Clone, Debug, Default)]
struct Queue {
    tasks: Vec<Task>,
    ends_ns: Vec<u64>,
    running: Option<Running>,
}

#[derive(Clone, Debug)]
struct Task {
    list: usize,
    index: usize,
    issued_ns: u64,
    cost_ns: u64,
    waits: Range<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    /// Remaining time of handoff and cost, at full speed.
    left_ns: f64,
    speed: f64,
}

/// The spans of a list; those of tasks that are not done yet are all zeros.
#[derive(Clone, Debug)]
pub struct Simulation {
    /// One span per operation, in the list's order; a span's task is the position in the list.
    pub spans: Vec<TaskSpan>,
    /// For each operation, the operation of the same list at whose end it started; `None` if there
    /// is none.
    behind: Vec<Option<usize>>,
}

/// Times below this are rounding errors, ns.
const NOTHING: f64 = 1e-6;

impl Simulator {
    /// The simulator of lanes that have just been opened, at time 0, and share nothing.
    pub fn new() -> Self {
        Simulator::default()
    }

    /// The simulator of lanes that have just been opened and share these resources. Tasks that
    /// together use more of a resource than there is slow down in proportion. A task that waits
    /// for another lane starts `handoff_ns` after the tick.
    pub fn sharing(shares: Vec<Share>, handoff_ns: u64) -> Self {
        Simulator { shares, handoff_ns, ..Simulator::default() }
    }

    /// Issues a list at the current time and returns its number; issuing takes no time. `cost_ns`
    /// returns the time of an operation that runs alone.
    pub fn issue(&mut self, list: &List, synced: &Synced, cost_ns: impl Fn(&Operation) -> u64) -> usize {
        let number = self.runs.len();
        let mut spans = Vec::with_capacity(list.operations.len());
        for (index, operation) in list.operations.iter().enumerate() {
            let start = self.waits.len();
            self.waits.extend_from_slice(synced.waits(index));
            let (lane, count) = (operation.lane(), synced.tick(index).count);
            self.lanes[lane.at()].tasks.push(Task {
                list: number,
                index,
                issued_ns: self.caller_ns,
                cost_ns: cost_ns(operation),
                waits: start..self.waits.len(),
            });
            spans.push(TaskSpan { lane, task: index as u64, count, ready_ns: 0, start_ns: 0, end_ns: 0 });
        }
        self.runs.push(Simulation { behind: vec![None; spans.len()], spans });
        number
    }

    /// Makes the issuing thread wait for a tick: lists issued afterwards start no earlier.
    ///
    /// # Panics
    /// If the tick never arrives: its task, or one that this waits for, was not issued.
    pub fn reach(&mut self, tick: Tick) {
        if tick.count == 0 {
            return;
        }
        let position = tick.count as usize - 1;
        while self.lanes[tick.lane.at()].ends_ns.len() <= position {
            assert!(self.advance(), "a tick of {} that is waited for never arrives", tick.lane);
        }
        self.caller_ns = self.caller_ns.max(self.lanes[tick.lane.at()].ends_ns[position]);
    }

    /// Runs all issued tasks to their end.
    ///
    /// # Panics
    /// If the waits point at tasks that have not been issued; [`Checker`](super::Checker) names
    /// them.
    pub fn finish(&mut self) {
        while self.advance() {}
        let all_done = self.lanes.iter().all(|lane| lane.ends_ns.len() == lane.tasks.len());
        assert!(all_done, "a task waits for one that was never issued");
    }

    /// The simulation of the list with this number.
    pub fn simulation(&self, number: usize) -> &Simulation {
        &self.runs[number]
    }

    /// The present time of the issuing thread, ns.
    pub fn caller_ns(&self) -> u64 {
        self.caller_ns
    }

    /// Advances the time to the end of the next task; returns false if no task runs.
    fn advance(&mut self) -> bool {
        let mut has_started = false;
        for lane in Lane::ALL {
            has_started |= self.start_next(lane);
        }
        if has_started {
            self.set_speeds();
        }
        let running = || self.lanes.iter().filter_map(|lane| lane.running);
        let Some(elapsed) = running().map(|task| task.left_ns / task.speed).min_by(f64::total_cmp) else {
            return false;
        };
        self.now_ns += elapsed;
        let mut has_ended = false;
        for lane in Lane::ALL {
            let queue = &mut self.lanes[lane.at()];
            let Some(task) = &mut queue.running else { continue };
            task.left_ns -= elapsed * task.speed;
            if task.left_ns <= NOTHING {
                queue.running = None;
                has_ended = true;
                let end_ns = self.now_ns.round() as u64;
                let Task { list, index, .. } = queue.tasks[queue.ends_ns.len()];
                queue.ends_ns.push(end_ns);
                self.runs[list].spans[index].end_ns = end_ns;
            }
        }
        if has_ended {
            self.set_speeds();
        }
        true
    }

    /// Starts a lane's next task if the lane is free and the task's waits have arrived.
    fn start_next(&mut self, lane: Lane) -> bool {
        let queue = &self.lanes[lane.at()];
        let position = queue.ends_ns.len();
        if queue.running.is_some() || position == queue.tasks.len() {
            return false;
        }
        let task = &queue.tasks[position];
        let free_ns = queue.ends_ns.last().copied().unwrap_or(0);
        let ready_ns = free_ns.max(task.issued_ns);
        // The task that delays it longest, on this lane or another.
        let cause_of = |queue: &Queue, position: usize| {
            let other = &queue.tasks[position];
            (other.list == task.list).then_some(other.index)
        };
        let own = position.checked_sub(1).filter(|_| free_ns >= task.issued_ns);
        let (mut start_ns, mut cause) = (ready_ns, own.and_then(|position| cause_of(queue, position)));
        let mut handoff_ns = 0;
        for wait in &self.waits[task.waits.clone()] {
            let (other, position) = (&self.lanes[wait.lane.at()], wait.count as usize - 1);
            let Some(&end_ns) = other.ends_ns.get(position) else { return false };
            if end_ns > start_ns {
                (start_ns, cause) = (end_ns, cause_of(other, position));
                handoff_ns = self.handoff_ns;
            }
        }
        let (list, index, left_ns) = (task.list, task.index, (handoff_ns + task.cost_ns) as f64);
        let span = &mut self.runs[list].spans[index];
        (span.ready_ns, span.start_ns) = (ready_ns, start_ns + handoff_ns);
        self.runs[list].behind[index] = cause;
        self.lanes[lane.at()].running = Some(Running { left_ns, speed: 1.0 });
        true
    }

    /// Updates the speeds of all running tasks.
    fn set_speeds(&mut self) {
        let runs = self.lanes.each_ref().map(|lane| lane.running.is_some());
        for lane in Lane::ALL {
            let Some(task) = &mut self.lanes[lane.at()].running else { continue };
            task.speed = 1.0;
            for share in self.shares.iter().filter(|share| share[lane.at()] > 0.0) {
                let used: f64 =
                    Lane::ALL.iter().filter(|lane| runs[lane.at()]).map(|lane| share[lane.at()]).sum();
                task.speed = task.speed.min(1.0 / used.max(1.0));
            }
        }
    }
}

impl Simulation {
    /// The chain of operations that ends with the last to end, each started by the end of the one
    /// before it, as positions in the list. Its first operation was not delayed by an operation
    /// of this list.
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

/// The use of a lane in an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time in tasks.
    pub busy_ns: u64,
    /// Time between tasks.
    pub idle_ns: u64,
}

/// Returns the use of each lane between `from_ns` and `to_ns`, from measured or simulated spans.
pub fn usage(spans: &[TaskSpan], from_ns: u64, to_ns: u64) -> [Usage; Lane::COUNT] {
    let mut busy = [0; Lane::COUNT];
    for span in spans {
        let (start, end) = (span.start_ns.max(from_ns), span.end_ns.min(to_ns));
        busy[span.lane.at()] += end.saturating_sub(start);
    }
    let whole = to_ns.saturating_sub(from_ns);
    busy.map(|busy_ns| Usage { busy_ns, idle_ns: whole.saturating_sub(busy_ns) })
}

/// The peak memory of a category while a list runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peak {
    /// The plan's name of the category.
    pub category: &'static str,
    /// Maximum bytes whose content is needed at one time.
    pub live_bytes_max: usize,
    /// Total bytes of the resources that the list accesses.
    pub touched_bytes: usize,
}

/// Returns the memory used by a simulated list, by category in the order of first use. `size`
/// returns a resource's category and bytes, or `None` for resources that should not be counted. A
/// resource counts as live from the start of the operation that fills it to the end of the last
/// that accesses it before it is filled again.
pub fn peaks(
    geometry: &Geometry,
    list: &List,
    simulation: &Simulation,
    size: impl Fn(&Resource) -> Option<(&'static str, usize)>,
) -> Vec<Peak> {
    let mut peaks: Vec<Peak> = Vec::new();
    let mut open: HashMap<Resource, (usize, usize, u64, u64)> = HashMap::new();
    // Time, change in bytes, category.
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
    // At equal times ends come before starts.
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
    use crate::schedule::{BoundaryBuffer, Extent, Recompute, Sync, WeightBuffer};

    const GEOMETRY: Geometry = Geometry { layers: 3, tied: false, embedding_chunks: 1, head_chunks: 1 };

    fn upload(unit: u32, slot: u32) -> Operation {
        Operation::Upload { unit: UnitIndex(unit), place: WeightBuffer::Slot(SlotIndex(slot)) }
    }

    fn forward(unit: u32, slot: u32) -> Operation {
        Operation::Forward {
            unit: UnitIndex(unit),
            slot: SlotIndex(slot),
            micro: MicroIndex(0),
            recompute: Recompute::Full,
            from: BoundaryBuffer::Own,
            to: BoundaryBuffer::Own,
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
    fn a_lane_starts_when_it_is_free_and_its_waits_have_arrived() {
        let (mut sync, mut simulator, list) = (Sync::new(&GEOMETRY), Simulator::new(), example());
        let run = run(&mut simulator, &list, &sync.infer(&list));
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

    fn run(simulator: &mut Simulator, list: &List, synced: &Synced) -> Simulation {
        let number = simulator.issue(list, synced, cost);
        simulator.finish();
        simulator.simulation(number).clone()
    }

    #[test]
    fn time_continues_from_list_to_list() {
        let (mut sync, mut simulator, list) = (Sync::new(&GEOMETRY), Simulator::new(), example());
        let first = sync.infer(&list);
        simulator.issue(&list, &first, cost);
        let mut waiting = simulator.clone();
        let again = sync.infer(&list);
        // The h2d lane is free at 160, slot 0 only after the last forward.
        let second = run(&mut simulator, &list, &again);
        assert_eq!((second.spans[0].ready_ns, second.spans[0].start_ns), (160, 330));
        assert_eq!(second.critical_path()[0], 0, "an operation of another list delayed it");
        waiting.reach(first.tick(5));
        assert_eq!(waiting.caller_ns(), 330);
        assert_eq!(run(&mut waiting, &list, &again).spans[0].ready_ns, 330);
    }

    #[test]
    fn lanes_that_share_a_resource_slow_one_another_down() {
        let (mut sync, list) = (Sync::new(&GEOMETRY), example());
        let synced = sync.infer(&list);
        let mut share = [0.0; Lane::COUNT];
        (share[Lane::H2d.at()], share[Lane::Compute.at()]) = (0.5, 0.75);
        let mut simulator = Simulator::sharing(vec![share], 0);
        let shared = run(&mut simulator, &list, &synced);
        // The first upload runs alone; the second runs together with the first forward, both at 1/1.25.
        assert_eq!(shared.spans[0].end_ns, 30);
        assert_eq!(shared.spans[1].end_ns, 30 + 38, "30 · 1.25, rounded");
        // 30 of its 100 are done then, the rest runs alone.
        assert_eq!(shared.spans[2].end_ns, 68 + 70);
        // A resource that is sufficient for all lanes slows none of them down.
        let alone = run(&mut Simulator::new(), &list, &synced);
        let ample = run(&mut Simulator::sharing(vec![share.map(|part| part / 2.0)], 0), &list, &synced);
        assert!(alone.spans.iter().zip(&ample.spans).all(|(one, other)| one.end_ns == other.end_ns));
    }

    #[test]
    fn a_wait_for_another_lane_costs_a_handoff() {
        let (mut sync, list) = (Sync::new(&GEOMETRY), example());
        let mut simulator = Simulator::sharing(vec![], 7);
        let run = run(&mut simulator, &list, &sync.infer(&list));
        let times: Vec<_> = run.spans.iter().map(|span| (span.start_ns, span.end_ns)).collect();
        // The weights of the second and the third forward are already there.
        let expected = [(0, 30), (30, 60), (37, 137), (144, 174), (137, 237), (237, 337)];
        assert_eq!(times, expected);
    }

    #[test]
    #[should_panic(expected = "never arrives")]
    fn a_tick_that_was_never_issued_never_arrives() {
        Simulator::new().reach(Tick { lane: Lane::Host, count: 1 });
    }

    #[test]
    fn a_resource_is_live_from_its_filling_to_its_last_use() {
        let (mut sync, mut simulator, list) = (Sync::new(&GEOMETRY), Simulator::new(), example());
        let run = run(&mut simulator, &list, &sync.infer(&list));
        let size = |resource: &Resource| match resource {
            Resource::Slot(_) => Some(("slots", 7)),
            Resource::Boundary { .. } | Resource::ResidualStream { .. } => Some(("boundaries", 5)),
            _ => None,
        };
        let peaks = peaks(&GEOMETRY, &list, &run, size);
        assert_eq!(
            peaks,
            [
                Peak { category: "slots", live_bytes_max: 14, touched_bytes: 14 },
                // The boundaries below and above the current layer; the one above is the next layer's below.
                Peak { category: "boundaries", live_bytes_max: 10, touched_bytes: 20 },
            ]
        );
    }
}
