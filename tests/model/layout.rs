//! The layout: runs and norm blocks, and the chunks in which gradients are downloaded.

use horizon::base::{ChunkIndex, Dims};
use horizon::model::{Layout, ModelConfig, Run};
use horizon::ops::{NORM_BLOCK, NormSpan};

/// Layers shorter than a norm block, longer, and much longer than embedding and head.
fn layouts() -> Vec<Layout> {
    let dims = Dims { c: 24, h: 4, g: 2, d: 6, f: 40, v: 67, l: 2 };
    let sizes = [
        dims,
        Dims { v: 6007, ..dims },
        Dims { c: 64, h: 4, g: 2, d: 16, f: 419, v: 5003, l: 2 },
        Dims { c: 128, h: 4, g: 4, d: 33, f: 501, v: 2048, l: 1 },
        Dims { c: 896, h: 14, g: 2, d: 64, f: 4864, v: 151_936, l: 24 },
        Dims { c: 16384, h: 128, g: 8, d: 128, f: 53248, v: 128_256, l: 3 },
    ];
    let configs = sizes.into_iter().flat_map(|dims| {
        let mut all = vec![ModelConfig::llama(dims); 4];
        for (number, config) in all.iter_mut().enumerate() {
            config.tied = number % 2 == 1;
            config.qk_norm = (number / 2 == 1).then_some(NormSpan::Head);
            config.biases.qkv = number / 2 == 1;
            config.biases.mlp = number / 2 == 1;
        }
        all
    });
    configs.map(|config| Layout::new(&config)).collect()
}

#[test]
fn runs_are_adjacent_tensors_with_their_padding() {
    for layout in layouts() {
        for unit in &layout.units {
            let runs: Vec<Run> = unit.runs().collect();
            assert_eq!(runs.len(), unit.tensors.len());
            let (mut element, mut block) = (0, 0);
            for (run, tensor) in runs.iter().zip(&unit.tensors) {
                assert_eq!((run.elements.start, run.blocks.start), (element, block), "{}", tensor.name);
                assert_eq!(run.elements.start, tensor.offset, "{}", tensor.name);
                assert!(run.elements.len() >= tensor.elements(), "{}", tensor.name);
                assert_eq!(run.blocks.len(), run.elements.len().div_ceil(NORM_BLOCK), "{}", tensor.name);
                (element, block) = (run.elements.end, run.blocks.end);
            }
            assert_eq!((element, block), (unit.elements, unit.norm_blocks()));
        }
    }
}

#[test]
fn chunks_end_at_norm_blocks_and_fit_a_slab() {
    let mut most_chunks = 0;
    for layout in layouts() {
        let slab = layout.slab_elements();
        for unit in layout.indices() {
            let (mut element, mut block) = (0, 0);
            for chunk in (0..layout.chunks(unit)).map(ChunkIndex::from) {
                let elements = layout.chunk(unit, chunk);
                assert_eq!(elements.start, element);
                assert!(!elements.is_empty() && elements.len() <= slab);
                for run in layout.chunk_runs(unit, chunk) {
                    let whole =
                        layout.unit(unit).runs().find(|whole| whole.elements.contains(&run.elements.start));
                    let whole = whole.expect("each part is within a run");
                    assert_eq!((run.elements.start, run.blocks.start), (element, block));
                    assert!((run.elements.start - whole.elements.start).is_multiple_of(NORM_BLOCK));
                    assert!(run.elements.end <= whole.elements.end && run.blocks.end <= whole.blocks.end);
                    assert_eq!(run.blocks.len(), run.elements.len().div_ceil(NORM_BLOCK));
                    (element, block) = (run.elements.end, run.blocks.end);
                }
                assert_eq!(element, elements.end);
            }
            assert_eq!((element, block), (layout.unit(unit).elements, layout.unit(unit).norm_blocks()));
            most_chunks = most_chunks.max(layout.chunks(unit));
        }
        for layer in 0..layout.layers() {
            assert_eq!(layout.chunks(layout.layer(layer)), 1);
        }
        // A slab is longer than a layer only if layers are shorter than a block.
        assert!(slab == layout.layer_elements() || slab <= NORM_BLOCK);
    }
    assert!(most_chunks > 5, "no unit has more than five chunks");
}
