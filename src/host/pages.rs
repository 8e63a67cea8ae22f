//! Huge pages: those that the system offers, and those of an arena.

use std::fmt;
use std::fs;
use std::path::Path;

use crate::base::format::{Size, several};
use crate::base::{Error, Result, Status};

/// Bytes of a huge page.
pub const HUGE: usize = 2 << 20;

/// The kind of an arena's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Huge pages reserved by the administrator (`vm.nr_hugepages`).
    Explicit,
    /// Transparent huge pages where the kernel finds some when memory is touched, else small pages.
    Transparent,
    /// Small pages: the arena is smaller than a huge page, or huge pages are disabled.
    Small,
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pages::Explicit => "explicit 2 MiB pages",
            Pages::Transparent => "transparent 2 MiB pages",
            Pages::Small => "small pages",
        })
    }
}

/// The huge pages that the system offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HugePages {
    /// Explicit 2 MiB pages that are free and not reserved by a mapping.
    pub explicit_free: usize,
    /// True if transparent huge pages are enabled (`always` or `madvise`).
    pub transparent: bool,
}

impl HugePages {
    /// Reads the values of this machine.
    pub fn read() -> HugePages {
        HugePages::read_under(Path::new("/"))
    }

    /// As [`HugePages::read`], with `sys` under `root`: for machines recorded in a folder.
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

    /// Checks that an arena of `bytes` bytes can have the wanted pages.
    ///
    /// Errors: too few explicit pages are free (`OutOfHostMemory`, with needed and available
    /// pages); transparent pages are disabled, or a page is larger than the arena (`Unsupported`).
    pub fn admit(&self, bytes: usize, wanted: Pages) -> Result<()> {
        let need = bytes.div_ceil(HUGE);
        match wanted {
            Pages::Explicit if need > self.explicit_free => Err(Error::new(
                Status::OutOfHostMemory,
                format!(
                    "{} need {} of 2 MiB, {} are free: raise /proc/sys/vm/nr_hugepages, or use \
                     other pages",
                    Size(bytes),
                    several(need, "explicit huge page"),
                    self.explicit_free
                ),
            )),
            Pages::Transparent if bytes < HUGE => Err(Error::new(
                Status::Unsupported,
                format!("{} are less than a huge page of 2 MiB: use other pages", Size(bytes)),
            )),
            Pages::Transparent if !self.transparent => Err(Error::new(
                Status::Unsupported,
                "transparent huge pages are disabled: write madvise to \
                 /sys/kernel/mm/transparent_hugepage/enabled, or use other pages",
            )),
            _ => Ok(()),
        }
    }
}
