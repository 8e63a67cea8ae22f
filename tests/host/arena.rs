//! Arenas and spans.

use std::panic::catch_unwind;

use horizon::base::Status;
use horizon::host::{Arena, HostSpan, MemoryKind};
use support::spans::{numbers, set};

#[test]
fn host_arena_is_zeroed_exact_and_page_aligned() {
    for bytes in [1, 4095, 4096, 4097, 3 << 20] {
        let mut arena = Arena::take(bytes, MemoryKind::Plain).unwrap();
        let whole = arena.whole();
        assert_eq!(whole.bytes(), bytes);
        assert_eq!(whole.address() as usize % 4096, 0);
        assert_eq!(arena.bytes_mut(), vec![0; bytes]);
        let pattern: Vec<u8> = (0..bytes).map(|at| (at * 7 + 3) as u8).collect();
        arena.bytes_mut().copy_from_slice(&pattern);
        assert_eq!(numbers::<u8>(whole), pattern);
    }
    assert_eq!(Arena::take(0, MemoryKind::Plain).unwrap().whole().bytes(), 0);
}

#[test]
fn host_arena_error_states_needed_and_available_bytes() {
    let error = Arena::take(1 << 60, MemoryKind::Plain).unwrap_err();
    assert_eq!(error.status(), Status::OutOfHostMemory);
    assert!(error.message().contains("1048576.0 TiB") && error.message().contains("limit "), "{error}");
}

#[test]
fn host_span_reads_and_writes_unaligned_numbers() {
    let arena = Arena::take(64, MemoryKind::Plain).unwrap();
    let odd = arena.whole().subspan(3, 40);
    set(odd, &[1.5f32, -2.0, f32::MAX]);
    assert_eq!(numbers::<f32>(odd)[..3], [1.5, -2.0, f32::MAX]);
    set(odd, &[-7i32]);
    assert_eq!(numbers::<i32>(odd)[0], -7);
    set(odd.subspan(8, 8), &[0.1f64]);
    assert_eq!(numbers::<f64>(odd)[1], 0.1);
    assert!(catch_unwind(|| set(odd, &[0u8; 41])).is_err());
    assert!(catch_unwind(|| odd.subspan(20, 21)).is_err());
    assert!(catch_unwind(|| odd.subspan(usize::MAX, 2)).is_err());
}

#[test]
fn host_span_gives_slices_if_aligned_and_of_whole_elements() {
    let arena = Arena::take(64, MemoryKind::Plain).unwrap();
    let span = arena.whole().subspan(4, 12);
    set(span, &[1i32, 2, 3]);
    // SAFETY: the arena is alive, and nothing else uses it.
    assert_eq!(unsafe { span.slice::<i32>() }, [1, 2, 3]);
    // SAFETY: the arena is alive, nothing else uses it, and no other slice of it exists.
    let slice = unsafe { span.slice_mut::<i32>() };
    slice[1] = 7;
    assert_eq!(numbers::<i32>(span), [1, 7, 3]);
    // SAFETY: the call panics before it accesses memory.
    let refused = |span: HostSpan| catch_unwind(|| unsafe { span.slice::<i32>() }.len()).is_err();
    assert!(refused(arena.whole().subspan(2, 8)) && refused(arena.whole().subspan(4, 6)));
}
