//! Tests of lists by the text of their operations.

use super::*;
use crate::base::{DType, Shape};
use crate::schedule::{Boundary, LayerPlacement, Mode, Numeric, Placement};

fn policy(weight_slots: usize, slabs: usize, adam: AdamWhen) -> Policy {
    Policy {
        mode: Mode::Exact,
        numeric: Numeric { shape: Shape { b: 1, t: 8 }, logits_chunk: 8, grad_dtype: DType::F32 },
        placement: Placement { weight_slots, slabs, ring: 2, adam, ..Placement::default() },
    }
}

fn model(layers: usize, tied: bool, head_chunks: usize) -> Geometry {
    Geometry { layers, tied, embedding_chunks: 2, head_chunks }
}

fn texts(list: &List) -> Vec<String> {
    list.operations.iter().map(Operation::to_string).collect()
}

#[test]
fn a_small_step_has_the_expected_operations() {
    let list = train(&policy(2, 2, AdamWhen::AfterNorm), &model(3, false, 1), 1).unwrap();
    let expected = [
        "upload batch micro 0",
        "upload unit 0 → embedding/head buffer",
        "upload unit 1 → slot 0",
        "upload unit 2 → slot 1",
        "embed forward micro 0",
        "forward unit 1 in slot 0, micro 0",
        "upload unit 3 → slot 0",
        "upload unit 4 → embedding/head buffer",
        "forward unit 2 in slot 1, micro 0",
        "forward unit 3 in slot 0, micro 0",
        "head forward backward micro 0",
        "round unit 4 chunk 0 → slab 0",
        "download norm unit 4: slab 0",
        "download unit 4 chunk 0: slab 0 → store",
        "recompute backward unit 3 in slot 0, micro 0",
        "upload unit 1 → slot 0",
        "round unit 3 chunk 0 → slab 1",
        "download norm unit 3: slab 1",
        "download unit 3 chunk 0: slab 1 → store",
        "recompute backward unit 2 in slot 1, micro 0",
        "round unit 2 chunk 0 → slab 0",
        "download norm unit 2: slab 0",
        "download unit 2 chunk 0: slab 0 → store",
        "recompute backward unit 1 in slot 0, micro 0",
        "round unit 1 chunk 0 → slab 1",
        "download norm unit 1: slab 1",
        "download unit 1 chunk 0: slab 1 → store",
        "embed backward micro 0",
        "norm unit 0",
        "round unit 0 chunk 0 → slab 0",
        "download norm unit 0: slab 0",
        "download unit 0 chunk 0: slab 0 → store",
        "round unit 0 chunk 1 → slab 1",
        "download unit 0 chunk 1: slab 1 → store",
        "download loss",
        "clip decision",
        "adam unit 0 chunk 0 from store, guarded by the clip decision",
        "adam unit 0 chunk 1 from store, guarded by the clip decision",
        "adam unit 1 chunk 0 from store, guarded by the clip decision",
        "adam unit 2 chunk 0 from store, guarded by the clip decision",
        "adam unit 3 chunk 0 from store, guarded by the clip decision",
        "adam unit 4 chunk 0 from store, guarded by the clip decision",
    ];
    assert_eq!(texts(&list), expected);
}

#[test]
fn layers_in_slots_when_backward_starts_are_not_uploaded_again() {
    for (layers, slots) in [(1, 2), (2, 2), (3, 2), (7, 2), (7, 5), (7, 9)] {
        let list = train(&policy(slots, 2, AdamWhen::AfterNorm), &model(layers, true, 1), 3).unwrap();
        let uploads = list
            .operations
            .iter()
            .filter(|operation| matches!(operation, Operation::Upload { place: WeightBuffer::Slot(_), .. }));
        assert_eq!(uploads.count(), layers + layers.saturating_sub(slots), "{layers} layers, {slots} slots");
    }
}

#[test]
fn the_heads_chunks_are_spread_over_the_layers_backward() {
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
    // One chunk at once, with the other slab free for the first layer; the rest spread evenly over 4
    // layers of 2 micro-batches.
    assert_eq!(rounded_after, [0, 1, 3, 4, 6]);
}

#[test]
fn streamed_gradients_use_the_slabs_of_the_ring_in_turn() {
    let mut policy = policy(2, 3, AdamWhen::UnderBackward);
    policy.mode = Mode::Streamed;
    let list = train(&policy, &model(2, false, 1), 1).unwrap();
    let texts = texts(&list);
    let downloads = texts.iter().filter(|text| text.starts_with("download unit"));
    assert_eq!(
        downloads.collect::<Vec<_>>(),
        [
            "download unit 3 chunk 0: slab 0 → ring 0",
            "download unit 2 chunk 0: slab 1 → ring 1",
            "download unit 1 chunk 0: slab 2 → ring 0",
            "download unit 0 chunk 0: slab 0 → ring 1",
            "download unit 0 chunk 1: slab 1 → ring 0",
        ]
    );
    let after = texts.iter().position(|text| text == "download unit 2 chunk 0: slab 1 → ring 1").unwrap() + 1;
    assert_eq!(texts[after], "adam unit 2 chunk 0 from ring 1, guarded by its own norm");
    assert_eq!(texts.last().unwrap(), "clip decision");
}

#[test]
fn evaluation_saves_no_activations() {
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
            "forward unit 1 in slot 0, micro 0, recompute none",
            "forward unit 2 in slot 1, micro 0, recompute selective",
            "forward unit 3 in slot 0, micro 0",
            "recompute backward unit 3 in slot 0, micro 0",
            "recompute backward unit 2 in slot 1, micro 0, recompute selective",
            "backward unit 1 in slot 0, micro 0",
        ]
    );
    let evaluation = about_layers(&evaluate(&policy, &model, 1).unwrap());
    assert!(evaluation.iter().all(|text| !text.contains("recompute")));
}

#[test]
fn spilled_boundaries_pass_through_two_spill_buffers() {
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
            "spill boundary unit 1, micro 0: spill buffer 0 → host",
            "forward unit 1 in slot 0, micro 0",
            "forward unit 2 in slot 1, micro 0",
            "spill boundary unit 3, micro 0: spill buffer 1 → host",
            "forward unit 3 in slot 0, micro 0",
            "forward unit 4 in slot 1, micro 0",
            "forward unit 5 in slot 0, micro 0",
            "head forward backward micro 0",
            "recompute backward unit 5 in slot 0, micro 0",
            "fetch boundary unit 3, micro 0 → spill buffer 1",
            "recompute backward unit 4 in slot 1, micro 0",
            "fetch boundary unit 1, micro 0 → spill buffer 0",
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
fn evaluation_and_logits_have_no_backward() {
    let policy = policy(2, 2, AdamWhen::AfterNorm);
    let evaluation = texts(&evaluate(&policy, &model(1, true, 1), 2).unwrap());
    assert_eq!(
        evaluation[evaluation.len() - 4..],
        ["head forward micro 0", "head forward micro 1", "download loss", "clip decision without norms",]
    );
    let logits = texts(&logits(&policy, &model(1, true, 1)).unwrap());
    assert_eq!(
        logits,
        [
            "upload batch micro 0",
            "upload unit 0 → embedding/head buffer",
            "upload unit 1 → slot 0",
            "embed forward micro 0",
            "upload unit 2 → final norm buffer",
            "forward unit 1 in slot 0, micro 0",
            "head logits",
            "download logits",
        ]
    );
}

#[test]
fn resident_layers_are_uploaded_once() {
    let mut policy = policy(2, 2, AdamWhen::AfterNorm);
    let resident = LayerPlacement { resident: true, ..LayerPlacement::default() };
    policy.placement.layers = vec![resident, LayerPlacement::default(), resident];
    let list = train(&policy, &model(6, true, 1), 1).unwrap();
    let about = |text: &String| text.starts_with("upload unit") || text.contains("ward unit");
    assert_eq!(
        texts(&list).into_iter().filter(about).collect::<Vec<_>>(),
        [
            "upload unit 0 → embedding/head buffer",
            "upload unit 1 → slot 2",
            "upload unit 2 → slot 0",
            "upload unit 3 → slot 3",
            "upload unit 4 → slot 1",
            "forward unit 1 in slot 2, micro 0",
            "forward unit 2 in slot 0, micro 0",
            "upload unit 5 → slot 0",
            "forward unit 3 in slot 3, micro 0",
            "forward unit 4 in slot 1, micro 0",
            "upload unit 6 → slot 1",
            "upload unit 7 → final norm buffer",
            "forward unit 5 in slot 0, micro 0",
            "forward unit 6 in slot 1, micro 0",
            "recompute backward unit 6 in slot 1, micro 0",
            "upload unit 4 → slot 1",
            "recompute backward unit 5 in slot 0, micro 0",
            "upload unit 2 → slot 0",
            "recompute backward unit 4 in slot 1, micro 0",
            "recompute backward unit 3 in slot 3, micro 0",
            "recompute backward unit 2 in slot 0, micro 0",
            "recompute backward unit 1 in slot 2, micro 0",
        ]
    );
}

#[test]
fn a_later_sweep_continues_the_accumulators() {
    let mut policy = policy(2, 2, AdamWhen::AfterNorm);
    policy.placement.sweeps = 2;
    let own = LayerPlacement { accumulator: Accumulator::OnDevice, ..LayerPlacement::default() };
    policy.placement.layers = vec![LayerPlacement::default(), own];
    let list = train(&policy, &model(2, false, 1), 3).unwrap();
    let transfers = |list: &List| {
        texts(list).into_iter().filter(|text| text.contains(" accumulator ")).collect::<Vec<_>>()
    };
    assert!(transfers(&list).is_empty(), "every accumulator has a buffer of its own");
    let four = train(&policy, &model(4, false, 1), 3).unwrap();
    // Units 4, 3 and 1 use spill buffers 0, 1 and 0: no other unit uses buffer 1, so unit 3 stays
    // there.
    assert_eq!(
        transfers(&four),
        [
            "spill accumulator unit 4: spill buffer 0 → host",
            "spill accumulator unit 1: spill buffer 0 → host",
            "fetch accumulator unit 4 → spill buffer 0",
            "fetch accumulator unit 1 → spill buffer 0",
        ]
    );
    assert_eq!(list.extent, Extent { micros: 3, sweep: 2 });
    let about = |text: &String| !text.starts_with("download") && !text.starts_with("adam");
    assert_eq!(
        texts(&list).into_iter().filter(about).collect::<Vec<_>>(),
        [
            "upload batch micro 0",
            "upload batch micro 1",
            "upload unit 0 → embedding/head buffer",
            "upload unit 1 → slot 0",
            "upload unit 2 → slot 1",
            "embed forward micro 0",
            "embed forward micro 1",
            "upload unit 3 → embedding/head buffer",
            "forward unit 1 in slot 0, micro 0",
            "forward unit 1 in slot 0, micro 1",
            "forward unit 2 in slot 1, micro 0",
            "forward unit 2 in slot 1, micro 1",
            "head forward backward micro 0",
            "head forward backward micro 1",
            "recompute backward unit 2 in slot 1, micro 0",
            "recompute backward unit 2 in slot 1, micro 1",
            "recompute backward unit 1 in slot 0, micro 0",
            "recompute backward unit 1 in slot 0, micro 1",
            // The layers are still in their slots; the embedding is not on the device any more.
            "upload batch micro 2",
            "upload unit 0 → embedding/head buffer",
            "embed forward micro 2",
            "upload unit 3 → embedding/head buffer",
            "forward unit 1 in slot 0, micro 2",
            "forward unit 2 in slot 1, micro 2",
            "head forward backward micro 2",
            "round unit 3 chunk 0 → slab 0",
            "recompute backward unit 2 in slot 1, micro 2",
            "round unit 2 chunk 0 → slab 1",
            "recompute backward unit 1 in slot 0, micro 2",
            "round unit 1 chunk 0 → slab 0",
            "embed backward micro 0",
            "embed backward micro 1",
            "embed backward micro 2",
            "norm unit 0",
            "round unit 0 chunk 0 → slab 1",
            "round unit 0 chunk 1 → slab 0",
            "clip decision",
        ]
    );
}

#[test]
fn gradients_that_wait_on_the_device_leave_after_the_clip_decision() {
    let mut policy = policy(2, 2, AdamWhen::AfterNorm);
    policy.mode = Mode::Streamed;
    policy.placement.grad_wait = GradWait::Device;
    let list = train(&policy, &model(1, false, 2), 1).unwrap();
    let all = texts(&list);
    let from = all.iter().position(|text| text == "norm unit 0").unwrap();
    assert_eq!(
        all[from..],
        [
            "norm unit 0",
            "round unit 0 chunk 0 → slab 0",
            "round unit 0 chunk 1 → slab 1",
            "download norm unit 2: slab 3",
            "download norm unit 1: slab 2",
            "download norm unit 0: slab 0",
            "download loss",
            "clip decision",
            "download unit 0 chunk 0: slab 0 → ring 0",
            "adam unit 0 chunk 0 from ring 0, guarded by the clip decision",
            "download unit 0 chunk 1: slab 1 → ring 1",
            "adam unit 0 chunk 1 from ring 1, guarded by the clip decision",
            "download unit 1 chunk 0: slab 2 → ring 0",
            "adam unit 1 chunk 0 from ring 0, guarded by the clip decision",
            "download unit 2 chunk 0: slab 3 → ring 1",
            "adam unit 2 chunk 0 from ring 1, guarded by the clip decision",
            "download unit 2 chunk 1: slab 4 → ring 0",
            "adam unit 2 chunk 1 from ring 0, guarded by the clip decision",
        ]
    );
}

#[test]
fn adamw_updates_the_next_rows_first_and_the_others_last() {
    let adam = |policy: &Policy, geometry: &Geometry| -> Vec<String> {
        let list = train_rows_first(policy, geometry, 1).unwrap();
        let host = |operation: &&Operation| operation.lane() == crate::device::Lane::Host;
        list.operations.iter().filter(host).map(Operation::to_string).collect()
    };
    let (after, under) = (policy(2, 2, AdamWhen::AfterNorm), policy(2, 2, AdamWhen::UnderBackward));
    let untied = model(2, false, 1);
    let whole = [
        "clip decision",
        "adam next rows, guarded by the clip decision",
        "adam unit 1 chunk 0 from store, guarded by the clip decision",
        "adam unit 2 chunk 0 from store, guarded by the clip decision",
        "adam unit 3 chunk 0 from store, guarded by the clip decision",
        "adam other rows, guarded by the clip decision",
    ];
    assert_eq!(adam(&after, &untied), whole);
    let mut waiting = after.clone();
    waiting.placement.grad_wait = GradWait::Device;
    assert_eq!(adam(&waiting, &untied), whole);
    // A tied embedding is uploaded whole. Under backward the embedding is last, and AdamW of its chunks
    // follows their downloads. Of a gradient that passes through a ring buffer, not all chunks are
    // there at once.
    let streamed = Policy { mode: Mode::Streamed, ..under.clone() };
    for (policy, geometry) in
        [(&after, model(2, true, 1)), (&under, model(2, false, 1)), (&streamed, model(2, false, 1))]
    {
        assert_eq!(train_rows_first(policy, &geometry, 1), train(policy, &geometry, 1));
    }
}
