//! The capacity report: what is stored, when it goes, and when room runs out.
//!
//! [`document`] is the report as JSON, which the API answers with and which is written for people by
//! [`text`], [`csv`] and [`html`]. Storage works it out; nothing is computed here but what people read.

pub mod command;
pub(crate) mod csv;
pub(crate) mod document;
pub(crate) mod html;
mod svg;
pub(crate) mod text;

use clap::ValueEnum;

use crate::report::document::Document;

/// The form of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub enum Format {
    Table,
    Json,
    Csv,
    Html,
}

impl Format {
    pub(crate) fn parse(text: &str) -> Option<Format> {
        Format::from_str(text, false).ok()
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Format::Table => "text/plain; charset=utf-8",
            Format::Json => "application/json",
            Format::Csv => "text/csv; charset=utf-8; header=present",
            Format::Html => "text/html; charset=utf-8",
        }
    }

    pub(crate) fn write(self, document: &Document) -> String {
        match self {
            Format::Table => text::table(document),
            Format::Json => serde_json::to_string_pretty(document)
                .map(|text| text + "\n")
                .expect("types of answers have string keys"),
            Format::Csv => csv::days(document),
            Format::Html => html::page(document),
        }
    }
}
