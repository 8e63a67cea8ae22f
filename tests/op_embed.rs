//! The embedding against its f64 reference.

mod reference;

use horizon::ops::Kernels;
use reference::compare::{close, gradient_of, inner};
use reference::memory::{Memory, on_any_threads};
use reference::rows::SortedTokens;
use reference::{Random, SIZES, embed, wide};

#[test]
fn forward_and_backward_agree() {
    let mut random = Random::new(12);
    let v = 23;
    for &(n, c, reason) in SIZES {
        let (table, dout, before) =
            (random.bf16s(v * c, 1.0), random.f32s(n * c, 1.0), random.f32s(v * c, 1.0));
        // Fewer tokens than rows: gradients of a token add up.
        let tokens: Vec<i32> = (0..n).map(|_| random.below(v) as i32).collect();
        let (table_memory, sorted, dout_memory) =
            (Memory::bf16s(&table), SortedTokens::new(&tokens), Memory::f32s(&dout));
        let rows = sorted.rows();
        let results = on_any_threads(|k| {
            let (out, dtable) = (Memory::painted(n * c * 4), Memory::f32s(&before));
            k.embed_forward(out.span(), table_memory.span(), rows.tokens, n, c, v);
            k.embed_backward(dtable.span(), dout_memory.span(), &rows, n, c, v);
            vec![out, dtable]
        });
        let table64 = wide(&table);
        close(reason, &results[0].read_f32(), &embed(&table64, &tokens, c), 0.0, 0.0);
        // What stood there before is the gradient of Σ before · table.
        gradient_of(reason, &results[1].read_f32(), &table64, 40, &mut random, |table| {
            inner(&embed(table, &tokens, c), &dout) + inner(table, &before)
        });
    }
}

#[test]
fn gradients_of_a_token_add_up_in_row_order() {
    // In f32 these depend on their order: (1 + 2⁻²⁴) + 2⁻²⁴ = 1, 1 + (2⁻²⁴ + 2⁻²⁴) > 1.
    let tiny = 2f32.powi(-24);
    let (sorted, dout) = (SortedTokens::new(&[0, 0, 0]), Memory::f32s(&[1.0, tiny, tiny]));
    let results = on_any_threads(|k| {
        let dtable = Memory::f32s(&[0.0]);
        k.embed_backward(dtable.span(), dout.span(), &sorted.rows(), 3, 1, 1);
        vec![dtable]
    });
    assert_eq!(results[0].read_f32(), [1.0]);
}

#[test]
#[should_panic(expected = "token 23 has no row")]
fn a_token_beyond_the_table_is_refused() {
    let (table, tokens, out) = (Memory::bf16s(&[0.0; 23]), Memory::i32s(&[23]), Memory::painted(4));
    let pool = horizon::host::Pool::new(1).expect("a pool");
    let k = horizon::ops::cpu::CpuKernels::new(std::sync::Arc::new(pool));
    k.embed_forward(out.span(), table.span(), tokens.span(), 1, 1, 23);
}
