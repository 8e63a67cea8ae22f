//! The last use of each content of device memory.

use std::collections::HashMap;

use super::build::List;
use super::policy::Geometry;
use super::resource::Resource;
use crate::device::Lane;

/// The current content of a resource.
#[derive(Clone, Copy)]
struct Life {
    /// The last operation so far that used it.
    last: usize,
    lane: Lane,
    /// True if that operation wrote.
    wrote: bool,
    /// True if only one lane has read it since it was written: then its last reader is also the
    /// last in time.
    one_reader: bool,
}

/// Pairs of an operation (its position in the list) and a device resource whose content it is the
/// last to use before that is overwritten or the list ends; sorted by position. Content read by
/// several lanes is left out, since the last reader in the list need not be the last in time.
pub fn retired(list: &List, geometry: &Geometry) -> Vec<(usize, Resource)> {
    let mut lives: HashMap<Resource, Life> = HashMap::new();
    let mut retired = Vec::new();
    let mut end = |resource: Resource, life: Life| {
        if life.one_reader {
            retired.push((life.last, resource));
        }
    };
    for (index, operation) in list.operations.iter().enumerate() {
        let lane = operation.lane();
        operation.visit(geometry, list.extent, &mut |access| {
            let resource = access.resource;
            if resource.is_on_host() {
                return;
            }
            let before = lives.get(&resource).copied();
            if let Some(life) = before.filter(|_| access.needs.is_none()) {
                end(resource, life);
            }
            let by_one_lane = |life: Life| life.one_reader && (life.wrote || life.lane == lane);
            let one_reader = access.writes() || before.is_none_or(by_one_lane);
            lives.insert(resource, Life { last: index, lane, wrote: access.writes(), one_reader });
        });
    }
    lives.into_iter().for_each(|(resource, life)| end(resource, life));
    retired.sort_by_key(|&(index, _)| index);
    retired
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{DType, MicroIndex, MicroSlotIndex, Shape, SlabIndex, SlotIndex, SpillIndex};
    use crate::schedule::{
        Access, Boundary, LayerPlacement, Mode, Numeric, Operation, Placement, Policy, train,
    };

    #[test]
    fn content_is_retired_by_its_last_user_before_it_is_overwritten() {
        let geometry = Geometry { layers: 3, tied: false, embedding_chunks: 1, head_chunks: 1 };
        let spilled = LayerPlacement { boundary: Boundary::Spilled, ..LayerPlacement::default() };
        let policy = Policy {
            mode: Mode::Exact,
            numeric: Numeric { shape: Shape { b: 1, t: 8 }, logits_chunk: 8, grad_dtype: DType::Bf16 },
            placement: Placement { layers: vec![spilled; 3], ..Placement::default() },
        };
        let list = train(&policy, &geometry, 1).unwrap();
        let retired = retired(&list, &geometry);
        let by = |resource: Resource| -> Vec<String> {
            let of = |(index, other): &(usize, Resource)| {
                (*other == resource).then(|| list.operations[*index].to_string())
            };
            retired.iter().filter_map(of).collect()
        };
        assert_eq!(
            by(Resource::Slot(SlotIndex(0))),
            [
                "forward unit 1 in slot 0, micro 0",
                "recompute backward unit 3 in slot 0, micro 0",
                "recompute backward unit 1 in slot 0, micro 0",
            ]
        );
        assert_eq!(
            by(Resource::Slab(SlabIndex(1))),
            ["download unit 3 chunk 0: slab 1 → store", "download unit 1 chunk 0: slab 1 → store"]
        );
        // The first layer's boundary is read by two lanes before it is overwritten, and by one after it is
        // fetched.
        let spill = Resource::SpillBuffer { spill: SpillIndex(0), micro_slot: MicroSlotIndex(0) };
        assert_eq!(
            by(spill),
            ["recompute backward unit 3 in slot 0, micro 0", "recompute backward unit 1 in slot 0, micro 0"]
        );
        assert!(by(Resource::HostBatch { micro: MicroIndex(0) }).is_empty());
        let scratch = |operation: &Operation| {
            let mut uses = false;
            let mut note = |access: Access| uses |= access.resource == Resource::Scratch;
            operation.visit(&geometry, list.extent, &mut note);
            uses
        };
        let users = list.operations.iter().filter(|operation| scratch(operation)).count();
        assert_eq!(
            by(Resource::Scratch).len(),
            users,
            "no content of the scratch memory outlives its operation"
        );
    }
}
