//! Sizes of memory on the command line: `64MiB`, `1GB`, `1048576`, or a part of something, `25%`.

/// Suffixes and what they stand for; the first of a value is how it is written.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// What a machine is taken to have that does not say.
pub(crate) const UNKNOWN_MACHINE_BYTES: u64 = 4 << 30;

/// A size as it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    Bytes(u64),
    /// Of what the flag says.
    Percent(u64),
}

impl Size {
    /// In bytes, where so many are the whole.
    pub(crate) fn bytes(self, whole: u64) -> u64 {
        match self {
            Size::Bytes(bytes) => bytes,
            Size::Percent(percent) => whole / 100 * percent,
        }
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = match self {
            Size::Percent(percent) => return write!(f, "{percent}%"),
            Size::Bytes(bytes) => *bytes,
        };
        let fits = |(_, unit): &&(&str, u64)| bytes > 0 && bytes.is_multiple_of(*unit);
        match UNITS.iter().find(fits) {
            Some((suffix, unit)) if *unit > 1 => write!(f, "{}{suffix}", bytes / unit),
            _ => write!(f, "{bytes}"),
        }
    }
}

/// A size in bytes alone.
pub(crate) fn parse_bytes(text: &str) -> Result<Size, String> {
    const WANT: &str = "want a number of bytes, for example 64MiB";
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let unit = match suffix {
        "" => 1,
        _ => UNITS.iter().find(|(name, _)| *name == suffix).ok_or(WANT)?.1,
    };
    let number: u64 = number.parse().map_err(|_| WANT)?;
    number.checked_mul(unit).map(Size::Bytes).ok_or_else(|| WANT.into())
}

/// A size in bytes or in percent; not 0.
pub(crate) fn parse_share(text: &str) -> Result<Size, String> {
    const WANT: &str = "want a number of bytes or a percentage, for example 2GiB or 25%";
    match text.strip_suffix('%') {
        Some(percent) => match percent.parse() {
            Ok(percent @ 1..=100) => Ok(Size::Percent(percent)),
            _ => Err(WANT.into()),
        },
        None => match parse_bytes(text) {
            Ok(Size::Bytes(1..)) => parse_bytes(text),
            _ => Err(WANT.into()),
        },
    }
}

/// A number of bytes as people read it: `1.5 KiB`.
pub(crate) fn human(number: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = number as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{number} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_they_are_read() {
        for text in ["64MiB", "1GiB", "3GB", "1023", "0", "25%", "5KiB"] {
            let parse = if text.ends_with('%') { parse_share } else { parse_bytes };
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        assert_eq!(parse_bytes("2KB").unwrap(), Size::Bytes(2000));
        assert_eq!(parse_share("25%").unwrap().bytes(400), 100);
        assert_eq!(parse_share("7").unwrap().bytes(400), 7);
    }

    #[test]
    fn bytes_are_readable() {
        assert_eq!(human(1023), "1023 B");
        assert_eq!(human(1536), "1.5 KiB");
        assert_eq!(human(u64::MAX), "16777216.0 TiB");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "-1", "1.5GiB", "GiB", "1 GiB", "1gib", "99999999999TiB"] {
            assert!(parse_bytes(text).is_err() && parse_share(text).is_err(), "{text:?}");
        }
        for text in ["0", "0%", "101%", "%", "0MiB"] {
            assert!(parse_share(text).is_err(), "{text:?}");
        }
    }
}
