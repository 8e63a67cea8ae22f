//! The schedule of MegaTrain (arXiv 2604.05091), in our operations.
//!
//! From its public code: every weight is uploaded three times a step, and every layer's forward
//! pass runs three times (in forward; again from a checkpoint every few layers; again before its
//! backward). Forward is double-buffered; in backward a layer is uploaded after the previous one is
//! done. Clipping, AdamW and packing of the updated weights run one after the other once all
//! gradients have arrived, and the next step starts after them.

use horizon::base::{ChunkIndex, DType, MicroIndex, Shape, SlabIndex, SlotIndex};
use horizon::device::Lane;
use horizon::engine::TrainerOptions;
use horizon::model::{Layout, ModelConfig, Recompute};
use horizon::plan::{Cost, Description, Machine, Plan};
use horizon::schedule::{
    AccumulatorBuffer, BoundaryBuffer, EndUnit, Extent, GradientBuffer, Guard, List, Mode, Operation,
    Placement, Policy, Sync, WeightBuffer,
};

/// Layers between two checkpoints, the default of its configurations.
const INTERVAL: usize = 4;
/// Gradient slabs.
const SLABS: usize = 12;
/// RAM traffic per parameter after backward, relative to ours: clipping reads and writes a bf16
/// gradient (4 bytes), AdamW reads and writes bf16 weights and f32 moments and reads the gradient
/// (22), packing reads and writes the weights (4).
const HOST_BYTES: f64 = (4 + 22 + 4) as f64 / 26.0;

/// The operations of a step: one micro-batch that is the whole batch.
fn step(plan: &Plan) -> List {
    let geometry = &plan.geometry;
    let (micro, own, accumulator) = (MicroIndex(0), BoundaryBuffer::Own, AccumulatorBuffer::Shared);
    let (embedding, head) = (geometry.embedding(), geometry.head());
    let layers = geometry.layers;
    let mut operations = vec![
        Operation::UploadBatch { micro },
        Operation::Upload { unit: embedding, place: WeightBuffer::EndUnit(EndUnit::First) },
        Operation::EmbedForward { micro, to: own },
    ];
    let upload = |layer: usize, slot: usize| Operation::Upload {
        unit: geometry.layer(layer),
        place: WeightBuffer::Slot(SlotIndex::from(slot)),
    };
    let forward = |layer: usize, slot: usize| Operation::Forward {
        unit: geometry.layer(layer),
        slot: SlotIndex::from(slot),
        micro,
        recompute: Recompute::Full,
        from: own,
        to: if layer + 1 == layers { BoundaryBuffer::ResidualStream } else { own },
    };
    for layer in 0..layers {
        operations.extend([upload(layer, layer % 2), forward(layer, layer % 2)]);
    }
    let place = WeightBuffer::EndUnit(if geometry.tied { EndUnit::Second } else { EndUnit::First });
    operations.push(Operation::Upload { unit: head, place });
    operations.push(Operation::HeadForwardBackward { micro });
    let mut slab = 0;
    let mut leave = |operations: &mut Vec<Operation>, unit, chunk: usize, accumulator| {
        let (chunk, at) = (ChunkIndex::from(chunk), SlabIndex::from(slab % SLABS));
        slab += 1;
        operations.push(Operation::Round { unit, accumulator, chunk, slab: at });
        operations.push(Operation::Download { unit, chunk, slab: at, to: GradientBuffer::Store });
    };
    for chunk in 0..geometry.head_chunks {
        leave(&mut operations, head, chunk, AccumulatorBuffer::Own);
    }
    // One slot: an upload waits for the last use of the slot's previous layer.
    let blocks: Vec<usize> = (0..layers).step_by(INTERVAL).collect();
    for &first in blocks.iter().rev() {
        let last = (first + INTERVAL).min(layers);
        for layer in first..last {
            operations.extend([upload(layer, 0), forward(layer, 0)]);
        }
        for layer in (first..last).rev() {
            let unit = geometry.layer(layer);
            operations.push(upload(layer, 0));
            operations.push(Operation::RecomputeBackward {
                unit,
                slot: SlotIndex(0),
                micro,
                recompute: Recompute::Full,
                from: own,
                accumulator,
            });
            leave(&mut operations, unit, 0, accumulator);
        }
    }
    operations.push(Operation::EmbedBackward { micro });
    for chunk in 0..geometry.embedding_chunks {
        leave(&mut operations, embedding, chunk, AccumulatorBuffer::Own);
    }
    operations.push(Operation::DownloadLoss);
    operations.push(Operation::ClipDecision { norms: false });
    for unit in geometry.units() {
        for chunk in (0..geometry.chunks(unit)).map(ChunkIndex::from) {
            operations.push(Operation::Adam {
                unit,
                chunk,
                from: GradientBuffer::Store,
                guard: Guard::ClipDecision,
            });
        }
    }
    List { operations, extent: Extent { micros: 1, sweep: 1 } }
}

/// Simulates a step of `sequences` sequences of `t` tokens in steady state, in seconds. Device
/// memory is not checked: its authors ran it.
pub fn seconds(config: &ModelConfig, machine: &Description, sequences: usize, t: usize) -> f64 {
    let layout = Layout::new(config);
    let options = TrainerOptions { shape: Shape { b: sequences, t }, ..TrainerOptions::default() };
    let numeric = options.numeric(&layout, DType::Bf16).expect("good options");
    let policy = Policy { mode: Mode::Exact, numeric, placement: Placement::default() };
    let plan = Plan::new(config, &layout, policy, 1, DType::Bf16).expect("a plan");
    let cost = plan.cost(&layout, plan.micros_max);
    step_ns(&plan, &cost, &machine.rates) as f64 / 1e9
}

/// The duration of a step that follows another one, in nanoseconds.
fn step_ns(plan: &Plan, cost: &Cost, machine: &Machine) -> u64 {
    let list = step(plan);
    let (mut sync, mut simulator) = (Sync::new(&plan.geometry), machine.simulator(plan.policy.mode));
    let mut done = [0; 2];
    for end_ns in &mut done {
        let synced = sync.infer(&list);
        let ns = |operation: &Operation| {
            let ns = cost.ns(machine, operation);
            if operation.lane() == Lane::Host { (ns as f64 * HOST_BYTES) as u64 } else { ns }
        };
        simulator.issue(&list, &synced, ns);
        // The next step begins when AdamW is done.
        let last = synced.tick(list.operations.len() - 1);
        simulator.reach(last);
        sync.settle(&[last]);
        *end_ns = simulator.caller_ns();
    }
    done[1] - done[0]
}
