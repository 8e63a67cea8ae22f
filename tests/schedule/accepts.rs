//! Built and synchronized lists are correct, and their waits are minimal.

use std::time::Instant;

use horizon::base::Status;
use horizon::device::{Lane, Tick};
use horizon::schedule::{
    AdamWhen, Checker, Fault, Geometry, GradWait, LayerPlacement, List, Mode, Party, Policy, Resource, Sync,
    Synced, evaluate, logits, train,
};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::cases::{
    Act, Case, any_case, cases, issued_before, policy, position_of, rewrite, three_steps, waits_of,
};

proptest! {
    #![proptest_config(cases(4000))]

    #[test]
    fn every_sequence_of_lists_is_accepted(case in any_case()) {
        if let Some(fault) = case.fault(&case.acts(&case.lists())) {
            prop_assert!(false, "{fault}");
        }
    }
}

/// The tick of an operation of an issued list.
fn tick_of(acts: &[Act], party: Party) -> Tick {
    let Act::Issue(_, synced) = &acts[position_of(acts, party.list as usize - 1)] else {
        unreachable!("the position is that of a list")
    };
    synced.tick(party.index)
}

/// Drops every wait of one list, one at a time. Each time the checker must report a race of the
/// operation that owns the wait. The other operation that it names may at first be one of a third
/// lane, which was ordered only through the dropped wait. The test then adds a wait for that
/// operation and repeats, until the checker names the awaited operation itself. So every wait
/// orders a conflict with the very operation it waits for.
fn every_dropped_wait_is_found(case: &Case, acts: &[Act], position: usize) -> Result<usize, TestCaseError> {
    let Act::Issue(list, synced) = &acts[position] else { unreachable!("the position is that of a list") };
    let waits = waits_of(synced);
    for &(owner, dropped) in &waits {
        let (mut faulty, awaited) = (acts.to_vec(), synced.waits(owner)[dropped]);
        let mut added: Vec<Tick> = Vec::new();
        loop {
            let other = rewrite(list, synced, |index, waits, signal| {
                *signal = true;
                if index == owner {
                    waits.remove(dropped);
                    waits.extend(&added);
                }
            });
            faulty[position] = Act::Issue(list.clone(), other);
            let fault = case.fault(&faulty);
            let Some(Fault::Race { first, second, .. }) = fault else {
                let operation = list.operations[owner];
                return Err(TestCaseError::fail(format!("{operation} without {awaited:?}: {fault:?}")));
            };
            prop_assert_eq!(second.index, owner);
            let named = tick_of(acts, first);
            if named == awaited {
                break;
            }
            prop_assert!(!added.contains(&named), "{}: the same race again", list.operations[owner]);
            prop_assert_ne!(first.lane(), second.lane());
            added.push(named);
        }
    }
    Ok(waits.len())
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn every_wait_of_the_middle_step_is_needed(case in three_steps()) {
        let acts = case.acts(&case.lists());
        let waits = every_dropped_wait_is_found(&case, &acts, position_of(&acts, case.middle()))?;
        prop_assert!(waits > 0);
    }

    #[test]
    fn every_wait_of_any_list_is_needed(case in any_case()) {
        let acts = case.acts(&case.lists());
        for list in 0..case.kinds.len() {
            every_dropped_wait_is_found(&case, &acts, position_of(&acts, list))?;
        }
    }

    #[test]
    fn additional_waits_are_accepted(case in any_case(), seed: u64) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let acts = case.acts(&case.lists());
        let mut more = acts.clone();
        for (position, act) in acts.iter().enumerate() {
            let Act::Issue(list, synced) = act else { continue };
            let mut issued = issued_before(&acts, position);
            let added = rewrite(list, synced, |index, waits, signal| {
                *signal = true;
                let lane = Lane::ALL[random.random_range(0..Lane::COUNT)];
                waits.push(Tick { lane, count: random.random_range(0..=issued[lane.at()]) });
                issued[list.operations[index].lane().at()] += 1;
            });
            more[position] = Act::Issue(list.clone(), added);
        }
        if let Some(fault) = case.fault(&more) {
            prop_assert!(false, "{fault}");
        }
    }
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn operations_access_existing_resources_once_and_on_their_lanes(case in any_case()) {
        for list in case.lists() {
            for operation in &list.operations {
                let mut accessed = Vec::new();
                operation.visit(&case.geometry, list.extent, &mut |access| accessed.push(access.resource));
                for (index, resource) in accessed.iter().enumerate() {
                    prop_assert!(!accessed[..index].contains(resource), "{operation}: {resource} twice");
                    prop_assert!(resource.lanes().contains(&operation.lane()), "{operation}: {resource}");
                    prop_assert!(resource.exists(&case.policy, &case.geometry, list.extent));
                }
            }
        }
    }

    #[test]
    fn lists_are_functions_of_their_inputs(case in any_case()) {
        prop_assert_eq!(case.lists(), case.lists());
    }

    /// A signal is an event on a device. Every signal is awaited in its list, or is a last access that a later
    /// list may await.
    #[test]
    fn every_signal_is_awaited_here_or_is_a_last_access(case in three_steps()) {
        let acts = case.acts(&case.lists());
        let position = position_of(&acts, case.middle());
        let Act::Issue(list, synced) = &acts[position] else { unreachable!("the position is that of a list") };
        let awaited: Vec<Tick> = waits_of(synced).iter().map(|&(index, wait)| synced.waits(index)[wait]).collect();
        for index in (0..synced.len()).filter(|&index| synced.signal(index)) {
            let mut last = false;
            list.operations[index].visit(&case.geometry, list.extent, &mut |access| {
                let touches_later = |later: &horizon::schedule::Operation| {
                    let mut writes = false;
                    later.visit(&case.geometry, list.extent, &mut |other| {
                        writes |= other.resource == access.resource && other.writes();
                    });
                    writes
                };
                last |= !list.operations[index + 1..].iter().any(touches_later);
            });
            prop_assert!(last || awaited.contains(&synced.tick(index)), "{}", list.operations[index]);
        }
    }
}

#[test]
fn invalid_policies_are_refused_with_the_reason() {
    let good = policy(Mode::Exact, AdamWhen::AfterNorm, 2, 2, 2);
    let model = Geometry { layers: 3, tied: false, embedding_chunks: 2, head_chunks: 2 };
    let streamed = policy(Mode::Streamed, AdamWhen::UnderBackward, 2, 2, 2);
    let good = || good.clone();
    let mut too_many = good();
    too_many.placement.layers = vec![LayerPlacement::default(); 4];
    let mut no_sweep = good();
    no_sweep.placement.sweeps = 0;
    let mut both = policy(Mode::Exact, AdamWhen::UnderBackward, 2, 2, 2);
    both.placement.grad_wait = GradWait::Device;
    let refused: [(Policy, Geometry, usize, &str); 12] = [
        (too_many, model, 1, "placements for 4 layers, but num_hidden_layers is 3"),
        (no_sweep, model, 1, "sweeps"),
        (both, model, 1, "wait on the device for the global norm"),
        (good(), model, 0, "micros_max is 0"),
        (good(), Geometry { layers: 0, ..model }, 1, "layers"),
        (good(), Geometry { embedding_chunks: 0, ..model }, 1, "embedding"),
        (good(), Geometry { head_chunks: 0, ..model }, 1, "head"),
        (policy(Mode::Exact, AdamWhen::AfterNorm, 1, 2, 2), model, 1, "weight_slots is 1"),
        (policy(Mode::Exact, AdamWhen::AfterNorm, 2, 1, 2), model, 1, "slabs is 1"),
        (policy(Mode::Streamed, AdamWhen::UnderBackward, 2, 2, 1), model, 1, "ring slabs"),
        (policy(Mode::Streamed, AdamWhen::AfterNorm, 2, 2, 2), model, 1, "UnderBackward"),
        (good(), model, 1 << 30, "micros_max is 1073741824"),
    ];
    for (policy, geometry, micros, reason) in refused {
        let error = train(&policy, &geometry, micros).unwrap_err();
        assert_eq!(error.status(), Status::InvalidArgument);
        assert!(error.message().contains(reason), "{error}");
    }
    assert!(train(&streamed, &model, 1).is_ok());
    let mut waiting = policy(Mode::Streamed, AdamWhen::AfterNorm, 2, 2, 2);
    waiting.placement.grad_wait = GradWait::Device;
    assert!(train(&waiting, &model, 1).is_ok());
    assert!(train(&policy(Mode::Exact, AdamWhen::AfterNorm, 2, 2, 0), &model, 1).is_ok());
    assert!(evaluate(&good(), &model, 0).is_err());
    assert!(logits(&good(), &Geometry { layers: 0, ..model }).is_err());
}

/// Many lists over the same resources: their numbers of waits stay the same.
#[test]
fn many_lists_over_the_same_resources_are_accepted() {
    let policy = policy(Mode::Exact, AdamWhen::AfterNorm, 3, 2, 2);
    let geometry = Geometry { layers: 4, tied: true, embedding_chunks: 3, head_chunks: 1 };
    let (mut sync, mut checker) = (Sync::new(&geometry), Checker::new(&policy, &geometry));
    let list = train(&policy, &geometry, 2).unwrap();
    let mut steady: Option<Synced> = None;
    for _ in 0..500 {
        let synced = sync.infer(&list);
        checker.check(&list, &synced).unwrap();
        let waits = |synced: &Synced| waits_of(synced);
        if let Some(steady) = &steady {
            assert_eq!(waits(steady).len(), waits(&synced).len());
        }
        steady = (sync.before(&[]).is_empty() && synced.tick(0).count > 2).then_some(synced);
    }
}

/// Prints the time for a large model: run with `--release -- --nocapture large`.
#[test]
fn a_large_model_is_built_synchronized_and_checked() {
    let geometry = Geometry { layers: 126, tied: false, embedding_chunks: 3, head_chunks: 3 };
    let policy = policy(Mode::Exact, AdamWhen::AfterNorm, 2, 2, 2);
    let (mut sync, mut checker) = (Sync::new(&geometry), Checker::new(&policy, &geometry));
    for step in 1..=3 {
        let start = Instant::now();
        let list: List = train(&policy, &geometry, 32).unwrap();
        let built = start.elapsed();
        let synced = sync.infer(&list);
        let inferred = start.elapsed();
        checker.check(&list, &synced).unwrap();
        let checked = start.elapsed();
        let signals = (0..synced.len()).filter(|&index| synced.signal(index)).count();
        println!(
            "step {step}: {} operations, {} waits, {signals} signals; built {:.2} ms, synchronized {:.2} ms, \
             checked {:.2} ms",
            synced.len(),
            waits_of(&synced).len(),
            built.as_secs_f64() * 1e3,
            (inferred - built).as_secs_f64() * 1e3,
            (checked - inferred).as_secs_f64() * 1e3,
        );
    }
    assert!(sync.before(&[]).is_empty());
    let scratch = Resource::Scratch;
    assert!(scratch.is_private() && !Resource::ClipDecision.is_private());
}
