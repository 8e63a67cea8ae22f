//! The tensors of a family's weight files: names that differ from the library's, and tensors that
//! are stored as one.
//!
//! Everywhere else names are the library's ([`TensorLayout::name`]).

use std::iter;
use std::ops::Range;

use crate::model::{Layout, TensorLayout};

/// The differences between a family's weight files and the layout. All are in the decoder layers: a
/// name is given without `model.layers.N.`.
#[derive(Debug, PartialEq, Eq)]
pub struct TensorNames {
    /// A tensor's name in the library, and in the files.
    renamed: &'static [(&'static str, &'static str)],
    /// The name of a matrix in the files, and the names in the library of the matrices whose rows it
    /// has. These are adjacent in the layout, in the same order.
    fused: &'static [(&'static str, &'static [&'static str])],
}

/// The query, key and value projections as one matrix.
const QKV: (&str, &[&str]) = (
    "self_attn.qkv_proj.weight",
    &["self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"],
);

/// The two input projections of the MLP as one matrix.
const GATE_UP: (&str, &[&str]) = ("mlp.gate_up_proj.weight", &["mlp.gate_proj.weight", "mlp.up_proj.weight"]);

impl TensorNames {
    /// Llama's names, which are the library's.
    pub const LLAMA: TensorNames = TensorNames { renamed: &[], fused: &[] };
    /// Names of Phi-3 and Phi-4.
    pub const PHI3: TensorNames = TensorNames { renamed: &[], fused: &[QKV, GATE_UP] };
    /// Names of GLM.
    pub const GLM: TensorNames = TensorNames { renamed: &[], fused: &[GATE_UP] };
    /// Names of GLM-4. Its `post_attention_layernorm` is before the MLP, as Llama's.
    pub const GLM4: TensorNames = TensorNames {
        renamed: &[
            ("post_attention_layernorm.weight", "post_self_attn_layernorm.weight"),
            ("pre_feedforward_layernorm.weight", "post_attention_layernorm.weight"),
            ("post_feedforward_layernorm.weight", "post_mlp_layernorm.weight"),
        ],
        fused: &[GATE_UP],
    };

    /// Returns the tensors of the files, in the layout's order.
    pub fn stored(&self, layout: &Layout) -> Vec<StoredTensor> {
        let mut rest = layout.tensors().map(|(_, tensor)| tensor).enumerate();
        let mut stored = Vec::new();
        while let Some((first, tensor)) = rest.next() {
            let (layer, end) = split(&tensor.name);
            let fused = self.fused.iter().find(|(_, parts)| parts[0] == end);
            let renamed = self.renamed.iter().find(|(name, _)| *name == end);
            let mut whole = StoredTensor::of(first, tensor);
            if let Some((name, parts)) = fused {
                whole.name = format!("{layer}{name}");
                for part in &parts[1..] {
                    let (_, tensor) = rest.next().expect("the parts are adjacent");
                    assert_eq!(split(&tensor.name), (layer, *part), "the parts are adjacent");
                    whole.append(tensor);
                }
            } else if let Some((_, name)) = renamed {
                whole.name = format!("{layer}{name}");
            }
            stored.push(whole);
        }
        stored
    }
}

/// Splits the name of a layer's tensor into `model.layers.N.` and its end. The end is empty for
/// tensors of embedding and head.
fn split(name: &str) -> (&str, &str) {
    name.split_at(name.len() - name.splitn(4, '.').nth(3).map_or(0, str::len))
}

/// A tensor of a family's weight files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    /// Name in the files.
    pub name: String,
    /// Shape in the files.
    pub shape: Vec<usize>,
    /// Index of its first tensor in the layout's order.
    pub first: usize,
    /// The elements of each tensor of the layout that it has, from `first` on.
    pub parts: Vec<Range<usize>>,
}

impl StoredTensor {
    /// A tensor of the layout, at `index` in its order, by its own name.
    pub fn of(index: usize, tensor: &TensorLayout) -> StoredTensor {
        let (name, shape, elements) = (tensor.name.clone(), tensor.shape.clone(), tensor.elements());
        StoredTensor { name, shape, first: index, parts: iter::once(0..elements).collect() }
    }

    /// Appends the rows of the next tensor of the layout.
    fn append(&mut self, tensor: &TensorLayout) {
        let start = self.elements();
        self.parts.push(start..start + tensor.elements());
        self.shape[0] += tensor.shape[0];
    }

    /// Elements of the tensor.
    pub fn elements(&self) -> usize {
        self.parts.last().map_or(0, |last| last.end)
    }

    /// Each tensor of the layout that it has: index in the layout's order, and its elements here.
    pub fn tensors(&self) -> impl Iterator<Item = (usize, Range<usize>)> + '_ {
        (self.first..).zip(self.parts.iter().cloned())
    }
}

/// Replaces each tensor of several parts that is not there by these, if all of them are there under their names in
/// the layout. Returns a remark if there are any.
pub fn or_separate(
    stored: Vec<StoredTensor>,
    layout: &Layout,
    is_there: impl Fn(&str) -> bool,
) -> (Vec<StoredTensor>, Option<String>) {
    let single: Vec<StoredTensor> =
        layout.tensors().enumerate().map(|(index, (_, tensor))| StoredTensor::of(index, tensor)).collect();
    let (mut all, mut note) = (Vec::new(), None);
    for whole in stored {
        let parts = &single[whole.first..][..whole.parts.len()];
        // The name of a renamed tensor in the layout may be another tensor's in the files.
        if parts.len() == 1 || is_there(&whole.name) || !parts.iter().all(|part| is_there(&part.name)) {
            all.push(whole);
            continue;
        }
        note.get_or_insert_with(|| {
            let names: Vec<_> = parts.iter().map(|part| &part.name[..]).collect();
            format!("{} is read from {}; exports have one tensor", whole.name, names.join(", "))
        });
        all.extend_from_slice(parts);
    }
    (all, note)
}
