//! The label index: from matchers to series.
