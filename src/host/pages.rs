//! Huge pages: what the system has, what an arena got.

use std::fmt;
use std::fs;
use std::path::Path;

use crate::base::format::Size;
use crate::base::{Error, Result, Status};

/// Bytes of a huge page.
pub const HUGE: usize = 2 << 20;

/// What an arena's memory is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Huge pages from the pool that the system's owner set aside.
    Explicit,
    /// Huge pages where the kernel finds some when memory is touched, else small ones.
    Transparent,
    /// Small pages: the arena is smaller than a huge page, or the system has huge pages switched off.
    Small,
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pages::Explicit => "2 MiB pages, set aside",
            Pages::Transparent => "2 MiB pages where the kernel finds them",
            Pages::Small => "small pages",
        })
    }
}

/// What the system offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HugePages {
    /// Explicit 2 MiB pages that are free and promised to nobody.
    pub explicit_free: usize,
    /// Whether transparent ones can be had by asking.
    pub transparent: bool,
}

impl HugePages {
    /// What this machine says.
    pub fn read() -> HugePages {
        HugePages::read_under(Path::new("/"))
    }

    /// As [`HugePages::read`], with `sys` found under `root`: for machines recorded in a folder.
    pub fn read_under(root: &Path) -> HugePages {
        let text = |path: &str| fs::read_to_string(root.join("sys/kernel/mm").join(path)).unwrap_or_default();
        let count = |name: &str| -> usize {
            text(&format!("hugepages/hugepages-2048kB/{name}")).trim().parse().unwrap_or(0)
        };
        let enabled = text("transparent_hugepage/enabled");
        HugePages {
            explicit_free: count("free_hugepages").saturating_sub(count("resv_hugepages")),
            transparent: enabled.contains("[always]") || enabled.contains("[madvise]"),
        }
    }

    /// Refuses pages that an arena of `bytes` cannot have.
    ///
    /// Errors: too few are set aside (`OutOfHostMemory`, with need and have); the system has transparent ones
    /// switched off, or a page is larger than the arena (`Unsupported`).
    pub fn admit(&self, bytes: usize, wanted: Pages) -> Result<()> {
        let need = bytes.div_ceil(HUGE);
        match wanted {
            Pages::Explicit if need > self.explicit_free => Err(Error::new(
                Status::OutOfHostMemory,
                format!(
                    "{} need {need} huge pages of 2 MiB, {} are set aside and free: raise /proc/sys/vm/nr_hugepages, \
                     or take other pages",
                    Size(bytes),
                    self.explicit_free
                ),
            )),
            Pages::Transparent if bytes < HUGE => Err(Error::new(
                Status::Unsupported,
                format!("{} are less than a huge page of 2 MiB: take other pages", Size(bytes)),
            )),
            Pages::Transparent if !self.transparent => Err(Error::new(
                Status::Unsupported,
                "transparent huge pages are switched off: write madvise to \
                 /sys/kernel/mm/transparent_hugepage/enabled, or take other pages",
            )),
            _ => Ok(()),
        }
    }
}
