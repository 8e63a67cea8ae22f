//! Options of single tensors: learning rate, weight decay, freezing.

use horizon::base::Status;
use horizon::device::cpu::CpuDevice;
use horizon::engine::{AdamOptions, StepReport, TensorOptions, Trainer, TrainerOptions};
use horizon::schedule::{AdamWhen, GradWait, Mode};

use crate::{config, options};
use support::runs::{Data, data, fill, weights};

const TENSOR: &str = "model.layers.2.mlp.up_proj.weight";
const LR: f64 = 1e-3;

fn open(options: &TrainerOptions) -> Trainer {
    let mut trainer = Trainer::open(&config(true), options).unwrap();
    fill(&mut trainer);
    trainer
}

fn step(trainer: &mut Trainer, number: usize, lr: f64) -> StepReport {
    let data = data(&options(), number, 67);
    trainer.step(&data.iter().map(Data::batch).collect::<Vec<_>>(), lr).unwrap()
}

fn read(trainer: &mut Trainer, name: &str) -> Vec<f32> {
    let (_, tensor) = trainer.layout().find(name).unwrap();
    let mut values = vec![0.0; tensor.elements()];
    trainer.read_tensor(name, &mut values).unwrap();
    values
}

fn names(trainer: &Trainer) -> Vec<String> {
    trainer.layout().tensors().map(|(_, tensor)| tensor.name.clone()).collect()
}

#[test]
fn a_frozen_tensor_is_unchanged_and_not_in_the_norm() {
    let plain = TrainerOptions { clip: 0.0, ..options() };
    let mut whole = open(&plain);
    step(&mut whole, 0, LR);
    let square_of = |trainer: &mut Trainer, name: &str| {
        let mut gradient = vec![0.0; trainer.layout().find(name).unwrap().1.elements()];
        trainer.read_gradient(name, &mut gradient).unwrap();
        gradient.iter().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>()
    };
    // The tied embedding has gradients from embedding and head; layer 2's tensor shares its unit
    // with others.
    let frozen = ["model.embed_tokens.weight", TENSOR, "model.norm.weight"];
    for (mode, wait, adam_when) in [
        (Mode::Exact, GradWait::Host, None),
        (Mode::Exact, GradWait::Host, Some(AdamWhen::UnderBackward)),
        (Mode::Compact, GradWait::Device, None),
    ] {
        let mut trainer = open(&TrainerOptions { mode, grad_wait: wait, adam_when, ..plain.clone() });
        for name in frozen {
            let options = TensorOptions { frozen: true, ..TensorOptions::default() };
            trainer.set_tensor_options(name, &options).unwrap();
            assert_eq!(trainer.tensor_options(name).unwrap(), options);
        }
        let report = step(&mut trainer, 0, LR);
        let mut rest = 0.0;
        for name in names(&trainer) {
            if !frozen.contains(&name.as_str()) {
                rest += square_of(&mut whole, &name);
                assert!(read(&mut trainer, &name) == read(&mut whole, &name), "{name} trains differently");
            } else {
                assert!(read(&mut trainer, &name) == read(&mut open(&plain), &name), "{name} changed");
                if mode == Mode::Exact {
                    assert_eq!(square_of(&mut trainer, &name), 0.0);
                }
            }
        }
        // Stored gradients are bf16, the norm is that of f32 gradients: at most 2⁻⁹ relative.
        assert!(
            (report.grad_norm / rest.sqrt() - 1.0).abs() < 2e-3,
            "{} for {}",
            report.grad_norm,
            rest.sqrt()
        );
        trainer.set_tensor_options(TENSOR, &TensorOptions::default()).unwrap();
        let before = read(&mut trainer, TENSOR);
        step(&mut trainer, 1, LR);
        assert!(read(&mut trainer, TENSOR) != before, "it stays frozen");
    }
}

#[test]
fn a_learning_rate_factor_equals_another_learning_rate() {
    for mode in [Mode::Exact, Mode::Compact] {
        let plain = TrainerOptions { mode, ..options() };
        let (mut tuned, mut slow, mut fast) = (open(&plain), open(&plain), open(&plain));
        tuned
            .set_tensor_options(TENSOR, &TensorOptions { lr_scale: 4.0, ..TensorOptions::default() })
            .unwrap();
        step(&mut tuned, 0, LR);
        step(&mut slow, 0, LR);
        step(&mut fast, 0, 4.0 * LR);
        for name in names(&tuned) {
            let other = if name == TENSOR { &mut fast } else { &mut slow };
            assert!(read(&mut tuned, &name) == read(other, &name), "{name}, {mode:?}");
        }
    }
}

#[test]
fn a_weight_decay_of_a_tensor_replaces_the_default() {
    let with = |weight_decay| TrainerOptions {
        adam: AdamOptions { weight_decay, ..AdamOptions::default() },
        ..options()
    };
    let (mut tuned, mut strong, mut none) = (open(&with(0.1)), open(&with(0.3)), open(&with(0.0)));
    let own = |decay| TensorOptions { weight_decay: Some(decay), ..TensorOptions::default() };
    for name in names(&tuned) {
        tuned.set_tensor_options(&name, &own(if name == TENSOR { 0.3 } else { 0.0 })).unwrap();
    }
    // By default norms do not decay.
    tuned.set_tensor_options("model.norm.weight", &own(0.5)).unwrap();
    for trainer in [&mut tuned, &mut strong, &mut none] {
        step(trainer, 0, LR);
    }
    for name in names(&tuned) {
        let found = read(&mut tuned, &name);
        match name.as_str() {
            TENSOR => assert!(found == read(&mut strong, TENSOR)),
            "model.norm.weight" => {
                for (decayed, plain) in found.iter().zip(read(&mut none, &name)) {
                    // Weights of 0.85 to 1.15 lose the fraction lr · 0.5.
                    assert!((plain - decayed - 0.5e-3).abs() < 0.1e-3, "{decayed} for {plain}");
                }
            }
            _ => assert!(found == read(&mut none, &name), "{name}"),
        }
    }
}

/// Options set while AdamW of the last step still runs take effect with the next step.
#[test]
fn options_take_effect_with_the_next_step() {
    let frozen = TensorOptions { frozen: true, ..TensorOptions::default() };
    let run = |trainer: &mut Trainer, waits: bool| {
        fill(trainer);
        for number in 0..3 {
            step(trainer, number, LR);
            if waits {
                trainer.sync().unwrap();
            }
            let options = if number == 0 { frozen } else { TensorOptions::default() };
            trainer.set_tensor_options(TENSOR, &options).unwrap();
        }
        weights(trainer)
    };
    let want = run(&mut Trainer::open(&config(true), &options()).unwrap(), true);
    for seed in 0..4 {
        let device = CpuDevice::adversarial(None, seed);
        let mut trainer = Trainer::open_on(device, &config(true), &options()).unwrap();
        assert!(run(&mut trainer, false) == want, "seed {seed}");
    }
}

#[test]
fn invalid_options_are_refused_by_name() {
    let mut trainer = open(&options());
    let mut set =
        |name: &str, options: TensorOptions| trainer.set_tensor_options(name, &options).unwrap_err();
    let usual = TensorOptions::default();
    assert_eq!(set("model.norm", usual).status(), Status::NotFound);
    for (options, word) in [
        (TensorOptions { lr_scale: -1.0, ..usual }, "lr_scale is -1"),
        (TensorOptions { lr_scale: f64::NAN, ..usual }, "lr_scale is NaN"),
        (TensorOptions { weight_decay: Some(-0.5), ..usual }, "weight_decay is -0.5"),
        (TensorOptions { weight_decay: Some(f64::INFINITY), ..usual }, "weight_decay is inf"),
    ] {
        let error = set(TENSOR, options);
        assert!(error.status() == Status::InvalidArgument && error.message().contains(word), "{error}");
    }
    assert_eq!(trainer.tensor_options(TENSOR).unwrap(), usual);
    assert_eq!(trainer.tensor_options("nothing").unwrap_err().status(), Status::NotFound);
}
