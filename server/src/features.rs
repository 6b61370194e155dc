//! `--enable-feature`: what is off by default, under Prometheus's names.
//!
//! As in Prometheus, a name that means nothing here is no reason not to start: it is warned of.

use icecore_query::engine::EngineOptions;
use icecore_query::parser::ParserOptions;

/// The features that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    names: Vec<String>,
}

impl Features {
    pub fn new(names: Vec<String>) -> Features {
        Features { names }
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Switches on what was asked for.
    pub fn apply(&self, engine: &mut EngineOptions, parser: &mut ParserOptions) {
        for name in &self.names {
            if let Some(switch) = switch(name, engine, parser) {
                *switch = true;
            }
        }
    }

    /// The names that switch nothing, each with what to say of it.
    pub fn warnings(&self) -> Vec<(&str, &'static str)> {
        let (mut engine, mut parser) = (EngineOptions::default(), ParserOptions::default());
        let names = self.names.iter().map(String::as_str);
        let unused = names.filter(|name| switch(name, &mut engine, &mut parser).is_none());
        unused.map(|name| (name, warning(name))).collect()
    }
}

/// What a feature switches.
fn switch<'a>(
    name: &str,
    engine: &'a mut EngineOptions,
    parser: &'a mut ParserOptions,
) -> Option<&'a mut bool> {
    Some(match name {
        "promql-experimental-functions" => &mut parser.experimental_functions,
        "promql-extended-range-selectors" => &mut parser.extended_range_selectors,
        "promql-binop-fill-modifiers" => &mut parser.binop_fill_modifiers,
        "promql-delayed-name-removal" => &mut engine.delayed_name_removal,
        "promql-per-step-stats" => &mut engine.per_step_stats,
        "type-and-unit-labels" => &mut engine.type_and_unit_labels,
        "use-start-timestamps" => &mut engine.use_start_timestamps,
        _ => return None,
    })
}

fn warning(name: &str) -> &'static str {
    match name {
        "promql-at-modifier" | "promql-duration-expr" | "promql-negative-offset" => {
            "This option for --enable-feature is now permanently enabled and therefore a no-op."
        }
        _ => "Unknown option for --enable-feature",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(names: &[&str]) -> Features {
        Features::new(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn every_feature_switches_something_of_its_own() {
        let known = [
            "promql-experimental-functions",
            "promql-extended-range-selectors",
            "promql-binop-fill-modifiers",
            "promql-delayed-name-removal",
            "promql-per-step-stats",
            "type-and-unit-labels",
            "use-start-timestamps",
        ];
        let mut seen = Vec::new();
        for name in known {
            let (mut engine, mut parser) = (EngineOptions::default(), ParserOptions::default());
            features(&[name]).apply(&mut engine, &mut parser);
            let state = format!("{engine:?} {parser:?}");
            assert!(!seen.contains(&state), "{name} switches nothing, or what another does");
            seen.push(state);
        }
        assert!(features(&known).warnings().is_empty());
    }

    #[test]
    fn what_means_nothing_is_warned_of() {
        let asked = features(&["promql-duration-expr", "exemplar-storage"]);
        let warnings = asked.warnings();
        assert_eq!(warnings[0].0, "promql-duration-expr");
        assert!(warnings[0].1.contains("no-op"));
        assert_eq!(warnings[1], ("exemplar-storage", "Unknown option for --enable-feature"));
    }
}
