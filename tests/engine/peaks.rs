//! Device memory: every region of the plan is used completely, to the cache line.

use horizon::base::DType;
use horizon::device::cpu::{CpuDevice, LINE};
use horizon::engine::{Batch, Trainer, TrainerOptions};
use horizon::model::ModelConfig;
use horizon::schedule::{Accumulator, GradWait, Mode, Recompute};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::placements::{any_config, any_placed, any_plain};
use support::runs::{Data, fill};

/// By region: bytes of the plan, and bytes written by all kinds of calls of a trainer.
fn used(config: &ModelConfig, options: &TrainerOptions) -> Vec<(&'static str, usize, usize)> {
    let mut device = CpuDevice::pattern_filled(None);
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
    fn every_region_is_used_completely(case in any_case()) {
        let Case { config, options } = case;
        // Slabs are used in turn: slabs beyond the number of chunks stay unused.
        let plan = Trainer::plan_for(&config, &options).unwrap();
        let chunks: usize = plan.geometry.units().map(|unit| plan.geometry.chunks(unit)).sum();
        prop_assume!(options.slabs <= config.dims.l && options.slabs <= chunks);
        // Scratch has the size for a layer with full recomputation, even if no layer has it, so
        // that keeping less never takes more.
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
    assert_eq!(bytes(&resident, "weight slots"), bytes(&all_slots, "weight slots"), "no layer is streamed");
    let own = horizon::schedule::LayerPlacement { accumulator: Accumulator::OnDevice, ..layer };
    let shared = bytes(&plan(&|o| o.layers = vec![own; 5]), "layer gradient (f32)");
    assert_eq!(shared, 0, "no layer shares an accumulator");
    let one_spilled = plan(&|o| (o.sweeps, o.layers) = (2, vec![own; 4]));
    let all_spilled = plan(&|o| o.sweeps = 2);
    let spill_buffers = "accumulator spill buffers (f32)";
    assert_eq!(
        2 * bytes(&one_spilled, spill_buffers),
        bytes(&all_spilled, spill_buffers),
        "one spilled accumulator needs one buffer"
    );
    let waiting =
        plan(&|o| (o.grad_wait, o.mode, o.grad_dtype) = (GradWait::Device, Mode::Streamed, DType::F32));
    let gradients: usize = trainer_elements(&config) * 4;
    assert_eq!(bytes(&waiting, "gradient slabs"), gradients, "a waiting gradient takes its own size");
}

/// Elements of all units, padding included.
fn trainer_elements(config: &ModelConfig) -> usize {
    horizon::model::Layout::new(config).units.iter().map(|unit| unit.elements).sum()
}
