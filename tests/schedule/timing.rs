//! Lists in virtual time: overlap and waiting when every operation has a given cost.
//!
//! Nothing is measured, and all lists are issued at once.

use horizon::base::UnitIndex;
use horizon::device::Lane;
use horizon::schedule::{AdamWhen, Geometry, Mode, Operation, Policy, RowSet, Simulator, usage};

use proptest::prelude::*;

use crate::cases::{Act, Case, Kind, any_case, cases, policy};

/// One task in virtual time.
struct Span {
    list: usize,
    operation: Operation,
    ready: u64,
    start: u64,
    end: u64,
}

fn simulate(case: &Case, cost: impl Fn(&Operation) -> u64) -> Vec<Span> {
    let (mut simulator, mut spans) = (Simulator::new(), Vec::new());
    let acts = case.acts(&case.lists());
    let lists = acts.iter().filter_map(|act| match act {
        Act::Issue(list, synced) => Some((list, synced)),
        Act::Outside(..) => None,
    });
    let issued: Vec<_> = lists.map(|(list, synced)| (list, simulator.issue(list, synced, &cost))).collect();
    simulator.finish();
    for (list, (operations, run)) in issued.into_iter().enumerate() {
        for (operation, span) in operations.operations.iter().zip(&simulator.simulation(run).spans) {
            let (ready, start, end) = (span.ready_ns, span.start_ns, span.end_ns);
            spans.push(Span { list, operation: *operation, ready, start, end });
        }
    }
    spans
}

fn case(policy: Policy, layers: usize, head_chunks: usize, micros: usize, steps: usize) -> Case {
    let geometry = Geometry { layers, tied: false, embedding_chunks: 2, head_chunks };
    Case { policy, geometry, kinds: vec![Kind::Train(micros); steps], outside: false }
}

/// Backward takes three times as long as forward; copies of a layer take slightly less than its
/// forward.
fn balanced(operation: &Operation) -> u64 {
    match operation {
        Operation::Upload { .. } => 90,
        Operation::Forward { .. } => 100,
        Operation::HeadForwardBackward { .. } => 100,
        Operation::RecomputeBackward { .. } => 300,
        Operation::Download { .. } => 140,
        Operation::Adam { .. } => 250,
        Operation::AdamRows { rows: RowSet::Next, .. } => 20,
        Operation::AdamRows { rows: RowSet::Others, .. } => 480,
        _ => 0,
    }
}

fn idle(spans: &[Span], list: usize, which: impl Fn(&Operation) -> bool) -> u64 {
    let chosen = spans.iter().filter(|span| span.list == list && which(&span.operation));
    chosen.map(|span| span.start - span.ready).sum()
}

#[test]
fn weights_are_uploaded_before_compute_needs_them() {
    for slots in 2..=4 {
        let case = case(policy(Mode::Exact, AdamWhen::AfterNorm, slots, 2, 2), 12, 1, 1, 1);
        let spans = simulate(&case, balanced);
        let past_first = |operation: &Operation| match operation {
            Operation::Forward { unit, .. } => *unit > UnitIndex(1),
            Operation::HeadForwardBackward { .. } | Operation::RecomputeBackward { .. } => true,
            _ => false,
        };
        assert_eq!(idle(&spans, 0, past_first), 0, "{slots} slots");
        let last = spans.iter().rfind(|span| matches!(span.operation, Operation::RecomputeBackward { .. }));
        // Embedding and first layer are uploaded; then forwards, head and backwards follow without a gap.
        assert_eq!(last.unwrap().end, 2 * 90 + 12 * 100 + 100 + 12 * 300, "{slots} slots");
    }
}

#[test]
fn compute_does_not_wait_for_slabs_while_the_heads_chunks_leave() {
    for (chunks, micros, slabs) in [(8, 1, 2), (8, 4, 2), (5, 1, 2), (3, 2, 3), (12, 4, 4), (1, 1, 2)] {
        let case = case(policy(Mode::Exact, AdamWhen::AfterNorm, 2, slabs, 2), 12, chunks, micros, 1);
        let spans = simulate(&case, balanced);
        let before_the_end = |operation: &Operation| match operation {
            Operation::Round { unit, .. } => *unit != UnitIndex(0),
            _ => false,
        };
        assert_eq!(
            idle(&spans, 0, before_the_end),
            0,
            "{chunks} chunks, {micros} micro-batches, {slabs} slabs"
        );
    }
}

#[test]
fn adamw_overlaps_the_next_forward() {
    let case = case(policy(Mode::Exact, AdamWhen::AfterNorm, 2, 2, 2), 12, 1, 1, 2);
    let spans = simulate(&case, balanced);
    let adam = |unit: UnitIndex| {
        let of =
            |span: &&Span| matches!(span.operation, Operation::Adam { unit: other, .. } if other == unit);
        spans.iter().rfind(|span| span.list == 0 && of(span)).unwrap().end
    };
    for span in spans.iter().filter(|span| span.list == 1) {
        if let Operation::Forward { unit, .. } = span.operation {
            // Update, upload (90), forward: each layer waits for its own update and for no later one.
            assert_eq!(span.start, adam(unit) + 90, "{unit}");
            assert!(unit.at() == 12 || span.start < adam(UnitIndex(unit.0 + 1)), "{unit}");
        }
    }
}

#[test]
fn a_step_waits_only_for_the_next_rows() {
    let times = |kind: fn(usize) -> Kind| {
        let case = case(policy(Mode::Exact, AdamWhen::AfterNorm, 2, 2, 2), 12, 1, 1, 2);
        let spans = simulate(&Case { kinds: vec![kind(1); 2], ..case }, balanced);
        let find = |list: usize, which: fn(&Operation) -> bool| {
            spans.iter().find(|span| span.list == list && which(&span.operation)).expect("the list has it")
        };
        let decided = find(0, |operation| matches!(operation, Operation::ClipDecision { .. })).end;
        let embeds = find(1, |operation| matches!(operation, Operation::EmbedForward { .. })).start;
        let adam = spans.iter().rfind(|span| span.list == 0 && span.operation.lane() == Lane::Host);
        (embeds - decided, adam.expect("AdamW runs").end - decided)
    };
    // The rows are updated and uploaded (90). All of AdamW takes the same time in both cases: the
    // embedding's two chunks, 12 layers, the head.
    assert_eq!(times(Kind::Train), (2 * 250 + 90, 15 * 250));
    assert_eq!(times(Kind::TrainRowsFirst), (20 + 90, 15 * 250));
}

#[test]
fn adamw_overlaps_backward_if_it_need_not_wait() {
    for mode in [Mode::Exact, Mode::Streamed] {
        let case = case(policy(mode, AdamWhen::UnderBackward, 2, 2, 2), 12, 1, 1, 1);
        let spans = simulate(&case, balanced);
        let end =
            |which: fn(&Operation) -> bool| spans.iter().rfind(|span| which(&span.operation)).unwrap().end;
        let backward = end(|operation| matches!(operation, Operation::RecomputeBackward { .. }));
        let adam = end(|operation| matches!(operation, Operation::Adam { .. }));
        // After the last backward: its download, then AdamW of the first layer and of the embedding's two
        // chunks.
        assert_eq!(adam, backward + 140 + 3 * 250, "{mode:?}");
    }
}

proptest! {
    #![proptest_config(cases(200))]

    /// Virtual time has the guarantees of a device: lanes run in order and waits are respected. No time is
    /// wasted: every task starts at the moment when its lane is free and its waits have arrived.
    #[test]
    fn virtual_time_has_the_guarantees_of_a_device(case in any_case(), seed: u64) {
        let cost = |operation: &Operation| crate::machine::digest((operation, seed)) % 1000;
        let mut simulator = Simulator::new();
        let mut issued = Vec::new();
        let mut reached = vec![0];
        for act in case.acts(&case.lists()) {
            match act {
                Act::Issue(list, synced) => {
                    let run = simulator.issue(&list, &synced, cost);
                    issued.push((list, synced, run, simulator.caller_ns()));
                }
                Act::Outside(ticks, _) => ticks.into_iter().for_each(|tick| {
                    simulator.reach(tick);
                    reached.push(simulator.caller_ns());
                }),
            }
        }
        prop_assert!(reached.is_sorted());
        simulator.finish();
        let mut ends: [Vec<u64>; Lane::COUNT] = Default::default();
        for (list, synced, run, caller) in issued {
            let run = simulator.simulation(run);
            for (index, (operation, span)) in list.operations.iter().zip(&run.spans).enumerate() {
                let lane = operation.lane();
                prop_assert_eq!((span.lane, span.task, span.tick()), (lane, index as u64, synced.tick(index)));
                let ready = ends[lane.at()].last().copied().unwrap_or(0).max(caller);
                let arrived = |wait: &horizon::device::Tick| ends[wait.lane.at()][wait.count as usize - 1];
                let start = synced.waits(index).iter().map(arrived).max().unwrap_or(0).max(ready);
                prop_assert_eq!((span.ready_ns, span.start_ns), (ready, start));
                prop_assert_eq!(span.end_ns, start + cost(operation));
                ends[lane.at()].push(span.end_ns);
            }
            let path = run.critical_path();
            let last = run.spans.iter().map(|span| span.end_ns).max();
            prop_assert_eq!(path.last().map(|&index| run.spans[index].end_ns), last);
            for pair in path.windows(2) {
                prop_assert_eq!(run.spans[pair[0]].end_ns, run.spans[pair[1]].start_ns);
            }
            let to = last.unwrap_or(0);
            for (lane, usage) in Lane::ALL.iter().zip(usage(&run.spans, 0, to)) {
                let busy: u64 = run.spans.iter().filter(|span| span.lane == *lane).map(|span| span.end_ns - span.start_ns).sum();
                prop_assert_eq!((usage.busy_ns, usage.busy_ns + usage.idle_ns), (busy, to));
            }
        }
    }
}
