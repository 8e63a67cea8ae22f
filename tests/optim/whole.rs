//! Updates of whole masters are bit-equal to those of split masters.

use horizon::base::DType;
use horizon::host::{Arena, HostSpan, MemoryKind, Pool};
use horizon::optim::{AdamOptions, AdamScalars, Master, Spans, Step};
use support::spans::{self, set, update};

use crate::params::{BOTH, Params, isas, numbers};

/// Whole masters in a separate arena, poisoned around the spans.
struct Whole {
    arena: Arena,
    spans: Spans,
    params: HostSpan,
    copy: Option<HostSpan>,
}

/// The parameters of `params` as whole masters.
fn whole(params: &Params, offset: usize, with_copy: bool) -> Whole {
    let n = params.spans.elements();
    let stride = ((n + offset + 64) * 4).next_multiple_of(4096);
    let arena = Arena::take(2 * stride, MemoryKind::Plain).unwrap();
    set(arena.whole(), &vec![0xA5u8; 2 * stride]);
    let masters = arena.whole().subspan(offset * 4, n * 4);
    let copy = with_copy.then(|| arena.whole().subspan(stride + offset * 2, n * 2));
    set(masters, &params.master());
    let spans = Spans { master: Master::Whole { params: masters, copy }, ..params.spans };
    Whole { arena, spans, params: masters, copy }
}

fn bits(span: HostSpan) -> Vec<u32> {
    numbers(span).iter().map(|value| value.to_bits()).collect()
}

fn halves(span: HostSpan) -> Vec<u16> {
    spans::numbers(span)
}

#[test]
fn adam_on_whole_masters_is_bit_equal_to_split_masters() {
    let pool = Pool::new(1).unwrap();
    let scalars = AdamScalars::new(&AdamOptions::default(), 3e-4, 7);
    for (n, dtype) in (0..=96).chain([1000, 4097]).flat_map(|n| BOTH.map(|dtype| (n, dtype))) {
        for (offset, decay) in [(0, true), (1, false), (17, true)] {
            let split = Params::random(n, offset, dtype, n as u64);
            let step = Step { gradient_scale: 0.5, decay, ..Step::new(scalars) };
            update(&pool, &split.spans, &step);
            let master: Vec<u32> = split.master().iter().map(|value| value.to_bits()).collect();
            for (isa, with_copy) in isas().flat_map(|isa| [(isa, true), (isa, false)]) {
                let params = Params::random(n, offset, dtype, n as u64);
                let Whole { arena, spans, params: masters, copy } = whole(&params, offset, with_copy);
                update(&pool, &spans, &Step { isa, ..step });
                assert!(bits(masters) == master, "{isa}, n {n}, {dtype}");
                assert!(bits(params.m) == bits(split.m) && bits(params.v) == bits(split.v));
                assert!(copy.is_none_or(|copy| halves(copy) == halves(split.weights)));
                assert_eq!(halves(spans.gradient), halves(split.spans.gradient));
                let found: Vec<u8> = spans::numbers(arena.whole());
                let own = n * 4 + if with_copy { n * 2 } else { 0 };
                let poisoned = found.iter().filter(|byte| **byte == 0xA5).count();
                assert!(poisoned >= found.len() - own, "{isa}, n {n}: bytes around the spans were written");
            }
        }
    }
}

#[test]
fn adam_on_whole_masters_does_not_depend_on_threads() {
    let (n, scalars) = (200_003, AdamScalars::new(&AdamOptions::default(), 1e-3, 3));
    let outcomes = [1, 2, 7].map(|threads| {
        let params = Params::random(n, 0, DType::F32, 5);
        let whole = whole(&params, 0, true);
        update(&Pool::new(threads).unwrap(), &whole.spans, &Step::new(scalars));
        (bits(whole.params), halves(whole.copy.unwrap()), bits(params.m), bits(params.v))
    });
    assert!(outcomes[0] == outcomes[1] && outcomes[0] == outcomes[2]);
}

#[test]
#[should_panic(expected = "bytes of copy for 100 parameters")]
fn adam_on_whole_masters_refuses_a_copy_that_is_too_short() {
    let params = Params::random(100, 0, DType::F32, 1);
    let whole = whole(&params, 0, true);
    let master = Master::Whole { params: whole.params, copy: whole.copy.map(|copy| copy.subspan(0, 198)) };
    let scalars = AdamScalars::new(&AdamOptions::default(), 1e-3, 1);
    update(&Pool::new(1).unwrap(), &Spans { master, ..whole.spans }, &Step::new(scalars));
}
