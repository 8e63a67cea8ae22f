//! The names of tensors in files: those of the model, their other spellings, and names that do not
//! belong to a decoder.

use std::collections::BTreeSet;

/// Modules around the model when it was saved, without influence on its values: the beginning of a
/// name, and the origin.
const WRAPPERS: [(&str, &str); 12] = [
    ("_orig_mod.", "torch.compile"),
    ("_fsdp_wrapped_module.", "FSDP"),
    ("_checkpoint_wrapped_module.", "activation checkpointing"),
    ("_forward_module.", "Lightning"),
    ("module.", "DataParallel"),
    ("base_model.model.", "PEFT"),
    ("base_model.", "PEFT"),
    ("pretrained_model.", "TRL"),
    ("policy.", "a policy of RLHF"),
    ("actor.", "a policy of RLHF"),
    ("language_model.", "a multimodal model"),
    ("model.language_model.", "a multimodal model"),
];

/// Modules around parts of the model, anywhere in a name.
const INNER_WRAPPERS: [(&str, &str); 3] = [
    ("_orig_mod.", "torch.compile"),
    ("_fsdp_wrapped_module.", "FSDP"),
    ("_checkpoint_wrapped_module.", "activation checkpointing"),
];

/// Tensors that are left out: the end of the name (for a module, its beginning), and the reason.
const LEFT_OUT: [(&str, &str); 7] = [
    ("_extra_state", "state of TransformerEngine"),
    ("rotary_emb.inv_freq", "rotary frequencies are computed from config.json"),
    ("rotary_emb.cos_cached", "rotary frequencies are computed from config.json"),
    ("rotary_emb.sin_cached", "rotary frequencies are computed from config.json"),
    ("masked_bias", "a constant of attention"),
    ("v_head.", "part of a value head; an export has none"),
    ("score.weight", "the head of a classifier; an export has none"),
];

/// Marks of LoRA in names.
const LORA: [&str; 6] =
    [".lora_A", ".lora_B", ".lora_embedding_", ".lora_magnitude_vector", ".base_layer.", ".modules_to_save."];

/// Endings of the tensors of quantized weights.
const QUANTIZED: [&str; 14] = [
    ".qweight",
    ".qzeros",
    ".scales",
    ".g_idx",
    ".weight_packed",
    ".weight_scale",
    ".weight_scale_inv",
    ".weight_zero_point",
    ".weight_shape",
    ".absmax",
    ".quant_map",
    ".SCB",
    ".biases",
    ".input_scale",
];

/// Translates names of files to those of a model.
pub struct Names<F: Fn(&str) -> bool> {
    /// True for the names of the model.
    is_known: F,
    /// Other spellings that were found.
    notes: BTreeSet<String>,
}

impl<F: Fn(&str) -> bool> Names<F> {
    pub fn new(is_known: F) -> Names<F> {
        Names { is_known, notes: BTreeSet::new() }
    }

    /// Returns the model's name of a tensor, or the name without wrappers if the model has no such
    /// tensor. As in transformers, a `model.` may be missing or be there once more.
    pub fn clean(&mut self, name: &str) -> String {
        if (self.is_known)(name) {
            return name.to_owned();
        }
        let (clean, mut notes) = unwrapped(name);
        let longer = format!("model.{clean}");
        let spellings = [
            (&clean[..], None),
            (clean.strip_prefix("model.").unwrap_or(""), Some("`model.` in front of names is left out")),
            (&longer, Some("names without `model.` are read as those with it")),
        ];
        let Some((known, note)) = spellings.into_iter().find(|(name, _)| (self.is_known)(name)) else {
            return clean;
        };
        if notes.is_empty() {
            notes.extend(note.map(str::to_owned));
        }
        self.notes.extend(notes);
        known.to_owned()
    }

    /// Remarks about other spellings, one of each kind.
    pub fn into_notes(self) -> impl Iterator<Item = String> {
        self.notes.into_iter()
    }
}

/// Returns a name without its wrappers, and a remark about each of them.
fn unwrapped(name: &str) -> (String, Vec<String>) {
    let (mut clean, mut notes) = (name.to_owned(), Vec::new());
    let mut note = |wrapper, origin| {
        notes.push(format!("`{wrapper}` in names of tensors is left out (saved from {origin})"));
    };
    for (wrapper, origin) in INNER_WRAPPERS {
        let inner = format!(".{wrapper}");
        if clean.contains(&inner) {
            clean = clean.replace(&inner, ".");
            note(wrapper, origin);
        }
    }
    while let Some((wrapper, origin)) = WRAPPERS.iter().find(|(wrapper, _)| clean.starts_with(wrapper)) {
        clean.drain(..wrapper.len());
        note(wrapper, origin);
    }
    (clean, notes)
}

/// Returns mark and reason of a tensor that is left out, by its clean name.
pub fn left_out(name: &str) -> Option<(&'static str, &'static str)> {
    LEFT_OUT.into_iter().find(|(mark, _)| match name.strip_suffix(mark) {
        Some(module) => module.is_empty() || module.ends_with('.'),
        None => mark.ends_with('.') && name.starts_with(mark),
    })
}

/// Returns true for a tensor of LoRA.
pub fn is_lora(name: &str) -> bool {
    LORA.iter().any(|mark| name.contains(mark))
}

/// Returns true for a tensor of quantized weights.
pub fn is_quantized(name: &str) -> bool {
    QUANTIZED.iter().any(|ending| name.ends_with(ending)) || name.contains(".quant_state.")
}

/// Returns the number of a decoder layer in a clean name.
pub fn layer(name: &str) -> Option<usize> {
    name.strip_prefix("model.").unwrap_or(name).strip_prefix("layers.")?.split('.').next()?.parse().ok()
}
