//! AdamW's speed compared with the memory bandwidth: `cargo bench --bench adam -- [--parameters N]
//! [--rounds N] [--threads N] [--modes LIST] [--pages small] [--node N]`.
//!
//! Every round runs the kernel with each instruction set (only the one in `HZ_ISA`, if set), and a
//! *probe* before and after it. The probe reads and writes the same five arrays (weights, residual,
//! m and v in place; the gradient read-only) with minimal arithmetic, so it measures the limit set
//! by memory. A ratio compares a kernel with the two probes around it, because bandwidth on shared
//! machines varies. Ratios are given by wall clock and by processor time, which other programs
//! disturb less. Each measurement prints one line of JSON with the median of the rounds.
//!
//! Modes: `exact` with a bf16 and with an f32 gradient (`streamed` runs the same kernel), `compact`
//! (18 bytes), and `whole`: f32 masters and gradients (28 bytes), as in other trainers; its probe
//! covers the same bytes. `--modes exact,compact` selects modes. `--pages small` disables huge
//! pages. `--node N` uses memory of a NUMA node; combine it with `taskset` to compare local and
//! remote access.

use std::env;
use std::path::Path;
use std::slice;
use std::thread;
use std::time::{Duration, Instant};

use horizon::base::{DType, master};
use horizon::host::{Arena, HostSpan, Isa, MemoryKind, Pages, Pool, Topology};
use horizon::optim::{AdamOptions, AdamScalars, Master, Optimizer, Rounding, Spans, Step};
use nix::time::ClockId;
use support::bench::{median, number, option, rounded};
use support::spans::{set, update, write_master};

fn main() {
    let elements = number("--parameters").unwrap_or(100_000_000);
    let rounds = number("--rounds").unwrap_or(7);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = number("--threads").unwrap_or(cores);

    let page_setting = (option("--pages").as_deref() == Some("small")).then_some(Pages::Small);
    let node: Option<u32> = number("--node");
    let modes = option("--modes");
    let wanted = |mode: &str| modes.as_ref().is_none_or(|modes| modes.split(',').any(|name| name == mode));

    let measured = [
        ("exact", DType::Bf16, DType::F32),
        ("exact", DType::F32, DType::F32),
        ("compact", DType::Bf16, DType::Bf16),
        ("whole", DType::F32, DType::F32),
    ];
    for (mode, dtype, moment) in measured.into_iter().filter(|(mode, ..)| wanted(mode)) {
        let pool = Pool::over(threads, &Topology::read()).expect("threads start");
        let bytes_read = 4 + dtype.bytes() + 2 * moment.bytes();
        let bytes_written = 4 + 2 * moment.bytes();
        let kind = node.map_or(MemoryKind::Plain, MemoryKind::Node);
        let arena = Arena::take_under(Path::new("/"), elements * bytes_read, kind, page_setting);
        let arena = arena.expect("the arena fits");
        let spans = carve(&arena, elements, dtype, moment);
        fill(&pool, &spans);
        let updated = if mode == "whole" { whole(&arena, &pool, &spans) } else { spans };

        let asked =
            env::var_os("HZ_ISA").map(|_| Isa::chosen().expect("an instruction set of this processor"));
        let wanted = |isa: &Isa| isa.is_here() && asked.is_none_or(|asked| asked == *isa);
        let isas: Vec<Isa> = Isa::ALL.into_iter().filter(wanted).collect();
        let scalars = AdamScalars::new(&AdamOptions::default(), 1e-4, 10);
        let step = Step { rounding: Rounding { seed: 1, step: 10, first: 0 }, ..Step::new(scalars) };
        let mut runs = vec![Vec::new(); isas.len()];
        let mut before = timed(|| probe(&pool, &spans));
        for _ in 0..=rounds {
            for (isa, runs) in isas.iter().zip(&mut runs) {
                let own = timed(|| update(&pool, &updated, &Step { isa: *isa, ..step }));
                let after = timed(|| probe(&pool, &spans));
                runs.push(Run { probe: before.mean(after), own });
                before = after;
            }
        }
        let traffic = (elements * (bytes_read + bytes_written)) as f64;
        for (isa, runs) in isas.iter().zip(&runs) {
            let runs = &runs[1..]; // the first round warms up
            let middle = |of: &dyn Fn(&Run) -> f64| median(runs.iter().map(of));
            let percent =
                |of: fn(&Times) -> f64| rounded(100.0 * middle(&|run| of(&run.probe) / of(&run.own)), 3);
            println!(
                "{}",
                serde_json::json!({
                    "bench": "adam", "mode": mode, "isa": isa.name(), "gradient": dtype.name(),
                    "threads": threads, "parameters": elements, "rounds": rounds, "node": node,
                    "pages": arena.pages().to_string(),
                    "gparams_per_second": rounded(elements as f64 / middle(&|run| run.own.wall) / 1e9, 3),
                    "gb_per_second": rounded(traffic / middle(&|run| run.own.wall) / 1e9, 3),
                    "probe_gb_per_second": rounded(traffic / middle(&|run| run.probe.wall) / 1e9, 3),
                    "percent_of_probe": percent(|t| t.wall),
                    "percent_of_probe_by_processor_time": percent(|t| t.processor),
                })
            );
        }
    }
}

fn carve(arena: &Arena, elements: usize, gradient_dtype: DType, moments: DType) -> Spans {
    let mut start = 0;
    let mut next = |size: usize| {
        let span = arena.whole().subspan(start, elements * size);
        start += elements * size;
        span
    };
    let state = [next(moments.bytes()), next(moments.bytes())];
    let gradient = next(gradient_dtype.bytes());
    let master = Master::Split { weights: next(2), residual: next(2) };
    Spans { master, gradient, gradient_dtype, optimizer: Optimizer::AdamW { moments }, state }
}

/// Makes whole masters in the memory of weights and residuals, which are adjacent at the arena's
/// end.
fn whole(arena: &Arena, pool: &Pool, spans: &Spans) -> Spans {
    const RUN: usize = 1 << 16;
    let elements = spans.elements();
    let start = arena.whole().bytes() - 4 * elements;
    let params = arena.whole().subspan(start, 4 * elements);
    pool.run(elements.div_ceil(RUN), &|_, run| {
        let values: Vec<f32> = (run * RUN..elements.min((run + 1) * RUN)).map(ordinary).collect();
        set(params.subspan(run * RUN * 4, values.len() * 4), &values);
    });
    Spans { master: Master::Whole { params, copy: None }, ..*spans }
}

/// The halves of split masters.
fn halves(spans: &Spans) -> [HostSpan; 2] {
    let Master::Split { weights, residual } = spans.master else { panic!("masters are split") };
    [weights, residual]
}

/// A pseudorandom value between −1 and 1.
fn ordinary(at: usize) -> f32 {
    (at.wrapping_mul(2_654_435_761) % 1999) as f32 / 1000.0 - 1.0
}

/// Writes ordinary values everywhere, because zeros could make memory and divisions faster.
fn fill(pool: &Pool, spans: &Spans) {
    const RUN: usize = 1 << 16;
    let elements = spans.elements();
    pool.run(elements.div_ceil(RUN), &|_, run| {
        let count = RUN.min(elements - run * RUN);
        let chunk = spans.slice(run * RUN, count);
        let values: Vec<f32> = (run * RUN..run * RUN + count).map(ordinary).collect();
        let [weights, residual] = halves(&chunk);
        write_master(weights, residual, &values);
        let squares: Vec<f32> = values.iter().map(|value| value * value).collect();
        let stored = [(chunk.gradient, &values), (chunk.state[0], &values), (chunk.state[1], &squares)];
        for (span, values) in stored {
            if span.bytes() == 4 * count {
                set(span, values);
            } else {
                set(span, &values.iter().map(|value| master::round(*value)).collect::<Vec<u16>>());
            }
        }
    });
}

/// Reads and writes the five arrays with minimal arithmetic, in tiles of the probe's best size.
fn probe(pool: &Pool, spans: &Spans) {
    const TILE: usize = 1 << 18;
    let elements = spans.elements();
    pool.run(elements.div_ceil(TILE), &|_, tile| {
        let start = tile * TILE;
        let chunk = spans.slice(start, TILE.min(elements - start));
        let [weights, residual] = halves(&chunk).map(words::<u16>);
        let (f32_moments, f32_gradient) =
            (chunk.state[0].bytes() == 4 * chunk.elements(), chunk.gradient_dtype == DType::F32);
        match (f32_moments, f32_gradient) {
            (true, false) => touch(
                weights,
                residual,
                words::<u16>(chunk.gradient),
                words::<u32>(chunk.state[0]),
                words::<u32>(chunk.state[1]),
            ),
            (true, true) => touch(
                weights,
                residual,
                words::<u32>(chunk.gradient),
                words::<u32>(chunk.state[0]),
                words::<u32>(chunk.state[1]),
            ),
            _ => touch(
                weights,
                residual,
                words::<u16>(chunk.gradient),
                words::<u16>(chunk.state[0]),
                words::<u16>(chunk.state[1]),
            ),
        }
    });
}

#[allow(clippy::mut_from_ref)]
fn words<'a, T>(span: HostSpan) -> &'a mut [T] {
    // SAFETY: the arena outlives the call, its spans are disjoint, and each tile is used by one thread.
    unsafe { slice::from_raw_parts_mut(span.address().cast(), span.bytes() / size_of::<T>()) }
}

/// A word whose bits can be flipped.
trait Word: Copy {
    fn flipped(self, bit: u16) -> Self;
    fn lowest(self) -> u16;
}

impl Word for u16 {
    #[inline(always)]
    fn flipped(self, bit: u16) -> u16 {
        self ^ bit
    }
    #[inline(always)]
    fn lowest(self) -> u16 {
        self & 1
    }
}

impl Word for u32 {
    #[inline(always)]
    fn flipped(self, bit: u16) -> u32 {
        self ^ u32::from(bit)
    }
    #[inline(always)]
    fn lowest(self) -> u16 {
        (self & 1) as u16
    }
}

fn touch<G: Word, M: Word>(
    weights: &mut [u16],
    residual: &mut [u16],
    gradient: &[G],
    m: &mut [M],
    v: &mut [M],
) {
    #[cfg(target_arch = "x86_64")]
    if Isa::Avx512.is_here() {
        // SAFETY: checked just before.
        return unsafe { touch_avx512(weights, residual, gradient, m, v) };
    }
    touch_each(weights, residual, gradient, m, v);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn touch_avx512<G: Word, M: Word>(
    weights: &mut [u16],
    residual: &mut [u16],
    gradient: &[G],
    m: &mut [M],
    v: &mut [M],
) {
    touch_each(weights, residual, gradient, m, v);
}

/// Flips bits that the next round flips back: no load or store can be optimised out, and values
/// stay bounded.
#[inline(always)]
fn touch_each<G: Word, M: Word>(
    weights: &mut [u16],
    residual: &mut [u16],
    gradient: &[G],
    m: &mut [M],
    v: &mut [M],
) {
    let n = weights.len();
    let (residual, gradient, m, v) = (&mut residual[..n], &gradient[..n], &mut m[..n], &mut v[..n]);
    for at in 0..n {
        let bit = gradient[at].lowest();
        weights[at] ^= bit;
        residual[at] ^= bit;
        m[at] = m[at].flipped(bit);
        v[at] = v[at].flipped(bit);
    }
}

/// Seconds of a call: wall-clock time, and CPU time of this process.
#[derive(Clone, Copy)]
struct Times {
    wall: f64,
    processor: f64,
}

impl Times {
    fn mean(self, other: Times) -> Times {
        Times { wall: (self.wall + other.wall) / 2.0, processor: (self.processor + other.processor) / 2.0 }
    }
}

/// A run of a kernel, and the mean of the probes before and after it.
#[derive(Clone)]
struct Run {
    probe: Times,
    own: Times,
}

fn timed(work: impl FnOnce()) -> Times {
    let (start, busy) = (Instant::now(), processor_seconds());
    work();
    Times { wall: start.elapsed().as_secs_f64(), processor: processor_seconds() - busy }
}

fn processor_seconds() -> f64 {
    let clock = ClockId::CLOCK_PROCESS_CPUTIME_ID;
    Duration::from(clock.now().expect("every process has a CPU clock")).as_secs_f64()
}
