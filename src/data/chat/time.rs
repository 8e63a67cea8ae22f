//! Date and time for chat templates, always in UTC.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use minijinja::{Error as JinjaError, ErrorKind};

use crate::base::{Error, Result};

/// Returns the time `seconds` after 1970. `None`: `SOURCE_DATE_EPOCH` (seconds since 1970, see
/// reproducible-builds.org) if set, else the clock's time.
pub fn at(seconds: Option<i64>) -> Result<DateTime<Utc>> {
    if let Some(seconds) = seconds {
        return DateTime::from_timestamp(seconds, 0)
            .ok_or_else(|| Error::argument(format!("{seconds} seconds since 1970 is not a time")));
    }
    let Ok(text) = std::env::var("SOURCE_DATE_EPOCH") else { return Ok(Utc::now()) };
    let time = text.parse().ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    time.ok_or_else(|| {
        Error::argument(format!("SOURCE_DATE_EPOCH is {text:?}; it must be seconds since 1970"))
    })
}

/// Formats as `strftime` in the C locale.
pub fn format(time: DateTime<Utc>, format: &str) -> Result<String, JinjaError> {
    let mut out = String::new();
    write!(out, "{}", time.format(format)).map_err(|_| {
        let message = format!("strftime_now: the format {format:?} has a field that is not supported");
        JinjaError::new(ErrorKind::InvalidOperation, message)
    })?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(seconds: i64, how: &str) -> Result<String, JinjaError> {
        format(DateTime::from_timestamp(seconds, 0).unwrap(), how)
    }

    /// The expected texts come from Python's `datetime.fromtimestamp(s, timezone.utc).strftime`.
    #[test]
    fn dates_are_formatted_as_in_python() {
        let all = "%Y %y %m %B %b %d %j %A %a %H %I %p %M %S %%";
        for (seconds, expected) in [
            (0, "1970 70 01 January Jan 01 001 Thursday Thu 00 12 AM 00 00 %"),
            (951_825_599, "2000 00 02 February Feb 29 060 Tuesday Tue 11 11 AM 59 59 %"),
            (1_735_689_599, "2024 24 12 December Dec 31 366 Tuesday Tue 23 11 PM 59 59 %"),
            (4_107_542_400, "2100 00 03 March Mar 01 060 Monday Mon 00 12 AM 00 00 %"),
        ] {
            assert_eq!(text(seconds, all).unwrap(), expected);
        }
        assert_eq!(text(951_825_599, "%F %T").unwrap(), "2000-02-29 11:59:59");
        assert!(text(0, "%Q").is_err() && text(0, "%").is_err());
    }
}
