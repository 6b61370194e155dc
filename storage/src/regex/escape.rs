//! Escapes of one character.

use super::Fault;
use super::ranges::LAST;

/// The character that the escape at the beginning of `text` stands for, and what follows it.
pub(super) fn escape(text: &str) -> Result<(u32, &str), Fault<'_>> {
    let mut chars = text[1..].chars();
    let Some(c) = chars.next() else {
        return Err(Fault::new("trailing backslash at end of expression", ""));
    };
    let value = match c {
        '1'..='7' if !chars.as_str().starts_with(|c| matches!(c, '0'..='7')) => None,
        '0'..='7' => {
            let octal = text[1..].bytes().take(3).take_while(|c| matches!(c, b'0'..=b'7'));
            let digits = octal.clone().count();
            chars = text[1 + digits..].chars();
            Some(octal.fold(0, |value, digit| value * 8 + u32::from(digit - b'0')))
        }
        'x' => hexadecimal(&mut chars),
        'a' => Some(0x07),
        'f' => Some(0x0c),
        'n' => Some(0x0a),
        'r' => Some(0x0d),
        't' => Some(0x09),
        'v' => Some(0x0b),
        // ASCII that is neither letter nor digit stands for itself.
        c if c.is_ascii() && !c.is_ascii_alphanumeric() => Some(c.into()),
        _ => None,
    };
    let rest = chars.as_str();
    match value {
        Some(value) => Ok((value, rest)),
        None => Err(Fault::new("invalid escape sequence", &text[..text.len() - rest.len()])),
    }
}

/// `1F` or `{1F600}`. What is read before it turns out wrong is part of the message.
fn hexadecimal(chars: &mut std::str::Chars<'_>) -> Option<u32> {
    let first = chars.next()?;
    if first != '{' {
        let second = chars.next();
        return Some(first.to_digit(16)? * 16 + second?.to_digit(16)?);
    }
    let mut value = None;
    loop {
        let c = chars.next()?;
        if c == '}' {
            return value;
        }
        let next = value.unwrap_or(0) * 16 + c.to_digit(16)?;
        if next > LAST {
            return None;
        }
        value = Some(next);
    }
}
