//! Character classes: brackets, and the escapes that stand for a class. Each function takes the
//! text from its first character on and gives what is left behind the class.

use super::escape::escape;
use super::ranges::Ranges;
use super::{Fault, unicode};

/// `[…]`.
pub(super) fn bracketed(text: &str, fold: bool) -> Result<(Ranges, &str), Fault<'_>> {
    let mut rest = &text[1..];
    let negated = rest.strip_prefix('^');
    rest = negated.unwrap_or(rest);
    let mut ranges = Ranges::default();
    // A bracket right at the beginning is a character.
    let mut first = true;
    while first || !rest.starts_with(']') {
        first = false;
        let class = match rest.strip_prefix("[:").and_then(|name| name.find(":]")) {
            Some(length) => {
                let (name, behind) = rest.split_at(length + 4);
                let Some(class) = posix(name, fold) else {
                    return Err(Fault::new("invalid character class range", name));
                };
                Some((class, behind))
            }
            None => escaped(rest, fold)?,
        };
        if let Some((class, behind)) = class {
            ranges.add(&class);
            rest = behind;
            continue;
        }
        let (low, behind) = character(rest, text)?;
        let mut high = low;
        let range = rest;
        rest = behind;
        // `[a-]` is `a` or `-`.
        if let Some(end) = rest.strip_prefix('-')
            && !end.is_empty()
            && !end.starts_with(']')
        {
            (high, rest) = character(end, text)?;
            if high < low {
                let range = &range[..range.len() - rest.len()];
                return Err(Fault::new("invalid character class range", range));
            }
        }
        match fold {
            true => ranges.add(&Ranges::of(&[(low, high)]).folded()),
            false => ranges.push(low, high),
        }
    }
    let ranges = if negated.is_some() { ranges.negated() } else { ranges };
    Ok((ranges, &rest[1..]))
}

/// One character of the class that `whole` begins with.
fn character<'p>(text: &'p str, whole: &'p str) -> Result<(u32, &'p str), Fault<'p>> {
    match text.chars().next() {
        None => Err(Fault::new("missing closing ]", whole)),
        Some('\\') => escape(text),
        Some(c) => Ok((c.into(), &text[c.len_utf8()..])),
    }
}

/// `\d`, `\pL`, `\p{Greek}` and their like; `None` if the text starts with something else.
pub(super) fn escaped(text: &str, fold: bool) -> Result<Option<(Ranges, &str)>, Fault<'_>> {
    let Some([b'\\', letter]) = text.as_bytes().first_chunk::<2>() else { return Ok(None) };
    let class: &[(u8, u8)] = match letter.to_ascii_lowercase() {
        b'd' => &[(b'0', b'9')],
        b's' => &[(b'\t', b'\n'), (b'\x0c', b'\r'), (b' ', b' ')],
        b'w' => &[(b'0', b'9'), (b'A', b'Z'), (b'_', b'_'), (b'a', b'z')],
        b'p' => return property(text, fold).map(Some),
        _ => return Ok(None),
    };
    Ok(Some((ascii(class, letter.is_ascii_uppercase(), fold), &text[2..])))
}

fn ascii(class: &[(u8, u8)], negated: bool, fold: bool) -> Ranges {
    let mut ranges = Ranges::default();
    for &(low, high) in class {
        ranges.push(low.into(), high.into());
    }
    finished(ranges, negated, fold)
}

fn finished(ranges: Ranges, negated: bool, fold: bool) -> Ranges {
    let ranges = if fold { ranges.folded() } else { ranges };
    if negated { ranges.negated() } else { ranges }
}

/// `\pN`, `\p{Name}`, `\p{^Name}`, `\PN`, …
fn property(text: &str, fold: bool) -> Result<(Ranges, &str), Fault<'_>> {
    let mut negated = text.starts_with(r"\P");
    let length = match text[2..].chars().next() {
        Some('{') => match text.find('}') {
            Some(end) => end + 1,
            None => return Err(Fault::new("invalid character class range", text)),
        },
        Some(c) => 2 + c.len_utf8(),
        None => 2,
    };
    let (whole, rest) = text.split_at(length);
    let name = &whole[2..];
    let mut name = name.strip_prefix('{').and_then(|name| name.strip_suffix('}')).unwrap_or(name);
    if let Some(other) = name.strip_prefix('^') {
        negated = !negated;
        name = other;
    }
    match unicode::table(name) {
        Some(ranges) => Ok((finished(ranges, negated, fold), rest)),
        None => Err(Fault::new("invalid character class range", whole)),
    }
}

/// `[:alpha:]` or `[:^alpha:]`, of ASCII characters.
fn posix(text: &str, fold: bool) -> Option<Ranges> {
    let name = &text[2..text.len() - 2];
    let negated = name.strip_prefix('^');
    let class: &[(u8, u8)] = match negated.unwrap_or(name) {
        "alnum" => &[(b'0', b'9'), (b'A', b'Z'), (b'a', b'z')],
        "alpha" => &[(b'A', b'Z'), (b'a', b'z')],
        "ascii" => &[(0, 0x7f)],
        "blank" => &[(b'\t', b'\t'), (b' ', b' ')],
        "cntrl" => &[(0, 0x1f), (0x7f, 0x7f)],
        "digit" => &[(b'0', b'9')],
        "graph" => &[(b'!', b'~')],
        "lower" => &[(b'a', b'z')],
        "print" => &[(b' ', b'~')],
        "punct" => &[(b'!', b'/'), (b':', b'@'), (b'[', b'`'), (b'{', b'~')],
        "space" => &[(b'\t', b'\r'), (b' ', b' ')],
        "upper" => &[(b'A', b'Z')],
        "word" => &[(b'0', b'9'), (b'A', b'Z'), (b'_', b'_'), (b'a', b'z')],
        "xdigit" => &[(b'0', b'9'), (b'A', b'F'), (b'a', b'f')],
        _ => return None,
    };
    Some(ascii(class, negated.is_some(), fold))
}
