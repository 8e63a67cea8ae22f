//! Formatting and parsing of sizes, counts and times for users.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A number of bytes, displayed as `84.2 GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub usize);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        if value < 1024.0 {
            return write!(f, "{} B", self.0);
        }
        let mut unit = "";
        for next in ["KiB", "MiB", "GiB", "TiB"] {
            if value < 1023.95 {
                break;
            }
            value /= 1024.0;
            unit = next;
        }
        write!(f, "{value:.1} {unit}")
    }
}

/// Parses a size in bytes: `8G`, `512MiB`, `1.5GB` or a plain number. K, M, G, T and KiB, MiB, GiB,
/// TiB are powers of 1024; KB, MB, GB, TB are powers of 1000. Case-insensitive.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.trim().to_ascii_lowercase();
    let (prefix, base) = match unit.as_str() {
        "" | "b" => ("", 1.0),
        _ => match (unit.strip_suffix("ib"), unit.strip_suffix('b')) {
            (Some(prefix), _) => (prefix, 1024.0),
            (None, Some(prefix)) => (prefix, 1000.0),
            (None, None) => (unit.as_str(), 1024.0_f64),
        },
    };
    let power = match prefix {
        "" if base == 1.0 => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err("its unit is not known; use K, M, G, T, KiB … TiB or KB … TB".to_owned()),
    };
    let number: f64 =
        number.parse().map_err(|_| "it must be a number and a unit, as in 8G or 512MiB".to_owned())?;
    let bytes = number * base.powi(power);
    // Above 2⁵³ not every integer is an f64.
    if bytes > (1u64 << 53) as f64 {
        return Err("that is more than 8 PiB".to_owned());
    }
    Ok(bytes as usize)
}

/// A number and a noun, in the plural unless the number is 1: `1 layer`, `2 micro-batches`.
pub fn several(number: usize, what: &str) -> String {
    let ending = match number {
        1 => "",
        _ if what.ends_with("ch") => "es",
        _ => "s",
    };
    format!("{number} {what}{ending}")
}

/// A text whose control characters, which a terminal could obey, and invisible characters are
/// escaped, except those of `kept`: `\u{1b}[2J`.
pub fn escaped(text: &str, kept: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if (character.is_control() || is_invisible(character)) && !kept.contains(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// A text; of one with more than 60 characters only the beginning, and `…`.
pub fn shortened(text: &str) -> String {
    const CHARACTERS_MAX: usize = 60;
    match text.char_indices().nth(CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A path, [escaped].
pub fn shown(path: &Path) -> String {
    escaped(&path.display().to_string(), "")
}

/// A value as one word for a shell (bash, ksh, zsh), without characters that [`escaped`] escapes.
pub fn quoted(value: impl AsRef<OsStr>) -> String {
    let value = value.as_ref();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-:,+@%=".contains(c);
    let is_hidden = |c: char| c.is_control() || is_invisible(c);
    match value.to_str() {
        Some(text) if !text.is_empty() && text.chars().all(is_plain) => text.to_owned(),
        Some(text) if !text.contains(is_hidden) => format!("'{}'", text.replace('\'', "'\\''")),
        _ => {
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
            let spelled = |c: char| match c {
                '\'' | '\\' => format!("\\{c}"),
                c if is_hidden(c) => hex(c.encode_utf8(&mut [0; 4]).as_bytes()),
                c => c.to_string(),
            };
            let chunks = value.as_bytes().utf8_chunks();
            let words: String = chunks
                .map(|chunk| chunk.valid().chars().map(spelled).collect::<String>() + &hex(chunk.invalid()))
                .collect();
            format!("$'{words}'")
        }
    }
}

/// True for characters without a glyph that separate lines, change the direction of writing, or
/// have no width; joiners, which belong to the spelling of words, are not among them.
fn is_invisible(character: char) -> bool {
    matches!(character, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}')
}

/// A count with three significant digits: `950`, `12.3k`, `1.20M`.
pub fn count(number: f64) -> String {
    let (scaled, unit) = match number {
        n if n >= 999.5e9 => (n / 1e12, "T"),
        n if n >= 999.5e6 => (n / 1e9, "B"),
        n if n >= 999.5e3 => (n / 1e6, "M"),
        n if n >= 999.5 => (n / 1e3, "k"),
        n => return format!("{n:.0}"),
    };
    let decimals = if scaled >= 99.95 {
        0
    } else if scaled >= 9.995 {
        1
    } else {
        2
    };
    format!("{scaled:.decimals$}{unit}")
}

/// A bandwidth: `12.3 GB/s`.
pub fn bandwidth(bytes_per_second: f64) -> String {
    format!("{:.1} GB/s", bytes_per_second / 1e9)
}

/// A time: `1.250 s`, or `8.530 ms` below one second.
pub fn time(ns: u64) -> String {
    let seconds = ns as f64 / 1e9;
    if seconds < 1.0 { format!("{:.3} ms", seconds * 1e3) } else { format!("{seconds:.3} s") }
}

/// A duration in at most two units: `45s`, `3m05s`, `2h07m`, `4d03h`.
pub fn duration(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// The f64 with the shortest decimal form that denotes this f32: 1e-5, not 0.000009999999747378752.
pub fn shortest(value: f32) -> f64 {
    value.to_string().parse().expect("a printed f32 is an f64")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed_with_their_units() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("12b", 12),
            ("8G", 8 << 30),
            ("8 GiB", 8 << 30),
            ("512MiB", 512 << 20),
            ("1.5g", 3 << 29),
            ("2GB", 2_000_000_000),
            ("64kB", 64_000),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn malformed_sizes_are_refused() {
        for text in ["", "G", "8X", "-1G", "1..5G", "8GiBs", "nan", "1e3", "9000000T", "8ib"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(escaped("a\t\n\x1b[2J\u{9b}é\\", "\n"), "a\\t\n\\u{1b}[2J\\u{9b}é\\");
        assert_eq!(
            escaped("\u{200b}\u{202e}\u{2028}\u{200d}אב", ""),
            "\\u{200b}\\u{202e}\\u{2028}\u{200d}אב"
        );
    }

    #[test]
    fn long_texts_are_shortened() {
        assert_eq!(shortened(&"é".repeat(60)), "é".repeat(60));
        assert_eq!(shortened(&"é".repeat(61)), "é".repeat(60) + "…");
    }

    #[test]
    fn a_quoted_value_is_one_word_for_a_shell() {
        for (value, word) in [
            (&b"/tmp/run-1.5,a=b"[..], "/tmp/run-1.5,a=b"),
            (b"", "''"),
            (b"my runs/a$b`c\\", "'my runs/a$b`c\\'"),
            (b"it's", r"'it'\''s'"),
            (b"esc\x1b[31m\nit's \\", r"$'esc\x1b[31m\x0ait\'s \\'"),
            (b"\xffa\xe2\x80\xae", r"$'\xffa\xe2\x80\xae'"),
        ] {
            assert_eq!(quoted(OsStr::from_bytes(value)), word);
            let echoed =
                std::process::Command::new("bash").args(["-c", &format!("printf %s {word}")]).output();
            assert_eq!(echoed.unwrap().stdout, value, "{word}");
        }
    }

    #[test]
    fn nouns_agree_with_their_number() {
        for (number, what, text) in
            [(0, "row", "0 rows"), (1, "micro-batch", "1 micro-batch"), (2, "micro-batch", "2 micro-batches")]
        {
            assert_eq!(several(number, what), text);
        }
    }

    #[test]
    fn counts_have_three_significant_digits() {
        for (number, text) in [
            (0.4, "0"),
            (950.0, "950"),
            (999.6, "1.00k"),
            (12_345.0, "12.3k"),
            (123_456.0, "123k"),
            (999_600.0, "1.00M"),
            (6.74e9, "6.74B"),
            (999.9e9, "1.00T"),
        ] {
            assert_eq!(count(number), text);
        }
    }

    #[test]
    fn times_have_three_decimals() {
        for (ns, text) in [(0, "0.000 ms"), (8_530_000, "8.530 ms"), (1_250_000_000, "1.250 s")] {
            assert_eq!(time(ns), text);
        }
    }

    #[test]
    fn durations_have_two_units() {
        for (seconds, text) in
            [(0.2, "0s"), (59.4, "59s"), (185.0, "3m05s"), (7620.0, "2h07m"), (356_400.0, "4d03h")]
        {
            assert_eq!(duration(seconds), text);
        }
    }
}
