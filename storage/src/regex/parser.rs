//! The structure of a pattern: groups, alternatives, repetitions and flags.
//!
//! An open group is a frame on a stack, so that depth costs memory and never the machine's stack.
//! Go bounds the depth of what it builds and the copies that nested counts ask for; both are kept
//! with each node as it is made.

use regex_syntax::hir::{Capture, Hir, Look, Repetition};

use super::class::{bracketed, escaped};
use super::escape::escape;
use super::ranges::{LAST, Ranges};
use super::{Fault, Groups};

/// The deepest tree that Go accepts. Plain groups do not count.
const HEIGHT_MAX: u32 = 1000;

/// Go's bound on a count, and on the product of counts inside one another.
const REPEAT_MAX: u32 = 1000;

/// Ranges in all classes of a pattern, of eight bytes each here and more in an automaton.
const CLASS_RANGES_MAX: usize = 1 << 18;

/// A pattern as the automaton's compiler takes it.
#[derive(Debug)]
pub(super) struct Parsed {
    pub hir: Hir,
    /// The names of the groups, in order; the first is that of the whole match.
    pub group_names: Vec<Option<Box<str>>>,
}

#[derive(Clone, Copy)]
struct Flags {
    /// `i`: letters match in either case.
    fold: bool,
    /// `m`: `^` and `$` match at lines.
    lines: bool,
    /// `s`: `.` matches a newline.
    dot_newline: bool,
    /// `U`: repetitions match as little as they can.
    lazy: bool,
}

struct Node {
    hir: Hir,
    kind: Kind,
    height: u32,
    /// The largest product of counts on one way down.
    repeats: u32,
}

/// What joins with its like when it is put into one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Concatenation,
    Alternation,
    Other,
}

impl Node {
    fn leaf(hir: Hir) -> Node {
        Node { hir, kind: Kind::Other, height: 1, repeats: 1 }
    }
}

/// A group that is still open, or the whole pattern.
struct Frame {
    /// Those to go back to when it is closed.
    flags: Flags,
    /// Its number, if it captures.
    group: Option<u32>,
    alternatives: Vec<Node>,
    /// The current alternative: nodes, and the characters behind them.
    nodes: Vec<Node>,
    literal: String,
}

struct Parser<'p> {
    pattern: &'p str,
    /// What has not been read.
    rest: &'p str,
    flags: Flags,
    frames: Vec<Frame>,
    groups: Groups,
    group_names: Vec<Option<Box<str>>>,
    class_ranges: usize,
}

pub(super) fn parse(pattern: &str, groups: Groups, dot_newline: bool) -> Result<Parsed, Fault<'_>> {
    let flags = Flags { fold: false, lines: false, dot_newline, lazy: false };
    let mut parser = Parser {
        pattern,
        rest: pattern,
        flags,
        frames: Vec::new(),
        groups,
        group_names: vec![None],
        class_ranges: 0,
    };
    parser.open(None);
    parser.read_all()?;
    match parser.frames.pop() {
        Some(whole) if parser.frames.is_empty() => {
            let node = parser.close(whole)?;
            Ok(Parsed { hir: node.hir, group_names: parser.group_names })
        }
        _ => Err(Fault::new("missing closing )", pattern)),
    }
}

impl<'p> Parser<'p> {
    fn read_all(&mut self) -> Result<(), Fault<'p>> {
        // Where the token before this one begins, if it is a repetition.
        let mut repetition = None;
        while let Some(first) = self.rest.chars().next() {
            let token = self.rest;
            let before = repetition.take();
            match first {
                '(' if token.starts_with("(?") => self.flags_or_group()?,
                '(' => {
                    self.rest = &token[1..];
                    self.open_capture(None);
                }
                ')' => self.close_group()?,
                '|' => {
                    self.rest = &token[1..];
                    let alternative = self.alternative()?;
                    self.frame().alternatives.push(alternative);
                }
                '*' | '+' | '?' => {
                    self.rest = &token[1..];
                    let (min, max) = match first {
                        '*' => (0, None),
                        '+' => (1, None),
                        _ => (0, Some(1)),
                    };
                    self.repeat(token, before, min, max)?;
                    repetition = Some(token);
                }
                '{' => match counts(token) {
                    Some((min, max, rest)) => {
                        self.rest = rest;
                        let (min, max) = valid_counts(min, max)
                            .ok_or_else(|| Fault::new("invalid repeat count", self.since(token)))?;
                        self.repeat(token, before, min, max)?;
                        if self.top_repeats() > REPEAT_MAX {
                            return Err(Fault::new("invalid repeat count", self.since(token)));
                        }
                        repetition = Some(token);
                    }
                    None => self.character(first)?,
                },
                '^' => self.look(1, if self.flags.lines { Look::StartLF } else { Look::Start })?,
                '$' => self.look(1, if self.flags.lines { Look::EndLF } else { Look::End })?,
                '.' => {
                    self.rest = &token[1..];
                    let newline = u32::from(b'\n');
                    let any = match self.flags.dot_newline {
                        true => Ranges::of(&[(0, LAST)]),
                        false => Ranges::of(&[(newline, newline)]).negated(),
                    };
                    self.push(Node::leaf(any.into_hir()))?;
                }
                '[' => {
                    let (ranges, rest) = bracketed(token, self.flags.fold)?;
                    self.rest = rest;
                    self.class(ranges)?;
                }
                '\\' => self.backslash()?,
                _ => self.character(first)?,
            }
        }
        Ok(())
    }

    /// What has been read since `start`.
    fn since(&self, start: &'p str) -> &'p str {
        &start[..start.len() - self.rest.len()]
    }

    fn frame(&mut self) -> &mut Frame {
        self.frames.last_mut().expect("the frame of the whole pattern stays")
    }

    fn open(&mut self, group: Option<u32>) {
        self.frames.push(Frame {
            flags: self.flags,
            group,
            alternatives: Vec::new(),
            nodes: Vec::new(),
            literal: String::new(),
        });
    }

    fn open_capture(&mut self, name: Option<&str>) {
        let number = self.group_names.len() as u32;
        self.group_names.push(name.map(Box::from));
        self.open(Some(number));
    }

    fn close_group(&mut self) -> Result<(), Fault<'p>> {
        self.rest = &self.rest[1..];
        let frame = match self.frames.pop() {
            Some(frame) if !self.frames.is_empty() => frame,
            _ => return Err(Fault::new("unexpected )", self.pattern)),
        };
        self.flags = frame.flags;
        let group = frame.group;
        let mut node = self.close(frame)?;
        if let Some(index) = group {
            node.height += 1;
            node.kind = Kind::Other;
            if self.groups == Groups::Kept {
                let capture = Capture { index, name: None, sub: Box::new(node.hir) };
                node.hir = Hir::capture(capture);
            }
        }
        self.push(node)
    }

    /// The node of a group whose end has been read.
    fn close(&mut self, mut frame: Frame) -> Result<Node, Fault<'p>> {
        let last = self.concatenation(&mut frame)?;
        let mut alternatives = frame.alternatives;
        alternatives.push(last);
        self.joined(alternatives, Kind::Alternation, Hir::alternation)
    }

    fn alternative(&mut self) -> Result<Node, Fault<'p>> {
        let mut frame = self.frames.pop().expect("the frame of the whole pattern stays");
        let node = self.concatenation(&mut frame);
        self.frames.push(frame);
        node
    }

    fn concatenation(&mut self, frame: &mut Frame) -> Result<Node, Fault<'p>> {
        frame.flush();
        let nodes = std::mem::take(&mut frame.nodes);
        self.joined(nodes, Kind::Concatenation, Hir::concat)
    }

    fn joined(
        &self,
        mut nodes: Vec<Node>,
        kind: Kind,
        join: fn(Vec<Hir>) -> Hir,
    ) -> Result<Node, Fault<'p>> {
        if nodes.len() < 2 {
            return Ok(nodes.pop().unwrap_or_else(|| Node::leaf(Hir::empty())));
        }
        let below = |node: &Node| node.height - u32::from(node.kind == kind);
        let height = 1 + nodes.iter().map(below).max().unwrap_or(0);
        let repeats = nodes.iter().map(|node| node.repeats).max().unwrap_or(1);
        let hir = join(nodes.into_iter().map(|node| node.hir).collect());
        self.checked(Node { hir, kind, height, repeats })
    }

    fn checked(&self, node: Node) -> Result<Node, Fault<'p>> {
        match node.height <= HEIGHT_MAX {
            true => Ok(node),
            false => Err(Fault::new("expression nests too deeply", self.pattern)),
        }
    }

    fn push(&mut self, node: Node) -> Result<(), Fault<'p>> {
        let node = self.checked(node)?;
        let frame = self.frame();
        frame.flush();
        frame.nodes.push(node);
        Ok(())
    }

    fn look(&mut self, length: usize, look: Look) -> Result<(), Fault<'p>> {
        self.rest = &self.rest[length..];
        self.push(Node::leaf(Hir::look(look)))
    }

    fn class(&mut self, ranges: Ranges) -> Result<(), Fault<'p>> {
        self.class_ranges += ranges.len();
        if self.class_ranges > CLASS_RANGES_MAX {
            return Err(Fault::new(
                "expression too large (at most 262144 ranges in classes)",
                self.pattern,
            ));
        }
        self.push(Node::leaf(ranges.into_hir()))
    }

    /// The next character stands for itself.
    fn character(&mut self, c: char) -> Result<(), Fault<'p>> {
        self.rest = &self.rest[c.len_utf8()..];
        self.literal(c.into())
    }

    fn literal(&mut self, point: u32) -> Result<(), Fault<'p>> {
        let one = Ranges::of(&[(point, point)]);
        if self.flags.fold {
            let folded = one.folded();
            if folded.len() > 1 {
                return self.class(folded);
            }
        }
        match char::from_u32(point) {
            Some(c) => {
                self.frame().literal.push(c);
                Ok(())
            }
            // A surrogate, which no text has.
            None => self.class(Ranges::default()),
        }
    }

    fn backslash(&mut self) -> Result<(), Fault<'p>> {
        let text = self.rest;
        match text.as_bytes().get(1) {
            Some(b'A') => return self.look(2, Look::Start),
            Some(b'z') => return self.look(2, Look::End),
            Some(b'b') => return self.look(2, Look::WordAscii),
            Some(b'B') => return self.look(2, Look::WordAsciiNegate),
            Some(b'Q') => {
                let (quoted, rest) = text[2..].split_once(r"\E").unwrap_or((&text[2..], ""));
                self.rest = rest;
                return quoted.chars().try_for_each(|c| self.literal(c.into()));
            }
            _ => {}
        }
        if let Some((ranges, rest)) = escaped(text, self.flags.fold)? {
            self.rest = rest;
            return self.class(ranges);
        }
        let (point, rest) = escape(text)?;
        self.rest = rest;
        self.literal(point)
    }

    /// Repeats what was read last. `token` begins at the operator, which has been read; `before`
    /// at the repetition right before it.
    fn repeat(
        &mut self,
        token: &'p str,
        before: Option<&'p str>,
        min: u32,
        max: Option<u32>,
    ) -> Result<(), Fault<'p>> {
        let mut lazy = self.flags.lazy;
        if let Some(rest) = self.rest.strip_prefix('?') {
            self.rest = rest;
            lazy = !lazy;
        }
        if let Some(before) = before {
            return Err(Fault::new("invalid nested repetition operator", self.since(before)));
        }
        let since = self.since(token);
        let counted = token.starts_with('{');
        let frame = self.frame();
        // It binds to one character only.
        if let Some(c) = frame.literal.pop() {
            frame.flush();
            frame.nodes.push(Node::leaf(Hir::literal(c.to_string().into_bytes())));
        }
        let Some(node) = frame.nodes.pop() else {
            return Err(Fault::new("missing argument to repetition operator", since));
        };
        let repeats = match max {
            _ if !counted => node.repeats,
            Some(0) => 1,
            max => node.repeats.saturating_mul(max.unwrap_or(min).max(1)),
        };
        let height = node.height + 1;
        let sub = Box::new(node.hir);
        let hir = Hir::repetition(Repetition { min, max, greedy: !lazy, sub });
        self.push(Node { hir, kind: Kind::Other, height, repeats })
    }

    fn top_repeats(&mut self) -> u32 {
        self.frame().nodes.last().map_or(1, |node| node.repeats)
    }

    /// What begins with `(?`: flags up to the end of the group, a group with flags, or one with a
    /// name.
    fn flags_or_group(&mut self) -> Result<(), Fault<'p>> {
        let text = self.rest;
        let named = text.strip_prefix("(?P<").or_else(|| text.strip_prefix("(?<"));
        if let Some(named) = named.filter(|named| !named.is_empty()) {
            let fault = |text| Fault::new("invalid named capture", text);
            let (name, rest) = named.split_once('>').ok_or_else(|| fault(text))?;
            self.rest = rest;
            let is_word = |c: char| c == '_' || c.is_ascii_alphanumeric();
            if name.is_empty() || !name.chars().all(is_word) {
                return Err(fault(self.since(text)));
            }
            self.open_capture(Some(name));
            return Ok(());
        }
        let mut flags = self.flags;
        let mut value = true;
        // Whether there was a flag behind the minus.
        let mut seen = true;
        let mut chars = text[2..].chars();
        while let Some(c) = chars.next() {
            self.rest = chars.as_str();
            match c {
                'i' => flags.fold = value,
                'm' => flags.lines = value,
                's' => flags.dot_newline = value,
                'U' => flags.lazy = value,
                '-' if value => {
                    value = false;
                    seen = false;
                    continue;
                }
                ':' if seen => {
                    self.open(None);
                    self.flags = flags;
                    return Ok(());
                }
                ')' if seen => {
                    self.flags = flags;
                    return Ok(());
                }
                _ => break,
            }
            seen = true;
        }
        if text.len() == 2 {
            self.rest = "";
        }
        Err(Fault::new("invalid or unsupported Perl syntax", self.since(text)))
    }
}

impl Frame {
    /// Makes a node of the characters that wait.
    fn flush(&mut self) {
        if !self.literal.is_empty() {
            let literal = std::mem::take(&mut self.literal);
            self.nodes.push(Node::leaf(Hir::literal(literal.into_bytes())));
        }
    }
}

/// A number of a count; `None` if it has too many digits.
type Count = Option<u32>;

/// `{min}`, `{min,}` or `{min,max}` and what follows; `None` if the brace is a character.
fn counts(text: &str) -> Option<(Count, Option<Count>, &str)> {
    let (min, rest) = count(&text[1..])?;
    let (max, rest) = match rest.strip_prefix(',') {
        None => (Some(min), rest),
        Some(rest) if rest.starts_with('}') => (None, rest),
        Some(rest) => {
            let (max, rest) = count(rest)?;
            (Some(max), rest)
        }
    };
    Some((min, max, rest.strip_prefix('}')?))
}

fn count(text: &str) -> Option<(Count, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(digits);
    let leading_zero = number.len() > 1 && number.starts_with('0');
    (digits > 0 && !leading_zero).then(|| (number.parse().ok(), rest))
}

fn valid_counts(min: Count, max: Option<Count>) -> Option<(u32, Option<u32>)> {
    let min = min.filter(|&min| min <= REPEAT_MAX)?;
    match max {
        None => Some((min, None)),
        Some(max) => max.filter(|&max| min <= max && max <= REPEAT_MAX).map(|max| (min, Some(max))),
    }
}
