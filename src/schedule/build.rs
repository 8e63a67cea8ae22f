//! Writes lists: what a step, an evaluation or a look at the logits does, in program order.
//!
//! Layers are swept once up and once down, layer by layer, every micro-batch passing through a layer while
//! its weights are there. Operations stand as early in the list as their memory allows, so that a lane whose
//! queue is short still has its next work: a slot is refilled right behind the last reader of its former
//! weights, both ways up and down, and the layers that are still in slots at the turn are not uploaded again.

use super::operation::{BoundaryPlace, End, GradPlace, Guard, Operation, WeightPlace};
use super::policy::{AdamWhen, Geometry, Policy, ROOMS};
use crate::base::{MicroIndex, PartIndex, Result, RoomIndex, SlabIndex, SlotIndex, UnitIndex};
use crate::model::Recompute;

/// Operations in program order: executed one by one they do what the list is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// The operations.
    pub operations: Vec<Operation>,
    /// Micro-batches that pass through.
    pub micros: usize,
}

/// A training step over `micros` micro-batches: forward, backward, gradients to the host, AdamW.
///
/// Errors ([`InvalidArgument`](crate::base::Status)): what [`Policy::validate`] refuses.
pub fn train(policy: &Policy, geometry: &Geometry, micros: usize) -> Result<List> {
    let mut builder = Builder::new(policy, geometry, micros)?;
    builder.up(Way::Train);
    for micro in builder.micros() {
        builder.put(Operation::HeadForwardBackward { micro });
    }
    builder.down();
    builder.put(Operation::DownloadLoss);
    builder.put(Operation::Decide { norms: true });
    if policy.placement.adam == AdamWhen::AfterNorm {
        for unit in geometry.units() {
            for part in builder.parts(unit) {
                builder.adam(unit, part, GradPlace::Store);
            }
        }
    }
    Ok(builder.list)
}

/// The loss of `micros` micro-batches, and nothing changed on the host but the loss.
///
/// Errors ([`InvalidArgument`](crate::base::Status)): what [`Policy::validate`] refuses.
pub fn evaluate(policy: &Policy, geometry: &Geometry, micros: usize) -> Result<List> {
    let mut builder = Builder::new(policy, geometry, micros)?;
    builder.up(Way::Evaluate);
    for micro in builder.micros() {
        builder.put(Operation::HeadForward { micro });
    }
    builder.put(Operation::DownloadLoss);
    builder.put(Operation::Decide { norms: false });
    Ok(builder.list)
}

/// The logits of one row of one micro-batch.
///
/// Errors ([`InvalidArgument`](crate::base::Status)): what [`Policy::validate`] refuses.
pub fn logits(policy: &Policy, geometry: &Geometry) -> Result<List> {
    let mut builder = Builder::new(policy, geometry, 1)?;
    builder.up(Way::Evaluate);
    builder.put(Operation::HeadLogits);
    builder.put(Operation::DownloadLogits);
    Ok(builder.list)
}

/// What the way up is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Train,
    Evaluate,
}

struct Builder<'a> {
    policy: &'a Policy,
    geometry: &'a Geometry,
    list: List,
    /// Gradient parts rounded so far: slabs, and the ring's, are taken in turn.
    rounded: usize,
    /// Where each layer's boundary is on the device.
    boundaries: Vec<BoundaryPlace>,
}

impl<'a> Builder<'a> {
    fn new(policy: &'a Policy, geometry: &'a Geometry, micros: usize) -> Result<Self> {
        policy.validate(geometry, micros)?;
        let list = List { operations: Vec::new(), micros };
        let mut spilled = 0;
        let place = |layer| {
            if !policy.placement.spills(layer) {
                return BoundaryPlace::Own;
            }
            spilled += 1;
            BoundaryPlace::Room(RoomIndex::from((spilled - 1) % ROOMS))
        };
        let boundaries = (0..geometry.layers).map(place).collect();
        Ok(Builder { policy, geometry, list, rounded: 0, boundaries })
    }

    fn put(&mut self, operation: Operation) {
        self.list.operations.push(operation);
    }

    fn micros(&self) -> impl Iterator<Item = MicroIndex> + use<> {
        (0..self.list.micros).map(MicroIndex::from)
    }

    fn parts(&self, unit: UnitIndex) -> impl Iterator<Item = PartIndex> + use<> {
        (0..self.geometry.parts(unit)).map(PartIndex::from)
    }

    /// Layers take slots in turn, so the last ones of the way up are the first ones of the way down.
    fn slot(&self, layer: usize) -> SlotIndex {
        SlotIndex::from(layer % self.policy.placement.weight_slots)
    }

    fn upload(&mut self, layer: usize) {
        let place = WeightPlace::Slot(self.slot(layer));
        self.put(Operation::Upload { unit: self.geometry.layer(layer), place });
    }

    /// Where the input of layer `layer` is; above the last layer it is the stream.
    fn boundary(&self, layer: usize) -> BoundaryPlace {
        self.boundaries.get(layer).copied().unwrap_or(BoundaryPlace::Stream)
    }

    /// Layers whose boundaries pass through the same room: the next one below.
    fn below_in_room(&self, layer: usize) -> Option<usize> {
        let place = self.boundary(layer);
        let same = |below: &usize| self.boundary(*below) == place;
        (0..layer).rev().find(same).filter(|_| matches!(place, BoundaryPlace::Room(_)))
    }

    /// A layer's input has been written; if it is to go to the host, it goes.
    fn spill(&mut self, way: Way, layer: usize, micro: MicroIndex) {
        if let (Way::Train, BoundaryPlace::Room(room)) = (way, self.boundary(layer))
            && self.policy.placement.leaves(layer)
        {
            self.put(Operation::SpillBoundary { unit: self.geometry.layer(layer), micro, room });
        }
    }

    /// Batches, embedding, all layers; leaves the head's weights on the device. On the way to a backward a layer
    /// keeps what that will not compute again.
    fn up(&mut self, way: Way) {
        let (layers, slots) = (self.geometry.layers, self.policy.placement.weight_slots);
        for micro in self.micros() {
            self.put(Operation::UploadBatch { micro });
        }
        let embedding = self.geometry.embedding();
        self.put(Operation::Upload { unit: embedding, place: WeightPlace::End(End::First) });
        for layer in 0..layers.min(slots) {
            self.upload(layer);
        }
        for micro in self.micros() {
            self.put(Operation::EmbedForward { micro, to: self.boundary(0) });
            self.spill(way, 0, micro);
        }
        // The head is large and shares a lane with the layers: behind the last of them it has the time of
        // `slots` layers to arrive in, anywhere before it would hold one of them up.
        if layers <= slots {
            self.upload_head();
        }
        for layer in 0..layers {
            let recompute = match way {
                Way::Train => self.policy.placement.layer(layer).recompute,
                Way::Evaluate => Recompute::Full,
            };
            for micro in self.micros() {
                let (unit, slot) = (self.geometry.layer(layer), self.slot(layer));
                let (from, to) = (self.boundary(layer), self.boundary(layer + 1));
                self.put(Operation::Forward { unit, slot, micro, recompute, from, to });
                self.spill(way, layer + 1, micro);
            }
            let next = layer + slots;
            if next < layers {
                self.upload(next);
            }
            if next + 1 == layers {
                self.upload_head();
            }
        }
    }

    fn upload_head(&mut self) {
        let place = if self.geometry.tied { End::Second } else { End::First };
        self.put(Operation::Upload { unit: self.geometry.head(), place: WeightPlace::End(place) });
    }

    /// All gradients: head, layers, embedding.
    ///
    /// A layer's gradient leaves in one slab behind its backward. The head's may need many; they have until
    /// the embedding's backward takes over their region, and rounding them in a row would keep `compute`
    /// waiting for slabs. So as many as leave one slab free go at once, to start `d2h` early, and the others
    /// are spread evenly over the layers' backwards, where one more slab is least in the way.
    fn down(&mut self) {
        let (layers, micros) = (self.geometry.layers, self.list.micros);
        let (slots, slabs) = (self.policy.placement.weight_slots, self.policy.placement.slabs);
        let head = self.geometry.head();
        let mut parts = self.parts(head);
        for part in parts.by_ref().take(slabs - 1) {
            self.round(head, part);
        }
        let (steps, gaps) = (layers * micros, self.geometry.parts(head).saturating_sub(slabs - 1) + 1);
        let mut due = parts.zip(1..).map(|(part, gap)| (part, gap * steps / gaps)).peekable();

        for layer in (0..layers).rev() {
            let (unit, slot) = (self.geometry.layer(layer), self.slot(layer));
            let recompute = self.policy.placement.layer(layer).recompute;
            for micro in self.micros() {
                let done = (layers - 1 - layer) * micros + micro.at();
                while let Some((part, _)) = due.next_if(|&(_, step)| step <= done) {
                    self.round(head, part);
                }
                let from = self.boundary(layer);
                self.put(Operation::RecomputeBackward { unit, slot, micro, recompute, from });
                if let (BoundaryPlace::Room(room), Some(below)) = (from, self.below_in_room(layer)) {
                    self.put(Operation::FetchBoundary { unit: self.geometry.layer(below), micro, room });
                }
            }
            if layer >= slots {
                self.upload(layer - slots);
            }
            self.round(unit, PartIndex(0));
        }

        for micro in self.micros() {
            self.put(Operation::EmbedBackward { micro });
        }
        let embedding = self.geometry.embedding();
        for part in self.parts(embedding) {
            self.round(embedding, part);
        }
    }

    /// A part leaves the device, the first one with the unit's norm, and, where AdamW need not wait for the norm of all, is used at once.
    fn round(&mut self, unit: UnitIndex, part: PartIndex) {
        let placement = &self.policy.placement;
        let slab = SlabIndex::from(self.rounded % placement.slabs);
        let to = if self.policy.streams_gradients() {
            GradPlace::Ring((self.rounded % placement.ring) as u32)
        } else {
            GradPlace::Store
        };
        self.rounded += 1;
        if part == PartIndex(0) {
            self.put(Operation::Norm { unit, slab });
        }
        self.put(Operation::Round { unit, part, slab });
        self.put(Operation::Download { unit, part, slab, to });
        if placement.adam == AdamWhen::UnderBackward {
            self.adam(unit, part, to);
        }
    }

    fn adam(&mut self, unit: UnitIndex, part: PartIndex, from: GradPlace) {
        let guard = match self.policy.placement.adam {
            AdamWhen::AfterNorm => Guard::Verdict,
            AdamWhen::UnderBackward => Guard::Unit,
        };
        self.put(Operation::Adam { unit, part, from, guard });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{DType, Shape};
    use crate::schedule::{Boundary, LayerPlacement, Mode, Numeric, Placement};

    fn policy(weight_slots: usize, slabs: usize, adam: AdamWhen) -> Policy {
        Policy {
            mode: Mode::Exact,
            numeric: Numeric { shape: Shape { b: 1, t: 8 }, logits_chunk: 8, grad_dtype: DType::F32 },
            placement: Placement { weight_slots, slabs, ring: 2, adam, layers: Vec::new() },
        }
    }

    fn model(layers: usize, tied: bool, head_parts: usize) -> Geometry {
        Geometry { layers, tied, embedding_parts: 2, head_parts }
    }

    fn texts(list: &List) -> Vec<String> {
        list.operations.iter().map(Operation::to_string).collect()
    }

    #[test]
    fn a_small_step_reads_as_it_should() {
        let list = train(&policy(2, 2, AdamWhen::AfterNorm), &model(3, false, 1), 1).unwrap();
        let expected = [
            "upload batch micro 0",
            "upload unit 0 → first end",
            "upload unit 1 → slot 0",
            "upload unit 2 → slot 1",
            "embed forward micro 0",
            "forward unit 1 in slot 0, micro 0",
            "upload unit 3 → slot 0",
            "upload unit 4 → first end",
            "forward unit 2 in slot 1, micro 0",
            "forward unit 3 in slot 0, micro 0",
            "head forward backward micro 0",
            "norm unit 4",
            "round unit 4 part 0 → slab 0",
            "download unit 4 part 0: slab 0 → store",
            "recompute backward unit 3 in slot 0, micro 0",
            "upload unit 1 → slot 0",
            "norm unit 3",
            "round unit 3 part 0 → slab 1",
            "download unit 3 part 0: slab 1 → store",
            "recompute backward unit 2 in slot 1, micro 0",
            "norm unit 2",
            "round unit 2 part 0 → slab 0",
            "download unit 2 part 0: slab 0 → store",
            "recompute backward unit 1 in slot 0, micro 0",
            "norm unit 1",
            "round unit 1 part 0 → slab 1",
            "download unit 1 part 0: slab 1 → store",
            "embed backward micro 0",
            "norm unit 0",
            "round unit 0 part 0 → slab 0",
            "download unit 0 part 0: slab 0 → store",
            "round unit 0 part 1 → slab 1",
            "download unit 0 part 1: slab 1 → store",
            "download loss",
            "decide",
            "adam unit 0 part 0 from store, guarded by the verdict",
            "adam unit 0 part 1 from store, guarded by the verdict",
            "adam unit 1 part 0 from store, guarded by the verdict",
            "adam unit 2 part 0 from store, guarded by the verdict",
            "adam unit 3 part 0 from store, guarded by the verdict",
            "adam unit 4 part 0 from store, guarded by the verdict",
        ];
        assert_eq!(texts(&list), expected);
    }

    #[test]
    fn layers_in_slots_at_the_turn_are_not_uploaded_again() {
        for (layers, slots) in [(1, 2), (2, 2), (3, 2), (7, 2), (7, 5), (7, 9)] {
            let list = train(&policy(slots, 2, AdamWhen::AfterNorm), &model(layers, true, 1), 3).unwrap();
            let uploads = list.operations.iter().filter(|operation| {
                matches!(operation, Operation::Upload { place: WeightPlace::Slot(_), .. })
            });
            assert_eq!(
                uploads.count(),
                layers + layers.saturating_sub(slots),
                "{layers} layers, {slots} slots"
            );
        }
    }

    #[test]
    fn the_heads_parts_are_spread_over_the_backwards() {
        let list = train(&policy(2, 2, AdamWhen::AfterNorm), &model(4, false, 5), 2).unwrap();
        let head = UnitIndex(5);
        let mut backwards = 0;
        let mut rounded_after = Vec::new();
        for operation in &list.operations {
            match operation {
                Operation::RecomputeBackward { .. } => backwards += 1,
                Operation::Round { unit, .. } if *unit == head => rounded_after.push(backwards),
                _ => {}
            }
        }
        // One at once, the other slab free for the first layer; then evenly over 4 layers of 2 micro-batches.
        assert_eq!(rounded_after, [0, 1, 3, 4, 6]);
    }

    #[test]
    fn streamed_gradients_take_the_ring_in_turn() {
        let mut policy = policy(2, 3, AdamWhen::UnderBackward);
        policy.mode = Mode::Streamed;
        let list = train(&policy, &model(2, false, 1), 1).unwrap();
        let texts = texts(&list);
        let landed = texts.iter().filter(|text| text.starts_with("download unit"));
        assert_eq!(
            landed.collect::<Vec<_>>(),
            [
                "download unit 3 part 0: slab 0 → ring 0",
                "download unit 2 part 0: slab 1 → ring 1",
                "download unit 1 part 0: slab 2 → ring 0",
                "download unit 0 part 0: slab 0 → ring 1",
                "download unit 0 part 1: slab 1 → ring 0",
            ]
        );
        let after =
            texts.iter().position(|text| text == "download unit 2 part 0: slab 1 → ring 1").unwrap() + 1;
        assert_eq!(texts[after], "adam unit 2 part 0 from ring 1, guarded by its own norm");
        assert_eq!(texts.last().unwrap(), "decide");
    }

    #[test]
    fn what_is_kept_in_training_is_not_in_evaluation() {
        let mut policy = policy(2, 2, AdamWhen::AfterNorm);
        let layer = |recompute| LayerPlacement { recompute, ..LayerPlacement::default() };
        policy.placement.layers = vec![layer(Recompute::None), layer(Recompute::Selective)];
        let model = model(3, true, 1);
        let about_layers = |list: &List| -> Vec<String> {
            let about = |text: &String| text.contains("ward unit");
            texts(list).into_iter().filter(about).collect()
        };
        assert_eq!(
            about_layers(&train(&policy, &model, 1).unwrap()),
            [
                "forward unit 1 in slot 0, micro 0, keeping all",
                "forward unit 2 in slot 1, micro 0, keeping products",
                "forward unit 3 in slot 0, micro 0",
                "recompute backward unit 3 in slot 0, micro 0",
                "recompute backward unit 2 in slot 1, micro 0 with kept products",
                "backward unit 1 in slot 0, micro 0",
            ]
        );
        let evaluation = about_layers(&evaluate(&policy, &model, 1).unwrap());
        assert!(evaluation.iter().all(|text| !text.contains("keeping")));
    }

    #[test]
    fn spilled_boundaries_pass_through_two_rooms() {
        let mut policy = policy(2, 2, AdamWhen::AfterNorm);
        let [kept, spilled] = [Boundary::Kept, Boundary::Spilled]
            .map(|boundary| LayerPlacement { boundary, ..LayerPlacement::default() });
        policy.placement.layers = vec![spilled, kept, spilled, spilled, spilled];
        let list = train(&policy, &model(5, true, 1), 1).unwrap();
        let about = |text: &String| text.contains("ward") || text.contains("boundary");
        assert_eq!(
            texts(&list).into_iter().filter(about).collect::<Vec<_>>(),
            [
                "embed forward micro 0",
                "spill boundary unit 1, micro 0: room 0 → host",
                "forward unit 1 in slot 0, micro 0",
                "forward unit 2 in slot 1, micro 0",
                "spill boundary unit 3, micro 0: room 1 → host",
                "forward unit 3 in slot 0, micro 0",
                "forward unit 4 in slot 1, micro 0",
                "forward unit 5 in slot 0, micro 0",
                "head forward backward micro 0",
                "recompute backward unit 5 in slot 0, micro 0",
                "fetch boundary unit 3, micro 0 → room 1",
                "recompute backward unit 4 in slot 1, micro 0",
                "fetch boundary unit 1, micro 0 → room 0",
                "recompute backward unit 3 in slot 0, micro 0",
                "recompute backward unit 2 in slot 1, micro 0",
                "recompute backward unit 1 in slot 0, micro 0",
                "embed backward micro 0",
            ]
        );
        let evaluation = texts(&evaluate(&policy, &model(5, true, 1), 1).unwrap());
        assert!(evaluation.iter().all(|text| !text.contains("boundary")));
    }

    #[test]
    fn evaluation_and_logits_only_go_up() {
        let policy = policy(2, 2, AdamWhen::AfterNorm);
        let evaluation = texts(&evaluate(&policy, &model(1, true, 1), 2).unwrap());
        assert_eq!(
            evaluation[evaluation.len() - 4..],
            ["head forward micro 0", "head forward micro 1", "download loss", "decide without norms",]
        );
        let logits = texts(&logits(&policy, &model(1, true, 1)).unwrap());
        assert_eq!(
            logits,
            [
                "upload batch micro 0",
                "upload unit 0 → first end",
                "upload unit 1 → slot 0",
                "embed forward micro 0",
                "upload unit 2 → second end",
                "forward unit 1 in slot 0, micro 0",
                "head logits",
                "download logits",
            ]
        );
    }
}
