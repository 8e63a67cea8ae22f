//! A training step by the plain algorithm, in the machine's symbols: forward and backward of every
//! micro-batch through all layers, then AdamW. No placement, no uploads in turn, no list.

use horizon::base::{ChunkIndex, MicroIndex, SlabIndex, SlotIndex, UnitIndex};
use horizon::schedule::{
    AccumulatorBuffer, BoundaryBuffer, EndUnit, Geometry, GradientBuffer, Guard, Operation, Recompute,
    Resource, RowSet, WeightBuffer,
};

use crate::machine::result;

/// The results of a step on the host besides the masters.
#[derive(Debug, PartialEq, Eq)]
pub struct Results {
    pub loss: u64,
    pub clip_decision: u64,
}

/// The state between steps: the masters, and the gathered rows of an untied embedding.
#[derive(Debug)]
pub struct Model {
    pub masters: Vec<u64>,
    rows: u64,
}

/// Runs one step over these batches; with `rows_first` AdamW updates an untied embedding by rows.
pub fn step(
    geometry: &Geometry,
    batches: &[u64],
    model: &mut Model,
    guard: Guard,
    rows_first: bool,
) -> Results {
    let (embedding, head) = (geometry.embedding(), geometry.head());
    let (slot, recompute, place) = (SlotIndex(0), Recompute::Full, BoundaryBuffer::Own);
    let stream = |micro| Resource::ResidualStream { micro };
    let (first, second) =
        (Resource::EndAccumulator(EndUnit::First), Resource::EndAccumulator(EndUnit::Second));
    let weights: Vec<u64> = geometry
        .units()
        .map(|unit| {
            let place = WeightBuffer::Slot(slot);
            let inputs = match unit == embedding && !geometry.tied {
                true => [&[model.rows], batches].concat(),
                false => vec![model.masters[unit.at()]],
            };
            result(&Operation::Upload { unit, place }, &place.into(), &inputs)
        })
        .collect();

    let mut sums: Vec<Option<u64>> = vec![None; model.masters.len()];
    let mut loss = None;
    let mut bottoms = Vec::new();
    for (index, &batch) in batches.iter().enumerate() {
        let micro = MicroIndex::from(index);
        let batch = result(&Operation::UploadBatch { micro }, &Resource::Batch { micro }, &[batch]);
        let embed = Operation::EmbedForward { micro, to: place };
        let mut activation = result(&embed, &stream(micro), &[weights[embedding.at()], batch]);
        let mut boundaries = Vec::new();
        for unit in (0..geometry.layers).map(|layer| geometry.layer(layer)) {
            boundaries.push(activation);
            let forward = Operation::Forward { unit, slot, micro, recompute, from: place, to: place };
            activation = result(&forward, &stream(micro), &[weights[unit.at()], batch, activation]);
        }

        let mut inputs = Vec::new();
        inputs.extend(geometry.tied.then_some(weights[embedding.at()]));
        inputs.extend([weights[head.at()], batch, activation]);
        inputs.extend(sums[head.at()]);
        inputs.extend(geometry.tied.then_some(sums[embedding.at()]).flatten());
        inputs.extend(loss);
        let top = Operation::HeadForwardBackward { micro };
        let mut gradient = result(&top, &stream(micro), &inputs);
        sums[head.at()] = Some(result(&top, if geometry.tied { &second } else { &first }, &inputs));
        if geometry.tied {
            sums[embedding.at()] = Some(result(&top, &first, &inputs));
        }
        loss = Some(result(&top, &Resource::Loss, &inputs));

        for unit in (0..geometry.layers).rev().map(|layer| geometry.layer(layer)) {
            let mut inputs = vec![weights[unit.at()], batch, boundaries[unit.at() - 1], gradient];
            inputs.extend(sums[unit.at()]);
            let backward = Operation::RecomputeBackward {
                unit,
                slot,
                micro,
                recompute,
                from: place,
                accumulator: AccumulatorBuffer::Own,
            };
            gradient = result(&backward, &stream(micro), &inputs);
            sums[unit.at()] = Some(result(&backward, &Resource::Accumulator, &inputs));
        }
        bottoms.push((micro, batch, gradient));
    }
    for (micro, batch, gradient) in bottoms {
        let mut inputs = vec![batch, gradient];
        inputs.extend(sums[embedding.at()]);
        sums[embedding.at()] = Some(result(&Operation::EmbedBackward { micro }, &first, &inputs));
    }

    let host_loss = result(&Operation::DownloadLoss, &Resource::HostLoss, &[loss.expect("a micro-batch")]);
    let mut norms = vec![host_loss];
    let mut gradients: Vec<Vec<u64>> = Vec::new();
    for unit in geometry.units() {
        let sum = [sums[unit.at()].expect("every unit has a gradient")];
        let slab = SlabIndex(0);
        let squares = match geometry.is_rounded_whole(unit) {
            true => {
                Operation::Round { unit, accumulator: AccumulatorBuffer::Own, chunk: ChunkIndex(0), slab }
            }
            false => Operation::Norm { unit, accumulator: AccumulatorBuffer::Own, slab },
        };
        let norm = result(&squares, &Resource::Norm(slab), &sum);
        let download = |chunk: usize| {
            let (chunk, to) = (ChunkIndex::from(chunk), GradientBuffer::Store);
            let rounded = result(
                &Operation::Round { unit, accumulator: AccumulatorBuffer::Own, chunk, slab },
                &Resource::Slab(slab),
                &sum,
            );
            let operation = Operation::Download { unit, chunk, slab, to };
            result(&operation, &Resource::HostGradient { unit, chunk }, &[rounded])
        };
        let operation = Operation::DownloadNorm { unit, slab };
        norms.push(result(&operation, &Resource::HostNorm { unit }, &[norm]));
        gradients.push((0..geometry.chunks(unit)).map(download).collect());
    }
    let clip_decision = result(&Operation::ClipDecision { norms: true }, &Resource::ClipDecision, &norms);

    for unit in geometry.units() {
        let permission = match guard {
            Guard::ClipDecision => clip_decision,
            Guard::Unit => norms[1 + unit.at()],
        };
        let by_rows = unit == embedding && !geometry.tied;
        let master = Resource::Master { unit };
        if by_rows && rows_first {
            for rows in [RowSet::Next, RowSet::Others] {
                let adam = Operation::AdamRows { rows };
                let mut inputs =
                    [&gradients[unit.at()][..], &[permission, model.masters[unit.at()]]].concat();
                if rows == RowSet::Next {
                    inputs.push(model.rows);
                    model.rows = result(&adam, &Resource::HostRows, &inputs);
                }
                model.masters[unit.at()] = result(&adam, &master, &inputs);
            }
            continue;
        }
        for (chunk, &gradient) in gradients[unit.at()].iter().enumerate() {
            let chunk = ChunkIndex::from(chunk);
            let adam = Operation::Adam { unit, chunk, from: GradientBuffer::Store, guard };
            let mut inputs = vec![gradient, permission, model.masters[unit.at()]];
            if by_rows {
                inputs.push(model.rows);
                model.rows = result(&adam, &Resource::HostRows, &inputs);
            }
            model.masters[unit.at()] = result(&adam, &master, &inputs);
        }
    }
    Results { loss: host_loss, clip_decision }
}

/// A model before any step.
pub fn model(geometry: &Geometry) -> Model {
    let initial = |unit: UnitIndex| crate::machine::initial(Resource::Master { unit });
    Model {
        masters: geometry.units().map(initial).collect(),
        rows: crate::machine::initial(Resource::HostRows),
    }
}
