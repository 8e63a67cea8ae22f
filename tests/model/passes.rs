//! The passes of a model: their GEMMs and their memory.

use horizon::base::{DType, Dims, Shape};
use horizon::model::{HeadTask, Layout, ModelConfig, Norms, PassId, Passes, Recompute, Sizes};
use horizon::ops::cuda::gemm::{Direction, Gemm};
use horizon::ops::{Linear, NormSpan, Write};

/// Models with every kind of linear layer; shapes of micro-batches; and sizes of logits chunks: the
/// number of rows, divisors of it, and others.
fn cases() -> Vec<(ModelConfig, Shape, usize)> {
    let dims = Dims { c: 20, h: 4, g: 2, d: 6, f: 27, v: 37, l: 3 };
    let shapes = [(2, 9, 7), (2, 9, 9), (1, 13, 50), (1, 1, 1), (3, 5, 1)];
    let configs = (0..16).map(|number| {
        let mut config = ModelConfig { tied: number & 1 > 0, ..ModelConfig::llama(dims) };
        config.qk_norm = (number & 2 > 0).then_some(NormSpan::Head);
        config.biases.qkv = number & 4 > 0;
        (config.biases.o, config.biases.mlp) = (number & 8 > 0, number & 8 > 0);
        config.norms = [Norms::Before, Norms::After, Norms::Around][number % 3];
        config
    });
    configs.flat_map(|config| shapes.map(|(b, t, chunk)| (config.clone(), Shape { b, t }, chunk))).collect()
}

fn passes(config: &ModelConfig, shape: Shape, logits_chunk: usize) -> Passes {
    Passes::new(config, &Layout::new(config), Sizes { shape, logits_chunk, activation_dtype: DType::Bf16 })
}

/// All GEMMs of forward, backward, evaluation and the logits of one row, derived from the linear
/// layers of a decoder.
fn expected_gemms(config: &ModelConfig, shape: Shape, chunk: usize) -> Vec<Gemm> {
    let (dims, biases) = (&config.dims, config.biases);
    let (n, chunk) = (shape.n(), chunk.clamp(1, shape.n()));
    let qkv = Linear::dense(n, dims.c, dims.qkv());
    let o = Linear::dense(n, dims.attention_width(), dims.c);
    let gate_up = Linear::dense(n, dims.c, 2 * dims.f);
    let down = Linear::dense(n, dims.f, dims.c);
    let head = |rows| Linear { n: rows, k: dims.c, m: dims.v, out_stride: dims.logits_stride() };
    // Layers that add to the residual stream have a residual, unless a norm is in between.
    let is_added = config.norms == Norms::Before;
    let mut gemms = vec![
        Gemm::forward(false, biases.qkv, qkv),
        Gemm::forward(is_added, biases.o, o),
        Gemm::forward(false, biases.mlp, gate_up),
        Gemm::forward(is_added, biases.mlp, down),
        Gemm::forward(false, false, head(1)),
    ];
    let head_rows = [chunk, n % chunk].into_iter().filter(|&rows| rows > 0).map(head);
    gemms.extend(head_rows.clone().map(|linear| Gemm::forward(false, false, linear)));
    for linear in [qkv, o, gate_up, down].into_iter().chain(head_rows) {
        // Without a norm in front, the gradient of the input is added to that of the residual stream.
        let is_first = linear == qkv || linear == gate_up;
        let write = if is_first && config.norms == Norms::After { Write::Add } else { Write::Set };
        gemms.push(Gemm::of(Direction::BackwardInput, write, linear));
        gemms.push(Gemm::of(Direction::BackwardWeight, Write::Add, linear));
        // In the head, only the first chunk may set the gradient.
        if linear.n == n || linear.n == chunk {
            gemms.push(Gemm::of(Direction::BackwardWeight, Write::Set, linear));
        }
    }
    gemms.sort_unstable();
    gemms.dedup();
    gemms
}

#[test]
fn gemms_are_those_of_the_linear_layers() {
    for (config, shape, chunk) in cases() {
        let found = passes(&config, shape, chunk).gemms();
        assert_eq!(found, expected_gemms(&config, shape, chunk), "{config:?}, {shape:?}, chunks of {chunk}");
    }
}

/// Also checks that passes are numbered from 0 without gaps.
#[test]
fn scratch_is_the_maximum_of_all_passes_and_less_recomputation_saves_more() {
    for (config, shape, chunk) in cases() {
        let (passes, layout) = (passes(&config, shape, chunk), Layout::new(&config));
        let mut ids = vec![PassId::EmbeddingForward];
        for write in [Write::Set, Write::Add] {
            ids.push(PassId::EmbeddingBackward(write));
            ids.extend(HeadTask::ALL.map(|task| PassId::Head(task, write)));
            for recompute in Recompute::ALL {
                ids.push(PassId::Backward(layout.layer(0), recompute, write));
            }
        }
        ids.extend(Recompute::ALL.map(|recompute| PassId::Forward(layout.layer(0), recompute)));
        let mut numbers: Vec<usize> = ids.iter().map(|id| passes.number(*id)).collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..passes.all().len()));
        let scratch = ids.iter().map(|id| passes.get(*id).scratch_bytes).max();
        assert_eq!(passes.scratch_bytes(), scratch.unwrap());
        for unit in layout.layer_units() {
            assert_eq!(passes.saved_bytes(unit, Recompute::Full), 0);
            let saved = Recompute::ALL.map(|recompute| passes.saved_bytes(unit, recompute));
            assert!(saved.is_sorted_by(|less, more| less < more), "{saved:?}");
        }
    }
}
