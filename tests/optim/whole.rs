//! Whole masters: what they become is what split ones become.

use horizon::base::DType;
use horizon::host::{Arena, HostSpan, MemoryKind, Pool};
use horizon::ops::adam::{AdamOptions, AdamScalars, WholeSpans, update, update_whole, update_whole_with};

use crate::params::{BOTH, Params, isas, numbers};

/// The parameters of `params` with whole masters in an arena of their own, whose border is painted.
fn whole(params: &Params, offset: usize, copied: bool) -> (Arena, WholeSpans) {
    let n = params.spans.elements();
    let stride = ((n + offset + 64) * 4).next_multiple_of(4096);
    let arena = Arena::take(2 * stride, MemoryKind::Plain).unwrap();
    arena.whole().write(&vec![0xA5u8; 2 * stride]);
    let spans = WholeSpans {
        params: arena.whole().part(offset * 4, n * 4),
        copy: copied.then(|| arena.whole().part(stride + offset * 2, n * 2)),
        gradient: params.spans.gradient,
        gradient_dtype: params.spans.gradient_dtype,
        m: params.spans.m,
        v: params.spans.v,
    };
    spans.params.write(&params.master());
    (arena, spans)
}

fn bits(span: HostSpan) -> Vec<u32> {
    numbers(span).iter().map(|value| value.to_bits()).collect()
}

fn halves(span: HostSpan) -> Vec<u16> {
    let mut out = vec![0; span.bytes() / 2];
    span.read(&mut out);
    out
}

#[test]
fn adam_on_whole_masters_gives_the_bits_of_split_ones() {
    let pool = Pool::new(1).unwrap();
    let scalars = AdamScalars::new(&AdamOptions::default(), 3e-4, 7);
    for (n, dtype) in (0..=96).chain([1000, 4097]).flat_map(|n| BOTH.map(|dtype| (n, dtype))) {
        for (offset, decay) in [(0, true), (1, false), (17, true)] {
            let split = Params::random(n, offset, dtype, n as u64);
            update(&pool, &split.spans, &scalars, 0.5, decay);
            let master: Vec<u32> = split.master().iter().map(|value| value.to_bits()).collect();
            for (isa, copied) in isas().flat_map(|isa| [(isa, true), (isa, false)]) {
                let params = Params::random(n, offset, dtype, n as u64);
                let (arena, spans) = whole(&params, offset, copied);
                update_whole_with(isa, &pool, &spans, &scalars, 0.5, decay);
                assert!(bits(spans.params) == master, "{isa}, n {n}, {dtype}");
                assert!(bits(spans.m) == bits(split.spans.m) && bits(spans.v) == bits(split.spans.v));
                assert!(spans.copy.is_none_or(|copy| halves(copy) == halves(split.spans.weights)));
                assert_eq!(halves(spans.gradient), halves(split.spans.gradient));
                let mut found = vec![0u8; arena.whole().bytes()];
                arena.whole().read(&mut found);
                let own = n * 4 + if copied { n * 2 } else { 0 };
                let painted = found.iter().filter(|byte| **byte == 0xA5).count();
                assert!(painted >= found.len() - own, "{isa}, n {n}: the border was written");
            }
        }
    }
}

#[test]
fn adam_on_whole_masters_does_not_depend_on_threads() {
    let (n, scalars) = (200_003, AdamScalars::new(&AdamOptions::default(), 1e-3, 3));
    let outcomes = [1, 2, 7].map(|threads| {
        let params = Params::random(n, 0, DType::F32, 5);
        let (_arena, spans) = whole(&params, 0, true);
        update_whole(&Pool::new(threads).unwrap(), &spans, &scalars, 1.0, true);
        (bits(spans.params), halves(spans.copy.unwrap()), bits(spans.m), bits(spans.v))
    });
    assert!(outcomes[0] == outcomes[1] && outcomes[0] == outcomes[2]);
}

#[test]
#[should_panic(expected = "bytes of copy for 100 parameters")]
fn adam_on_whole_masters_refuses_spans_that_do_not_fit() {
    let params = Params::random(100, 0, DType::F32, 1);
    let (_arena, spans) = whole(&params, 0, true);
    let short = WholeSpans { copy: spans.copy.map(|copy| copy.part(0, 198)), ..spans };
    let scalars = AdamScalars::new(&AdamOptions::default(), 1e-3, 1);
    update_whole(&Pool::new(1).unwrap(), &short, &scalars, 1.0, true);
}
