//! Arenas and spans.

use std::panic::catch_unwind;

use horizon::base::Status;
use horizon::host::{Arena, MemoryKind};

#[test]
fn host_arena_is_zeroed_exact_and_page_aligned() {
    for bytes in [1, 4095, 4096, 4097, 3 << 20] {
        let arena = Arena::take(bytes, MemoryKind::Plain).unwrap();
        let whole = arena.whole();
        assert_eq!(whole.bytes(), bytes);
        assert_eq!(whole.address() as usize % 4096, 0);
        let mut found = vec![1u8; bytes];
        whole.read(&mut found);
        assert!(found.iter().all(|byte| *byte == 0));
        let painted: Vec<u8> = (0..bytes).map(|at| (at * 7 + 3) as u8).collect();
        whole.write(&painted);
        whole.read(&mut found);
        assert_eq!(found, painted);
    }
    assert_eq!(Arena::take(0, MemoryKind::Plain).unwrap().whole().bytes(), 0);
}

#[test]
fn host_arena_says_what_it_needed() {
    let error = Arena::take(1 << 60, MemoryKind::Plain).unwrap_err();
    assert_eq!(error.status(), Status::OutOfHostMemory);
    assert!(error.message().contains("1048576.0 TiB") && error.message().contains("may be taken"), "{error}");
}

#[test]
fn host_span_moves_numbers_without_alignment() {
    let arena = Arena::take(64, MemoryKind::Plain).unwrap();
    let odd = arena.whole().part(3, 40);
    odd.write(&[1.5f32, -2.0, f32::MAX]);
    let mut found = [0f32; 3];
    odd.read(&mut found);
    assert_eq!(found, [1.5, -2.0, f32::MAX]);
    assert_eq!(odd.get::<f32>(1), -2.0);
    odd.write(&[-7i32]);
    assert_eq!(odd.get::<i32>(0), -7);
    odd.part(8, 8).write(&[0.1f64]);
    assert_eq!(odd.get::<f64>(1), 0.1);
    odd.zero();
    assert_eq!(odd.get::<f64>(1), 0.0);
    assert!(catch_unwind(|| odd.write(&[0u8; 41])).is_err());
    assert!(catch_unwind(|| odd.get::<u16>(20)).is_err());
}
