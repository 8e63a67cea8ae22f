//! A refused call leaves the trainer as it was.

use horizon::base::Status;
use horizon::engine::{Batch, TensorOptions, Trainer, TrainerOptions};

use crate::saves::state;
use crate::{config, options};
use support::runs::{Data, fill};

const NORM: &str = "model.norm.weight";

fn opened(options: &TrainerOptions) -> Trainer {
    let mut trainer = Trainer::open(&config(false), options).unwrap();
    fill(&mut trainer);
    trainer
}

/// Makes calls that are refused, whether or not micro-batches are staged.
fn refused(trainer: &mut Trainer, good: &Data) {
    let good = good.batch();
    let mut tokens = good.tokens.to_vec();
    *tokens.last_mut().unwrap() = 67;
    let bad = [good, Batch { tokens: &tokens, ..good }];
    let ignored = [Batch { targets: &[-100; 42], ..good }];
    let mut loss = |_: &[f32], _: &mut [f32]| unreachable!("a refused step calls no loss function");

    assert!(trainer.accumulate(&bad[1]).is_err());
    for lr in [f64::NAN, f64::INFINITY, -1.0] {
        assert!(trainer.update(lr).is_err() && trainer.step(&[good], lr).is_err());
        assert!(trainer.step_with_loss(&[good], lr, &mut loss).is_err());
    }
    for batches in [&bad[..], &ignored, &[], &[good; 9]] {
        assert!(trainer.step(batches, 1e-2).is_err() && trainer.eval(batches).is_err());
        assert!(trainer.step_with_loss(batches, 1e-2, &mut loss).is_err());
    }
    assert!(trainer.logprobs(&bad).is_err() && trainer.logprobs(&[]).is_err());
    assert!(trainer.logits(&[67]).is_err() && trainer.logits(&[]).is_err());
    assert!(trainer.announce(&tokens).is_err());
    assert!(
        trainer.set_tensor_options(NORM, &TensorOptions { lr_scale: -1.0, ..Default::default() }).is_err()
    );
    assert!(trainer.read_tensor(NORM, &mut []).is_err() && trainer.write_tensor(NORM, &[]).is_err());
}

#[test]
fn refused_calls_change_no_bit() {
    let options = options();
    let good = Data::random(1, options.shape, 67);
    for staged in 0..2 {
        let run = |calls: &dyn Fn(&mut Trainer)| {
            let mut trainer = opened(&options);
            trainer.step(&[good.batch()], 1e-2).unwrap();
            for _ in 0..staged {
                trainer.accumulate(&good.batch()).unwrap();
            }
            calls(&mut trainer);
            trainer.accumulate(&good.batch()).unwrap();
            (trainer.update(1e-2).unwrap(), state(&mut trainer))
        };
        assert!(run(&|trainer| refused(trainer, &good)) == run(&|_| ()), "{staged} micro-batches staged");
    }
}

#[test]
fn an_update_without_targets_keeps_its_micro_batches_until_they_are_discarded() {
    let options = options();
    let mut trainer = opened(&options);
    let good = Data::random(1, options.shape, 67);
    trainer.accumulate(&Batch { targets: &[-100; 42], ..good.batch() }).unwrap();
    assert_eq!(trainer.update(1e-2).unwrap_err().status(), Status::NoTarget);
    trainer.accumulate(&good.batch()).unwrap();
    assert_eq!(trainer.update(1e-2).unwrap().tokens, 2 * 42);

    trainer.accumulate(&good.batch()).unwrap();
    trainer.discard().unwrap();
    assert_eq!(trainer.update(1e-2).unwrap_err().status(), Status::InvalidState);
    trainer.step(&[good.batch()], 1e-2).unwrap();
}
