//! The date that a template may write, without the machine's time zone.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::{Error as JinjaError, ErrorKind};

use crate::base::{Error, Result};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
const DAY: i64 = 86_400;

/// Seconds since 1970: `SOURCE_DATE_EPOCH` (reproducible-builds.org), else the clock's.
pub fn now() -> Result<i64> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text.parse().map_err(|_| {
            Error::argument(format!("SOURCE_DATE_EPOCH is {text:?}; it must be seconds since 1970"))
        }),
        Err(_) => Ok(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)),
    }
}

/// `strftime` of the C locale, UTC; the fields that dates and times are made of.
pub fn format(seconds: i64, format: &str) -> Result<String, JinjaError> {
    let (day, second) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    let (year, month, of_month) = civil(day);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let month_name = MONTHS[month as usize - 1];
    let day_name = DAYS[day.rem_euclid(7) as usize];
    let hour_of_12 = (hour + 11) % 12 + 1;
    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        match characters.next() {
            Some('Y') => out += &year.to_string(),
            Some('y') => out += &format!("{:02}", year.rem_euclid(100)),
            Some('m') => out += &format!("{month:02}"),
            Some('B') => out += month_name,
            Some('b') => out += &month_name[..3],
            Some('d') => out += &format!("{of_month:02}"),
            Some('j') => out += &format!("{:03}", day - day_of(year, 1, 1) + 1),
            Some('A') => out += day_name,
            Some('a') => out += &day_name[..3],
            Some('H') => out += &format!("{hour:02}"),
            Some('I') => out += &format!("{hour_of_12:02}"),
            Some('p') => out += if hour < 12 { "AM" } else { "PM" },
            Some('M') => out += &format!("{minute:02}"),
            Some('S') => out += &format!("{:02}", second % 60),
            Some('F') => out += &format!("{year}-{month:02}-{of_month:02}"),
            Some('T') => out += &format!("{hour:02}:{minute:02}:{:02}", second % 60),
            Some('%') => out.push('%'),
            other => {
                let field = other.map(String::from).unwrap_or_default();
                let message = format!("strftime_now does not know %{field}");
                return Err(JinjaError::new(ErrorKind::InvalidOperation, message));
            }
        }
    }
    Ok(out)
}

/// Year, month and day of the month of a day since 1970-01-01, by Howard Hinnant's `civil_from_days`
/// (howardhinnant.github.io/date_algorithms.html).
fn civil(day: i64) -> (i64, i64, i64) {
    let shifted = day + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, of_month)
}

/// The inverse of [`civil`].
fn day_of(year: i64, month: i64, of_month: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + of_month - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Python's `datetime.fromtimestamp(s, timezone.utc).strftime` gives.
    #[test]
    fn dates_are_pythons() {
        let all = "%Y %y %m %B %b %d %j %A %a %H %I %p %M %S %%";
        for (seconds, text) in [
            (0, "1970 70 01 January Jan 01 001 Thursday Thu 00 12 AM 00 00 %"),
            (951_825_599, "2000 00 02 February Feb 29 060 Tuesday Tue 11 11 AM 59 59 %"),
            (1_735_689_599, "2024 24 12 December Dec 31 366 Tuesday Tue 23 11 PM 59 59 %"),
            (4_107_542_400, "2100 00 03 March Mar 01 060 Monday Mon 00 12 AM 00 00 %"),
        ] {
            assert_eq!(format(seconds, all).unwrap(), text);
        }
        assert_eq!(format(951_825_599, "%F %T").unwrap(), "2000-02-29 11:59:59");
        assert!(format(0, "%Q").is_err() && format(0, "%").is_err());
    }

    #[test]
    fn days_and_dates_are_inverse() {
        for day in -200_000..200_000 {
            let (year, month, of_month) = civil(day);
            assert_eq!(day_of(year, month, of_month), day);
        }
    }
}
