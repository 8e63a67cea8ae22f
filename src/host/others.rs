//! CPU use of other processes.

use std::fs;
use std::time::Instant;

/// Measures the CPU time used by other processes since it was created.
#[derive(Clone, Copy, Debug)]
pub struct Others {
    start: Instant,
    ticks: Option<u64>,
}

/// The kernel reports CPU time in ticks of 10 ms (`USER_HZ`).
const TICK_S: f64 = 0.01;

impl Others {
    /// Starts a measurement.
    pub fn watch() -> Others {
        Others { start: Instant::now(), ticks: ticks() }
    }

    /// The average number of cores that others used since the start, including cores stolen by
    /// other virtual machines. 0 if the system does not report it. The first two ticks are ignored,
    /// as they are within the resolution.
    pub fn cores(&self) -> f64 {
        let since = self.ticks.zip(ticks()).map_or(0, |(before, now)| now.saturating_sub(before));
        since.saturating_sub(2) as f64 * TICK_S / self.start.elapsed().as_secs_f64()
    }
}

/// Busy ticks of all cores, without those of this process.
fn ticks() -> Option<u64> {
    let all = busy(&fs::read_to_string("/proc/stat").ok()?)?;
    Some(all.saturating_sub(own(&fs::read_to_string("/proc/self/stat").ok()?)?))
}

/// User, nice, system, interrupt and steal ticks of all cores.
fn busy(stat: &str) -> Option<u64> {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let figures: Vec<u64> = all.split_whitespace().map_while(|figure| figure.parse().ok()).collect();
    [0, 1, 2, 5, 6, 7].into_iter().map(|at| figures.get(at)).sum()
}

/// User and system ticks of a process. Its name, in parentheses, may contain any character.
fn own(stat: &str) -> Option<u64> {
    let (_, after) = stat.rsplit_once(')')?;
    let figures: Vec<&str> = after.split_whitespace().collect();
    [11, 12].into_iter().map(|at| figures.get(at)?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_ticks_are_parsed_from_proc_stat() {
        assert_eq!(busy("cpu  100 20 30 4000 500 6 7 8 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n"), Some(171));
        assert_eq!(busy("intr 5"), None);
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194560 100 0 0 0 77 11 0 0 20 0 1 0 100 1000 10";
        assert_eq!(own(stat), Some(88));
        assert!(Others::watch().cores() >= 0.0);
    }
}
