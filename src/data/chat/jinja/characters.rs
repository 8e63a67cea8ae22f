//! Properties of characters as Python has them.

use std::sync::LazyLock;

use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, ClassUnicode, HirKind};

/// Characters that `str.isprintable` refuses: control and format characters, private use,
/// unassigned, separators other than the space.
static HIDDEN: LazyLock<ClassUnicode> = LazyLock::new(|| class(r"[\p{C}\p{Z}--\x20]"));
static DECIMAL: LazyLock<ClassUnicode> = LazyLock::new(|| class(r"\p{Nd}"));

fn class(pattern: &str) -> ClassUnicode {
    match ParserBuilder::new().build().parse(pattern).map(|hir| hir.into_kind()) {
        Ok(HirKind::Class(Class::Unicode(class))) => class,
        other => panic!("{pattern} is no class of characters: {other:?}"),
    }
}

fn is_in(class: &ClassUnicode, c: char) -> bool {
    let ranges = class.ranges();
    let after = ranges.partition_point(|range| range.start() <= c);
    after > 0 && c <= ranges[after - 1].end()
}

/// `str.isprintable`.
pub fn is_printable(c: char) -> bool {
    matches!(c, ' '..='~') || (c > '~' && !is_in(&HIDDEN, c))
}

/// `str.isdecimal`.
pub fn is_decimal(c: char) -> bool {
    c.is_ascii_digit() || (!c.is_ascii() && is_in(&DECIMAL, c))
}

/// `str.isdigit`: decimal digits, and digits such as `²` and `①`.
pub fn is_digit(c: char) -> bool {
    let is_other = |c| {
        matches!(c, '²' | '³' | '¹' | '\u{1369}'..='\u{1371}' | '\u{19da}' | '⁰' | '⁴'..='⁹' | '₀'..='₉'
            | '①'..='⑨' | '⑴'..='⑼' | '⒈'..='⒐' | '⓪' | '⓵'..='⓽' | '⓿' | '❶'..='❾' | '➀'..='➈'
            | '➊'..='➒' | '\u{10a40}'..='\u{10a43}' | '\u{10e60}'..='\u{10e68}'
            | '\u{11052}'..='\u{1105a}' | '\u{1f100}'..='\u{1f10a}')
    };
    is_decimal(c) || is_other(c)
}

/// `str.isspace`.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// The case in which a title begins: `ǆ` is `ǅ`, `ß` is `Ss`.
pub fn title_case(c: char) -> String {
    let single = match c {
        'Ǆ'..='ǆ' => 'ǅ',
        'Ǉ'..='ǉ' => 'ǈ',
        'Ǌ'..='ǌ' => 'ǋ',
        'Ǳ'..='ǳ' => 'ǲ',
        // Georgian has no title case.
        'ა'..='ჿ' => c,
        'ŉ' => return "ʼN".to_owned(),
        _ => {
            let mut upper = c.to_uppercase();
            let first = upper.next().into_iter();
            return first.chain(upper.flat_map(char::to_lowercase)).collect();
        }
    };
    single.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `[hex(ord(c)) for c in … if not c.isprintable()]` and so on.
    #[test]
    fn properties_are_those_of_python() {
        for hidden in [
            '\0',
            '\n',
            '\u{7f}',
            '\u{85}',
            '\u{a0}',
            '\u{ad}',
            '\u{378}',
            '\u{600}',
            '\u{2003}',
            '\u{200b}',
            '\u{200d}',
            '\u{2028}',
            '\u{3000}',
            '\u{feff}',
            '\u{e000}',
            '\u{e0001}',
            '\u{10ffff}',
        ] {
            assert!(!is_printable(hidden), "{hidden:?}");
        }
        for shown in [' ', '~', '¡', 'é', '\u{301}', '中', '😀', '\u{fffd}', '\u{fe0f}', '\u{e0100}'] {
            assert!(is_printable(shown), "{shown:?}");
        }
        let digits = |c| (is_decimal(c), is_digit(c));
        assert_eq!(
            ['7', '٣', '²', '①', '½', '一', 'a'].map(digits).map(|(a, b)| u8::from(a) + u8::from(b)),
            [2, 2, 1, 1, 0, 0, 0]
        );
        assert_eq!(['ǆ', 'ß', 'ﬁ', 'ა', 'é', 'ŉ'].map(title_case), ["ǅ", "Ss", "Fi", "ა", "É", "ʼN"]);
    }
}
