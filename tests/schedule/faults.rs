//! The checker finds planted faults.
//!
//! A fault in the list is planted before the waits are inferred, so that the waits fit the faulty
//! list and only its contents are wrong. A fault in the waits is planted afterwards.

use horizon::base::{SlabIndex, SlotIndex, SpillIndex};
use horizon::device::{Lane, Tick};
use horizon::schedule::{
    AccumulatorBuffer, AdamWhen, BoundaryBuffer, Fault, Geometry, GradientBuffer, List, Mode, Operation,
    Recompute, Resource, RowSet, Synced, WeightBuffer,
};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::cases::{
    Act, Case, Kind, any_case, cases, issued_before, policy, position_of, rewrite, three_steps, waits_of,
};
use crate::machine::{Machine, Order, Outcome};

fn program(case: &Case, acts: &[Act]) -> Outcome {
    Machine::new(&case.geometry).run(acts, Order::Program, &mut ChaCha8Rng::seed_from_u64(0))
}

/// The acts of three steps, the middle one with these operations.
fn with_middle(case: &Case, operations: Vec<Operation>) -> Vec<Act> {
    let mut lists = case.lists();
    lists[case.middle()].operations = operations;
    case.acts(&lists)
}

/// The fault that the checker finds in three steps, the middle one with these operations.
fn middle_fault(case: &Case, operations: Vec<Operation>) -> Option<Fault> {
    case.fault(&with_middle(case, operations))
}

/// The same operations with the one at `from` moved to `to`.
fn moved(list: &List, from: usize, to: usize) -> Vec<Operation> {
    let mut operations = list.operations.clone();
    let operation = operations.remove(from);
    operations.insert(to, operation);
    operations
}

fn position(list: &List, from: usize, found: impl Fn(&Operation) -> bool) -> Option<usize> {
    list.operations[from..].iter().position(found).map(|offset| from + offset)
}

fn last_position(list: &List, before: usize, found: impl Fn(&Operation) -> bool) -> Option<usize> {
    list.operations[..before].iter().rposition(found)
}

fn middle(case: &Case) -> List {
    case.lists().swap_remove(case.middle())
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn an_upload_before_the_last_reader_of_its_slot_is_found(case in three_steps()) {
        let list = middle(&case);
        for (index, operation) in list.operations.iter().enumerate() {
            let Operation::Upload { place, .. } = operation else { continue };
            let reader = last_position(&list, index, |other| reads(&case, &list, other, (*place).into()));
            if let Some(reader) = reader {
                prop_assert!(middle_fault(&case, moved(&list, index, reader)).is_some(), "{operation}");
            }
        }
    }

    #[test]
    fn a_late_download_of_a_slab_is_found(case in three_steps()) {
        let list = middle(&case);
        for (index, operation) in list.operations.iter().enumerate() {
            let Operation::Download { slab, .. } = *operation else { continue };
            let next = position(&list, index, |other| matches!(other, Operation::Round { slab: next, .. } if *next == slab));
            if let Some(next) = next {
                prop_assert!(middle_fault(&case, moved(&list, index, next)).is_some(), "{operation}");
            }
        }
    }

    #[test]
    fn a_late_use_of_a_ring_slab_is_found(case in three_steps()) {
        let list = middle(&case);
        for (index, operation) in list.operations.iter().enumerate() {
            let Operation::Adam { from: from @ GradientBuffer::Ring(_), .. } = *operation else { continue };
            let next = position(&list, index, |other| matches!(other, Operation::Download { to, .. } if *to == from));
            if let Some(next) = next {
                prop_assert!(middle_fault(&case, moved(&list, index, next)).is_some(), "{operation}");
            }
        }
    }

    #[test]
    fn a_gradient_taken_before_it_is_complete_is_found(case in three_steps()) {
        let list = middle(&case);
        for (index, operation) in list.operations.iter().enumerate() {
            let unit = match *operation {
                Operation::Norm { unit, .. } | Operation::Round { unit, .. } => unit,
                _ => continue,
            };
            let adds = |other: &Operation| match other {
                Operation::HeadForwardBackward { .. } | Operation::HeadBackward { .. } => {
                    unit == case.geometry.head()
                }
                Operation::EmbedBackward { .. } => unit == case.geometry.embedding(),
                Operation::RecomputeBackward { unit: other, .. } => unit == *other,
                _ => false,
            };
            let last = last_position(&list, index, adds).expect("something adds to every gradient");
            let fault = middle_fault(&case, moved(&list, index, last));
            prop_assert!(matches!(fault, Some(Fault::Content { .. })), "{operation}: {fault:?}");
        }
    }

    /// Every other slot or slab in place of the right one.
    #[test]
    fn a_wrong_slot_or_slab_is_found(case in three_steps()) {
        let list = middle(&case);
        let placement = &case.policy.placement;
        for index in 0..list.operations.len() {
            for step in 1..=5u32 {
                let mut operations = list.operations.clone();
                let other = |at: u32, count: usize| (at + step) % (count as u32 + 1);
                let operation = &mut operations[index];
                match operation {
                    Operation::Upload { place: WeightBuffer::Slot(slot), .. }
                    | Operation::Forward { slot, .. }
                    | Operation::RecomputeBackward { slot, .. } => {
                        *slot = SlotIndex(other(slot.0, placement.weight_slots + placement.residents()));
                    }
                    Operation::Norm { slab, .. }
                    | Operation::Round { slab, .. }
                    | Operation::DownloadNorm { slab, .. }
                    | Operation::Download { slab, .. } => {
                        *slab = SlabIndex(other(slab.0, case.policy.slabs(&case.geometry)));
                    }
                    Operation::Adam { from: GradientBuffer::Ring(slab), .. } => *slab = other(*slab, placement.ring),
                    _ => continue,
                }
                if operations != list.operations {
                    let wrong = operations[index];
                    prop_assert!(middle_fault(&case, operations).is_some(), "{wrong} for {}", list.operations[index]);
                }
            }
        }
    }

    /// Every other boundary buffer in place of the right one.
    #[test]
    fn a_wrong_boundary_buffer_is_found(case in three_steps()) {
        let list = middle(&case);
        let spill_buffers = [SpillIndex(0), SpillIndex(1), SpillIndex(2)];
        let buffers = spill_buffers.map(BoundaryBuffer::Spill).into_iter().chain([BoundaryBuffer::Own, BoundaryBuffer::ResidualStream]);
        for index in 0..list.operations.len() {
            let mut wrong = Vec::new();
            for buffer in buffers.clone() {
                match list.operations[index] {
                    Operation::EmbedForward { micro, .. } => wrong.push(Operation::EmbedForward { micro, to: buffer }),
                    Operation::Forward { unit, slot, micro, recompute, from, to } => {
                        wrong.push(Operation::Forward { unit, slot, micro, recompute, from: buffer, to });
                        wrong.push(Operation::Forward { unit, slot, micro, recompute, from, to: buffer });
                    }
                    Operation::RecomputeBackward { unit, slot, micro, recompute, accumulator, .. } => {
                        let from = buffer;
                        wrong.push(Operation::RecomputeBackward { unit, slot, micro, recompute, from, accumulator });
                    }
                    Operation::SpillBoundary { unit, micro, .. } => {
                        wrong.extend(spill_buffers.map(|spill| Operation::SpillBoundary { unit, micro, spill }));
                    }
                    Operation::FetchBoundary { unit, micro, .. } => {
                        wrong.extend(spill_buffers.map(|spill| Operation::FetchBoundary { unit, micro, spill }));
                    }
                    _ => {}
                }
            }
            for operation in wrong.into_iter().filter(|wrong| *wrong != list.operations[index]) {
                let mut operations = list.operations.clone();
                operations[index] = operation;
                prop_assert!(middle_fault(&case, operations).is_some(), "{operation:?} for {:?}", list.operations[index]);
            }
        }
    }

    /// Every other accumulator buffer in place of the right one.
    #[test]
    fn a_wrong_accumulator_buffer_is_found(case in three_steps()) {
        let list = middle(&case);
        let spill_buffers = [SpillIndex(0), SpillIndex(1), SpillIndex(2)];
        let buffers = spill_buffers.map(AccumulatorBuffer::Spill).into_iter().chain([AccumulatorBuffer::Own, AccumulatorBuffer::Shared]);
        for index in 0..list.operations.len() {
            for buffer in buffers.clone() {
                let mut operations = list.operations.clone();
                match (&mut operations[index], buffer) {
                    (Operation::RecomputeBackward { accumulator, .. }, _)
                    | (Operation::Norm { accumulator, .. }, _)
                    | (Operation::Round { accumulator, .. }, _) => *accumulator = buffer,
                    (Operation::SpillAccumulator { spill, .. } | Operation::FetchAccumulator { spill, .. }, AccumulatorBuffer::Spill(other)) => {
                        *spill = other;
                    }
                    _ => continue,
                }
                if operations != list.operations {
                    let wrong = operations[index];
                    prop_assert!(middle_fault(&case, operations).is_some(), "{wrong:?} for {:?}", list.operations[index]);
                }
            }
        }
    }

    /// Forward and backward must agree on the saved activations.
    #[test]
    fn a_backward_that_reads_activations_that_were_not_saved_is_found(case in three_steps()) {
        let list = middle(&case);
        for index in 0..list.operations.len() {
            for other in [Recompute::Full, Recompute::Selective, Recompute::None] {
                let mut operations = list.operations.clone();
                let (Operation::Forward { recompute, .. } | Operation::RecomputeBackward { recompute, .. }) =
                    &mut operations[index] else { continue };
                *recompute = other;
                if operations != list.operations {
                    let wrong = operations[index];
                    prop_assert!(middle_fault(&case, operations).is_some(), "{wrong} for {}", list.operations[index]);
                }
            }
        }
    }

    /// No operation can be left out. If only the issuing thread reads the result, its read fails; if AdamW of a
    /// unit is missing, its gradient is unused.
    #[test]
    fn a_missing_operation_is_found(case in three_steps()) {
        let case = Case { outside: true, ..case };
        let list = middle(&case);
        for index in 0..list.operations.len() {
            let mut operations = list.operations.clone();
            let missing = operations.remove(index);
            prop_assert!(middle_fault(&case, operations).is_some(), "{missing}");
        }
    }

    #[test]
    fn a_wait_for_a_task_that_is_not_issued_yet_is_found(case in three_steps(), seed: u64) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let acts = case.acts(&case.lists());
        let position = position_of(&acts, case.middle());
        let Act::Issue(list, synced) = &acts[position] else { unreachable!("the position is that of a list") };
        let victim = random.random_range(0..list.operations.len());
        let mut issued = issued_before(&acts, position);
        list.operations[..victim].iter().for_each(|operation| issued[operation.lane().at()] += 1);
        for lane in Lane::ALL {
            let ahead = rewrite(list, synced, |index, waits, _| {
                if index == victim {
                    waits.push(Tick { lane, count: issued[lane.at()] + 1 });
                }
            });
            let mut faulty = acts.clone();
            faulty[position] = Act::Issue(list.clone(), ahead);
            let fault = case.fault(&faulty);
            prop_assert!(matches!(fault, Some(Fault::NotIssued { .. })), "{fault:?}");
        }
    }

    #[test]
    fn a_missing_signal_is_found(case in three_steps()) {
        let acts = case.acts(&case.lists());
        let position = position_of(&acts, case.middle());
        let Act::Issue(list, synced) = &acts[position] else { unreachable!("the position is that of a list") };
        let awaited: Vec<Tick> = waits_of(synced).iter().map(|&(index, wait)| synced.waits(index)[wait]).collect();
        for silenced in (0..synced.len()).filter(|&index| awaited.contains(&synced.tick(index))) {
            let mut faulty = acts.clone();
            let changed = rewrite(list, synced, |index, _, signal| *signal &= index != silenced);
            faulty[position] = Act::Issue(list.clone(), changed);
            let fault = case.fault(&faulty);
            prop_assert!(matches!(fault, Some(Fault::NoSignal { .. })), "{fault:?}");
        }
    }

    /// The rules of the lanes also hold for the issuing thread.
    #[test]
    fn a_caller_that_does_not_wait_is_found(case in three_steps()) {
        let case = Case { outside: true, ..case };
        let acts = case.acts(&case.lists());
        for position in 0..acts.len() {
            let Act::Outside(ticks, accesses) = &acts[position] else { continue };
            for dropped in 0..ticks.len() {
                let mut fewer = ticks.clone();
                fewer.remove(dropped);
                let mut faulty = acts.clone();
                faulty[position] = Act::Outside(fewer, accesses.clone());
                let fault = case.fault(&faulty);
                let found = matches!(fault, Some(Fault::Race { second, .. }) if second.operation.is_none());
                prop_assert!(found, "{fault:?}");
            }
        }
    }
}

/// True if an operation reads a resource.
fn reads(case: &Case, list: &List, operation: &Operation, resource: Resource) -> bool {
    let mut reads = false;
    operation.visit(&case.geometry, list.extent, &mut |access| {
        reads |= access.resource == resource && access.needs.is_some();
    });
    reads
}

/// Returns true if the checker accepts the operations; their result must then be that of the right
/// list.
fn found_or_harmless(
    case: &Case,
    right: &Outcome,
    operations: Vec<Operation>,
) -> Result<bool, TestCaseError> {
    let acts = with_middle(case, operations);
    let accepted = case.fault(&acts).is_none();
    if accepted {
        let outcome = program(case, &acts);
        prop_assert_eq!(&outcome.masters, &right.masters);
        prop_assert_eq!(&outcome.read, &right.read);
    }
    Ok(accepted)
}

proptest! {
    #![proptest_config(cases(30))]

    /// Swaps every two consecutive operations of a lane.
    #[test]
    fn swapped_operations_are_found_or_harmless(case in three_steps()) {
        let case = Case { outside: true, ..case };
        let list = middle(&case);
        let right = program(&case, &case.acts(&case.lists()));
        for index in 0..list.operations.len() {
            let lane = list.operations[index].lane();
            if let Some(next) = position(&list, index + 1, |other| other.lane() == lane) {
                let mut operations = list.operations.clone();
                operations.swap(index, next);
                found_or_harmless(&case, &right, operations)?;
            }
        }
    }

    /// Random mutations: swaps, moves, repetitions, other indices, several at a time.
    #[test]
    fn random_mutations_are_found_or_harmless(case in three_steps(), seed: u64) {
        let case = Case { outside: true, ..case };
        let list = middle(&case);
        let right = program(&case, &case.acts(&case.lists()));
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..60 {
            let mut operations = list.operations.clone();
            for _ in 0..random.random_range(1..=2) {
                mutate(&mut operations, &mut random);
            }
            found_or_harmless(&case, &right, operations)?;
        }
    }
}

fn mutate(operations: &mut Vec<Operation>, random: &mut ChaCha8Rng) {
    let (one, other) = (random.random_range(0..operations.len()), random.random_range(0..operations.len()));
    match random.random_range(0..4) {
        0 => operations.swap(one, other),
        1 => {
            let operation = operations.remove(one);
            operations.insert(other, operation);
        }
        // Excluded: AdamW twice from one gradient leaves every resource with the expected content.
        2 if !matches!(operations[one], Operation::Adam { .. }) => operations.insert(other, operations[one]),
        _ => match &mut operations[one] {
            Operation::Upload { unit, .. }
            | Operation::Norm { unit, .. }
            | Operation::DownloadNorm { unit, .. } => unit.0 ^= 1,
            Operation::SpillAccumulator { terms, .. } | Operation::FetchAccumulator { terms, .. } => {
                *terms ^= 1
            }
            Operation::Forward { micro, .. }
            | Operation::RecomputeBackward { micro, .. }
            | Operation::HeadForwardBackward { micro }
            | Operation::EmbedForward { micro, .. }
            | Operation::SpillBoundary { micro, .. }
            | Operation::FetchBoundary { micro, .. }
            | Operation::EmbedBackward { micro }
            | Operation::UploadBatch { micro } => micro.0 ^= 1,
            Operation::Round { chunk, .. } | Operation::Download { chunk, .. } => chunk.0 ^= 1,
            Operation::Adam { chunk, .. } => chunk.0 ^= 1,
            Operation::AdamRows { rows, .. } => {
                *rows = if *rows == RowSet::Next { RowSet::Others } else { RowSet::Next };
            }
            Operation::HeadLogprobs { micro }
            | Operation::HeadBackward { micro }
            | Operation::DownloadLogprobs { micro }
            | Operation::UploadDlogprobs { micro } => micro.0 ^= 1,
            Operation::Save { .. }
            | Operation::Loss
            | Operation::HeadForward { .. }
            | Operation::ClipDecision { .. }
            | Operation::HeadLogits
            | Operation::DownloadLoss
            | Operation::DownloadLogits => {}
        },
    }
}

#[test]
fn waits_of_another_list_are_refused() {
    let mut runner = proptest::test_runner::TestRunner::new(cases(200));
    let outcome = runner.run(&any_case(), |case| {
        let acts = case.acts(&case.lists());
        for position in 0..acts.len() {
            let Act::Issue(list, synced) = &acts[position] else { continue };
            let mut shorter = list.clone();
            shorter.operations.pop();
            let mut faulty = acts.clone();
            faulty[position] = Act::Issue(shorter, synced.clone());
            let fault = case.fault(&faulty);
            prop_assert!(matches!(fault, Some(Fault::Mismatch { party: None })), "{fault:?}");
        }
        Ok(())
    });
    outcome.unwrap();
}

/// One planted fault of each class.
#[test]
fn every_class_of_fault_is_reported_as_such() {
    let policy = policy(Mode::Exact, AdamWhen::AfterNorm, 2, 2, 2);
    let geometry = Geometry { layers: 3, tied: false, embedding_chunks: 2, head_chunks: 2 };
    let kinds = vec![Kind::Train(2), Kind::Save, Kind::Train(2), Kind::Train(2)];
    let case = Case { policy, geometry, kinds, outside: false };
    let acts = case.acts(&case.lists());
    assert_eq!(case.fault(&acts), None);
    let (list, position_in_acts) = (middle(&case), position_of(&acts, case.middle()));
    let Act::Issue(_, synced) = &acts[position_in_acts] else {
        unreachable!("the position is that of a list")
    };
    let find = |text: &str| {
        position(&list, 0, |operation| operation.to_string().starts_with(text)).expect("the list has it")
    };
    let without = |text: &str| {
        let mut operations = list.operations.clone();
        operations.remove(find(text));
        middle_fault(&case, operations)
    };
    type Change<'a> = &'a dyn Fn(usize, &mut Tick, &mut Vec<Tick>, &mut bool);
    let with_waits = |list: &List, change: Change| {
        let mut changed = Synced::default();
        for index in 0..synced.len() {
            let (mut tick, mut waits) = (synced.tick(index), synced.waits(index).to_vec());
            let mut signal = synced.signal(index);
            change(index, &mut tick, &mut waits, &mut signal);
            changed.push(tick, &waits, signal);
        }
        let mut faulty = acts.clone();
        faulty[position_in_acts] = Act::Issue(list.clone(), changed);
        case.fault(&faulty)
    };

    let upload = find("upload unit 3");
    let fault = with_waits(&list, &|index, _, waits, _| waits.retain(|_| index != upload));
    assert!(matches!(fault, Some(Fault::Race { .. })), "{fault:?}");
    // AdamW of a unit that is being saved.
    let adam = find("adam unit 2");
    let on_disk = |wait: &Tick| wait.lane == Lane::Disk;
    assert!(synced.waits(adam).iter().any(on_disk), "the save is waited for");
    let fault = with_waits(&list, &|index, _, waits, _| waits.retain(|wait| index != adam || !on_disk(wait)));
    let saving = |first: horizon::schedule::Party| first.operation.is_some_and(|it| it.lane() == Lane::Disk);
    assert!(matches!(fault, Some(Fault::Race { first, .. }) if saving(first)), "{fault:?}");
    let fault = with_waits(&list, &|index, tick, waits, _| {
        if index == upload {
            waits.push(Tick { lane: Lane::Compute, count: tick.count + 10_000 });
        }
    });
    assert!(matches!(fault, Some(Fault::NotIssued { .. })), "{fault:?}");
    let awaited = synced.waits(find("forward unit 1"))[0];
    let fault = with_waits(&list, &|_, tick, _, signal| *signal &= *tick != awaited);
    assert!(matches!(fault, Some(Fault::NoSignal { .. })), "{fault:?}");
    let fault = with_waits(&list, &|index, tick, _, _| tick.count += u64::from(index == upload));
    assert!(matches!(fault, Some(Fault::Mismatch { party: Some(_) })), "{fault:?}");
    let mut shorter = list.clone();
    shorter.operations.pop();
    let fault = with_waits(&shorter, &|_, _, _, _| ());
    assert!(matches!(fault, Some(Fault::Mismatch { party: None })), "{fault:?}");

    let fault = without("upload unit 3");
    assert!(matches!(fault, Some(Fault::Content { .. })), "{fault:?}");
    let fault = without("adam unit 2");
    assert!(matches!(fault, Some(Fault::Unused { .. })), "{fault:?}");
    let mut operations = list.operations.clone();
    let slot = SlotIndex(9);
    let Operation::Upload { place, .. } = &mut operations[upload] else { unreachable!("an upload") };
    *place = WeightBuffer::Slot(slot);
    let fault = middle_fault(&case, operations);
    assert!(
        matches!(fault, Some(Fault::NoSuchResource { resource: Resource::Slot(found), .. }) if found == slot)
    );
    // A save without any one unit; the issuing thread waits for it.
    let case = Case { outside: true, ..case };
    for unit in 0..5 {
        let mut lists = case.lists();
        lists[1].operations.remove(unit);
        let fault = case.fault(&case.acts(&lists));
        assert!(
            matches!(fault, Some(Fault::Content { resource: Resource::Checkpoint, .. })),
            "{unit}: {fault:?}"
        );
    }
}
