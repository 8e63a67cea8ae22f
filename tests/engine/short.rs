//! Batches smaller than the trainer's: padded by the library, with the bits of any other padding.

use horizon::base::{Shape, Status};
use horizon::engine::{Batch, Trainer, TrainerOptions};
use support::runs::{Data, fill, weights};

use crate::losses::plain_loss;
use crate::{config, options};

const FULL: Shape = Shape { b: 2, t: 21 };

/// A batch of a shape, and its padding to the full shape with one token, in the document before it
/// or in one of its own.
fn padded(data: &Data, shape: Shape, token: i32, own_document: bool) -> Data {
    let mut full = Data {
        tokens: vec![token; 42],
        targets: vec![-100; 42],
        weights: vec![7.0; 42],
        starts: vec![0; 42],
    };
    for row in 0..shape.n() {
        let to = row / shape.t * FULL.t + row % shape.t;
        full.tokens[to] = data.tokens[row];
        full.targets[to] = data.targets[row];
        full.weights[to] = data.weights[row];
        full.starts[to] = data.starts[row];
        if row % shape.t + 1 == shape.t {
            let start = if own_document { shape.t as i32 } else { data.starts[row] };
            full.starts[to + 1..to + 1 + FULL.t - shape.t].fill(start);
        }
    }
    full
}

/// The results of steps, evaluations and log-probabilities of two micro-batches, as bits. `shape`
/// is that of the first.
fn results(options: &TrainerOptions, tied: bool, data: &[Data; 2], shape: Shape) -> (Vec<u64>, Vec<u32>) {
    let mut trainer = Trainer::open(&config(tied), options).unwrap();
    fill(&mut trainer);
    let batches = [Batch { sequence_length: Some(shape.t), ..data[0].batch() }, data[1].batch()];
    let mut found = Vec::new();
    let report = trainer.step(&batches, 1e-2).unwrap();
    assert_eq!(report.tokens, (data[0].tokens.len() + 42) as u64);
    found.extend([report.loss.to_bits(), report.grad_norm.to_bits(), report.targets]);
    batches.iter().for_each(|batch| trainer.accumulate(batch).unwrap());
    found.push(trainer.update(1e-2).unwrap().loss.to_bits());
    found.push(trainer.eval(&batches).unwrap().loss.to_bits());
    let logprobs = trainer.logprobs(&batches).unwrap();
    assert_eq!(logprobs.len(), data[0].tokens.len() + 42);
    found.extend(
        logprobs.iter().filter(|logprob| **logprob != 0.0).map(|logprob| u64::from(logprob.to_bits())),
    );
    let mut seen = Vec::new();
    let report = trainer.step_with_loss(&batches, 1e-2, &mut |logprobs, dlogprobs| {
        seen = logprobs.to_vec();
        plain_loss(data)(logprobs, dlogprobs)
    });
    found.push(report.unwrap().grad_norm.to_bits());
    assert_eq!(seen, logprobs);
    (found, weights(&mut trainer))
}

#[test]
fn padding_changes_no_bit() {
    for (tied, shape) in
        [(false, Shape { b: 2, t: 13 }), (true, Shape { b: 1, t: 21 }), (false, Shape { b: 1, t: 1 })]
    {
        let data = || Data::random(5, shape, 67);
        let full = || Data::random(6, FULL, 67);
        // A single target, where the random one may be ignored.
        let data =
            || Data { targets: data().targets.iter().map(|target| *target.max(&3)).collect(), ..data() };
        let want = results(&options(), tied, &[data(), full()], shape);
        for (token, own_document) in [(0, false), (66, true)] {
            let padded = padded(&data(), shape, token, own_document);
            assert!(results(&options(), tied, &[padded, full()], FULL) == want, "{shape:?}, token {token}");
        }
    }
}

#[test]
fn a_batch_without_weights_and_documents_is_padded_too() {
    let mut trainer = Trainer::open(&config(false), &options()).unwrap();
    fill(&mut trainer);
    let shape = Shape { b: 1, t: 9 };
    let data = Data::random(1, shape, 67);
    let padded = padded(&data, shape, 4, false);
    let short = Batch { sequence_length: Some(9), ..Batch::new(&data.tokens, &data.targets) };
    let want = trainer.eval(&[Batch::new(&padded.tokens, &padded.targets)]).unwrap();
    assert_eq!(trainer.eval(&[short]).unwrap(), want);
}

#[test]
fn impossible_shapes_are_refused() {
    let mut trainer = Trainer::open(&config(false), &options()).unwrap();
    let rows = [1; 64];
    for (count, sequence_length) in
        [(0, None), (0, Some(3)), (20, None), (22, Some(22)), (9, Some(3)), (7, Some(2)), (4, Some(0))]
    {
        let batch = Batch { sequence_length, ..Batch::new(&rows[..count], &rows[..count]) };
        let error = trainer.accumulate(&batch).unwrap_err();
        assert_eq!(error.status(), Status::InvalidArgument);
        for word in [&format!("batch.tokens.len() is {count} "), "1 … 2 sequences of 1 … 21 tokens"] {
            assert!(error.message().contains(word), "`{word}` is missing in: {error}");
        }
    }
    let outside = Batch { sequence_length: Some(3), ..Batch::new(&[1, 2, 3, 4, 99, 6], &rows[..6]) };
    let error = trainer.accumulate(&outside).unwrap_err();
    assert!(error.message().contains("sequence 1, position 1"), "{error}");
}
