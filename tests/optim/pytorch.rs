//! AdamW against PyTorch, over 50 steps with a changing learning rate. `pytorch.py` wrote the
//! expected numbers.

use horizon::base::DType;
use horizon::host::Pool;
use horizon::optim::{AdamOptions, AdamScalars, Step};
use support::spans::{update, write_master, zero};

use crate::params::{Params, numbers};

const ELEMENTS: usize = 64;
const STEPS: usize = 50;

fn spread(index: usize) -> f64 {
    (((index * 7919) % 2003) as f64 - 1001.0) / 1024.0
}

#[test]
fn adam_matches_pytorch() {
    let expected: serde_json::Value = serde_json::from_str(include_str!("pytorch.json")).unwrap();
    let pool = Pool::new(1).unwrap();
    let options = AdamOptions { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    let cases = expected["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 2);
    for case in cases {
        let params = Params::new(ELEMENTS, 0, DType::F32);
        let start: Vec<f32> = (0..ELEMENTS).map(|at| spread(at) as f32).collect();
        write_master(params.weights, params.residual, &start);
        zero(params.m);
        zero(params.v);
        for step in 1..=STEPS {
            let gradient = |at| (spread(at + 97 * step) * 0.125f64.powi(at as i32 % 6)) as f32;
            params.set_gradient(&(0..ELEMENTS).map(gradient).collect::<Vec<f32>>());
            let lr = 3e-3 * (1.0 - step as f64 / 100.0);
            let decay = case["decay"].as_bool().unwrap();
            let scalars = AdamScalars::new(&options, lr, step as u64);
            update(&pool, &params.spans, &Step { decay, ..Step::new(scalars) });
        }
        let found = [("p", params.master()), ("m", numbers(params.m)), ("v", numbers(params.v))];
        for (name, found) in found {
            let expected: Vec<f64> =
                case[name].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
            assert_eq!(found.len(), expected.len());
            for (at, (found, expected)) in found.into_iter().zip(expected).enumerate() {
                // Both round p in each of 50 steps, by at most 3e-8 below 1. A moment is a sum of rounded
                // terms, each at most as large as the gradient (its square for v).
                let gradient = 0.125f64.powi(at as i32 % 6);
                let bound = match name {
                    "p" => 6e-7,
                    "m" => 5e-7 * gradient,
                    _ => 5e-7 * gradient * gradient,
                };
                let difference = (f64::from(found) - expected).abs();
                assert!(difference <= bound, "{name}[{at}] is {found}, PyTorch has {expected}");
            }
        }
    }
}
