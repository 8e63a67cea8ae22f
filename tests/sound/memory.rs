//! Misuse of host memory: arenas, spans, pools, files, optimizers.

use std::hint::black_box;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;

use horizon::base::{DType, Error};
use horizon::host::files;
use horizon::host::folder::{Filling, Kind, MayReplace, NewFile, NewFolder, SizedFile, Sweep};
use horizon::host::input::{FileState, InputFile};
use horizon::host::{
    Arena, Doorbell, HostSpan, HugePages, Isa, Limit, Limits, MemoryKind, Node, Others, Pages, Pin, Pinning,
    Plain, Pool, Span, Topology, check_threads, side,
};
use horizon::optim::{
    AdamOptions, AdamScalars, Master, Optimizer, Rounding, Rows, Spans, StateArray, Step, read_master,
    write_master,
};
use horizon::sys::float::Environment;
use horizon::sys::linux::{self, NodePolicy};

use crate::{panics, survives};

#[test]
fn a_span_that_outlives_its_arena_is_only_an_address() {
    let arena = Arena::take(4096, MemoryKind::Plain).unwrap();
    let span: HostSpan = arena.whole();
    drop(arena);
    let part: Span<side::Host> = span.subspan(100, 3996);
    assert_eq!((part.bytes(), part.address().addr() - span.address().addr()), (3996, 100));
    assert_eq!(part, span.subspan(50, 4046).subspan(50, 3996));
    assert_eq!(span.subspan(4096, 0).bytes(), 0);
    for (offset, bytes) in [(4097, 0), (0, 4097), (usize::MAX, 1), (1, usize::MAX)] {
        panics(|| span.subspan(offset, bytes));
    }
    assert_eq!(span.first::<f64>(512).addr(), span.address().addr());
    panics(|| span.first::<f64>(513));
    panics(|| span.first::<f64>(usize::MAX));
    thread::spawn(move || assert_eq!(span.bytes(), 4096)).join().unwrap();
}

#[test]
fn arenas_refuse_impossible_sizes_and_nodes() {
    let pool = Pool::new(2).unwrap();
    for bytes in [1 << 50, isize::MAX as usize, usize::MAX - 4096, usize::MAX] {
        for kind in
            [MemoryKind::Plain, MemoryKind::Interleaved, MemoryKind::Node(0), MemoryKind::Node(u32::MAX)]
        {
            survives(|| Arena::take(bytes, kind.clone()).unwrap_err());
        }
    }
    let mut empty = Arena::take(0, MemoryKind::Plain).unwrap();
    empty.touch(&pool).unwrap();
    assert!(empty.bytes_mut().is_empty());
    panics(|| empty.node_at(0));
    let mut arena = Arena::take(5000, MemoryKind::Plain).unwrap();
    panics(|| arena.node_at(5000));
    panics(|| arena.node_at(usize::MAX));
    // Several threads at once, each with its own pool.
    thread::scope(|scope| {
        for threads in 1..4 {
            let arena = &arena;
            scope.spawn(move || arena.touch(&Pool::new(threads).unwrap()).unwrap());
        }
    });
    arena.bytes_mut()[4999] = 7;
    assert!(matches!(arena.pages(), Pages::Small | Pages::Transparent | Pages::Explicit));
    let nowhere = std::path::Path::new("/nowhere");
    survives(|| Arena::take_under(nowhere, 1 << 21, MemoryKind::Plain, Some(Pages::Explicit)));
    survives(|| HugePages::read_under(nowhere).admit(usize::MAX, Pages::Explicit));
}

/// Only `unsafe` code can implement `Pin`. Safe code can pass it on.
#[test]
fn safe_code_can_neither_make_nor_call_a_pin() {
    fn passed_on(pin: Arc<dyn Pin>) -> MemoryKind {
        MemoryKind::Pinned { pin, by: Pinning::Allocated, node: Some(u32::MAX) }
    }
    let _: fn(Arc<dyn Pin>) -> MemoryKind = passed_on;
    fn numbers<T: Plain>() -> T {
        T::default()
    }
    assert_eq!((numbers::<f32>(), numbers::<u8>()), (0.0, 0));
}

#[test]
fn pools_survive_their_jobs() {
    assert!(check_threads(usize::MAX).is_err() && Pool::new(usize::MAX).is_err());
    survives(|| Pool::on(2, &[u32::MAX]));
    survives(|| Pool::on(2, &[]));
    Pool::new(0).unwrap().run(3, &|worker, _| assert_eq!(worker, 0));
    let pool = Arc::new(Pool::new(3).unwrap());
    pool.run(0, &|_, _| unreachable!("there is no tile"));
    // A job that panics on its first tile ends, for any number of tiles.
    for tiles in [1, 100, usize::MAX] {
        panics(|| pool.run(tiles, &|_, tile| panic!("tile {tile}")));
    }
    // Nested jobs from several threads, some of which panic. The pool still works afterwards.
    thread::scope(|scope| {
        for caller in 0..12 {
            let pool = &pool;
            scope.spawn(move || {
                survives(|| {
                    pool.run(40, &|_, tile| {
                        pool.run(3, &|_, _| assert!(caller % 3 > 0 || tile != 17, "an expected panic"));
                    });
                });
            });
        }
    });
    let mut numbers = vec![0u32; 1000];
    pool.run_chunks(&mut numbers, 7, &|number, chunk| chunk.fill(number as u32));
    assert!(numbers.iter().enumerate().all(|(at, number)| *number as usize == at / 7));
    pool.run_chunks(&mut numbers, usize::MAX, &|_, all| assert_eq!(all.len(), 1000));
    pool.run_chunks(&mut [0u8; 0], 1, &|_, _| unreachable!("there is no chunk"));
    panics(|| pool.run_chunks(&mut [0u8; 9], 0, &|_, _| ()));
    panics(|| pool.run_chunks(&mut [0u8; 90], 1, &|number, _| assert_ne!(number, 50)));
    // Another thread than the one that made the pool drops it last.
    let last = Arc::clone(&pool);
    drop(pool);
    thread::spawn(move || drop(last)).join().unwrap();
}

#[test]
fn doorbells_and_futexes_do_not_hang() {
    let (bell, count) = (Doorbell::new(), AtomicUsize::new(0));
    bell.ring(u32::MAX);
    thread::scope(|scope| {
        scope.spawn(|| bell.wait(|| count.load(Ordering::Acquire) > 0));
        count.store(1, Ordering::Release);
        bell.ring_all();
    });
    let word = AtomicU32::new(1);
    linux::futex_wait(&word, 0);
    linux::futex_wake(&word, u32::MAX);
}

#[test]
fn the_system_refuses_unmapped_addresses() {
    let nowhere = NonNull::<u8>::dangling();
    survives(|| linux::advise_huge(nowhere, 4096));
    survives(|| linux::advise_small(nowhere, usize::MAX));
    survives(|| linux::node_of(nowhere));
    for policy in [NodePolicy::Bind, NodePolicy::Interleave] {
        survives(|| linux::set_nodes(nowhere, 4096, policy, &[u32::MAX]));
        survives(|| linux::set_nodes(nowhere, 0, policy, &[]));
    }
    for bytes in [0, usize::MAX, isize::MAX as usize] {
        survives(|| linux::map_anonymous(bytes).unwrap_err());
        survives(|| linux::map_explicit_huge(bytes).unwrap_err());
    }
    linux::preferring(&[u32::MAX], || ());
    // On a new thread, since the call may change its affinity.
    thread::spawn(|| survives(|| linux::run_on(&[u32::MAX]))).join().unwrap();
    assert!(linux::page_bytes() > 0);
    linux::current_cpu();
}

#[test]
fn forged_machine_descriptions_are_harmless() {
    let nowhere = std::path::Path::new("/nowhere");
    let topology = Topology::read_under(nowhere);
    for threads in [0, 1, usize::MAX] {
        survives(|| topology.thread_cpus(threads).map(|places| places.len()));
    }
    survives(|| topology.distance(u32::MAX, 0));
    survives(|| topology.nearest_memory(u32::MAX));
    let forged = Topology { nodes: vec![Node::clone(&Topology::read().nodes[0]); 3] };
    survives(|| Pool::over(2, &forged));
    let limits = Limits::read_under(nowhere, Some(0));
    assert!(limits.admit("all", usize::MAX).is_err());
    assert_eq!(limits.limit, Limit::Stated);
    survives(|| limits.admit_locked("all", usize::MAX));
    survives(|| Limits::of_machine(usize::MAX, Some(usize::MAX)).warning());
    Others::watch().cores();
    for isa in Isa::ALL {
        survives(|| Isa::asked_for(Some(isa.name())));
    }
    assert!(Isa::asked_for(Some("no such")).is_err());
}

#[test]
fn files_check_their_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, [7; 100]).unwrap();
    let input = InputFile::open(&path).unwrap();
    for part in [0..100, 90..200, 200..300, 0..u64::MAX, u64::MAX - 1..u64::MAX] {
        survives(|| input.prefetch(part.clone()));
        survives(|| input.read_at(part.start, &mut [0; 1000]));
    }
    // Another process may shorten a file while it is read.
    let mut last = [0];
    input.read_at(99, &mut last).unwrap();
    std::fs::write(&path, [7; 99]).unwrap();
    assert!(input.read_at(99, &mut last).is_err() && last == [7]);
    let opened: FileState = input.opened();
    assert!(input.check_unwritten().is_err() && input.opened() == opened);
    let folder = NewFolder::plan(&dir.path().join("new"), 10, |_| Ok(false)).unwrap();
    let filling: Filling = folder.begin().unwrap();
    let sized: SizedFile = filling.sized("sized", 10).unwrap();
    survives(|| sized.write_at(u64::MAX, &[1; 20]));
    survives(|| filling.whole("../outside", b"").map(drop));
    drop(filling);
    survives(|| sized.write_at(0, &[1; 10]));
    let file: NewFile = NewFile::create(&dir.path().join("new file")).unwrap();
    survives(|| file.finish_as(u32::MAX));
    let refuse: MayReplace = |_| Err(Error::internal("an expected error"));
    assert!(NewFolder::plan(&dir.path().join("kept"), 0, refuse).is_err());
    assert!(Kind::Partial.path(Path::new("..")).is_err() && Kind::parse("..partial-1").is_none());
    Sweep { sole: true, may_replace: Some(refuse) }.next_to(&dir.path().join(".."));
    survives(|| files::allocate(&std::fs::File::create(&path).unwrap(), u64::MAX));
    survives(|| files::exchange(&path, dir.path()));
}

#[test]
fn optimizers_access_memory_in_unsafe_code_only() {
    let arena = Arena::take(4096, MemoryKind::Plain).unwrap();
    let (a, b) = (arena.whole().subspan(0, 64), arena.whole().subspan(64, 64));
    drop(arena);
    let optimizer = Optimizer::AdamW { moments: DType::F32 };
    let state: &[StateArray] = optimizer.state();
    assert_eq!(state.len(), 2);
    let spans = Spans {
        master: Master::Split { weights: a, residual: b },
        gradient: a,
        gradient_dtype: DType::Bf16,
        optimizer,
        state: [a; 2],
    };
    assert_eq!(spans.elements(), 32);
    panics(|| spans.slice(0, 33));
    panics(|| spans.slice(usize::MAX, 2));
    panics(|| AdamScalars::new(&AdamOptions::default(), 1.0, 0));
    let absurd = AdamOptions { beta1: f64::NAN, beta2: 7.0, eps: -1.0, weight_decay: f64::INFINITY };
    assert!(absurd.check().is_err());
    let scalars = AdamScalars::new(&absurd, f64::NAN, u64::MAX);
    let rows = Rows { elements: 0, has: &|_| true };
    let step = Step {
        rows: Some(rows),
        rounding: Rounding { seed: 1, step: 2, first: u64::MAX },
        ..Step::new(scalars)
    };
    assert!(step.decay);
    panics(|| read_master(&[0; 3], &[0; 3], &mut [0.0; 4]));
    panics(|| write_master(&mut [0; 3], &mut [0; 2], &[0.0; 3]));
}

/// Safe code can set the default only, which Rust assumes; other environments need `unsafe` code.
#[test]
fn the_floating_point_environment_stays_the_default() {
    let own = Environment::replace_by_default();
    thread::spawn(move || (own, Environment::replace_by_default())).join().unwrap();
    assert_eq!(black_box(1.0f32) / black_box(3.0), 0.333_333_34);
    assert!(black_box(f32::MIN_POSITIVE) / black_box(2.0) > 0.0);
}
