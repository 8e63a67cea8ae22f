//! Weights that are not finite, and results that are not.

use horizon::base::Status;
use horizon::engine::Trainer;
use support::runs::{Data, fill};

use crate::{config, options};

/// `f32::MAX` is finite and rounds to an infinite bf16.
#[test]
fn results_that_are_not_finite_are_errors() {
    let mut trainer = Trainer::open(&config(false), &options()).unwrap();
    fill(&mut trainer);
    let data = Data::random(1, options().shape, 67);
    let (name, batch) = ("model.norm.weight", data.batch());
    let mut values = vec![1.0; 24];
    for bad in [f32::NAN, f32::NEG_INFINITY] {
        values[5] = bad;
        let error = trainer.write_tensor(name, &values).unwrap_err();
        assert_eq!(error.status(), Status::InvalidArgument);
        assert!(error.message().contains(&format!("element 5 of {name} is {bad}")), "{error}");
    }
    trainer.eval(&[batch]).expect("nothing was written");
    values[5] = f32::MAX;
    trainer.write_tensor(name, &values).unwrap();
    let eval = trainer.eval(&[batch]).map(drop).unwrap_err();
    let logprobs = trainer.logprobs(&[batch]).map(drop).unwrap_err();
    let logits = trainer.logits(&[1, 2]).map(drop).unwrap_err();
    for (error, word) in
        [(eval, "the loss is "), (logprobs, "log-probability "), (logits, "logit of token 0")]
    {
        assert_eq!(error.status(), Status::NonFinite);
        assert!(error.message().contains(word), "`{word}` is missing in: {error}");
    }
    // A checkpoint stores any state.
    crate::saves::state(&mut trainer);
    fill(&mut trainer);
    trainer.eval(&[batch]).unwrap();
}
