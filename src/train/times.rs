//! The time of a step and the busy time of its lanes, predicted or measured.

use crate::device::Lane;

/// The time of a step and the busy time of each lane in it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepTimes {
    /// Seconds from the end of the previous step to the end of this one.
    pub step_seconds: f64,
    /// Seconds each lane was busy, indexed by [`Lane::at`]. Lanes overlap, and AdamW of a step
    /// overlaps with the next step.
    pub busy_seconds: [f64; Lane::COUNT],
}

impl StepTimes {
    /// Returns a table of these predicted times, measured times, and the prediction's error in
    /// percent.
    pub fn compared_with(&self, measured: &StepTimes) -> String {
        let line = |name: &str, predicted: f64, measured: f64| {
            let error = match predicted > 0.0 && measured > 0.0 {
                true => format!("{:+.0} %", 100.0 * (predicted / measured - 1.0)),
                false => String::new(),
            };
            let line = format!("{name:<16}{:>10.2} ms{:>10.2} ms{error:>9}", 1e3 * predicted, 1e3 * measured);
            line.trim_end().to_owned() + "\n"
        };
        let mut text = format!("{:<16}{:>13}{:>13}\n", "", "predicted", "measured");
        text += &line("step", self.step_seconds, measured.step_seconds);
        for lane in Lane::ALL {
            let (predicted, measured) = (self.busy_seconds[lane.at()], measured.busy_seconds[lane.at()]);
            if predicted > 0.0 || measured > 0.0 {
                text += &line(&format!("{lane} busy"), predicted, measured);
            }
        }
        text
    }
}

/// The mean over the steps of a run, without the first: no AdamW of an earlier step overlaps with
/// that one.
#[derive(Clone, Copy, Debug, Default)]
pub struct MeanTimes {
    sum: StepTimes,
    steps: u64,
}

impl MeanTimes {
    /// Adds a step.
    pub fn push(&mut self, times: &StepTimes) {
        if self.steps > 0 {
            self.sum.step_seconds += times.step_seconds;
            self.sum.busy_seconds.iter_mut().zip(times.busy_seconds).for_each(|(sum, busy)| *sum += busy);
        }
        self.steps += 1;
    }

    /// Returns the mean; `None` before the second step.
    pub fn mean(&self) -> Option<StepTimes> {
        let steps = self.steps.checked_sub(1).filter(|&steps| steps > 0)? as f64;
        let StepTimes { step_seconds, busy_seconds } = self.sum;
        Some(StepTimes {
            step_seconds: step_seconds / steps,
            busy_seconds: busy_seconds.map(|busy| busy / steps),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_excludes_the_first_step() {
        let mut mean = MeanTimes::default();
        for (step_seconds, busy) in [(8.0, 9.0), (1.0, 0.5), (2.0, 0.25)] {
            let mut busy_seconds = [0.0; Lane::COUNT];
            busy_seconds[Lane::Host.at()] = busy;
            if step_seconds < 2.0 {
                assert_eq!(mean.mean(), None);
            }
            mean.push(&StepTimes { step_seconds, busy_seconds });
        }
        let mean = mean.mean().unwrap();
        assert_eq!((mean.step_seconds, mean.busy_seconds), (1.5, [0.0, 0.0, 0.0, 0.375, 0.0]));
    }

    #[test]
    fn the_table_has_no_error_for_lanes_without_a_prediction() {
        let predicted = StepTimes { step_seconds: 0.5, busy_seconds: [0.4, 0.1, 0.0, 0.2, 0.0] };
        let measured = StepTimes { step_seconds: 0.4, busy_seconds: [0.32, 0.1, 0.0, 0.25, 0.05] };
        let lines = [
            "                    predicted     measured",
            "step                500.00 ms    400.00 ms    +25 %",
            "compute busy        400.00 ms    320.00 ms    +25 %",
            "h2d busy            100.00 ms    100.00 ms     +0 %",
            "host busy           200.00 ms    250.00 ms    -20 %",
            "disk busy             0.00 ms     50.00 ms\n",
        ];
        assert_eq!(predicted.compared_with(&measured), lines.join("\n"));
    }
}
