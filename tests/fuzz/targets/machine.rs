//! Parses a machine file, simulates a step on it, writes it and parses it again; parses a GEMM table.
#![no_main]

use std::sync::OnceLock;

use horizon::ops::cuda::table::Table;
use horizon::plan::Description;
use horizon::{Layout, Plan, Shape, Trainer, TrainerOptions, preset};
use libfuzzer_sys::fuzz_target;

fn plan() -> &'static (Layout, Plan) {
    static PLAN: OnceLock<(Layout, Plan)> = OnceLock::new();
    PLAN.get_or_init(|| {
        let model = preset("tiny").expect("it is a preset");
        let options =
            TrainerOptions { shape: Shape { b: 1, t: 16 }, micros_max: 1, ..TrainerOptions::default() };
        let plan = Trainer::plan_for(&model, &options).expect("the model fits");
        (Layout::new(&model), plan)
    })
}

fuzz_target!(|text: &str| {
    if let Ok(table) = Table::from_json(text, "table") {
        let again = Table::from_json(&table.to_json(), "table").expect("a written table is parsed");
        assert!(again.iter().eq(table.iter()));
    }
    let Ok(machine) = Description::parse(text) else { return };
    let again = Description::parse(&machine.to_json()).expect("a written machine is parsed");
    assert_eq!(again.to_json(), machine.to_json());
    let (layout, plan) = plan();
    if let Ok(predicted) = plan.predict(layout, &machine.rates, 1) {
        assert!(predicted.step_ns > 0);
    }
});
