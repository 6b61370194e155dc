//! Keys: the label fields of one series as they lie in the body, and their way to [`Labels`].
//!
//! A key region is a run of `labels` fields of a `TimeSeries`: tag, length, `Label{1: name,
//! 2: value}`. Two regions may stand for one series (another order, an empty value); storage finds
//! that out when it parses the second. An exemplar's labels have the same form and go the same way.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::OnceLock;

use icecore_storage::labels::{LabelError, Labels, METRIC_NAME, push_pair};
use icecore_storage::limits::Limits;
use xxhash_rust::xxh3::xxh3_128_with_secret;

use crate::protobuf::{LENGTH_DELIMITED, Malformed, Reader, tag};

/// The tag of `labels`, in `TimeSeries` and in `Exemplar`.
pub(super) const LABELS: u32 = tag(1, LENGTH_DELIMITED);

const NAME: u32 = tag(1, LENGTH_DELIMITED);
const VALUE: u32 = tag(2, LENGTH_DELIMITED);

/// OpenMetrics allows an exemplar this many characters of label names and values together.
const EXEMPLAR_CHARACTERS_MAX: usize = 128;

/// Hashes key regions with a secret drawn once per process, so that nobody can prepare keys that
/// collide. A secret rather than a seed: xxh3 would derive a secret from a seed for every key of
/// more than 240 bytes.
#[derive(Clone, Copy)]
pub(super) struct KeyHash {
    secret: &'static [u8; 192],
}

impl KeyHash {
    pub(super) fn of_this_process() -> KeyHash {
        static SECRET: OnceLock<[u8; 192]> = OnceLock::new();
        let secret = SECRET.get_or_init(|| {
            let random = RandomState::new();
            let mut secret = [0; 192];
            for (i, word) in secret.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                *word = random.hash_one(i).to_le_bytes();
            }
            secret
        });
        KeyHash { secret }
    }

    #[inline]
    pub(super) fn hash(self, key: &[u8]) -> u128 {
        xxh3_128_with_secret(key, self.secret)
    }
}

/// The [`KeyForm`](icecore_storage::metrics::batch::KeyForm) of key regions.
pub(super) fn labels(key: &[u8], limits: &Limits) -> Result<Labels, LabelError> {
    plain_labels(key, limits).map_or_else(|| parsed_labels(key, limits), Ok)
}

fn parsed_labels(key: &[u8], limits: &Limits) -> Result<Labels, LabelError> {
    let mut pairs = pairs(key, limits)?;
    let labels = canonical(&mut pairs)?;
    limits.check_pairs(pairs.into_iter().filter(|(_, value)| !value.is_empty()))?;
    Ok(labels)
}

/// Labels that are written as nearly all are: each label one field of name and value, lengths below
/// 128, names ascending, nothing empty. `None` for all others, and where a limit is broken: then
/// [`pairs`] finds out which.
///
/// In this form a text's length and bytes lie in the key as they do in canonical bytes.
fn plain_labels(key: &[u8], limits: &Limits) -> Option<Labels> {
    const LABEL_TAG: u8 = LABELS as u8;
    const NAME_TAG: u8 = NAME as u8;
    const VALUE_TAG: u8 = VALUE as u8;
    // Tags and lengths are ASCII here, so no text can begin or end within a character.
    std::str::from_utf8(key).ok()?;
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key;
    let mut previous: &[u8] = b"";
    let mut metric_name = None;
    let mut count = 0;
    while !rest.is_empty() {
        let [LABEL_TAG, length, NAME_TAG, name_length, ..] = *rest else { return None };
        let (length, name_length) = (usize::from(length), usize::from(name_length));
        let (label, after) = rest[2..].split_at_checked(length)?;
        rest = after;
        let (name, value) = label.get(1..)?.split_at_checked(1 + name_length)?;
        let [VALUE_TAG, value_length, value_text @ ..] = value else { return None };
        let name_text = &name[1..];
        count += 1;
        let is_plain = length < 128
            && value_text.len() == usize::from(*value_length)
            && !value_text.is_empty()
            && previous < name_text
            && name_length <= limits.name_bytes
            && value_text.len() <= limits.value_bytes
            && count <= limits.labels_per_series;
        if !is_plain || limits.is_reserved_label(name_text) {
            return None;
        }
        if name_text == METRIC_NAME.as_bytes() {
            metric_name = Some(value_text);
        }
        previous = name_text;
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(&value[1..]);
    }
    let is_served = metric_name.is_some_and(|name| !limits.is_reserved_metric(name));
    is_served.then(|| Labels::from_checked_bytes(&bytes))
}

/// The labels of an `Exemplar` message; it may have none.
pub(super) fn exemplar_labels(message: &[u8], limits: &Limits) -> Result<Labels, LabelError> {
    let mut pairs = pairs(message, limits)?;
    let texts = pairs.iter().flat_map(|(name, value)| [name, value]);
    let length = texts.map(|text| text.chars().count()).sum();
    if length > EXEMPLAR_CHARACTERS_MAX {
        return Err(LabelError::TooLong {
            what: "set of an exemplar",
            length,
            limit: EXEMPLAR_CHARACTERS_MAX,
            start: pairs[0].0.chars().take(40).collect(),
        });
    }
    canonical(&mut pairs)
}

/// The pairs of all label fields in `fields`, in their order; other fields are passed over. Sizes
/// are checked before anything is allocated for them.
///
/// Fields whose lengths are below 128 are text all over, tags and lengths included, so that one
/// check for UTF-8 does for all of them; otherwise each is checked by itself.
fn pairs<'a>(fields: &'a [u8], limits: &Limits) -> Result<Vec<(&'a str, &'a str)>, LabelError> {
    const MALFORMED: LabelError = LabelError::Malformed { what: "not a Label message" };
    const COMMON_COUNT: usize = 16;
    let whole = std::str::from_utf8(fields).ok();
    let mut pairs = Vec::with_capacity(COMMON_COUNT);
    for label in labels_in(fields) {
        if pairs.len() == limits.labels_per_series {
            let count = labels_in(fields).count();
            return Err(LabelError::TooMany { count, limit: limits.labels_per_series });
        }
        let (name, value) = label.and_then(pair).map_err(|_| MALFORMED)?;
        pairs.push((
            text("name", name, whole, limits.name_bytes)?,
            text("value", value, whole, limits.value_bytes)?,
        ));
    }
    Ok(pairs)
}

/// The label messages among `fields`; ends after the first error.
fn labels_in(fields: &[u8]) -> impl Iterator<Item = Result<Reader<'_>, Malformed>> {
    let mut reader = Reader::new(fields, 0);
    let mut broken = false;
    std::iter::from_fn(move || {
        while !reader.is_empty() && !broken {
            let field = next_label(&mut reader);
            broken = field.is_err();
            if let Some(field) = field.transpose() {
                return Some(field);
            }
        }
        None
    })
}

fn next_label<'a>(reader: &mut Reader<'a>) -> Result<Option<Reader<'a>>, Malformed> {
    match reader.tag()? {
        LABELS => reader.message().map(Some),
        other => reader.skip(other, &[]).map(|()| None),
    }
}

/// A name or a value, and where it ends among the fields that it was found in.
#[derive(Clone, Copy, Default)]
struct Text<'a> {
    bytes: &'a [u8],
    end: usize,
}

/// Name and value of a `Label`; as protobuf has it, the last of repeated fields holds.
fn pair(mut label: Reader<'_>) -> Result<(Text<'_>, Text<'_>), Malformed> {
    let (mut name, mut value) = (Text::default(), Text::default());
    while !label.is_empty() {
        match label.tag()? {
            NAME => name = Text { bytes: label.bytes()?, end: label.position() },
            VALUE => value = Text { bytes: label.bytes()?, end: label.position() },
            other => label.skip(other, &[1, 2])?,
        }
    }
    Ok((name, value))
}

/// A text as `str`: cut from `whole`, if all fields together are one.
#[inline]
fn text<'a>(
    what: &'static str,
    Text { bytes, end }: Text<'a>,
    whole: Option<&'a str>,
    limit: usize,
) -> Result<&'a str, LabelError> {
    if bytes.len() > limit {
        let (length, start) = (bytes.len(), start(bytes, 40));
        return Err(LabelError::TooLong { what, length, limit, start });
    }
    match whole.and_then(|whole| whole.get(end - bytes.len()..end)) {
        Some(text) => Ok(text),
        None => std::str::from_utf8(bytes)
            .map_err(|_| LabelError::NotUtf8 { what, lossy: start(bytes, 40) }),
    }
}

fn canonical(pairs: &mut [(&str, &str)]) -> Result<Labels, LabelError> {
    if !pairs.is_sorted_by(|a, b| a.0 < b.0) {
        pairs.sort_unstable();
    }
    if let Some(pair) = pairs.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(LabelError::DuplicateName { name: pair[0].0.to_owned() });
    }
    let length = pairs.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    let mut bytes = Vec::with_capacity(length);
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        if name.is_empty() {
            return Err(LabelError::EmptyName);
        }
        push_pair(&mut bytes, name, value);
    }
    Labels::from_canonical_bytes(&bytes)
}

/// A series in words for a refusal, as far as it can be read, cut to a sane length.
pub(super) fn describe(key: &[u8]) -> String {
    const CHARACTERS_MAX: usize = 256;
    let mut name = String::new();
    let mut rest = String::new();
    for (label, value) in labels_in(key).map_while(|label| label.and_then(pair).ok()) {
        let (label, value) = (label.bytes, value.bytes);
        if label == icecore_storage::labels::METRIC_NAME.as_bytes() {
            name = start(value, CHARACTERS_MAX);
        } else {
            let comma = if rest.is_empty() { "" } else { ", " };
            rest += &format!("{comma}{}={:?}", start(label, 64), start(value, 64));
        }
        if rest.len() > CHARACTERS_MAX {
            rest += ", …";
            break;
        }
    }
    format!("{name}{{{rest}}}")
}

fn start(bytes: &[u8], characters: usize) -> String {
    // No character has more than 4 bytes.
    let head = &bytes[..bytes.len().min(4 * characters)];
    String::from_utf8_lossy(head).chars().take(characters).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        let field = |out: &mut Vec<u8>, tag: u32, bytes: &[u8]| {
            out.push(tag as u8);
            icecore_storage::encoding::varint::write(out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        };
        for (name, value) in pairs {
            let mut label = Vec::new();
            field(&mut label, NAME, name);
            field(&mut label, VALUE, value);
            field(&mut out, LABELS, &label);
        }
        out
    }

    fn check(pairs: &[(&[u8], &[u8])], expected: &str) {
        let got = match labels(&key(pairs), &Limits::default()) {
            Ok(labels) => labels.to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(got, expected);
    }

    #[test]
    fn labels_become_canonical_or_say_why_not() {
        check(&[(b"__name__", b"up"), (b"job", b"node")], r#"up{job="node"}"#);
        check(&[(b"job", b"node"), (b"zone", b""), (b"__name__", b"up")], r#"up{job="node"}"#);
        check(&[(b"a", b"1"), (b"__name__", b"up"), (b"a", b"")], r#"duplicate label name "a""#);
        check(&[(b"__name__", b"up"), (b"", b"x")], "label name is empty");
        check(&[(b"__name__", b"up"), (b"", b"")], "up");
        check(&[(b"job", b"node")], "series has no metric name");
        check(&[(b"job", b"")], "series has no labels");
        check(&[(b"__name__", b"a\xff")], "label value is not valid UTF-8: \"a\u{fffd}\"");
        check(
            &[(b"__name__", b"record:x")],
            "metric name \"record:x\" is reserved: the prefix `record:` belongs to records",
        );
        let long = [b'x'; 2000];
        let start = "x".repeat(40);
        check(
            &[(&long, b"1")],
            &format!("label name of 2000 bytes exceeds the limit of 1024: {start:?}…"),
        );
        check(&[(&b"x"[..], &b"1"[..]); 65], "65 labels exceed the limit of 64 per series");
    }

    proptest! {
        #[test]
        fn the_plain_way_gives_what_the_long_one_gives(
            names in prop::collection::btree_set("[a-cé]{0,3}", 0..6),
            values: Vec<String>,
            swapped: bool,
            flipped in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let name = [&b"__name__"[..], b"up"];
            let texts = names.iter().zip(&values);
            let mut pairs: Vec<(&[u8], &[u8])> = vec![(name[0], name[1])];
            pairs.extend(texts.map(|(name, value)| (name.as_bytes(), value.as_bytes())));
            if swapped {
                pairs.reverse();
            }
            let mut key = key(&pairs);
            if let Some((at, byte)) = flipped {
                let at = at.index(key.len());
                key[at] = byte;
            }
            let limits = Limits { labels_per_series: 4, value_bytes: 20, ..Limits::default() };
            if let Some(plain) = plain_labels(&key, &limits) {
                prop_assert_eq!(Ok(plain), parsed_labels(&key, &limits));
            }
        }
    }

    #[test]
    fn common_keys_go_the_plain_way() {
        let common = key(&[(b"__name__", b"up"), (b"job", b"node"), (b"z", "zür".as_bytes())]);
        let labels = plain_labels(&common, &Limits::default());
        assert_eq!(labels.unwrap().to_string(), r#"up{job="node", z="zür"}"#);
    }

    #[test]
    fn cut_short_at_any_byte_is_no_panic_and_no_series_of_another_name() {
        let whole = key(&[(b"__name__", b"up"), (b"job", b"node")]);
        for end in 0..whole.len() {
            let cut = labels(&whole[..end], &Limits::default());
            assert!(cut.is_err() || cut.unwrap().to_string() == "up", "{end}");
        }
    }

    #[test]
    fn exemplars_have_few_characters() {
        let limits = Limits::default();
        let trace = key(&[(b"trace_id", &[b'f'; 32])]);
        assert_eq!(exemplar_labels(&trace, &limits).unwrap().to_string().len(), 32 + 13);
        assert!(exemplar_labels(&key(&[(b"trace_id", &[b'f'; 121])]), &limits).is_err());
        assert!(exemplar_labels(&[], &limits).unwrap().is_empty());
    }

    #[test]
    fn descriptions_are_short_and_never_fail() {
        let odd = key(&[(b"__name__", b"up"), (b"job", b"a\"b"), (b"\xff", b"\xff")]);
        assert_eq!(describe(&odd), "up{job=\"a\\\"b\", \u{fffd}=\"\u{fffd}\"}");
        assert!(describe(&key(&[(&[b'x'; 5000][..], &[b'y'; 5000][..]); 64])).len() < 500);
        assert_eq!(describe(b"\x0a\xff"), "{}");
    }

    #[test]
    fn equal_keys_hash_equal_within_a_process() {
        let key = [b'k'; 500];
        let hash = |length: usize| KeyHash::of_this_process().hash(&key[..length]);
        assert_eq!(hash(500), hash(500));
        assert_ne!(hash(500), hash(499));
        assert_ne!(hash(20), xxhash_rust::xxh3::xxh3_128(&key[..20]));
    }
}
