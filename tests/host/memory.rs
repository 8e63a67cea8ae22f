//! NUMA nodes, huge pages, bound and pinned arenas: on recorded machines, and on this one as far as
//! it supports them.

use std::fs;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use horizon::base::{Error, Result, Status};
use horizon::host::{
    Arena, HostSpan, HugePages, Limits, MemoryKind, Node, Pages, Pin, Pinning, Pool, Topology,
    node_of_pci_under, processor_name_under,
};
use support::spans::{numbers, set};

/// Writes the files of a recorded machine.
fn machine(files: &[(String, String)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

/// The files of a node: `total` and `free` in kB, processors and distances in the system's format.
fn node(index: u32, cpulist: &str, total: usize, free: usize, distance: &str) -> Vec<(String, String)> {
    let file = |name: &str, text: String| (format!("sys/devices/system/node/node{index}/{name}"), text);
    let line = |key: &str, kb: usize| format!("Node {index} {key}:       {kb} kB\n");
    vec![
        file("cpulist", format!("{cpulist}\n")),
        file("distance", format!("{distance}\n")),
        file("meminfo", line("MemTotal", total) + &line("MemFree", free) + &line("FilePages", 1024)),
    ]
}

fn text(path: &str, text: &str) -> (String, String) {
    (path.to_string(), text.to_string())
}

#[test]
fn topology_of_one_node() {
    let mut files = node(0, "0-1", 16 << 20, 8 << 20, "10");
    files.push(text("sys/devices/system/node/online", "0\n"));
    files.push(text("sys/devices/system/cpu/online", "0-1\n"));
    let topology = Topology::read_under(machine(&files).path());
    let expected = Node {
        index: 0,
        cpus: vec![0, 1],
        memory_bytes: 16 << 30,
        available_bytes: (8 << 30) + (1 << 20),
        distances: vec![10],
    };
    assert_eq!(topology.nodes, [expected]);
    assert_eq!((topology.with_memory(), topology.nearest_memory(0)), (vec![0], Some(0)));
}

#[test]
fn topology_of_two_nodes_with_offline_and_forbidden_processors() {
    let mut files = node(0, "0-3,8-11", 64 << 20, 1 << 20, "10 21");
    files.extend(node(1, "4-7,12-15", 64 << 20, 1 << 20, "21 10"));
    files.push(text("sys/devices/system/node/online", "0-1\n"));
    files.push(text("sys/devices/system/cpu/online", "0-9,11-15\n"));
    files.push(text("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-2,9-13\nMems_allowed_list:\t1\n"));
    let topology = Topology::read_under(machine(&files).path());
    assert_eq!(topology.node(0).unwrap().cpus, [0, 1, 2, 9, 11], "10 is offline, 3 and 8 are forbidden");
    assert_eq!(topology.node(1).unwrap().cpus, [12, 13]);
    assert_eq!(topology.with_memory(), [1], "the memory of node 0 is forbidden");
    assert_eq!(topology.nearest_memory(0), Some(1));
    assert_eq!(topology.node(2), None);
}

#[test]
fn topology_of_eight_nodes_and_the_nearest_memory() {
    let mut files = vec![text("sys/devices/system/node/online", "0-7\n")];
    for index in 0..8u32 {
        // Node 5 has only processors; node 4 is on the same board.
        let total = if index == 5 { 0 } else { 32 << 20 };
        let distance = |other: u32| {
            if other == index {
                "10"
            } else if other / 2 == index / 2 {
                "16"
            } else {
                "32"
            }
        };
        let distances: Vec<&str> = (0..8).map(distance).collect();
        let cpus = format!("{}-{}", index * 8, index * 8 + 7);
        files.extend(node(index, &cpus, total, total / 2, &distances.join(" ")));
    }
    let topology = Topology::read_under(machine(&files).path());
    assert_eq!(topology.nodes.len(), 8);
    assert_eq!(topology.with_memory(), [0, 1, 2, 3, 4, 6, 7]);
    assert_eq!(topology.nearest_memory(5), Some(4));
    assert_eq!(topology.nearest_memory(3), Some(3));
    assert_eq!(topology.node(6).unwrap().cpus, (48..56).collect::<Vec<u32>>());
}

#[test]
fn threads_are_bound_to_one_core_or_to_the_cores_of_a_node() {
    let mut files = node(0, "0-1,4", 1 << 20, 1 << 20, "10 20 20");
    files.extend(node(1, "", 1 << 20, 1 << 20, "20 10 20"));
    files.extend(node(2, "2-3,5", 1 << 20, 1 << 20, "20 20 10"));
    files.push(text("sys/devices/system/node/online", "0-2\n"));
    files.push(text("sys/devices/system/cpu/online", "0-5\n"));
    let topology = Topology::read_under(machine(&files).path());
    let cpus = topology.thread_cpus(6).unwrap();
    assert_eq!(cpus, [[0], [1], [4], [2], [3], [5]], "node by node, and none on the node without cores");
    let (first, second): (&[u32], &[u32]) = (&[0, 1, 4], &[2, 3, 5]);
    assert_eq!(topology.thread_cpus(2).unwrap(), [first, second]);
    assert_eq!(topology.thread_cpus(4).unwrap(), [first, first, second, second]);
    assert_eq!(topology.thread_cpus(1).unwrap(), [first]);
    assert_eq!((topology.thread_cpus(7), topology.thread_cpus(0)), (None, None));
}

#[test]
fn topology_with_memory_only_and_gaps() {
    let mut files = node(0, "0-71", 480 << 20, 400 << 20, "10 80");
    files.extend(node(4, "", 96 << 20, 96 << 20, "80 10"));
    files.push(text("sys/devices/system/node/online", "0,4\n"));
    let topology = Topology::read_under(machine(&files).path());
    assert_eq!(topology.nodes.iter().map(|node| node.index).collect::<Vec<u32>>(), [0, 4]);
    assert!(topology.node(4).unwrap().cpus.is_empty());
    assert_eq!(topology.with_memory(), [0, 4]);
    assert_eq!((topology.nearest_memory(0), topology.nearest_memory(4)), (Some(0), Some(4)));
    assert_eq!((topology.distance(0, 4), topology.distance(0, 0)), (Some(80), Some(10)));
    assert_eq!((topology.distance(0, 1), topology.distance(1, 0)), (None, None));
}

#[test]
fn topology_of_a_system_that_reports_no_nodes() {
    let files = [
        text("sys/devices/system/cpu/online", "0-3\n"),
        text("proc/meminfo", "MemTotal:  1048576 kB\nMemAvailable:  524288 kB\n"),
    ];
    let topology = Topology::read_under(machine(&files).path());
    let one = Node {
        index: 0,
        cpus: vec![0, 1, 2, 3],
        memory_bytes: 1 << 30,
        available_bytes: 1 << 29,
        distances: vec![10],
    };
    assert_eq!(topology.nodes, [one]);
}

#[test]
fn topology_finds_a_pci_device() {
    let at = |id: &str| format!("sys/bus/pci/devices/{id}/numa_node");
    let root = machine(&[
        (at("0000:3b:00.0"), "1\n".into()),
        (at("0000:01:00.0"), "-1\n".into()),
        (at("0002:c1:00.0"), "3\n".into()),
    ]);
    let node = |id| node_of_pci_under(root.path(), id);
    assert_eq!(node("0000:3b:00.0"), Some(1));
    assert_eq!(node("00000000:3B:00.0"), Some(1), "a longer domain in upper case");
    assert_eq!(node("0002:C1:00.0"), Some(3));
    assert_eq!(node("0000:01:00.0"), None, "the system does not know");
    assert_eq!((node("0000:02:00.0"), node("nonsense")), (None, None));
}

#[test]
fn the_processor_name_is_read_if_the_system_reports_it() {
    let cpuinfo = "processor\t: 0\nmodel name\t: Some CPU @ 2.0 GHz\nflags\t: a b\n";
    let root = machine(&[text("proc/cpuinfo", cpuinfo)]);
    assert_eq!(processor_name_under(root.path()).as_deref(), Some("Some CPU @ 2.0 GHz"));
    assert_eq!(processor_name_under(Path::new("/nowhere")), None);
}

#[test]
fn huge_pages_of_recorded_machines() {
    let at = |name: &str| format!("sys/kernel/mm/hugepages/hugepages-2048kB/{name}");
    let enabled = "sys/kernel/mm/transparent_hugepage/enabled".to_string();
    let root = machine(&[
        (at("free_hugepages"), "512\n".into()),
        (at("resv_hugepages"), "12\n".into()),
        (enabled.clone(), "always [madvise] never\n".into()),
    ]);
    assert_eq!(HugePages::read_under(root.path()), HugePages { explicit_free: 500, transparent: true });
    let root = machine(&[(enabled, "always madvise [never]\n".into())]);
    assert_eq!(HugePages::read_under(root.path()), HugePages { explicit_free: 0, transparent: false });
    let nothing = HugePages { explicit_free: 0, transparent: false };
    assert_eq!(HugePages::read_under(Path::new("/nowhere")), nothing);
}

#[test]
fn arena_gets_the_pages_that_the_system_offers() {
    let offered = HugePages::read();
    assert_eq!(Arena::take(1 << 20, MemoryKind::Plain).unwrap().pages(), Pages::Small);
    let arena = Arena::take((64 << 20) + 4096, MemoryKind::Plain).unwrap();
    let expected = match offered {
        HugePages { explicit_free: 33.., .. } => Pages::Explicit,
        HugePages { transparent: true, .. } => Pages::Transparent,
        _ => Pages::Small,
    };
    assert_eq!(arena.pages(), expected);
    if expected == Pages::Small {
        eprintln!("skipped: this system has no huge pages");
        return;
    }
    assert_eq!(arena.whole().address() as usize % (2 << 20), 0);
    arena.touch(&Pool::new(2).unwrap()).unwrap();
    let kib = huge_kib_at(arena.whole().address() as usize);
    if kib == 0 {
        eprintln!("skipped: the kernel had no huge page");
    }
    assert!(kib <= 66 << 10);
}

/// The KiB of huge pages in the mapping at an address, as the kernel reports them.
fn huge_kib_at(address: usize) -> usize {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let start = smaps.find(&format!("\n{address:x}-")).expect("the arena is mapped");
    let kib = |key: &str| -> usize {
        let line = smaps[start..].lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches("kB").trim().parse().unwrap()
    };
    kib("AnonHugePages:") + kib("Private_Hugetlb:")
}

#[test]
fn a_touched_arena_is_still_zero() {
    for (bytes, threads) in [(1, 1), (4097, 2), ((5 << 20) + 3, 3)] {
        let arena = Arena::take(bytes, MemoryKind::Plain).unwrap();
        arena.touch(&Pool::new(threads).unwrap()).unwrap();
        assert!(numbers::<u8>(arena.whole()).iter().all(|byte| *byte == 0));
    }
    Arena::take(0, MemoryKind::Plain).unwrap().touch(&Pool::new(1).unwrap()).unwrap();
}

#[test]
fn arena_is_on_the_requested_nodes() {
    let topology = Topology::read();
    let pool = Pool::new(2).unwrap();
    let bytes = 3 << 20;
    for index in topology.with_memory() {
        let arena = Arena::take(bytes, MemoryKind::Node(index)).unwrap();
        arena.touch(&pool).unwrap();
        match arena.node_at(0) {
            Err(error) => eprintln!("skipped: {error}"),
            Ok(_) => {
                let nodes: Vec<u32> =
                    (0..bytes).step_by(4096).map(|offset| arena.node_at(offset).unwrap()).collect();
                assert!(nodes.iter().all(|node| *node == index), "{nodes:?}");
            }
        }
    }
    let arena = Arena::take(bytes, MemoryKind::Interleaved).unwrap();
    arena.touch(&pool).unwrap();
    if let Ok(node) = arena.node_at(bytes - 1) {
        assert!(topology.with_memory().contains(&node));
    }
}

#[test]
fn arena_refuses_missing_nodes_and_nodes_with_too_little_memory() {
    let error = Arena::take(4096, MemoryKind::Node(999)).unwrap_err();
    assert_eq!(error.status(), Status::InvalidArgument);
    assert!(error.message().contains("no memory on node 999"), "{error}");
    let index = Topology::read().with_memory()[0];
    let error = Arena::take(1 << 50, MemoryKind::Node(index)).unwrap_err();
    assert_eq!(error.status(), Status::OutOfHostMemory);
    assert!(error.message().contains("1024.0 TiB of host memory are needed on node"), "{error}");
}

#[test]
fn arena_touch_keeps_the_contents() {
    let arena = Arena::take(3 << 20, MemoryKind::Plain).unwrap();
    let pattern: Vec<u8> = (0..3 << 20).map(|at| (at * 7 + 3) as u8).collect();
    set(arena.whole(), &pattern);
    arena.touch(&Pool::new(2).unwrap()).unwrap();
    assert!(numbers::<u8>(arena.whole()) == pattern);
}

#[test]
fn arena_has_the_requested_pages() {
    let take = |wanted| Arena::take_under(Path::new("/"), 4 << 20, MemoryKind::Plain, Some(wanted));
    assert_eq!(take(Pages::Small).unwrap().pages(), Pages::Small);
    let offered = HugePages::read();
    for (wanted, available) in
        [(Pages::Explicit, offered.explicit_free >= 2), (Pages::Transparent, offered.transparent)]
    {
        match take(wanted) {
            Ok(arena) => assert!(available && arena.pages() == wanted, "{wanted}"),
            Err(error) => assert!(!available, "{error}"),
        }
    }
}

/// A fake [`Pin`] that pins nothing and records its calls.
#[derive(Debug, Default)]
struct Recorder {
    counts: bool,
    fails: bool,
    asked: AtomicUsize,
    pinned_bytes: AtomicUsize,
}

// SAFETY: `allocate` leaks initialized memory, which stays valid until `free` drops it.
unsafe impl Pin for Recorder {
    unsafe fn pin(&self, pages: HostSpan) -> Result<()> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.fails {
            return Err(Error::new(Status::DeviceFailed, "the device cannot map it"));
        }
        assert_eq!(pages.address() as usize % 4096, 0);
        self.pinned_bytes.fetch_add(pages.bytes(), Ordering::Relaxed);
        Ok(())
    }

    unsafe fn unpin(&self, pages: HostSpan) {
        self.pinned_bytes.fetch_sub(pages.bytes(), Ordering::Relaxed);
    }

    fn allocate(&self, bytes: usize) -> Result<HostSpan> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.fails {
            return Err(Error::new(Status::OutOfHostMemory, "the allocator has nothing left"));
        }
        let base = NonNull::new(Box::leak(vec![7u8; bytes].into_boxed_slice()).as_mut_ptr()).unwrap();
        self.pinned_bytes.fetch_add(bytes, Ordering::Relaxed);
        // SAFETY: leaked memory of that length, valid until `free` drops it.
        Ok(unsafe { HostSpan::new(base, bytes) })
    }

    unsafe fn free(&self, memory: HostSpan) {
        self.pinned_bytes.fetch_sub(memory.bytes(), Ordering::Relaxed);
        // SAFETY: memory that `allocate` leaked, with the same length.
        drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(memory.address(), memory.bytes())) });
    }

    fn counts_as_locked(&self) -> bool {
        self.counts
    }
}

#[test]
fn arena_is_pinned_once_and_unpinned_on_drop() {
    let pool = Pool::new(2).unwrap();
    let pin = Arc::new(Recorder::default());
    let pinned =
        |pin: &Arc<Recorder>| MemoryKind::Pinned { pin: pin.clone(), by: Pinning::Registered, node: None };
    let arena = Arena::take(5000, pinned(&pin)).unwrap();
    assert_eq!(pin.asked.load(Ordering::Relaxed), 0, "pages without RAM are not pinned");
    arena.touch(&pool).unwrap();
    arena.touch(&pool).unwrap();
    assert_eq!(pin.asked.load(Ordering::Relaxed), 1);
    assert_eq!(pin.pinned_bytes.load(Ordering::Relaxed), 8192, "whole pages");
    drop(arena);
    assert_eq!(pin.pinned_bytes.load(Ordering::Relaxed), 0);

    let fails = Arc::new(Recorder { fails: true, ..Recorder::default() });
    let arena = Arena::take(5000, pinned(&fails)).unwrap();
    assert_eq!(arena.touch(&pool).unwrap_err().message(), "the device cannot map it");
    drop(arena);
    assert_eq!(fails.pinned_bytes.load(Ordering::Relaxed), 0, "pages that were not pinned are not unpinned");
}

#[test]
fn arena_of_a_devices_allocator_is_zeroed_and_freed() {
    let node = Topology::read().with_memory().first().copied();
    let pinned = |pin: &Arc<Recorder>| MemoryKind::Pinned { pin: pin.clone(), by: Pinning::Allocated, node };
    let pin = Arc::new(Recorder::default());
    let arena = Arena::take(5000, pinned(&pin)).unwrap();
    assert_eq!(numbers::<u8>(arena.whole()), [0; 5000]);
    arena.touch(&Pool::new(2).unwrap()).unwrap();
    assert_eq!(pin.asked.load(Ordering::Relaxed), 1, "nothing is pinned twice");
    assert_eq!(pin.pinned_bytes.load(Ordering::Relaxed), 5000);
    drop(arena);
    assert_eq!(pin.pinned_bytes.load(Ordering::Relaxed), 0);
    let fails = Arc::new(Recorder { fails: true, ..Recorder::default() });
    let error = Arena::take(5000, pinned(&fails)).unwrap_err();
    assert_eq!(error.message(), "the allocator has nothing left");
}

/// A machine with two nodes and without transparent huge pages, where a process may lock 64 KiB and
/// has locked 4 KiB.
fn strict_machine(capabilities: &str) -> tempfile::TempDir {
    let mut files = node(0, "0-1", 1 << 20, 1 << 19, "10 20");
    files.extend(node(1, "2-3", 1 << 20, 1 << 10, "20 10"));
    files.push(text("sys/devices/system/node/online", "0-1\n"));
    files.push(text("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n"));
    files.push(text("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "3\n"));
    files.push(text(
        "proc/self/limits",
        "Limit                     Soft Limit           Hard Limit           Units     \n\
         Max locked memory         65536                65536                bytes     \n",
    ));
    files.push((
        "proc/self/status".to_string(),
        format!("Name:\tx\nVmLck:\t       4 kB\nCapEff:\t{capabilities}\n"),
    ));
    machine(&files)
}

#[test]
fn arena_refuses_to_lock_more_than_the_limit() {
    let root = strict_machine("0000000000000000");
    let take = |bytes, counts| {
        let pin = Arc::new(Recorder { counts, ..Recorder::default() });
        Arena::take_under(
            root.path(),
            bytes,
            MemoryKind::Pinned { pin, by: Pinning::Registered, node: None },
            None,
        )
    };
    take(60 << 10, true).unwrap();
    let error = take((60 << 10) + 1, true).unwrap_err();
    assert_eq!(error.status(), Status::OutOfHostMemory);
    let message = error.message();
    assert!(
        message.contains("60.0 KiB may be locked (RLIMIT_MEMLOCK)") && message.contains("ulimit"),
        "{error}"
    );
    take(1 << 20, false).unwrap();
    // Bit 14 of the capabilities is CAP_IPC_LOCK, which exempts from the limit.
    let capable = strict_machine("0000000000004000");
    assert_eq!(Limits::read_under(capable.path(), None).lockable_bytes, usize::MAX);
    assert_eq!(Limits::read_under(Path::new("/nowhere"), None).lockable_bytes, usize::MAX);
}

#[test]
fn arena_refuses_pages_and_nodes_that_the_machine_does_not_have() {
    let root = strict_machine("0000000000000000");
    let take = |bytes, kind, wanted| Arena::take_under(root.path(), bytes, kind, wanted).unwrap_err();
    for (error, status, word) in [
        (
            take(8 << 20, MemoryKind::Plain, Some(Pages::Explicit)),
            Status::OutOfHostMemory,
            "8.0 MiB need 4 explicit huge pages of 2 MiB, 3 are free",
        ),
        (take(8 << 20, MemoryKind::Plain, Some(Pages::Transparent)), Status::Unsupported, "are disabled"),
        (
            take(4096, MemoryKind::Node(0), Some(Pages::Explicit)),
            Status::Unsupported,
            "cannot be bound to a node",
        ),
        (
            take(4096, MemoryKind::Node(2), None),
            Status::InvalidArgument,
            "no memory on node 2; this process may use that of node",
        ),
        (
            take(8 << 20, MemoryKind::Node(1), None),
            Status::OutOfHostMemory,
            "8.0 MiB of host memory are needed on node 1, 2.0 MiB are free there",
        ),
    ] {
        assert!(error.status() == status && error.message().contains(word), "{error}");
    }
    let pin = Arc::new(Recorder::default());
    let kind = MemoryKind::Pinned { pin: pin.clone(), by: Pinning::Registered, node: Some(2) };
    assert!(take(4096, kind, None).message().contains("no memory on node 2"));
    assert_eq!(pin.asked.load(Ordering::Relaxed), 0);
}

#[test]
fn a_control_group_limit_below_the_needed_bytes_is_an_error() {
    let root = machine(&[
        text("proc/meminfo", "MemAvailable:   50331648 kB\n"),
        text("proc/self/mountinfo", "29 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
        text("proc/self/cgroup", "0::/job\n"),
        text("sys/fs/cgroup/job/memory.max", "8589934592\n"),
        text("sys/fs/cgroup/job/memory.current", "1073741824\n"),
        text("sys/fs/cgroup/job/memory.stat", "inactive_file 0\n"),
    ]);
    let limits = Limits::read_under(root.path(), None);
    limits.admit("an arena", 7 << 30).unwrap();
    let error = limits.admit("an arena", 9 << 30).unwrap_err();
    assert_eq!(error.status(), Status::OutOfHostMemory);
    let expected = "an arena needs 9.0 GiB of host memory; limit 7.0 GiB (cgroup limit)";
    assert_eq!(error.message(), expected);
}
