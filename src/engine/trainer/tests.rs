//! A list that `check` refuses is not issued to any lane.

use super::*;
use crate::base::{Dims, Shape, Status};
use crate::engine::Batch;
use crate::schedule::{self, Operation};

fn options() -> TrainerOptions {
    TrainerOptions { shape: Shape { b: 1, t: 7 }, threads: Some(1), micros_max: 2, ..Default::default() }
}

fn opened_with(options: TrainerOptions) -> Trainer {
    let dims = Dims { c: 8, h: 2, g: 1, d: 4, f: 12, v: 19, l: 3 };
    let config = ModelConfig { positions_max: 16, ..ModelConfig::llama(dims) };
    let mut trainer = Trainer::open(&config, &options).unwrap();
    trainer.write_fresh(1).unwrap();
    trainer
}

fn opened() -> Trainer {
    opened_with(options())
}

const BATCH: Batch = Batch::new(&[3; 7], &[4; 7]);

fn issued(trainer: &Trainer) -> [u64; Lane::COUNT] {
    Lane::ALL.map(|lane| trainer.lanes.last(lane).count)
}

fn at(list: &List, text: &str) -> usize {
    list.operations.iter().position(|operation| operation.to_string() == text).expect("it is in the list")
}

/// Asserts that the trainer is poisoned by this error and that nothing was issued.
fn assert_refused(trainer: &mut Trainer, error: &Error, before: [u64; Lane::COUNT], words: &[&str]) {
    assert_eq!(error.status(), Status::Internal);
    for word in words {
        assert!(error.message().contains(word), "`{word}` is missing in: {error}");
    }
    assert_eq!(issued(trainer), before);
    assert_eq!(&trainer.step(&[BATCH], 1e-3).unwrap_err(), error);
    assert_eq!(&trainer.sync().unwrap_err(), error);
}

#[test]
fn a_list_that_reads_missing_contents_is_refused() {
    let mut trainer = opened();
    trainer.step(&[BATCH], 1e-3).unwrap();
    let Plan { policy, geometry, .. } = &trainer.runner.plan;
    let mut list = schedule::evaluate(policy, geometry, 2).unwrap();
    list.operations.remove(at(&list, "upload unit 3 → slot 0"));
    trainer.runner.lists.replace(Purpose::Evaluate(2), list);
    let before = issued(&trainer);
    let error = trainer.eval(&[BATCH; 2]).unwrap_err();
    let words = [
        "`forward unit 3 in slot 0, micro 0` (compute lane, list 2, operation",
        "needs the weights of unit 3 in slot 0, which holds the weights of unit 1",
        "left by `upload unit 1 → slot 0` (h2d lane, list 2, operation",
    ];
    assert_refused(&mut trainer, &error, before, &words);
}

#[test]
fn a_list_with_a_data_race_is_refused() {
    let mut trainer = opened();
    trainer.step(&[BATCH], 1e-3).unwrap();
    let runner = trainer.runner.clone();
    let (_, list) = runner.lists.get(Purpose::Train(1)).unwrap();
    let racing = at(list, "upload unit 3 → slot 0");
    let inferred = trainer.sync.infer(list);
    let mut waits = Synced::default();
    for index in 0..inferred.len() {
        let waits_left = if index == racing { &[] } else { inferred.waits(index) };
        waits.push(inferred.tick(index), waits_left, inferred.signal(index));
    }
    let before = issued(&trainer);
    let error = trainer.prove(list, &waits).unwrap_err();
    let words = [
        "`upload unit 3 → slot 0` (h2d lane, list 2, operation",
        "touches the master of unit 3 without waiting for `adam unit 3 chunk 0 from store",
        "(host lane, list 1, operation",
    ];
    assert_refused(&mut trainer, &error, before, &words);
}

#[test]
fn a_list_without_an_operation_is_refused() {
    let mut trainer = opened();
    let Plan { policy, geometry, .. } = &trainer.runner.plan;
    let mut list = schedule::train(policy, geometry, 1).unwrap();
    let unused = |operation: &Operation| matches!(operation, Operation::Adam { unit, .. } if unit.0 == 2);
    list.operations.retain(|operation| !unused(operation));
    trainer.runner.lists.replace(Purpose::Train(1), list);
    let before = issued(&trainer);
    let error = trainer.step(&[BATCH], 1e-3).unwrap_err();
    let words = ["nothing uses chunk 0 of the gradient of unit 2", "`download unit 2 chunk 0"];
    assert_refused(&mut trainer, &error, before, &words);
}

/// The waits of the embedding's upload in the last issued list, and AdamW's operations on the
/// embedding in the list before.
fn border(trainer: &Trainer) -> (Vec<Tick>, Vec<(String, Tick)>) {
    let [.., before, last] = &trainer.record.as_ref().expect("it is traced").lists[..] else {
        panic!("two lists were issued");
    };
    let list = |issued: &Issued| trainer.runner.lists.numbered(issued.list);
    let upload = at(list(last), "upload unit 0 → embedding/head buffer");
    let adam = list(before).operations.iter().enumerate().filter(|(_, operation)| match operation {
        Operation::Adam { unit, .. } => unit.0 == 0,
        operation => matches!(operation, Operation::AdamRows { .. }),
    });
    let ticks = adam.map(|(index, operation)| (operation.name().to_owned(), before.waits.tick(index)));
    (last.waits.waits(upload).to_vec(), ticks.collect())
}

#[test]
fn a_step_waits_for_the_announced_rows_only() {
    let mut trainer = opened_with(TrainerOptions { tracing: true, ..options() });
    trainer.announce(&[3, 5]).unwrap();
    trainer.step(&[BATCH], 1e-3).unwrap();
    trainer.step(&[BATCH], 1e-3).unwrap();
    let (waits, adam) = border(&trainer);
    let names: Vec<&str> = adam.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["adam next rows", "adam other rows"]);
    assert_eq!(waits, [adam[0].1]);
    // The issuing thread gathers, so it waits itself and the upload need not.
    trainer.announce(&[5]).unwrap();
    trainer.step(&[BATCH], 1e-3).unwrap();
    trainer.step(&[BATCH], 1e-3).unwrap();
    let (waits, adam) = border(&trainer);
    assert_eq!((waits, adam.len()), (vec![], 2), "token 3 was not announced");
    trainer.step(&[BATCH], 1e-3).unwrap();
    let (waits, adam) = border(&trainer);
    assert_eq!((waits, adam[0].0.as_str()), (vec![], "adam"), "nothing was announced");
}
