//! The id of a training run.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The id of a training run: 128 random bits, written as 32 hexadecimal digits. Checkpoints, log,
/// trace and export of a run have it, so that no run continues or replaces another's by mistake.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RunId(u128);

impl RunId {
    /// Returns the id with these bits, which must be random.
    pub fn from_bits(bits: u128) -> RunId {
        RunId(bits)
    }

    /// Parses what `Display` writes.
    pub fn parse(text: &str) -> Option<RunId> {
        let id = u128::from_str_radix(text, 16).map(RunId).ok();
        id.filter(|id| id.to_string() == text)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for RunId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RunId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RunId, D::Error> {
        let text = String::deserialize(deserializer)?;
        RunId::parse(&text).ok_or_else(|| de::Error::custom("the id of a run has 32 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_32_digits() {
        let id = RunId::from_bits(u128::MAX / 7);
        let text = serde_json::to_string(&RunId(0xab)).unwrap();
        assert_eq!(text, format!("\"{}ab\"", "0".repeat(30)));
        assert_eq!(serde_json::from_str::<RunId>(&text).unwrap(), RunId(0xab));
        assert_eq!(RunId::parse(&id.to_string()), Some(id));
        for text in ["", "ab", &"A".repeat(32), &"0".repeat(33), &format!("+{}", "0".repeat(31))] {
            assert_eq!(RunId::parse(text), None, "{text}");
        }
    }
}
