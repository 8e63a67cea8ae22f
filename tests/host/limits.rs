//! Limits of host memory, and the format of sizes.

use std::fs;
use std::path::Path;

use horizon::base::format::Size;
use horizon::base::{Front, Message, Status};
use horizon::host::{Limit, Limits, ram_bytes, ram_bytes_under};

#[test]
fn host_limits_of_this_machine() {
    let limits = Limits::read(None);
    assert!(limits.bytes > 0 && limits.bytes < usize::MAX, "{limits}");
    assert_eq!((limits.bytes, limits.limit), (limits.reported_bytes, limits.reported_limit));
    let stated = Limits::read(Some(12345 << 20));
    assert_eq!((stated.bytes, stated.limit), (12345 << 20, Limit::Stated));
    let shown = Message::from(stated.to_string()).to_string();
    assert!(shown.contains("(host_mem; the machine reports"), "{shown}");
}

/// Writes the files of a recorded machine.
fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

const MEMINFO: &str =
    "MemTotal:       65536000 kB\nMemFree:         1000000 kB\nMemAvailable:   50331648 kB\n";
const GIB: usize = 1 << 30;

fn read(root: &Path) -> (usize, Limit) {
    let limits = Limits::read_under(root, None);
    (limits.bytes, limits.limit)
}

#[test]
fn host_limits_without_control_groups() {
    assert_eq!(read(machine(&[("proc/meminfo", MEMINFO)]).path()), (48 * GIB, Limit::Available));
    assert_eq!(read(machine(&[]).path()), (usize::MAX, Limit::Available));
    assert_eq!(ram_bytes_under(machine(&[("proc/meminfo", MEMINFO)]).path()), 65_536_000 << 10);
    assert!(Limits::read(None).bytes <= ram_bytes() && ram_bytes() < usize::MAX);
}

#[test]
fn host_limits_of_cgroup_2_count_ancestors_and_working_set() {
    let mountinfo = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    let files = |leaf: &'static str| {
        machine(&[
            ("proc/meminfo", MEMINFO),
            ("proc/self/mountinfo", mountinfo),
            ("proc/self/cgroup", "0::/user.slice/job.scope\n"),
            ("sys/fs/cgroup/user.slice/job.scope/memory.max", leaf),
            ("sys/fs/cgroup/user.slice/job.scope/memory.current", "1073741824\n"),
            ("sys/fs/cgroup/user.slice/job.scope/memory.stat", "anon 1\ninactive_file 536870912\n"),
            ("sys/fs/cgroup/user.slice/memory.max", "21474836480\n"),
            ("sys/fs/cgroup/user.slice/memory.current", "2147483648\n"),
            ("sys/fs/cgroup/user.slice/memory.stat", "anon 1\ninactive_file 0\n"),
        ])
    };
    assert_eq!(read(files("max\n").path()), (18 * GIB, Limit::Cgroup), "the ancestor's limit applies");
    assert_eq!(
        read(files("8589934592\n").path()),
        (7 * GIB + GIB / 2, Limit::Cgroup),
        "the leaf's limit applies"
    );
    assert_eq!(read(files("0\n").path()), (0, Limit::Cgroup), "a limit below the usage leaves nothing");
    assert_eq!(
        ["max\n", "8589934592\n"].map(|leaf| ram_bytes_under(files(leaf).path())),
        [20 * GIB, 8 * GIB]
    );
}

#[test]
fn host_limits_of_cgroup_1_inside_a_container() {
    let files = |mount_root: &str| {
        machine(&[
            ("proc/meminfo", MEMINFO),
            (
                "proc/self/mountinfo",
                &format!(
                    "34 31 0:34 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
                     35 31 0:35 {mount_root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
                ),
            ),
            ("proc/self/cgroup", "5:cpuset:/docker/abc\n4:memory:/docker/abc\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "3221225472\n"),
            ("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "10737418240\n"),
            ("sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes", "3221225472\n"),
            (
                "sys/fs/cgroup/memory/docker/abc/memory.stat",
                "inactive_file 5\ntotal_inactive_file 1073741824\n",
            ),
        ])
    };
    assert_eq!(read(files("/").path()), (8 * GIB, Limit::Cgroup));
    // The mount shows only the container's subtree: its root has no limit, so available RAM applies.
    assert_eq!(read(files("/docker/abc").path()), (48 * GIB, Limit::Available));
}

#[test]
fn host_limits_refuse_with_needed_and_available_bytes_and_the_limit() {
    let root = machine(&[("proc/meminfo", MEMINFO)]);
    let limits = Limits::read_under(root.path(), None);
    limits.admit("the model", 48 * GIB).unwrap();
    let error = limits.admit("the model", 48 * GIB + GIB / 2).unwrap_err();
    assert_eq!(error.status(), Status::OutOfHostMemory);
    assert_eq!(error.message(), "the model needs 48.5 GiB of host memory; limit 48.0 GiB (available RAM)");
    // A stated number applies, also above the machine's limit; then there is a warning.
    let stated = |gib: usize| Limits::read_under(root.path(), Some(gib * GIB));
    stated(64).admit("the model", 60 * GIB).unwrap();
    let warning = stated(64).warning().unwrap();
    for (front, name) in [(Front::Command, "--host-mem"), (Front::C, "host_mem"), (Front::Rust, "host_mem")] {
        let part = format!("limit 64.0 GiB ({name}; the machine reports 48.0 GiB, available RAM)");
        assert!(warning.render(front).contains(&part), "{warning}");
    }
    assert_eq!((stated(48).warning(), limits.warning()), (None, None));
}

#[test]
fn host_size_is_displayed_with_one_decimal_and_a_binary_unit() {
    let texts =
        [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 20, "1.0 MiB"), (90_409_612_902, "84.2 GiB")];
    for (bytes, text) in texts {
        assert_eq!(Size(bytes).to_string(), text);
    }
    assert_eq!(Size((1 << 30) - 1).to_string(), "1.0 GiB");
}
