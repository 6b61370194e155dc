//! Editing labels: new label sets from old ones, byte for byte, without building strings.
//!
//! Everything here keeps the canonical form of [`Labels`]: pairs in order of their names, no empty
//! value.

use icecore_storage::labels::{Labels, METRIC_NAME, push_pair};

/// Labels that say what a metric is: they go where its name goes.
pub(crate) fn is_metadata(name: &[u8]) -> bool {
    name == METRIC_NAME.as_bytes() || name == b"__type__" || name == b"__unit__"
}

/// The pairs that [`without_name`] takes away.
pub(crate) fn metadata(labels: &Labels) -> impl Iterator<Item = (&[u8], &[u8])> {
    // Pairs are in order of their names, and no metadata comes after this one.
    let first = labels.byte_pairs().take_while(|(name, _)| *name <= &b"__unit__"[..]);
    first.filter(|(name, _)| is_metadata(name))
}

/// The pairs whose name `keep` accepts, as canonical bytes appended to `bytes`.
pub(crate) fn write_filtered(
    labels: &Labels,
    bytes: &mut Vec<u8>,
    mut keep: impl FnMut(&[u8]) -> bool,
) {
    for (name, value) in labels.byte_pairs() {
        if keep(name) {
            push_pair(bytes, name, value);
        }
    }
}

/// The pairs of some names, of which a list in ascending order is given, as canonical bytes appended
/// to `bytes`; without those that say what a metric is, if `metadata` is false.
pub(crate) fn write_listed<N: AsRef<[u8]>>(
    labels: &Labels,
    bytes: &mut Vec<u8>,
    names: &[N],
    metadata: bool,
) {
    let mut names = names.iter().map(AsRef::as_ref).peekable();
    for (name, value) in labels.byte_pairs() {
        while names.next_if(|listed| *listed < name).is_some() {}
        match names.peek() {
            None => return,
            Some(listed) if *listed == name && (metadata || !is_metadata(name)) => {
                push_pair(bytes, name, value);
            }
            Some(_) => {}
        }
    }
}

/// Labels from bytes that this module wrote.
pub(crate) fn from_bytes(bytes: &[u8]) -> Labels {
    Labels::from_canonical_bytes(bytes).expect("filtered labels stay canonical")
}

/// Without the metric's name, type and unit.
pub(crate) fn without_name(labels: &Labels) -> Labels {
    if metadata(labels).next().is_none() {
        return labels.clone();
    }
    labels.filtered(|name| !is_metadata(name))
}

/// Sets one label; an empty value removes it.
pub(crate) fn with(labels: &Labels, name: &str, value: &str) -> Labels {
    let mut builder = labels.to_builder();
    builder.set(name, value);
    builder.build().expect("a label set with one value replaced has no name twice")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_pairs_are_those_that_a_filter_finds() {
        let labels = Labels::from_pairs([("__name__", "x"), ("b", "1"), ("a", "2"), ("d", "3")]);
        let labels = labels.unwrap();
        let lists: [&[&str]; 6] =
            [&[], &["a"], &["__name__", "b"], &["A", "c", "d", "e"], &["a", "b", "d"], &["z"]];
        for names in lists {
            for metadata in [false, true] {
                let (mut listed, mut filtered) = (vec![7], vec![7]);
                write_listed(&labels, &mut listed, names, metadata);
                write_filtered(&labels, &mut filtered, |name| {
                    names.iter().any(|listed| listed.as_bytes() == name)
                        && (metadata || !is_metadata(name))
                });
                assert_eq!(listed, filtered, "{names:?}");
            }
        }
    }

    #[test]
    fn edits_keep_the_canonical_form() {
        let labels = Labels::from_pairs([("__name__", "x"), ("b", "1"), ("a", "2")]).unwrap();
        assert_eq!(without_name(&labels).to_string(), r#"{a="2", b="1"}"#);
        assert_eq!(with(&labels, "a", "").to_string(), r#"x{b="1"}"#);
        assert_eq!(with(&labels, "A", "0").to_string(), r#"x{A="0", a="2", b="1"}"#);
    }
}
