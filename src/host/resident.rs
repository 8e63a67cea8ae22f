//! The resident memory of this process.

use std::fs;

/// The resident bytes of this process without file pages: anonymous and shared pages, and explicit
/// huge pages. 0 if the system does not report them.
pub fn resident_bytes() -> usize {
    sum(&fs::read_to_string("/proc/self/status").unwrap_or_default())
}

fn sum(status: &str) -> usize {
    let kib = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()
    };
    ["RssAnon:", "RssShmem:", "HugetlbPages:"].into_iter().filter_map(kib).sum::<usize>() * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_bytes_exclude_file_pages() {
        let status = "VmRSS:\t  9000 kB\nRssAnon:\t    5000 kB\nRssFile:\t 3000 kB\nRssShmem:\t 8 kB\nHugetlbPages:\t 2048 kB\n";
        assert_eq!(sum(status), (5000 + 8 + 2048) * 1024);
        assert_eq!(sum(""), 0);
        assert!(resident_bytes() > 0);
    }
}
