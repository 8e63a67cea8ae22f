//! Date and time for chat templates, always in UTC.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use minijinja::{Error as JinjaError, ErrorKind};

use crate::base::{Error, Result};

/// Returns the time that chat templates print, in seconds since 1970: `SOURCE_DATE_EPOCH` (see
/// reproducible-builds.org) if set, else the clock's time.
pub fn now() -> Result<i64> {
    let Ok(text) = std::env::var("SOURCE_DATE_EPOCH") else { return Ok(Utc::now().timestamp()) };
    let is_time = |seconds: &i64| DateTime::from_timestamp(*seconds, 0).is_some();
    text.parse().ok().filter(is_time).ok_or_else(|| {
        Error::argument(format!("SOURCE_DATE_EPOCH is {text:?}; it must be seconds since 1970"))
    })
}

/// Returns the time `seconds` after 1970; `None`: [`now`].
pub fn at(seconds: Option<i64>) -> Result<DateTime<Utc>> {
    let seconds = seconds.map_or_else(now, Ok)?;
    DateTime::from_timestamp(seconds, 0)
        .ok_or_else(|| Error::argument(format!("{seconds} seconds since 1970 is not a time")))
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
