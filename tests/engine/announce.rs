//! Announced tokens change no bit, with any calls between two steps.

use horizon::base::{DType, Status};
use horizon::engine::{TensorOptions, Trainer, TrainerOptions};
use horizon::schedule::{AdamWhen, Mode};

use crate::saves::{self, Saved, state};
use crate::{config, options};
use support::runs::{Data, data, fill};

const EMBEDDING: &str = "model.embed_tokens.weight";

/// Calls between two steps.
type Between = fn(&mut Trainer, &[Data]);

/// The state after some steps.
fn run(options: &TrainerOptions, announces: bool, between: Between) -> Saved {
    let mut trainer = Trainer::open(&config(false), options).unwrap();
    fill(&mut trainer);
    for step in 0..5 {
        let [now, next] = [step, step + 1].map(|step| data(options, step, 67));
        if announces {
            next.iter().for_each(|data| trainer.announce(&data.tokens).unwrap());
        }
        trainer.step(&now.iter().map(Data::batch).collect::<Vec<_>>(), 1e-2).unwrap();
        between(&mut trainer, &now);
    }
    state(&mut trainer)
}

fn steps_with_loss(trainer: &mut Trainer, data: &[Data]) {
    let mut loss = |_: &[f32], gradient: &mut [f32]| {
        gradient.fill(0.01);
        Ok(1.0)
    };
    trainer.step_with_loss(&[data[0].batch()], 1e-3, &mut loss).unwrap();
}

fn writes(trainer: &mut Trainer, _: &[Data]) {
    let mut values = vec![0.0; 67 * 24];
    trainer.read_tensor(EMBEDDING, &mut values).unwrap();
    values.iter_mut().for_each(|value| *value *= 0.9);
    trainer.write_tensor(EMBEDDING, &values).unwrap();
}

fn tunes(trainer: &mut Trainer, _: &[Data]) {
    let frozen = trainer.tensor_options(EMBEDDING).unwrap().frozen;
    let options = TensorOptions { frozen: !frozen, lr_scale: 0.5, ..TensorOptions::default() };
    trainer.set_tensor_options(EMBEDDING, &options).unwrap();
}

#[test]
fn announced_tokens_change_no_bit_with_any_call_between_steps() {
    let under_backward = TrainerOptions { clip: 0.0, adam_when: Some(AdamWhen::UnderBackward), ..options() };
    let f32 = TrainerOptions { grad_dtype: DType::F32, ..options() };
    let betweens: [(&str, Between); 9] = [
        ("nothing", |_, _| ()),
        ("an evaluation", |trainer, data| _ = trainer.eval(&[data[1].batch()]).unwrap()),
        ("logits", |trainer, data| _ = trainer.logits(&data[0].tokens[..5]).unwrap()),
        ("log-probabilities", |trainer, data| _ = trainer.logprobs(&[data[2].batch()]).unwrap()),
        ("a step with a custom loss", steps_with_loss),
        ("a written embedding", writes),
        ("a frozen embedding", tunes),
        ("a save", |trainer, _| {
            let _ = saves::begin(trainer);
            trainer.save_wait().unwrap();
        }),
        ("a sync", |trainer, _| trainer.sync().unwrap()),
    ];
    for (what, between) in betweens {
        for options in [options(), TrainerOptions { mode: Mode::Compact, ..options() }, f32.clone()] {
            assert!(run(&options, true, between) == run(&options, false, between), "{what} between steps");
        }
        assert!(run(&under_backward, true, between) == run(&under_backward, false, between), "{what}");
    }
}

#[test]
fn a_save_during_the_next_step_has_the_state_before_it() {
    let saved = |announces: bool| {
        let mut trainer = Trainer::open(&config(false), &options()).unwrap();
        fill(&mut trainer);
        let batches: Vec<Vec<Data>> = (0..3).map(|step| data(&options(), step, 67)).collect();
        let mut save: Option<Box<dyn FnOnce() -> Saved>> = None;
        for step in 0..2 {
            if announces {
                batches[step + 1].iter().for_each(|data| trainer.announce(&data.tokens).unwrap());
            }
            trainer.step(&batches[step].iter().map(Data::batch).collect::<Vec<_>>(), 1e-2).unwrap();
            if step == 0 {
                save = Some(Box::new(saves::begin(&mut trainer)));
            }
        }
        trainer.save_wait().unwrap();
        save.expect("it was begun")()
    };
    assert!(saved(true) == saved(false));
}

#[test]
fn a_step_that_is_not_finite_changes_no_rows() {
    let last = |announces: bool| {
        let mut trainer = Trainer::open(&config(false), &options()).unwrap();
        fill(&mut trainer);
        let data = data(&options(), 0, 67);
        let batches: Vec<_> = data.iter().map(Data::batch).collect();
        // Rounds to an infinite bf16.
        let mut norm = vec![f32::MAX; 24];
        trainer.write_tensor("model.norm.weight", &norm).unwrap();
        let announce = |trainer: &mut Trainer| {
            if announces {
                data.iter().for_each(|data| trainer.announce(&data.tokens).unwrap());
            }
        };
        announce(&mut trainer);
        assert_eq!(trainer.step(&batches, 1e-2).unwrap_err().status(), Status::NonFinite);
        norm.fill(1.0);
        trainer.write_tensor("model.norm.weight", &norm).unwrap();
        announce(&mut trainer);
        let report = trainer.step(&batches, 1e-2).unwrap();
        assert_eq!(report.step, 1);
        state(&mut trainer)
    };
    assert!(last(true) == last(false));
}

#[test]
fn invalid_announcements_are_refused() {
    let one = TrainerOptions { micros_max: 1, ..options() };
    for tied in [false, true] {
        let mut trainer = Trainer::open(&config(tied), &one).unwrap();
        for token in [-1, 67, i32::MIN] {
            let error = trainer.announce(&[3, token]).unwrap_err();
            assert_eq!(error.status(), Status::InvalidArgument);
            let words = format!("tokens[1] is {token}; it must be 0 … 66");
            assert!(error.message().contains(&words), "{error}");
        }
    }
    // A step has 42 tokens.
    let mut trainer = Trainer::open(&config(false), &one).unwrap();
    let some: Vec<i32> = (0..42).collect();
    trainer.announce(&some).unwrap();
    trainer.announce(&some).unwrap();
    let error = trainer.announce(&[60]).unwrap_err();
    assert!(
        error.message().contains("43 distinct tokens") && error.message().contains("at most 42"),
        "{error}"
    );
    // The earlier tokens stay announced, without the refused one.
    assert!(trainer.announce(&[60]).is_err());
    trainer.announce(&some).unwrap();
}
