//! Limits on this process's host memory, read before any is allocated.
//!
//! The limit is the smallest of the available physical RAM and the memory left by the process's
//! control groups (cgroup versions 1 and 2, with all ancestors), unless the user states another
//! number. The limit on locked memory is read as well.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::base::format::Size;
use crate::base::{Error, Message, Name, Result, Status};

/// The source of a limit on host memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Available physical RAM (`MemAvailable`).
    Available,
    /// The memory limit of the process's control group.
    Cgroup,
    /// [`Name::HostMem`], which the user has set.
    Stated,
    /// The memory of the machine that a plan is for.
    Machine,
}

/// For a [`Message`].
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Available => f.write_str("available RAM"),
            Limit::Cgroup => f.write_str("cgroup limit"),
            Limit::Stated => Name::HostMem.fmt(f),
            Limit::Machine => f.write_str("the described machine's memory"),
        }
    }
}

/// The host memory that this process may take, and the source of the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that may be taken.
    pub bytes: usize,
    /// The source of `bytes`.
    pub limit: Limit,
    /// Bytes that the machine allows; differs from `bytes` if the user stated a number.
    pub reported_bytes: usize,
    /// The source of `reported_bytes`.
    pub reported_limit: Limit,
    /// Bytes that this process may still lock (`RLIMIT_MEMLOCK` less the bytes already locked);
    /// `usize::MAX` if unlimited.
    pub lockable_bytes: usize,
}

impl Limits {
    /// The current limits of this machine. A stated number overrides the reported
    /// limit; the displayed limits then show both.
    pub fn read(stated: Option<usize>) -> Limits {
        Limits::read_under(Path::new("/"), stated)
    }

    /// As [`Limits::read`], with `proc` and `sys` under `root`: for machines recorded in a folder.
    pub fn read_under(root: &Path, stated: Option<usize>) -> Limits {
        let (mut reported_bytes, mut reported_limit) =
            (meminfo_bytes(root, "MemAvailable:"), Limit::Available);
        for group in groups_under(root) {
            if let Some(left) = group.version.bytes_left(group.files(root).each_ref().map(String::as_str))
                && left < reported_bytes
            {
                (reported_bytes, reported_limit) = (left, Limit::Cgroup);
            }
        }
        let (bytes, limit) = match stated {
            Some(bytes) => (bytes, Limit::Stated),
            None => (reported_bytes, reported_limit),
        };
        let [limits, status] =
            ["/proc/self/limits", "/proc/self/status"].map(|file| text(root, Path::new(file)));
        let lockable_bytes = lockable_bytes(&limits, &status);
        Limits { bytes, limit, reported_bytes, reported_limit, lockable_bytes }
    }

    /// The limits of another machine, all of whose `bytes` are free. A stated number overrides
    /// them.
    pub fn of_machine(bytes: usize, stated: Option<usize>) -> Limits {
        let (allowed, limit) = stated.map_or((bytes, Limit::Machine), |stated| (stated, Limit::Stated));
        Limits {
            bytes: allowed,
            limit,
            reported_bytes: bytes,
            reported_limit: Limit::Machine,
            lockable_bytes: usize::MAX,
        }
    }

    /// A warning if the user stated more than the machine reports. The stated number is used
    /// anyway, because the memory of a virtual machine may grow on use.
    pub fn warning(&self) -> Option<Message> {
        let more = self.limit == Limit::Stated && self.bytes > self.reported_bytes;
        let text = || format!("host memory: {self}; opening fails if the machine does not provide it");
        more.then(|| text().into())
    }

    /// Checks that `need` bytes fit. `what` names their use, e.g. "the model".
    ///
    /// Errors: they do not fit (`OutOfHostMemory`, with needed and available bytes and the limit).
    pub fn admit(&self, what: &str, need: usize) -> Result<()> {
        if need <= self.bytes {
            return Ok(());
        }
        Err(Error::new(
            Status::OutOfHostMemory,
            format!("{what} needs {} of host memory; {self}", Size(need)),
        ))
    }

    /// As [`Limits::admit`], for locked memory.
    ///
    /// Errors: it does not fit (`OutOfHostMemory`, with needed and available bytes and how to raise
    /// the limit).
    pub fn admit_locked(&self, what: &str, need: usize) -> Result<()> {
        if need <= self.lockable_bytes {
            return Ok(());
        }
        Err(Error::new(
            Status::OutOfHostMemory,
            format!(
                "{what} needs {} of locked memory; {} may be locked (RLIMIT_MEMLOCK): raise it with `ulimit -l` or \
                 in /etc/security/limits.conf",
                Size(need),
                Size(self.lockable_bytes)
            ),
        ))
    }
}

/// For a [`Message`].
impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "limit {} ({}", Size(self.bytes), self.limit)?;
        let reported = Size(self.reported_bytes);
        match (self.limit, self.reported_limit) {
            (Limit::Stated, Limit::Machine) => write!(f, "; the machine has {reported})"),
            (Limit::Stated, limit) => write!(f, "; the machine reports {reported}, {limit})"),
            _ => f.write_str(")"),
        }
    }
}

/// Bytes that a process may still lock, from its `/proc/self/limits` and `/proc/self/status`.
fn lockable_bytes(limits: &str, status: &str) -> usize {
    const CAP_IPC_LOCK: u32 = 14; // exempts from the limit
    let field = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let capabilities = field("CapEff:").and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or(0);
    if capabilities >> CAP_IPC_LOCK & 1 == 1 {
        return usize::MAX;
    }
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    let soft = soft.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok()); // or "unlimited"
    let locked_kib =
        field("VmLck:").and_then(|size| size.strip_suffix("kB")?.trim().parse().ok()).unwrap_or(0);
    soft.map_or(usize::MAX, |soft| soft.saturating_sub(1024 * locked_kib))
}

/// The RAM that this process may use, free or not: the machine's, or the smallest limit of its
/// control groups.
pub fn ram_bytes() -> usize {
    ram_bytes_under(Path::new("/"))
}

/// As [`ram_bytes`], with `proc` and `sys` under `root`.
pub fn ram_bytes_under(root: &Path) -> usize {
    let limits = groups_under(root).into_iter().filter_map(|group| {
        let [limit, ..] = group.files(root);
        limit.trim().parse().ok()
    });
    limits.fold(meminfo_bytes(root, "MemTotal:"), usize::min)
}

/// The text of a file under `root`; empty if it cannot be read.
fn text(root: &Path, path: &Path) -> String {
    fs::read_to_string(root.join(path.strip_prefix("/").unwrap_or(path))).unwrap_or_default()
}

/// A field of `/proc/meminfo`, in bytes; the largest number if it is missing.
fn meminfo_bytes(root: &Path, field: &str) -> usize {
    let meminfo = text(root, Path::new("/proc/meminfo"));
    let kib = meminfo
        .lines()
        .find_map(|line| line.strip_prefix(field)?.trim().strip_suffix("kB")?.trim().parse::<usize>().ok());
    kib.and_then(|kib| kib.checked_mul(1024)).unwrap_or(usize::MAX)
}

/// The memory groups of this process.
fn groups_under(root: &Path) -> Vec<Group> {
    let [cgroup, mountinfo] =
        ["/proc/self/cgroup", "/proc/self/mountinfo"].map(|file| text(root, Path::new(file)));
    groups(&cgroup, &mountinfo)
}

/// The version of a control group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Version {
    /// The names of the files with limit, usage and statistics.
    fn files(self) -> [&'static str; 3] {
        match self {
            Version::One => ["memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat"],
            Version::Two => ["memory.max", "memory.current", "memory.stat"],
        }
    }

    /// Bytes left in a group: its limit minus its working set (usage without inactive file pages,
    /// which the kernel reclaims first). `None` without a limit.
    fn bytes_left(self, [limit, usage, stat]: [&str; 3]) -> Option<usize> {
        let limit: usize = limit.trim().parse().ok()?; // version 2 writes "max" for none
        let usage: usize = usage.trim().parse().ok()?;
        let key = match self {
            Version::One => "total_inactive_file ",
            Version::Two => "inactive_file ",
        };
        let reclaimable: usize =
            stat.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok()).unwrap_or(0);
        Some(limit.saturating_sub(usage.saturating_sub(reclaimable)))
    }
}

/// A control group's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    version: Version,
    folder: PathBuf,
}

impl Group {
    /// The texts of its files, see [`Version::files`].
    fn files(&self, root: &Path) -> [String; 3] {
        self.version.files().map(|file| text(root, &self.folder.join(file)))
    }
}

/// The memory groups of a process, each before its ancestors, from its `/proc/self/cgroup` and
/// `/proc/self/mountinfo`.
fn groups(cgroup: &str, mountinfo: &str) -> Vec<Group> {
    let mut found = Vec::new();
    for line in cgroup.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let version = match (id, controllers) {
            ("0", "") => Version::Two,
            _ if controllers.split(',').any(|c| c == "memory") => Version::One,
            _ => continue,
        };
        let Some((mount_root, mount_point)) = mountinfo.lines().find_map(|line| memory_mount(line, version))
        else {
            continue;
        };
        // In a container the mount shows a subtree; a group outside of it is represented by the
        // mount point.
        let inside = Path::new(path).strip_prefix(mount_root).unwrap_or(Path::new(""));
        let mut folder = Path::new(mount_point).join(inside);
        loop {
            found.push(Group { version, folder: folder.clone() });
            if folder == Path::new(mount_point) || !folder.pop() {
                break;
            }
        }
    }
    found
}

/// The root and mount point in a line of `mountinfo`, if it mounts the memory groups of this
/// version.
fn memory_mount(line: &str, version: Version) -> Option<(&str, &str)> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let (root, point) = (mount.next()?, mount.next()?);
    let mut filesystem = filesystem.split(' ');
    let (kind, options) = (filesystem.next()?, filesystem.nth(1)?);
    let right = match version {
        Version::One => kind == "cgroup" && options.split(',').any(|option| option == "memory"),
        Version::Two => kind == "cgroup2",
    };
    right.then_some((root, point))
}
