//! The embedding against its f64 reference.

use horizon::ops::{EmbeddingBackward, EmbeddingForward};
use support::reference::compare::{close, gradient_of, inner};
use support::reference::device::{Device, Expected};
use support::reference::memory::Memory;
use support::reference::rows::{SortedTokens, TokenRows};
use support::reference::{Random, SIZES, embed, wide};
use support::spans;

const V: usize = 23;

fn backward(
    device: &Device,
    tokens: &[i32],
    dout: &[f32],
    before: &[f32],
    (scale, c): (f32, usize),
) -> Vec<f32> {
    let (sorted, dout) = (SortedTokens::new(device, tokens), device.activations(dout));
    let (n, v, dout_span) = (tokens.len(), before.len() / c, dout.span());
    let TokenRows { tokens, order, first, distinct } = sorted.rows();
    let results = device.run(|k| {
        let dtable = device.f32s(before);
        let (at, dout) = (dtable.span(), dout_span);
        spans::run(
            k,
            &EmbeddingBackward { dtable: at, dout, tokens, order, first, scale, distinct, n, c, v }.into(),
        );
        vec![dtable]
    });
    results[0].read_f32()
}

#[test]
fn forward_and_backward_agree() {
    for device in Device::all() {
        let mut random = Random::new(12);
        let sizes = SIZES.iter().filter(|(_, c, _)| device.takes_columns(*c));
        for (&(n, c, reason), scale) in sizes.flat_map(|size| [1.0, 55.5].map(|scale| (size, scale))) {
            let (table, before) = (random.bf16s(V * c, 1.0), random.f32s(V * c, 1.0));
            let dout = device.stored(random.f32s(n * c, 1.0));
            // Fewer tokens than rows, so that gradients of a token add up.
            let tokens: Vec<i32> = (0..n).map(|_| random.below(V) as i32).collect();
            let (table_memory, tokens_memory) = (device.bf16s(&table), device.i32s(&tokens));
            let results = device.run(|k| {
                let out = device.poisoned_activations(n * c);
                let (table, tokens) = (table_memory.span(), tokens_memory.span());
                spans::run(k, &EmbeddingForward { out: out.span(), table, tokens, scale, n, c, v: V }.into());
                vec![out]
            });
            let table64 = wide(&table);
            let scaled = |table: &[f64]| -> Vec<f64> {
                embed(table, &tokens, c).iter().map(|x| f64::from(scale) * x).collect()
            };
            let truth = scaled(&table64);
            if scale == 1.0 {
                close(reason, &device.read(&results[0]), &truth, 0.0, 0.0);
            }
            // In f32 nothing is rounded.
            let expected = Expected { truth: &truth, naive: None, width: c, factor: 1.0, f32: (0.0, 0.0) };
            device.agrees(reason, &results[0], expected);
            let dtable = backward(&device, &tokens, &dout, &before, (scale, c));
            if device.is_cpu() {
                // The previous contents are the gradient of Σ before · table.
                gradient_of(reason, &dtable, &table64, 40, &mut random, |table| {
                    inner(&scaled(table), &dout) + inner(table, &before)
                });
            } else {
                let cpu = backward(&Device::Cpu, &tokens, &dout, &before, (scale, c));
                close(reason, &dtable, &wide(&cpu), 1e-6, 1e-6);
            }
        }
    }
}

#[test]
fn gradients_of_a_token_add_up_in_row_order() {
    // In f32 the order matters: (1 + 2⁻²⁴) + 2⁻²⁴ = 1, but 1 + (2⁻²⁴ + 2⁻²⁴) > 1.
    let tiny = 2f32.powi(-24);
    assert_eq!(backward(&Device::Cpu, &[0, 0, 0], &[1.0, tiny, tiny], &[0.0], (1.0, 1)), [1.0]);
}

#[test]
#[should_panic(expected = "token 23 is outside an embedding of 23 rows")]
fn a_token_beyond_the_table_is_refused() {
    let memory = [Memory::bf16s(&[0.0; V]), Memory::i32s(&[23]), Memory::poisoned(4)];
    let [table, tokens, out] = memory.each_ref().map(Memory::span);
    let pool = horizon::host::Pool::new(1).expect("a pool");
    let k = horizon::ops::cpu::CpuKernels::new(std::sync::Arc::new(pool));
    spans::run(&k, &EmbeddingForward { out, table, tokens, scale: 1.0, n: 1, c: 1, v: V }.into());
}
