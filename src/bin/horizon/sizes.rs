//! Amounts of memory as people write them.

/// Reads `8G`, `512MiB`, `1.5GB` or plain bytes. K, M, G, T and KiB, MiB, GiB, TiB count by 1024, KB, MB, GB, TB
/// by 1000; case does not matter.
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
        _ => return Err(format!("the unit {unit:?} is not known; use K, M, G, T, KiB … TiB or KB … TB")),
    };
    let number: f64 =
        number.parse().map_err(|_| "it must be a number and a unit, as in 8G or 512MiB".to_owned())?;
    let bytes = number * base.powi(power);
    // Beyond 2⁵³ an f64 skips whole numbers; no machine has that much.
    if bytes > (1u64 << 53) as f64 {
        return Err("that is more than 8 PiB".to_owned());
    }
    Ok(bytes as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
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
    fn nonsense_is_refused() {
        for text in ["", "G", "8X", "-1G", "1..5G", "8GiBs", "nan", "1e3", "9000000T", "8ib"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
