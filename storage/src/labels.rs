//! Labels: the name/value pairs that identify a series, in their one canonical form.
//!
//! The canonical bytes are, pair by pair in bytewise order of the names, `varint length, name,
//! varint length, value`. Names are unique; no value is empty (an empty value means "no such
//! label"); everything is UTF-8. The metric's name is the label [`METRIC_NAME`].
//!
//! Two series are the same exactly if these bytes are equal. [`Labels::identity`], an unseeded
//! 128-bit hash of them, is the identity of a series across blocks and nodes.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use crate::encoding::varint;

/// The label that holds a metric's name.
pub const METRIC_NAME: &str = "__name__";

/// 128-bit xxh3 of the canonical label bytes, unseeded: equal on every node, for ever.
pub type SeriesIdentity = u128;

/// A canonical label set. Cloning is cheap; an empty set is legal (a scalar-like result).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Labels {
    bytes: Arc<[u8]>,
}

/// Why a list of pairs is not a label set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    #[error("label name is empty")]
    EmptyName,
    #[error("duplicate label name {name:?}")]
    DuplicateName { name: String },
    #[error("label {what} is not valid UTF-8: {lossy:?}")]
    NotUtf8 { what: &'static str, lossy: String },
    #[error("label {what} of {length} bytes exceeds the limit of {limit}: {start:?}…")]
    TooLong { what: &'static str, length: usize, limit: usize, start: String },
    #[error("{count} labels exceed the limit of {limit} per series")]
    TooMany { count: usize, limit: usize },
    #[error("series has no labels")]
    NoLabels,
    #[error("series has no metric name")]
    NoMetricName,
    #[error("metric name {name:?} is reserved: the prefix `record:` belongs to records")]
    ReservedName { name: String },
    #[error("label {name:?} is reserved for start timestamps")]
    ReservedLabel { name: String },
    #[error("labels are not encoded as they should be: {what}")]
    Malformed { what: &'static str },
}

impl Labels {
    pub fn empty() -> Labels {
        Labels { bytes: Arc::from([]) }
    }

    /// Labels from pairs in any order; empty values are left out.
    pub fn from_pairs<N: AsRef<str>, V: AsRef<str>>(
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Labels, LabelError> {
        let mut builder = LabelsBuilder::default();
        for (name, value) in pairs {
            builder.push(name.as_ref(), value.as_ref());
        }
        builder.build()
    }

    /// Bytes that [`Labels::as_bytes`] gave before, for example read back from disk; checked.
    pub fn from_canonical_bytes(bytes: &[u8]) -> Result<Labels, LabelError> {
        const BAD: LabelError = LabelError::Malformed { what: "not canonical label bytes" };
        let mut rest = bytes;
        let mut previous: Option<&[u8]> = None;
        while !rest.is_empty() {
            let name = varint::read_bytes(&mut rest).ok_or(BAD)?;
            let value = varint::read_bytes(&mut rest).ok_or(BAD)?;
            let ordered = previous.is_none_or(|previous| previous < name);
            let legal = !name.is_empty() && !value.is_empty() && ordered;
            if !legal || std::str::from_utf8(name).is_err() || std::str::from_utf8(value).is_err() {
                return Err(BAD);
            }
            previous = Some(name);
        }
        Ok(Labels { bytes: Arc::from(bytes) })
    }

    /// Bytes that the caller has put together in canonical form, which is not checked again: an
    /// index builds them from pairs that it took out of `Labels`.
    pub(crate) fn from_pairs_of_an_index(bytes: &[u8]) -> Labels {
        debug_assert!(Labels::from_canonical_bytes(bytes).is_ok(), "labels of an index: {bytes:?}");
        Labels { bytes: Arc::from(bytes) }
    }

    /// Labels of which a decoder has made the canonical bytes and checked all that
    /// [`Self::from_canonical_bytes`] would: names ascend, no text is empty, and all are UTF-8.
    pub fn from_checked_bytes(bytes: &[u8]) -> Labels {
        debug_assert!(Labels::from_canonical_bytes(bytes).is_ok(), "a decoder made {bytes:?}");
        Labels { bytes: Arc::from(bytes) }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn identity(&self) -> SeriesIdentity {
        identity(&self.bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn iter(&self) -> Iter<'_> {
        Iter { pairs: self.byte_pairs() }
    }

    /// The pairs as bytes: cheaper than as strings, which are checked each time.
    pub fn byte_pairs(&self) -> BytePairs<'_> {
        BytePairs { rest: &self.bytes }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        let mut pairs = self.byte_pairs();
        pairs.find(|(candidate, _)| *candidate == name.as_bytes()).map(|(_, value)| text(value))
    }

    /// The pairs whose name `keep` accepts.
    pub fn filtered(&self, mut keep: impl FnMut(&[u8]) -> bool) -> Labels {
        let mut bytes = Vec::with_capacity(self.bytes.len());
        let kept = self.byte_pairs().filter(|(name, _)| keep(name));
        kept.for_each(|(name, value)| push_pair(&mut bytes, name, value));
        Labels { bytes: Arc::from(bytes) }
    }

    /// The value of [`METRIC_NAME`], or "".
    pub fn metric_name(&self) -> &str {
        self.get(METRIC_NAME).unwrap_or("")
    }

    /// A builder that starts with these pairs.
    pub fn to_builder(&self) -> LabelsBuilder {
        LabelsBuilder { pairs: self.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect() }
    }
}

impl Default for Labels {
    fn default() -> Labels {
        Labels::empty()
    }
}

/// The identity of the series that has these canonical label bytes.
pub(crate) fn identity(bytes: &[u8]) -> SeriesIdentity {
    xxhash_rust::xxh3::xxh3_128(bytes)
}

/// Takes the first pair off canonical label bytes.
#[inline]
pub(crate) fn take_pair<'a>(bytes: &mut &'a [u8]) -> (&'a [u8], &'a [u8]) {
    let mut string = || varint::read_bytes(bytes).expect("Labels holds canonical bytes");
    (string(), string())
}

/// Pairs in order of their names.
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    pairs: BytePairs<'a>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<(&'a str, &'a str)> {
        self.pairs.next().map(|(name, value)| (text(name), text(value)))
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("Labels holds UTF-8")
}

/// Pairs in order of their names, as the bytes of their UTF-8.
#[derive(Clone, Debug)]
pub struct BytePairs<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for BytePairs<'a> {
    type Item = (&'a [u8], &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        (!self.rest.is_empty()).then(|| take_pair(&mut self.rest))
    }
}

/// Prometheus's order: by the first pair that differs, name before value, bytewise.
impl Ord for Labels {
    fn cmp(&self, other: &Labels) -> Ordering {
        self.byte_pairs().cmp(other.byte_pairs())
    }
}

impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Labels) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// As PromQL writes them: `name{a="b", c="d"}`.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.metric_name())?;
        let mut pairs = self.iter().filter(|(name, _)| *name != METRIC_NAME).peekable();
        if pairs.peek().is_none() && !self.metric_name().is_empty() {
            return Ok(());
        }
        f.write_str("{")?;
        for (i, (name, value)) in pairs.enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{name}={value:?}")?;
        }
        f.write_str("}")
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Collects pairs and puts them into canonical form.
#[derive(Clone, Debug, Default)]
pub struct LabelsBuilder {
    pairs: Vec<(String, String)>,
}

impl LabelsBuilder {
    /// Adds a pair without looking for an earlier one of that name: [`Self::build`] refuses both.
    pub fn push(&mut self, name: &str, value: &str) {
        self.pairs.push((name.to_owned(), value.to_owned()));
    }

    /// Sets a label, replacing its value; an empty value removes it.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.pairs.iter_mut().find(|(candidate, _)| candidate == name) {
            Some(pair) => value.clone_into(&mut pair.1),
            None => self.push(name, value),
        }
    }

    pub fn remove(&mut self, name: &str) {
        self.pairs.retain(|(candidate, _)| candidate != name);
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.pairs.retain(|(name, _)| keep(name));
    }

    pub fn build(mut self) -> Result<Labels, LabelError> {
        self.pairs.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        if let Some(pair) = self.pairs.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(LabelError::DuplicateName { name: pair[0].0.clone() });
        }
        let mut bytes = Vec::new();
        for (name, value) in self.pairs.iter().filter(|(_, value)| !value.is_empty()) {
            if name.is_empty() {
                return Err(LabelError::EmptyName);
            }
            push_pair(&mut bytes, name, value);
        }
        Ok(Labels { bytes: Arc::from(bytes) })
    }
}

/// Appends one pair to canonical label bytes; the caller keeps names ascending and values
/// non-empty, and passes the result to [`Labels::from_canonical_bytes`].
pub fn push_pair(bytes: &mut Vec<u8>, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
    varint::write_bytes(bytes, name.as_ref());
    varint::write_bytes(bytes, value.as_ref());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_sorted_and_empty_values_left_out() {
        let labels =
            Labels::from_pairs([("job", "node"), (METRIC_NAME, "up"), ("zone", "")]).unwrap();
        assert_eq!(labels.to_string(), r#"up{job="node"}"#);
        assert_eq!(labels.get("zone"), None);
        assert_eq!(Labels::from_canonical_bytes(labels.as_bytes()).unwrap(), labels);
    }

    #[test]
    fn duplicates_are_refused() {
        let error = Labels::from_pairs([("a", "1"), ("a", "2")]).unwrap_err();
        assert_eq!(error, LabelError::DuplicateName { name: "a".into() });
    }

    #[test]
    fn identity_is_fixed_for_ever() {
        let labels = Labels::from_pairs([(METRIC_NAME, "up")]).unwrap();
        assert_eq!(labels.as_bytes(), b"\x08__name__\x02up");
        assert_eq!(labels.identity(), xxhash_rust::xxh3::xxh3_128(b"\x08__name__\x02up"));
    }

    #[test]
    fn foreign_bytes_are_checked() {
        for bytes in [&b"\x01"[..], b"\x01a\x00", b"\x00\x01a", b"\x01b\x01x\x01a\x01x", b"\xff"] {
            assert!(Labels::from_canonical_bytes(bytes).is_err(), "{bytes:?}");
        }
    }
}
