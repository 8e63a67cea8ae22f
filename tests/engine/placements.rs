//! Any placement of any model gives the bits of the default placement.

use horizon::base::{DType, Dims, Shape};
use horizon::device::cpu::CpuDevice;
use horizon::engine::{Trainer, TrainerOptions};
use horizon::model::{Biases, ModelConfig, Multipliers, Norms, Rope, Window};
use horizon::ops::{Activation, NormSpan, QueryScaling};
use horizon::schedule::{Accumulator, AdamWhen, Boundary, GradWait, LayerPlacement, Mode, Recompute};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use support::runs::{Manner, outcome, train};

/// A model, plain options to train it, and other ways that must give the same bits.
#[derive(Clone, Debug)]
struct Case {
    config: ModelConfig,
    plain: TrainerOptions,
    others: Vec<Other>,
}

/// Another placement, manner and device.
#[derive(Clone, Debug)]
struct Other {
    placed: TrainerOptions,
    manner: Manner,
    /// The seed of adversarial lanes.
    seed: Option<u64>,
}

/// Small models: errors depend on the features of a model, not on its size.
pub fn any_config() -> impl Strategy<Value = ModelConfig> {
    let heads = prop_oneof![Just((1, 1)), Just((2, 1)), Just((4, 2)), Just((3, 3))];
    let dims = (heads, 1..=3usize, 5..=20usize, 3..=24usize, 11..=50usize, 1..=6usize);
    let dims = dims.prop_map(|((h, g), half, c, f, v, l)| Dims { c, h, g, d: 2 * half, f, v, l });
    (dims, any::<bool>(), any_features(), any_norms(), any_rope()).prop_map(
        |(dims, tied, (biases, window, activation, factors), (norms, norms_plus_one, qk_norm), rope)| {
            let of_layers = |layers: Vec<bool>| layers[..dims.l].to_vec();
            // A residual multiplier needs projections without biases.
            let residual = if biases.o || biases.mlp { 1.0 } else { factors.residual };
            ModelConfig {
                tied,
                norms,
                norms_plus_one,
                positions_max: 64,
                biases,
                qk_norm,
                window: window.map(|(size, layers)| Window { size, layers: of_layers(layers) }),
                rope: Rope { without: rope.without.map(of_layers), ..rope },
                activation,
                multipliers: Multipliers { residual, ..factors },
                ..ModelConfig::llama(dims)
            }
        },
    )
}

/// Something for each of at most six layers.
fn any_layers() -> impl Strategy<Value = Vec<bool>> {
    proptest::collection::vec(any::<bool>(), 6)
}

/// Features of model families in any combination: biases, a window, the activation, multipliers.
fn any_features() -> impl Strategy<Value = (Biases, Option<(usize, Vec<bool>)>, Activation, Multipliers)> {
    let biases = any::<[bool; 3]>().prop_map(|[qkv, o, mlp]| Biases { qkv, o, mlp });
    let window = proptest::option::of((1..=9usize, any_layers()));
    let activation = prop_oneof![Just(Activation::Silu), Just(Activation::GeluTanh)];
    let all = Multipliers { embedding: 3.0, residual: 0.6, scores: Some(0.3), logits: 0.75 };
    (biases, window, activation, prop_oneof![Just(Multipliers::default()), Just(all)])
}

/// As [`any_features`]: the norms, and what is added to their weights.
fn any_norms() -> impl Strategy<Value = (Norms, bool, Option<NormSpan>)> {
    let norms = prop_oneof![Just(Norms::Before), Just(Norms::After), Just(Norms::Around)];
    let span = prop_oneof![Just(NormSpan::Head), Just(NormSpan::AllHeads)];
    (norms, any::<bool>(), proptest::option::of(span))
}

/// As [`any_features`]: rotations of the first pair or of whole heads.
fn any_rope() -> impl Strategy<Value = Rope> {
    let queries = Some(QueryScaling { beta: 0.5, positions: 3 });
    let part = prop_oneof![Just((None, None)), Just((None, queries)), Just((Some(2), None))];
    let windowed_theta = proptest::option::of(Just(30.0));
    (part, windowed_theta, any::<bool>(), proptest::option::of(any_layers())).prop_map(
        |((rotated, queries), windowed_theta, interleaved, without)| Rope {
            windowed_theta,
            rotated,
            interleaved,
            without,
            queries,
            ..Rope::default()
        },
    )
}

pub fn any_plain() -> impl Strategy<Value = TrainerOptions> {
    let dtype = prop_oneof![Just(DType::Bf16), Just(DType::F32)];
    let clip = prop_oneof![Just(0.0), Just(0.3)];
    (1..=2usize, 3..=9usize, 1..=20usize, 1..=4usize, dtype, clip).prop_map(
        |(b, t, chunk, micros_max, grad_dtype, clip)| TrainerOptions {
            shape: Shape { b, t },
            micros_max,
            logits_chunk: Some(chunk),
            grad_dtype,
            clip,
            threads: Some(1),
            ..TrainerOptions::default()
        },
    )
}

fn any_layer() -> impl Strategy<Value = LayerPlacement> {
    let recompute = prop::sample::select(Recompute::ALL.to_vec());
    let boundary = prop_oneof![Just(Boundary::Kept), Just(Boundary::Spilled)];
    let accumulator = prop_oneof![Just(Accumulator::Spilled), Just(Accumulator::OnDevice)];
    (recompute, boundary, any::<bool>(), accumulator).prop_map(
        |(recompute, boundary, resident, accumulator)| LayerPlacement {
            recompute,
            boundary,
            resident,
            accumulator,
        },
    )
}

/// Combinations of mode, waiting place and time of AdamW; the last two cannot clip.
fn any_update() -> impl Strategy<Value = (Mode, GradWait, Option<AdamWhen>)> {
    prop_oneof![
        Just((Mode::Exact, GradWait::Host, None)),
        Just((Mode::Exact, GradWait::Device, None)),
        Just((Mode::Streamed, GradWait::Device, None)),
        Just((Mode::Exact, GradWait::Host, Some(AdamWhen::UnderBackward))),
        Just((Mode::Streamed, GradWait::Host, None)),
    ]
}

/// The plain options with any placement of the model's layers.
pub fn any_placed(
    config: &ModelConfig,
    plain: &TrainerOptions,
) -> impl Strategy<Value = TrainerOptions> + use<> {
    let counts = (2..=4usize, 2..=4usize, 1..=4usize, 1..=2usize);
    let (layers, plain) = (proptest::collection::vec(any_layer(), 0..=config.dims.l), plain.clone());
    (any_update(), counts, layers).prop_map(move |((mode, grad_wait, adam_when), counts, layers)| {
        let (weight_slots, slabs, sweeps, threads) = counts;
        let threads = Some(threads);
        let mut placed = TrainerOptions { weight_slots, slabs, sweeps, layers, threads, ..plain.clone() };
        let clips = adam_when.is_none() && (mode, grad_wait) != (Mode::Streamed, GradWait::Host);
        if plain.clip == 0.0 || clips {
            (placed.mode, placed.grad_wait, placed.adam_when) = (mode, grad_wait, adam_when);
        }
        placed
    })
}

/// Other ways per plain run.
const OTHERS: usize = 5;

fn any_case() -> impl Strategy<Value = Case> {
    (any_config(), any_plain()).prop_flat_map(|(config, plain)| {
        let manner = prop_oneof![
            Just(Manner::Plain),
            Just(Manner::Serial),
            Just(Manner::Accumulating),
            Just(Manner::Evaluating),
            Just(Manner::Announcing)
        ];
        let seed = prop_oneof![1 => Just(None), 3 => any::<u64>().prop_map(Some)];
        let other = (any_placed(&config, &plain), manner, seed);
        let other = other.prop_map(|(placed, manner, seed)| Other { placed, manner, seed });
        proptest::collection::vec(other, OTHERS).prop_map(move |others| Case {
            config: config.clone(),
            plain: plain.clone(),
            others,
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if std::env::var_os("HZ_LONG").is_some() { 10_000 / OTHERS as u32 } else { 80 },
        rng_seed: RngSeed::Fixed(0x91ace),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// 400 placements, most of them on adversarial lanes; 10 000 with `HZ_LONG`.
    #[test]
    fn any_placement_gives_the_bits_of_the_plain_one(case in any_case()) {
        let want = outcome(&case.config, &case.plain, Manner::Plain);
        for Other { placed, manner, seed } in case.others {
            let device = seed.map_or_else(|| CpuDevice::new(None), |seed| CpuDevice::adversarial(None, seed));
            let mut trainer = Trainer::open_on(device, &case.config, &placed).unwrap();
            prop_assert!(train(&mut trainer, &placed, manner) == want, "{:?} {:?} {:?}", placed, manner, seed);
        }
    }
}
