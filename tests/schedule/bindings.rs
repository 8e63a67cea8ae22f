//! Every operand of a pass is in a resource that the operation declares, with the access that the
//! pass needs.

use std::collections::{HashMap, HashSet};

use horizon::base::{DType, Dims, Shape};
use horizon::model::{Base, External, Layout, ModelConfig, Norms, Passes, Sizes};
use horizon::ops::{Access as Use, NormSpan};
use horizon::schedule::{Access, Geometry, List, Resource};
use proptest::prelude::*;

use crate::cases::{any_case, cases};

/// The passes of a small model of this geometry.
fn passes(geometry: &Geometry) -> Passes {
    let dims = Dims { c: 8, h: 2, g: 1, d: 4, f: 6, v: 11, l: geometry.layers };
    let norms = [Norms::Before, Norms::After, Norms::Around][geometry.layers % 3];
    let qk_norm = Some(NormSpan::Head);
    let config = ModelConfig { tied: geometry.tied, norms, qk_norm, ..ModelConfig::llama(dims) };
    let sizes = Sizes { shape: Shape { b: 1, t: 8 }, logits_chunk: 3, activation_dtype: DType::F32 };
    Passes::new(&config, &Layout::new(&config), sizes)
}

/// Returns the number of passes checked.
fn every_operand_is_declared(list: &List, geometry: &Geometry, passes: &Passes) -> usize {
    let mut found = 0;
    for operation in &list.operations {
        let Some(pass) = operation.pass() else { continue };
        found += 1;
        let mut declared: HashMap<Resource, Access> = HashMap::new();
        operation.visit(geometry, list.extent, &mut |access| {
            declared.insert(access.resource, access);
        });
        let mut written = HashSet::new();
        for op in &passes.get(pass).ops {
            let name = op.contract().name();
            op.contract().each_operand(&mut |operand| {
                let what = operand.name;
                let Some(resource) = operation.bind(operand.at.base, geometry, list.extent) else {
                    assert_eq!(
                        operand.at.base,
                        Base::External(External::InvFreq),
                        "{operation}: {name}, {what}"
                    );
                    assert_eq!(operand.access, Use::Read, "{operation}: {name} changes {what}");
                    return;
                };
                let access = declared.get(&resource);
                let access = access.unwrap_or_else(|| {
                    panic!(
                        "{operation}: {name} has {what} in {resource}, which the operation does not declare"
                    )
                });
                if operand.access != Use::Set && !written.contains(&resource) {
                    assert!(access.needs.is_some(), "{operation}: {name} reads {what} in {resource}");
                }
                if operand.access != Use::Read {
                    assert!(access.writes(), "{operation}: {name} writes {what} in {resource}");
                    written.insert(resource);
                }
            });
        }
    }
    found
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn every_operand_of_every_pass_is_in_a_declared_resource(case in any_case()) {
        let passes = passes(&case.geometry);
        for list in case.lists() {
            let found = every_operand_is_declared(&list, &case.geometry, &passes);
            prop_assert!(found > 0 || list.extent.micros == 0, "the list has no pass");
        }
    }
}
