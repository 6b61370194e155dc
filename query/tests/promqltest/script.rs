//! The script language: `load`, `clear`, `eval` and what is expected.
//!
//! Lines are trimmed, those that start with `#` count as blank, and a blank line ends a block. The
//! first line of a block is a command; the lines after it belong to it. One kind of comment is our
//! own: before the first command, `# option: …` changes a setting of the engine.

use crate::expect::{Expected, parse_expected};
use crate::load::Load;
use crate::series::{duration_ms, parse_series};
use crate::stores::When;

/// A script: how the engine is set, and what to do.
#[derive(Debug)]
pub(crate) struct Script {
    /// Delayed, unless the script says `# option: immediate name removal`.
    pub(crate) delayed_name_removal: bool,
    /// Used, unless the script says `# option: ignore start timestamps`.
    pub(crate) use_start_timestamps: bool,
    /// Off, unless the script says `# option: type and unit labels`.
    pub(crate) type_and_unit_labels: bool,
    pub(crate) commands: Vec<Command>,
}

#[derive(Debug)]
pub(crate) enum Command {
    Load(Load),
    Clear,
    Eval(Eval),
}

#[derive(Debug)]
pub(crate) struct Eval {
    pub(crate) line: usize,
    pub(crate) when: When,
    pub(crate) expr: String,
    pub(crate) expected: Expected,
}

impl Script {
    /// What cannot be read is an error with its line.
    pub(crate) fn parse(text: &str) -> Result<Script, String> {
        let mut script = Script {
            delayed_name_removal: true,
            use_start_timestamps: true,
            type_and_unit_labels: false,
            commands: Vec::new(),
        };
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let mut at = 0;
        while at < lines.len() {
            let line = lines[at];
            let number = at + 1;
            let failed = |what: String| format!("line {number}: {what}");
            at += 1;
            if let Some(option) = line.strip_prefix("# option:") {
                script.set(option.trim()).map_err(failed)?;
            }
            if is_blank(line) {
                continue;
            }
            let word = line.split_whitespace().next().unwrap_or("").to_lowercase();
            if word == "clear" {
                script.commands.push(Command::Clear);
                continue;
            }
            let body = &lines[at..];
            let length = body.iter().position(|line| is_blank(line)).unwrap_or(body.len());
            let (body, command) = (&body[..length], line);
            at += length;
            let parsed = match word.as_str() {
                word if word.starts_with("load") => parse_load(command, body).map(Command::Load),
                word if word.starts_with("eval") => {
                    parse_eval(number, command, body).map(Command::Eval)
                }
                _ => Err(format!("unknown command: {command}")),
            };
            script.commands.push(parsed.map_err(failed)?);
        }
        Ok(script)
    }

    fn set(&mut self, option: &str) -> Result<(), String> {
        match option {
            _ if !self.commands.is_empty() => return Err("options come first".into()),
            "immediate name removal" => self.delayed_name_removal = false,
            "ignore start timestamps" => self.use_start_timestamps = false,
            "type and unit labels" => self.type_and_unit_labels = true,
            _ => return Err(format!("unknown option: {option}")),
        }
        Ok(())
    }
}

fn is_blank(line: &str) -> bool {
    line.is_empty() || line.starts_with('#')
}

fn parse_load(command: &str, body: &[&str]) -> Result<Load, String> {
    let (word, step) = command.split_once(char::is_whitespace).ok_or("no step")?;
    let converts = match word {
        "load" => false,
        "load_with_nhcb" => true,
        _ => return Err(format!("unknown command: {command}")),
    };
    let step_ms = duration_ms(step.trim()).ok_or_else(|| format!("bad step: {step}"))?;
    Load::parse(step_ms, converts, body)
}

fn parse_eval(line: usize, command: &str, body: &[&str]) -> Result<Eval, String> {
    let (word, rest) = take_word(command)?;
    let (kind, rest) = take_word(rest)?;
    let (when, expr) = match kind {
        "instant" => {
            let ([time_ms], expr) = take_times(rest, ["at"])?;
            (When::Instant { time_ms }, expr)
        }
        "range" => {
            let ([start_ms, end_ms, step_ms], expr) = take_times(rest, ["from", "to", "step"])?;
            (When::Range { start_ms, end_ms, step_ms }, expr)
        }
        _ => return Err(format!("neither instant nor range: {command}")),
    };
    let expected = parse_expected(word, body, parse_series)?;
    Ok(Eval { line, when, expr: expr.to_owned(), expected })
}

fn take_word(text: &str) -> Result<(&str, &str), String> {
    let (word, rest) = text.split_once(char::is_whitespace).ok_or("the line ends early")?;
    Ok((word, rest.trim_start()))
}

/// Times that follow these words, and what comes after them.
pub(crate) fn take_times<'a, const N: usize>(
    mut text: &'a str,
    words: [&str; N],
) -> Result<([i64; N], &'a str), String> {
    let mut times = [0; N];
    for (time, word) in times.iter_mut().zip(words) {
        let after = text.strip_prefix(word).ok_or_else(|| format!("no {word:?}: {text}"))?;
        let after = after.trim_start();
        let end = after.find(char::is_whitespace).unwrap_or(after.len());
        *time = time_ms(&after[..end]).ok_or_else(|| format!("not a time: {after}"))?;
        text = after[end..].trim_start();
    }
    Ok((times, text))
}

/// A time: a duration or plain seconds.
fn time_ms(text: &str) -> Option<i64> {
    let (sign, plain) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text),
    };
    Some(sign * duration_ms(plain).or_else(|| Some((plain.parse::<f64>().ok()? * 1000.0) as i64))?)
}

#[test]
fn options_are_for_the_whole_script() {
    let script = Script::parse("# option: immediate name removal\n\nload 1m\n  m 1\n").unwrap();
    assert!(!script.delayed_name_removal && script.use_start_timestamps);
    assert_eq!(script.commands.len(), 1);
    let late = Script::parse("clear\n# option: immediate name removal\n");
    assert_eq!(late.unwrap_err(), "line 2: options come first");
    assert!(Script::parse("# option: faster\n").is_err());
}

#[test]
fn a_comment_ends_a_block_and_stray_lines_are_errors() {
    let error = Script::parse("load 1m\n  a 1\n  # b\n  c 1\n").unwrap_err();
    assert_eq!(error, "line 4: unknown command: c 1");
}
