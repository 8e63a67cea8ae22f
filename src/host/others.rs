//! What other processes take of this machine's cores.

use std::fs;
use std::time::Instant;

/// From its making on: how much of the machine was not ours.
#[derive(Clone, Copy, Debug)]
pub struct Others {
    start: Instant,
    ticks: Option<u64>,
}

/// The kernel tells processor time to user space in ticks of 10 ms (`USER_HZ`).
const TICK_S: f64 = 0.01;

impl Others {
    /// From now on.
    pub fn watch() -> Others {
        Others { start: Instant::now(), ticks: ticks() }
    }

    /// Cores that others kept busy since, on the average; virtual machines beside this one count, too, where they took
    /// cores away. 0 where the system does not tell. Two ticks are not told from none.
    pub fn cores(&self) -> f64 {
        let since = self.ticks.zip(ticks()).map_or(0, |(before, now)| now.saturating_sub(before));
        since.saturating_sub(2) as f64 * TICK_S / self.start.elapsed().as_secs_f64()
    }
}

/// Ticks that all cores were busy with what is not this process.
fn ticks() -> Option<u64> {
    let all = busy(&fs::read_to_string("/proc/stat").ok()?)?;
    Some(all.saturating_sub(own(&fs::read_to_string("/proc/self/stat").ok()?)?))
}

/// User, nice, system, interrupts and stolen, of all cores.
fn busy(stat: &str) -> Option<u64> {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let figures: Vec<u64> = all.split_whitespace().map_while(|figure| figure.parse().ok()).collect();
    [0, 1, 2, 5, 6, 7].into_iter().map(|at| figures.get(at)).sum()
}

/// User and system time of a process. Its name, in parentheses, may hold anything.
fn own(stat: &str) -> Option<u64> {
    let (_, after) = stat.rsplit_once(')')?;
    let figures: Vec<&str> = after.split_whitespace().collect();
    [11, 12].into_iter().map(|at| figures.get(at)?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_time_is_read_from_what_the_kernel_writes() {
        assert_eq!(busy("cpu  100 20 30 4000 500 6 7 8 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n"), Some(171));
        assert_eq!(busy("intr 5"), None);
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194560 100 0 0 0 77 11 0 0 20 0 1 0 100 1000 10";
        assert_eq!(own(stat), Some(88));
        assert!(Others::watch().cores() >= 0.0);
    }
}
