//! The uses of memory in a plan, explained.

/// Region names of plans, and their contents.
const USES: [(&str, &str); 28] = [
    ("weight slots", "bf16 weights of the layers in use, and of resident layers"),
    ("end weights", "bf16 weights of embedding and head"),
    ("end gradients (f32)", "gradient accumulators of embedding and head"),
    ("layer gradient (f32)", "gradient accumulator, shared by the layers"),
    ("gradient rooms (f32)", "buffers for gradient accumulators kept in host RAM"),
    ("layer gradients (f32)", "gradient accumulators that stay on the device"),
    ("gradient slabs", "staging buffers for gradient downloads"),
    ("scratch", "activations of the layer being computed"),
    ("loss", "sum of the losses of a step"),
    ("gradient norms", "sums of squares, for clipping"),
    ("logits row", "logits of one token, for sampling"),
    ("log-probabilities", "of the targets, for losses of the caller"),
    ("constants", "RoPE frequencies"),
    ("kernels' workspace", "temporary memory of kernels and cuBLASLt"),
    ("batches", "tokens, targets, positions and loss masks"),
    ("boundaries", "layer inputs (activation checkpoints) on the device"),
    ("boundary rooms", "buffers for layer inputs offloaded to host RAM"),
    ("kept activations", "activations that backward does not recompute"),
    ("streams", "residual stream of each micro-batch"),
    ("weights (bf16)", "the model, as it is uploaded"),
    ("gradients", "accumulated and rounded, for AdamW"),
    ("residuals (i16)", "extend the weights to f32 master weights"),
    ("moments (f32)", "AdamW state"),
    ("moments (bf16)", "AdamW state"),
    ("gradient ring", "ring buffer between downloads and AdamW"),
    ("gathered embedding rows", "rows of the embedding used in a step"),
    ("spilled boundaries", "layer inputs (activation checkpoints) offloaded to host RAM"),
    ("gradient sums (f32)", "gradient accumulators between sweeps"),
];

/// Appends its use to each region of a printed plan.
pub fn with_uses(text: &str) -> String {
    text.lines()
        .map(|line| match USES.iter().find(|(name, _)| line.starts_with(&format!("  {name:<26} "))) {
            Some((_, contents)) => format!("{line}  {contents}\n"),
            None => format!("{line}\n"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use horizon::engine::{Trainer, TrainerOptions};
    use horizon::model::preset;
    use horizon::schedule::Mode;

    use super::*;

    #[test]
    fn every_region_has_a_use() {
        let config = preset("tiny").unwrap();
        for (mode, clip) in [(Mode::Exact, 1.0), (Mode::Compact, 1.0), (Mode::Streamed, 0.0)] {
            let options = TrainerOptions { mode, clip, ..TrainerOptions::default() };
            let plan = Trainer::plan_for(&config, &options).unwrap();
            for region in plan.device.regions().iter().chain(&plan.host.regions()) {
                assert!(USES.iter().any(|(name, _)| *name == region.name), "{} has no use", region.name);
            }
            let printed = plan.to_string();
            let explained = with_uses(&printed);
            for (line, before) in
                explained.lines().zip(printed.lines()).filter(|(_, line)| line.starts_with("  "))
            {
                assert!(line.len() > before.len() + 2, "{line}");
            }
        }
    }
}
