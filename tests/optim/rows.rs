//! AdamW on a subset of the rows of a matrix.

use horizon::base::DType;
use horizon::host::{Isa, Pool};
use horizon::optim::{AdamOptions, AdamScalars, Rounding, Rows, Spans, Step};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::spans::update;

use crate::params::{BOTH, Params};

/// Updating some rows and then all others, or the reverse, gives the bits of a single update.
#[test]
fn updating_rows_and_then_the_others_equals_a_single_update() {
    let scalars = AdamScalars::new(&AdamOptions::default(), 3e-4, 7);
    // Rows shorter and longer than a tile of the pool, and across the border where the random keys
    // change.
    for (rows, elements, first) in [(1, 7, 0), (40, 1, 3), (4001, 37, (1 << 32) - 70_000), (5, 70_001, 11)] {
        for (dtype, compact) in BOTH.into_iter().flat_map(|dtype| [(dtype, false), (dtype, true)]) {
            let rounding = Rounding { seed: 1, step: 7, first };
            let step = Step { gradient_scale: 0.5, rounding, ..Step::new(scalars) };
            let pool = Pool::new(3).unwrap();
            let outcome = |update: &dyn Fn(&Spans)| {
                let params = Params::random(rows * elements, 5, dtype, 9);
                let spans = if compact { params.compact() } else { params.spans };
                update(&spans);
                params.bytes()
            };
            let all = Step { isa: Isa::Portable, ..step };
            let want = outcome(&|spans| update(&pool, spans, &all));
            let mut random = ChaCha8Rng::seed_from_u64(4);
            for share in [0.0, 0.3, 1.0] {
                let chosen: Vec<bool> = (0..rows).map(|_| random.random_bool(share)).collect();
                for order in [[true, false], [false, true]] {
                    let found = outcome(&|spans| {
                        for which in order {
                            let has = |row: usize| chosen[row] == which;
                            let rows = Some(Rows { elements, has: &has });
                            update(&pool, spans, &Step { rows, ..step });
                        }
                    });
                    assert!(found == want, "{rows} × {elements}, {dtype}, compact {compact}, share {share}");
                }
            }
        }
    }
}

#[test]
fn other_rows_are_not_touched() {
    let scalars = AdamScalars::new(&AdamOptions::default(), 3e-4, 1);
    let (params, before) = (Params::random(90, 3, DType::F32, 2), Params::random(90, 3, DType::F32, 2));
    let rows = Rows { elements: 10, has: &|row| row == 4 };
    let step = Step { decay: false, rows: Some(rows), ..Step::new(scalars) };
    update(&Pool::new(2).unwrap(), &params.spans, &step);
    for (element, (now, then)) in params.master().into_iter().zip(before.master()).enumerate() {
        assert_eq!(now != then, (40..50).contains(&element), "element {element}");
    }
}
