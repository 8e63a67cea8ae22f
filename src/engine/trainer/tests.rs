//! What `check` refuses the engine refuses, before a lane sees any of it.

use super::*;
use crate::base::{Dims, Shape, Status};
use crate::engine::Batch;
use crate::schedule::{self, Operation};

fn opened() -> Trainer {
    let dims = Dims { c: 8, h: 2, g: 1, d: 4, f: 12, v: 19, l: 3 };
    let config = ModelConfig { positions_max: 16, ..ModelConfig::llama(dims) };
    let options =
        TrainerOptions { shape: Shape { b: 1, t: 7 }, threads: Some(1), micros_max: 2, ..Default::default() };
    let mut trainer = Trainer::open(&config, &options).unwrap();
    trainer.write_fresh(1).unwrap();
    trainer
}

const BATCH: Batch = Batch { tokens: &[3; 7], targets: &[4; 7], weights: None, starts: None };

fn issued(trainer: &Trainer) -> [u64; Lane::COUNT] {
    Lane::ALL.map(|lane| trainer.lanes.last(lane).count)
}

fn at(list: &List, text: &str) -> usize {
    list.operations.iter().position(|operation| operation.to_string() == text).expect("it is in the list")
}

/// The trainer has failed, says so for good, and its lanes have been given nothing.
fn refused(trainer: &mut Trainer, error: &Error, before: [u64; Lane::COUNT], words: &[&str]) {
    assert_eq!(error.status(), Status::Internal);
    for word in words {
        assert!(error.message().contains(word), "`{word}` is missing in: {error}");
    }
    assert_eq!(issued(trainer), before);
    assert_eq!(&trainer.step(&[BATCH], 1e-3).unwrap_err(), error);
    assert_eq!(&trainer.sync().unwrap_err(), error);
}

#[test]
fn a_list_that_reads_what_is_not_there_is_refused() {
    let mut trainer = opened();
    trainer.step(&[BATCH], 1e-3).unwrap();
    let Plan { policy, geometry, .. } = &trainer.runner.plan;
    let mut list = schedule::evaluate(policy, geometry, 2).unwrap();
    list.operations.remove(at(&list, "upload unit 3 → slot 0"));
    trainer.runner.lists.plant(Purpose::Evaluate(2), list);
    let before = issued(&trainer);
    let error = trainer.eval(&[BATCH; 2]).unwrap_err();
    let words = [
        "`forward unit 3 in slot 0, micro 0` (compute lane, list 2, operation",
        "needs the weights of unit 3 in slot 0, which holds the weights of unit 1",
        "left by `upload unit 1 → slot 0` (h2d lane, list 2, operation",
    ];
    refused(&mut trainer, &error, before, &words);
}

#[test]
fn a_list_whose_operations_may_meet_is_refused() {
    let mut trainer = opened();
    trainer.step(&[BATCH], 1e-3).unwrap();
    let runner = trainer.runner.clone();
    let (_, list) = runner.lists.get(Purpose::Train(1)).unwrap();
    let careless = at(list, "upload unit 3 → slot 0");
    let inferred = trainer.sync.infer(list);
    let mut waits = Synced::default();
    for index in 0..inferred.len() {
        let kept = if index == careless { &[] } else { inferred.waits(index) };
        waits.push(inferred.tick(index), kept, inferred.signal(index));
    }
    let before = issued(&trainer);
    let error = trainer.prove(list, &waits).unwrap_err();
    let words = [
        "`upload unit 3 → slot 0` (h2d lane, list 2, operation",
        "touches the master of unit 3 without waiting for `adam unit 3 part 0 from store",
        "(host lane, list 1, operation",
    ];
    refused(&mut trainer, &error, before, &words);
}

#[test]
fn an_operation_that_is_missing_is_refused() {
    let mut trainer = opened();
    let Plan { policy, geometry, .. } = &trainer.runner.plan;
    let mut list = schedule::train(policy, geometry, 1).unwrap();
    let unused = |operation: &Operation| matches!(operation, Operation::Adam { unit, .. } if unit.0 == 2);
    list.operations.retain(|operation| !unused(operation));
    trainer.runner.lists.plant(Purpose::Train(1), list);
    let before = issued(&trainer);
    let error = trainer.step(&[BATCH], 1e-3).unwrap_err();
    let words = ["nothing uses part 0 of the gradient of unit 2", "`download unit 2 part 0"];
    refused(&mut trainer, &error, before, &words);
}
