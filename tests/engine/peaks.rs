//! What the plan reserves on the device is what is used, category by category, to the line.

use horizon::base::DType;
use horizon::device::cpu::{CpuDevice, LINE};
use horizon::engine::{Batch, Trainer, TrainerOptions};
use horizon::model::ModelConfig;
use horizon::schedule::{Accumulator, GradWait, Mode, Recompute};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::placements::{any_config, any_placed, any_plain};
use support::runs::{Data, fill};

/// By category: bytes of the plan, and bytes that were written when everything has been done that a trainer can do.
fn used(config: &ModelConfig, options: &TrainerOptions) -> Vec<(&'static str, usize, usize)> {
    let mut device = CpuDevice::painted(None);
    let mut trainer = Trainer::open_on(device.clone(), config, options).unwrap();
    fill(&mut trainer);
    let random = |micro| Data::random(micro, options.shape, config.dims.v as i32);
    let data: Vec<Data> = (0..options.micros_max as u64).map(random).collect();
    let batches: Vec<Batch> = data.iter().map(Data::batch).collect();
    trainer.step(&batches, 1e-3).unwrap();
    trainer.eval(&batches).unwrap();
    trainer.logprobs(&batches).unwrap();
    trainer.logits(&data[0].tokens[..1]).unwrap();
    let plan = trainer.plan().clone();
    drop(trainer);
    let mut used = Vec::new();
    for region in plan.device.regions() {
        let of_region = plan.device.places().iter().filter(|(name, _)| *name == region.name);
        let written = of_region.map(|(_, place)| device.written(place.offset, place.padded())).sum();
        used.push((region.name, region.bytes, written));
    }
    used
}

#[derive(Clone, Debug)]
struct Case {
    config: ModelConfig,
    options: TrainerOptions,
}

fn any_case() -> impl Strategy<Value = Case> {
    (any_config(), any_plain()).prop_flat_map(|(config, plain)| {
        any_placed(&config, &plain).prop_map(move |options| Case { config: config.clone(), options })
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if std::env::var_os("HZ_LONG").is_some() { 2_000 } else { 150 },
        rng_seed: RngSeed::Fixed(0x9ea5),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_category_is_used_as_the_plan_says(case in any_case()) {
        let Case { config, options } = case;
        // Slabs are taken in turn: more of them than parts of a gradient serve nobody.
        let plan = Trainer::plan_for(&config, &options).unwrap();
        let chunks: usize = plan.geometry.units().map(|unit| plan.geometry.chunks(unit)).sum();
        prop_assume!(options.slabs <= config.dims.l && options.slabs <= chunks);
        // Scratch is what a layer needs that keeps nothing, so that keeping less never takes more.
        let layers = (0..plan.geometry.layers).map(|layer| plan.policy.placement.layer(layer));
        let keeps_nothing = layers.map(|layer| layer.recompute).any(|recompute| recompute == Recompute::Full);
        for (name, planned, written) in used(&config, &options) {
            prop_assert_eq!(planned % LINE, 0);
            if name == "scratch" && !keeps_nothing {
                prop_assert!(written <= planned, "{} of {} bytes of scratch", written, planned);
            } else {
                prop_assert_eq!(written, planned, "{}", name);
            }
        }
    }
}

#[test]
fn memory_that_a_placement_does_not_need_is_not_reserved() {
    let config = crate::config(false);
    let plan = |change: &dyn Fn(&mut TrainerOptions)| {
        let mut options = crate::options();
        change(&mut options);
        Trainer::plan_for(&config, &options).unwrap()
    };
    let bytes = |plan: &horizon::plan::Plan, name: &str| {
        plan.device.regions().iter().find(|region| region.name == name).map_or(0, |region| region.bytes)
    };
    let layer = horizon::schedule::LayerPlacement::default();
    let resident =
        plan(&|o| o.layers = vec![horizon::schedule::LayerPlacement { resident: true, ..layer }; 5]);
    let all_slots = plan(&|o| o.weight_slots = 5);
    assert_eq!(bytes(&resident, "weight slots"), bytes(&all_slots, "weight slots"), "nobody streams");
    let own = horizon::schedule::LayerPlacement { accumulator: Accumulator::OnDevice, ..layer };
    assert_eq!(bytes(&plan(&|o| o.layers = vec![own; 5]), "layer gradient (f32)"), 0, "nobody shares");
    let one_passes = plan(&|o| (o.sweeps, o.layers) = (2, vec![own; 4]));
    let all_pass = plan(&|o| o.sweeps = 2);
    let rooms = "accumulator spill buffers (f32)";
    assert_eq!(2 * bytes(&one_passes, rooms), bytes(&all_pass, rooms), "one buffer is enough for one");
    let waiting =
        plan(&|o| (o.grad_wait, o.mode, o.grad_dtype) = (GradWait::Device, Mode::Streamed, DType::F32));
    let gradients: usize = trainer_elements(&config) * 4;
    assert_eq!(bytes(&waiting, "gradient slabs"), gradients, "every gradient waits in its own size");
}

/// Elements of all units, padding included.
fn trainer_elements(config: &ModelConfig) -> usize {
    horizon::model::Layout::new(config).units.iter().map(|unit| unit.elements).sum()
}
