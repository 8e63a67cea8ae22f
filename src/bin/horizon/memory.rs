//! The uses of memory in a plan, explained.

/// Region names of plans, and their contents.
const USES: [(&str, &str); 28] = [
    ("weight slots", "bf16 weights of the layers in use, and of resident layers"),
    ("embedding and head weights", "bf16"),
    ("embedding and head gradients (f32)", "gradient accumulators"),
    ("layer gradient (f32)", "gradient accumulator, shared by the layers"),
    ("accumulator spill buffers (f32)", "for gradient accumulators in host RAM"),
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
    ("boundary spill buffers", "for layer inputs offloaded to host RAM"),
    ("saved activations", "not recomputed by the backward pass"),
    ("residual stream", "of each micro-batch"),
    ("weights (bf16)", "the model, as it is uploaded"),
    ("gradients", "accumulated and rounded, for AdamW"),
    ("residuals (i16)", "extend the weights to f32 master weights"),
    ("moments (f32)", "AdamW state"),
    ("moments (bf16)", "AdamW state"),
    ("gradient ring", "ring buffer between downloads and AdamW"),
    ("gathered embedding rows", "rows of the embedding used in a step"),
    ("spilled boundaries", "layer inputs (activation checkpoints) offloaded to host RAM"),
    ("gradient accumulators (f32)", "between sweeps"),
];

/// Appends its use to each region of a printed plan.
pub fn with_uses(text: &str) -> String {
    let explained = |line: &str| {
        let name = line.strip_prefix("  ")?.split("  ").next()?;
        let (_, contents) = USES.iter().find(|(known, _)| *known == name)?;
        Some(format!("{line}  {contents}\n"))
    };
    text.lines().map(|line| explained(line).unwrap_or_else(|| format!("{line}\n"))).collect()
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
                assert!(line.len() > before.len() + 4, "{line}");
            }
        }
    }
}
