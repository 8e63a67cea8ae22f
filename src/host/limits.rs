//! How much memory this process may take.
//!
//! Asked before anything is taken: physical RAM that the system calls available, and what the process's
//! control groups (versions 1 and 2, with all their ancestors) leave. The smallest rules, unless the user
//! states another number. Beside it stands how much of that may be locked in place.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::base::format::Size;
use crate::base::{Error, Result, Status};

/// A bound on host memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Physical RAM that the system calls available.
    Available,
    /// The memory limit of the process's control group.
    Cgroup,
    /// What the user said with `--host-mem`.
    Stated,
    /// The memory of a described machine.
    Machine,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Limit::Available => "available RAM",
            Limit::Cgroup => "cgroup limit",
            Limit::Stated => "--host-mem",
            Limit::Machine => "the described machine's memory",
        })
    }
}

/// The host memory this process may take, and what says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that may be taken.
    pub bytes: usize,
    /// The bound that gives that number.
    pub limit: Limit,
    /// Bytes that the machine itself would allow: differs from `bytes` where the user stated a number.
    pub reported_bytes: usize,
    /// The bound that gives `reported_bytes`.
    pub reported_limit: Limit,
    /// Bytes that this process may still lock in place (`RLIMIT_MEMLOCK` less what is locked); `usize::MAX` where
    /// nothing bounds it.
    pub lockable_bytes: usize,
}

impl Limits {
    /// What holds now. A stated number (`--host-mem`) overrides what the machine reports; whoever talks to
    /// the user prints the limits then, which say both.
    pub fn read(stated: Option<usize>) -> Limits {
        Limits::read_under(Path::new("/"), stated)
    }

    /// As [`Limits::read`], with `proc` and `sys` found under `root`: for machines recorded in a folder.
    pub fn read_under(root: &Path, stated: Option<usize>) -> Limits {
        let text = |path: &Path| {
            fs::read_to_string(root.join(path.strip_prefix("/").unwrap_or(path))).unwrap_or_default()
        };
        let available = available_bytes(&text(Path::new("/proc/meminfo"))).unwrap_or(usize::MAX);
        let (mut reported_bytes, mut reported_limit) = (available, Limit::Available);
        let groups = groups(&text(Path::new("/proc/self/cgroup")), &text(Path::new("/proc/self/mountinfo")));
        for group in groups {
            let [limit, usage, stat] = group.version.files().map(|file| text(&group.folder.join(file)));
            if let Some(room) = group.version.room(&limit, &usage, &stat)
                && room < reported_bytes
            {
                (reported_bytes, reported_limit) = (room, Limit::Cgroup);
            }
        }
        let (bytes, limit) = match stated {
            Some(bytes) => (bytes, Limit::Stated),
            None => (reported_bytes, reported_limit),
        };
        let status = text(Path::new("/proc/self/status"));
        let lockable_bytes = lockable_bytes(&text(Path::new("/proc/self/limits")), &status);
        Limits { bytes, limit, reported_bytes, reported_limit, lockable_bytes }
    }

    /// What a machine that is not this one would allow, if all its `bytes` were free. A stated number overrides that.
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

    /// The warning that the user stated more than the machine reports. The stated number holds all the same, because the
    /// memory of a virtual machine may grow as it is used.
    pub fn warning(&self) -> Option<String> {
        let more = self.limit == Limit::Stated && self.bytes > self.reported_bytes;
        more.then(|| format!("host memory: {self}; opening fails if the machine does not provide it"))
    }

    /// Refuses what does not fit: `what` names the thing that `need` bytes are for, e.g. "the model".
    ///
    /// Errors: `OutOfHostMemory`, with need, have, and which limit.
    pub fn admit(&self, what: &str, need: usize) -> Result<()> {
        if need <= self.bytes {
            return Ok(());
        }
        Err(Error::new(
            Status::OutOfHostMemory,
            format!("{what} needs {} of host memory; {self}", Size(need)),
        ))
    }

    /// As [`Limits::admit`], for memory that is to be locked in place.
    ///
    /// Errors: `OutOfHostMemory`, with need, have, and what raises the limit.
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

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} may be taken ({})", Size(self.bytes), self.limit)?;
        if self.limit == Limit::Stated {
            write!(f, ", where the machine reports {} ({})", Size(self.reported_bytes), self.reported_limit)?;
        }
        Ok(())
    }
}

/// What a process may still lock, by its `/proc/self/limits` and `/proc/self/status`.
fn lockable_bytes(limits: &str, status: &str) -> usize {
    const CAP_IPC_LOCK: u32 = 14; // who has it is not asked for the limit
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

/// `MemAvailable` of a `/proc/meminfo`, in bytes.
fn available_bytes(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The two kinds of control group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Version {
    /// The files that hold limit, usage and statistics.
    fn files(self) -> [&'static str; 3] {
        match self {
            Version::One => ["memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat"],
            Version::Two => ["memory.max", "memory.current", "memory.stat"],
        }
    }

    /// What a group leaves: its limit less its working set, which is its usage without the file pages that
    /// the kernel drops first. None without a limit.
    fn room(self, limit: &str, usage: &str, stat: &str) -> Option<usize> {
        let limit: usize = limit.trim().parse().ok()?; // version 2 writes "max" for none
        let usage: usize = usage.trim().parse().ok()?;
        let key = match self {
            Version::One => "total_inactive_file ",
            Version::Two => "inactive_file ",
        };
        let droppable: usize =
            stat.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok()).unwrap_or(0);
        Some(limit.saturating_sub(usage.saturating_sub(droppable)))
    }
}

/// A folder of a control group.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    version: Version,
    folder: PathBuf,
}

/// The memory groups that a process is in, each before its ancestors, from its `/proc/self/cgroup` and
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
        // Inside a container the mount shows a subtree; a path outside of it is seen at the mount point.
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

/// Root and mount point of a line of `mountinfo`, if it mounts the memory groups of this version.
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
