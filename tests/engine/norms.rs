//! Gradient norms: bit for bit the sum over blocks and tensors that the engine's documentation
//! defines, under every placement.

use horizon::base::{DType, Dims};
use horizon::engine::{Trainer, TrainerOptions};
use horizon::model::ModelConfig;
use horizon::schedule::{Accumulator, AdamWhen, Boundary, GradWait, LayerPlacement, Mode, Recompute};
use support::runs::{Data, data, fill};

/// Elements of a block of a norm.
const BLOCK: usize = 65_536;
/// Lanes of a sum of squares on the CPU device.
const LANES: usize = 32;

/// Sum of squares of a block: element i is added to lane i mod 32, then lanes are added in order.
fn block_sum(block: &[f32]) -> f64 {
    let mut lanes = [0.0; LANES];
    for (i, &value) in block.iter().enumerate() {
        lanes[i % LANES] += f64::from(value) * f64::from(value);
    }
    lanes.into_iter().fold(0.0, |sum, lane| sum + lane)
}

/// The norm of the last step's f32 gradients.
fn norm_of_gradients(trainer: &mut Trainer) -> f64 {
    let units = trainer.layout().units.clone();
    let mut total = 0.0;
    for unit in units {
        for tensor in unit.tensors {
            let mut gradient = vec![f32::NAN; tensor.elements()];
            trainer.read_gradient(&tensor.name, &mut gradient).unwrap();
            total += gradient.chunks(BLOCK).map(block_sum).fold(0.0, |sum, block| sum + block);
        }
    }
    total.sqrt()
}

/// Models whose gradients of embedding and untied head have one chunk, and several: with layers of
/// less and of more than one block.
fn configs() -> Vec<ModelConfig> {
    let dims = Dims { c: 24, h: 4, g: 2, d: 6, f: 40, v: 67, l: 3 };
    let all = [
        dims,
        Dims { v: 6007, ..dims },
        // A layer has 92 608 elements, a chunk of the embedding 65 536.
        Dims { c: 64, h: 4, g: 2, d: 16, f: 419, v: 3001, l: 3 },
        // A layer has 183 168 elements, a chunk of the embedding 131 072.
        Dims { c: 64, h: 4, g: 2, d: 16, f: 890, v: 5003, l: 3 },
    ];
    let tied =
        |dims| [false, true].map(|tied| ModelConfig { tied, positions_max: 64, ..ModelConfig::llama(dims) });
    all.into_iter().flat_map(tied).collect()
}

/// Opens a trainer, runs one step and returns the norm with the trainer.
fn step(config: &ModelConfig, options: &TrainerOptions) -> (f64, Trainer) {
    let mut trainer = Trainer::open(config, options).unwrap();
    fill(&mut trainer);
    let data = data(options, 0, config.dims.v);
    let report = trainer.step(&data.iter().map(Data::batch).collect::<Vec<_>>(), 1e-3).unwrap();
    (report.grad_norm, trainer)
}

#[test]
fn a_norm_is_the_sum_of_blocks_and_tensors_in_every_placement() {
    let mut most_chunks = 0;
    for config in configs() {
        let plain = TrainerOptions { grad_dtype: DType::F32, clip: 0.0, ..crate::options() };
        let (norm, mut trainer) = step(&config, &plain);
        let want = norm_of_gradients(&mut trainer);
        let layout = trainer.layout();
        let chunks = [layout.embedding(), layout.head()].map(|unit| layout.chunks(unit));
        most_chunks = most_chunks.max(chunks.into_iter().sum());
        let model = format!("{:?}, tied {}, chunks {chunks:?}", config.dims, config.tied);
        assert_eq!(norm.to_bits(), want.to_bits(), "{model}: {norm}, gradients have {want}");
        let vary = |what: &str, change: &dyn Fn(&mut TrainerOptions)| {
            let mut options = plain.clone();
            change(&mut options);
            let (norm, _) = step(&config, &options);
            assert_eq!(norm.to_bits(), want.to_bits(), "{what}, {model}: {norm}, gradients have {want}");
        };
        let layer = LayerPlacement::default();
        let spilled =
            LayerPlacement { boundary: Boundary::Spilled, recompute: Recompute::Selective, ..layer };
        let own = LayerPlacement { accumulator: Accumulator::OnDevice, recompute: Recompute::None, ..layer };
        let resident = LayerPlacement { resident: true, ..layer };
        vary("bf16 gradients", &|o| o.grad_dtype = DType::Bf16);
        vary("clipping", &|o| o.clip = 1e-3);
        vary("1 thread, 4 slabs", &|o| (o.threads, o.slabs) = (Some(1), 4));
        vary("2 sweeps, all placements", &|o| (o.sweeps, o.layers) = (2, vec![own, spilled, resident]));
        vary("waiting on the device", &|o| o.grad_wait = GradWait::Device);
        vary("AdamW under backward", &|o| o.adam_when = Some(AdamWhen::UnderBackward));
        vary("mode streamed", &|o| o.mode = Mode::Streamed);
        vary("streamed, waiting on the device", &|o| {
            (o.mode, o.grad_wait) = (Mode::Streamed, GradWait::Device)
        });
        vary("mode compact", &|o| o.mode = Mode::Compact);
        vary("compact, waiting on the device", &|o| {
            (o.mode, o.grad_wait) = (Mode::Compact, GradWait::Device)
        });
    }
    assert!(most_chunks > 4, "no model has several chunks of embedding and head");
}
