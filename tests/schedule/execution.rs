//! Lanes that run in any order the waits allow give the result of program order.

use horizon::device::{Lane, Tick};
use horizon::schedule::{AdamWhen, Guard, Resource};
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::cases::{
    Act, Case, Kind, any_case, any_model, cases, issued_before, position_of, rewrite, three_steps, waits_of,
};
use crate::machine::{Machine, Order, Outcome, initial};
use crate::plain;

fn run(case: &Case, acts: &[Act], order: Order, seed: u64) -> Outcome {
    Machine::new(&case.geometry).run(acts, order, &mut ChaCha8Rng::seed_from_u64(seed))
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn any_order_gives_the_result_of_program_order(case in any_case(), seed: u64) {
        let acts = case.acts(&case.lists());
        let program = run(&case, &acts, Order::Program, seed);
        for round in 0..4 {
            prop_assert_eq!(&run(&case, &acts, Order::Random, seed ^ round), &program);
        }
        for lane in Lane::ALL {
            prop_assert_eq!(&run(&case, &acts, Order::Starve(lane), seed), &program);
        }
    }

    #[test]
    fn a_step_gives_the_result_of_the_plain_algorithm(
        (policy, geometry) in any_model(),
        micros in 1..=4usize,
        announced: [bool; 3],
    ) {
        let kind = |announced| if announced { Kind::TrainRowsFirst(micros) } else { Kind::Train(micros) };
        let case = Case { policy, geometry, kinds: announced.map(kind).to_vec(), outside: false };
        let outcome = run(&case, &case.acts(&case.lists()), Order::Program, 0);
        let guard = match case.policy.placement.adam {
            AdamWhen::AfterNorm => Guard::ClipDecision,
            AdamWhen::UnderBackward => Guard::Unit,
        };
        let batch = |micro: usize| initial(Resource::HostBatch { micro: micro.into() });
        let batches: Vec<u64> = (0..micros).map(batch).collect();
        let (mut model, first) = (plain::model(&geometry), case.policy.updates_rows_first(&geometry));
        let step = |announced| plain::step(&geometry, &batches, &mut model, guard, announced && first);
        let answers = announced.map(step);
        prop_assert_eq!(outcome.masters, model.masters);
        let at = |wanted| outcome.memory.iter().find(|(resource, _)| *resource == wanted).map(|(_, value)| *value);
        prop_assert_eq!(at(Resource::HostLoss), Some(answers[2].loss));
        prop_assert_eq!(at(Resource::ClipDecision), Some(answers[2].clip_decision));
    }
}

proptest! {
    #![proptest_config(cases(20))]

    /// An additional wait does not change results: one for each operation of the middle step in turn.
    #[test]
    fn an_additional_wait_changes_no_result(case in three_steps(), seed: u64) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let acts = case.acts(&case.lists());
        let program = run(&case, &acts, Order::Program, seed);
        let position = position_of(&acts, case.middle());
        let Act::Issue(list, synced) = &acts[position] else { unreachable!("the position is that of a list") };
        let mut issued = issued_before(&acts, position);
        for (owner, operation) in list.operations.iter().enumerate() {
            let lane = Lane::ALL[random.random_range(0..Lane::COUNT)];
            let more = Tick { lane, count: random.random_range(0..=issued[lane.at()]) };
            issued[operation.lane().at()] += 1;
            let waits = rewrite(list, synced, |index, waits, _| {
                if index == owner {
                    waits.push(more);
                }
            });
            let mut changed = acts.clone();
            changed[position] = Act::Issue(list.clone(), waits);
            prop_assert_eq!(&run(&case, &changed, Order::Random, seed), &program, "{} and {:?}", operation, more);
        }
    }
}

proptest! {
    #![proptest_config(cases(60))]

    /// Minimality by execution: without any one wait, some order gives another result. Every step has new
    /// batches, so that an early upload changes the result.
    #[test]
    fn every_dropped_wait_changes_a_result(case in three_steps(), seed: u64) {
        let case = Case { outside: true, ..case };
        let acts = case.acts(&case.lists());
        let program = run(&case, &acts, Order::Program, seed);
        let position = position_of(&acts, case.middle());
        let Act::Issue(list, synced) = &acts[position] else { unreachable!("the position is that of a list") };
        for (owner, dropped) in waits_of(synced) {
            let awaited = synced.waits(owner)[dropped];
            let mut faulty = acts.clone();
            let fewer = rewrite(list, synced, |index, waits, _| {
                if index == owner {
                    waits.remove(dropped);
                }
            });
            faulty[position] = Act::Issue(list.clone(), fewer);
            let seen = run(&case, &faulty, Order::Hold(awaited), seed);
            prop_assert_ne!(&seen, &program, "{} without {:?}", list.operations[owner], awaited);
        }
    }
}
