//! The lexer: query bytes to tokens.
//!
//! A machine of three states, as in Prometheus: [`State::Statements`], [`State::Braces`] between
//! `{` and `}`, where every word is an identifier, and [`State::Duration`] after `[`, where only
//! arithmetic on durations may stand. After the first number inside brackets the machine is back
//! in `Statements`; the flags tell where it is, and that some errors read differently then is part
//! of the language too. Every state reads characters from left to right and goes back by at most
//! one, so the time is linear in the text.
//!
//! Any bytes may come: outside strings and comments only ASCII has a meaning, inside strings
//! invalid UTF-8 is an error.

use crate::go_format;
use crate::parser::ast::{BinaryOp, Span};
use crate::parser::steps;
use crate::parser::token::{Keyword, Kind, Token};

/// A step of the lexer: a token, or nothing yet because the state changed or space was skipped.
type Step = Result<Option<Kind>, String>;

#[derive(Clone, Copy, Debug)]
enum State {
    Statements,
    Braces,
    Duration,
    Done,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lexer<'a> {
    input: &'a [u8],
    state: State,
    pos: usize,
    /// Where the token being read starts.
    start: usize,
    /// Bytes of the character that was read last.
    width: usize,
    /// Where the token that was read last starts.
    last_start: usize,
    paren_depth: i64,
    brace_open: bool,
    bracket_open: bool,
    got_colon: bool,
    got_duration: bool,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(input: &'a [u8]) -> Lexer<'a> {
        Lexer {
            input,
            state: State::Statements,
            pos: 0,
            start: 0,
            width: 0,
            last_start: 0,
            paren_depth: 0,
            brace_open: false,
            bracket_open: false,
            got_colon: false,
            got_duration: false,
        }
    }

    /// The next token; comments are skipped. After an error or [`Kind::Eof`] there is none.
    pub(super) fn next_token(&mut self) -> Result<Token, (Span, String)> {
        loop {
            let step = match self.state {
                State::Statements => self.statements(),
                State::Braces => self.braces(),
                State::Duration => self.duration(),
                State::Done => Ok(Some(Kind::Exhausted)),
            };
            match step {
                Ok(None) => {}
                Ok(Some(kind)) => {
                    let span = Span { start: self.start as u32, end: self.pos as u32 };
                    if kind != Kind::Exhausted {
                        self.last_start = self.start;
                    }
                    self.start = self.pos;
                    if kind != Kind::Comment {
                        return Ok(Token { kind, span });
                    }
                }
                Err(message) => {
                    self.state = State::Done;
                    self.last_start = self.start;
                    let span = Span { start: self.start as u32, end: self.input.len() as u32 };
                    return Err((span, message));
                }
            }
        }
    }

    /// Where a right parenthesis before the last token ends, if only space is between the two and
    /// the last token is a right parenthesis as well; otherwise `fallback`.
    pub(super) fn previous_right_paren(&self, fallback: u32) -> u32 {
        let last = self.last_start;
        let behind = fallback as usize;
        if behind == 0 || behind > self.input.len() || last == 0 {
            return fallback;
        }
        if self.input.get(last) != Some(&b')') {
            return fallback;
        }
        for at in (1..last).rev() {
            steps::take(1);
            match self.input[at] {
                b')' => return at as u32 + 1,
                byte if is_space(Some(char::from(byte))) => {}
                _ => break,
            }
        }
        fallback
    }

    fn statements(&mut self) -> Step {
        if self.brace_open {
            self.state = State::Braces;
            return Ok(None);
        }
        if self.input.get(self.pos) == Some(&b'#') {
            return Ok(Some(self.comment()));
        }
        let operator = |op| Ok(Some(Kind::Operator(op)));
        let c = self.next();
        match c {
            None => {
                if self.paren_depth != 0 {
                    return Err("unclosed left parenthesis".into());
                }
                if self.bracket_open {
                    return Err("unclosed left bracket".into());
                }
                self.state = State::Done;
                Ok(Some(Kind::Eof))
            }
            Some(',') => Ok(Some(Kind::Comma)),
            Some('*') => operator(BinaryOp::Mul),
            Some('/') => operator(BinaryOp::Div),
            Some('%') => operator(BinaryOp::Mod),
            Some('+') => operator(BinaryOp::Add),
            Some('-') => operator(BinaryOp::Sub),
            Some('^') => operator(BinaryOp::Pow),
            Some('=') => match self.peek() {
                Some('=') => {
                    self.next();
                    operator(BinaryOp::Equal)
                }
                Some('~') => Err(unexpected_after("unexpected character after '='", Some('~'))),
                _ => Ok(Some(Kind::Assign)),
            },
            Some('!') => match self.next() {
                Some('=') => operator(BinaryOp::NotEqual),
                other => Err(unexpected_after("unexpected character after '!'", other)),
            },
            Some('<') if self.accept(b"=") => operator(BinaryOp::LessOrEqual),
            Some('<') if self.accept(b"/") => operator(BinaryOp::TrimUpper),
            Some('<') => operator(BinaryOp::Less),
            Some('>') if self.accept(b"=") => operator(BinaryOp::GreaterOrEqual),
            Some('>') if self.accept(b"/") => operator(BinaryOp::TrimLower),
            Some('>') => operator(BinaryOp::Greater),
            Some('"' | '\'' | '`') => self.string(c),
            Some('(' | ')') => self.paren(c),
            Some('{') => {
                self.brace_open = true;
                self.state = State::Braces;
                Ok(Some(Kind::LeftBrace))
            }
            Some('[') => {
                if self.bracket_open {
                    return Err(unexpected("left bracket", c));
                }
                self.got_colon = false;
                self.bracket_open = true;
                self.state = State::Duration;
                Ok(Some(Kind::LeftBracket))
            }
            Some(']') => {
                if !self.bracket_open {
                    return Err(unexpected("right bracket", c));
                }
                self.bracket_open = false;
                Ok(Some(Kind::RightBracket))
            }
            Some('@') => Ok(Some(Kind::At)),
            _ if is_space(c) => self.space(),
            _ if is_digit(c) || (c == Some('.') && is_digit(self.peek())) => {
                self.back();
                self.number_or_duration()
            }
            _ if is_alpha(c) || c == Some(':') => self.word(c),
            _ => Err(unexpected_after("unexpected character", c)),
        }
    }

    /// A word or a colon outside braces; the first character `c` has been read.
    fn word(&mut self, c: Option<char>) -> Step {
        if !self.bracket_open {
            self.back();
            return Ok(Some(self.keyword_or_identifier()));
        }
        if c == Some(':') {
            if self.got_colon {
                return Err(unexpected("colon", c));
            }
            self.got_colon = true;
            return Ok(Some(Kind::Colon));
        }
        if let Some(kind) = self.duration_word(c) {
            return Ok(Some(kind));
        }
        Err(format!("{}, expected ':'", unexpected_after("unexpected character", c)))
    }

    fn keyword_or_identifier(&mut self) -> Kind {
        let end = self.input[self.pos..]
            .iter()
            .position(|&byte| !(byte == b'_' || byte == b':' || byte.is_ascii_alphanumeric()))
            .map_or(self.input.len(), |length| self.pos + length);
        let word = &self.input[self.start..end];
        steps::take(word.len());
        self.pos = end;
        match Kind::of_word(word) {
            // These came late to the language: without a parenthesis they stay metric names.
            Some(Kind::Keyword(Keyword::Fill | Keyword::FillLeft | Keyword::FillRight))
                if !self.left_paren_follows() =>
            {
                Kind::Identifier
            }
            Some(kind) => kind,
            None if word.contains(&b':') => Kind::MetricIdentifier,
            None => Kind::Identifier,
        }
    }

    fn left_paren_follows(&self) -> bool {
        let rest = &self.input[self.pos..];
        let spaces = rest.iter().take_while(|&&byte| is_space(Some(char::from(byte)))).count();
        steps::take(spaces);
        rest.get(spaces) == Some(&b'(')
    }

    fn braces(&mut self) -> Step {
        if self.input.get(self.pos) == Some(&b'#') {
            return Ok(Some(self.comment()));
        }
        let c = self.next();
        match c {
            None => Err("unexpected end of input inside braces".into()),
            Some(',') => Ok(Some(Kind::Comma)),
            Some('"' | '\'' | '`') => self.string(c),
            Some('=') if self.accept(b"~") => Ok(Some(Kind::RegexMatch)),
            Some('=') => Ok(Some(Kind::Assign)),
            Some('!') => match self.next() {
                Some('~') => Ok(Some(Kind::RegexNoMatch)),
                Some('=') => Ok(Some(Kind::Operator(BinaryOp::NotEqual))),
                other => {
                    Err(unexpected_after("unexpected character after '!' inside braces", other))
                }
            },
            Some('{') => Err(unexpected("left brace", c)),
            Some('}') => {
                self.brace_open = false;
                self.state = State::Statements;
                Ok(Some(Kind::RightBrace))
            }
            _ if is_space(c) => self.space(),
            _ if is_alpha(c) => {
                while is_alphanumeric(self.next()) {}
                self.back();
                Ok(Some(Kind::Identifier))
            }
            _ => Err(unexpected_after("unexpected character inside braces", c)),
        }
    }

    fn duration(&mut self) -> Step {
        let operator = |op| Ok(Some(Kind::Operator(op)));
        let c = self.next();
        match c {
            None => Err("unexpected end of input in duration expression".into()),
            Some(']') => {
                self.bracket_open = false;
                self.got_colon = false;
                self.state = State::Statements;
                Ok(Some(Kind::RightBracket))
            }
            Some(':') => {
                let fault = match (self.got_duration, self.got_colon) {
                    (false, _) => "unexpected colon before duration in duration expression",
                    (_, true) => "unexpected repeated colon in duration expression",
                    _ => {
                        self.got_colon = true;
                        return Ok(Some(Kind::Colon));
                    }
                };
                self.start = self.pos;
                Err(fault.into())
            }
            Some('(' | ')') => self.paren(c),
            Some('+') => operator(BinaryOp::Add),
            Some('-') => operator(BinaryOp::Sub),
            Some('*') => operator(BinaryOp::Mul),
            Some('/') => operator(BinaryOp::Div),
            Some('%') => operator(BinaryOp::Mod),
            Some('^') => operator(BinaryOp::Pow),
            Some(',') => Ok(Some(Kind::Comma)),
            _ if is_space(c) => {
                self.skip_space();
                Ok(None)
            }
            _ if is_digit(c) || (c == Some('.') && is_digit(self.peek())) => {
                self.back();
                self.got_duration = true;
                self.number_or_duration()
            }
            _ => match self.duration_word(c) {
                Some(kind) => Ok(Some(kind)),
                None => Err(unexpected_after("unexpected character in duration expression", c)),
            },
        }
    }

    /// `step`, `range`, `min_of` or `max_of` from its first character `c` on.
    fn duration_word(&mut self, c: Option<char>) -> Option<Kind> {
        if !matches!(c, Some('s' | 'S' | 'r' | 'R' | 'm' | 'M')) {
            return None;
        }
        while is_alpha(self.next()) {}
        self.back();
        let word = self.input[self.start..self.pos].to_ascii_lowercase();
        Kind::of_duration_word(&word)
    }

    fn paren(&mut self, c: Option<char>) -> Step {
        if c == Some('(') {
            self.paren_depth += 1;
            return Ok(Some(Kind::LeftParen));
        }
        self.paren_depth -= 1;
        if self.paren_depth < 0 {
            self.start = self.pos;
            return Err(unexpected("right parenthesis", c));
        }
        Ok(Some(Kind::RightParen))
    }

    fn comment(&mut self) -> Kind {
        let rest = &self.input[self.pos..];
        let length = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        self.pos += length.unwrap_or(rest.len());
        steps::take(self.pos - self.start);
        self.state = State::Statements;
        Kind::Comment
    }

    fn space(&mut self) -> Step {
        self.skip_space();
        self.state = State::Statements;
        Ok(None)
    }

    fn skip_space(&mut self) {
        while is_space(self.next()) {}
        self.back();
        self.start = self.pos;
    }

    /// A string; its opening quote `quote` has been read.
    fn string(&mut self, quote: Option<char>) -> Step {
        let raw = quote == Some('`');
        loop {
            match self.next() {
                Some('\\') if !raw => self.escape(quote)?,
                Some(char::REPLACEMENT_CHARACTER) => return Err("invalid UTF-8 rune".into()),
                None if raw => return Err("unterminated raw string".into()),
                None => return Err("unterminated quoted string".into()),
                Some('\n') if !raw => return Err("unterminated quoted string".into()),
                c if c == quote => break,
                Some(_) => {}
            }
        }
        self.state = State::Statements;
        Ok(Some(Kind::String))
    }

    /// Checks an escape sequence; its backslash has been read.
    fn escape(&mut self, quote: Option<char>) -> Result<(), String> {
        let mut c = self.next();
        let (digits, base, max) = match c {
            Some('a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '\\') => return Ok(()),
            _ if c == quote => return Ok(()),
            Some('0'..='7') => (3, 8, 255),
            Some('x') => (2, 16, 255),
            Some('u') => (4, 16, u32::from(char::MAX)),
            Some('U') => (8, 16, u32::from(char::MAX)),
            None => return Err("escape sequence not terminated".into()),
            Some(other) => {
                return Err(format!("unknown escape sequence {}", go_format::describe_char(other)));
            }
        };
        if base == 16 {
            c = self.next();
        }
        let mut code: u32 = 0;
        for left in (0..digits).rev() {
            let Some(found) = c else {
                return Err("escape sequence not terminated".into());
            };
            let Some(digit) = found.to_digit(base) else {
                return Err(format!(
                    "illegal character {} in escape sequence",
                    go_format::describe_char(found)
                ));
            };
            code = code.wrapping_mul(base).wrapping_add(digit);
            if left > 0 {
                c = self.next();
            }
        }
        if code > max || (0xD800..0xE000).contains(&code) {
            return Err("escape sequence is an invalid Unicode code point".into());
        }
        Ok(())
    }

    fn number_or_duration(&mut self) -> Step {
        self.state = State::Statements;
        if self.number() {
            return Ok(Some(Kind::Number));
        }
        if self.rest_of_duration() {
            self.back();
            return Ok(Some(Kind::Duration));
        }
        let text = go_format::quote(&self.input[self.start..self.pos]);
        Err(format!("bad number or duration syntax: {text}"))
    }

    /// Reads what looks like a number; whether it is one is for the parser to find out.
    fn number(&mut self) -> bool {
        const DECIMAL: &[u8] = b"0123456789";
        const HEXADECIMAL: &[u8] = b"0123456789abcdefABCDEF";
        let begin = self.pos;
        let mut digits = DECIMAL;
        if self.accept(b"0") && self.accept(b"xX") {
            self.accept(b"_");
            digits = HEXADECIMAL;
        }
        self.accept(b".");
        self.accept(digits);
        let (mut dotted, mut exponent) = (false, false);
        while let Some(&byte) = self.input.get(self.pos) {
            match byte {
                b'.' => {
                    self.pos += 1;
                    if dotted || self.accept(b"_.") || digits == HEXADECIMAL {
                        return false;
                    }
                    dotted = true;
                }
                b'e' | b'E' => {
                    self.pos += 1;
                    if exponent {
                        return false;
                    }
                    exponent = true;
                    self.accept(b"+-");
                    if self.accept(b"._eE") || self.peek().is_none() {
                        return false;
                    }
                }
                b'_' => {
                    self.pos += 1;
                    if self.accept(b"._eE") || self.peek().is_none() {
                        return false;
                    }
                }
                _ if digits.contains(&byte) => while self.accept(digits) {},
                _ => break,
            }
        }
        self.pos > begin && !is_alphanumeric(self.peek())
    }

    /// Reads units and further numbers after the first number of a duration, and one character
    /// more. Units that do not exist (`hs`) are left to the parser.
    fn rest_of_duration(&mut self) -> bool {
        if !self.accept(b"smhdwy") {
            return false;
        }
        self.accept(b"s");
        while self.accept(b"0123456789") {
            while self.accept(b"0123456789") {}
            // A year comes first or not at all.
            if !self.accept(b"smhdw") {
                return false;
            }
            self.accept(b"s");
        }
        !is_alphanumeric(self.next())
    }

    /// Reads a character. Invalid UTF-8 reads as U+FFFD, one byte at a time.
    fn next(&mut self) -> Option<char> {
        steps::take(1);
        let rest = &self.input[self.pos..];
        let (c, width) = match rest.first() {
            None => (None, 0),
            Some(byte) if byte.is_ascii() => (Some(char::from(*byte)), 1),
            Some(_) => match go_format::first_char(rest) {
                Some(c) => (Some(c), c.len_utf8()),
                None => (Some(char::REPLACEMENT_CHARACTER), 1),
            },
        };
        self.width = width;
        self.pos += width;
        c
    }

    /// Unreads the character that was read last.
    fn back(&mut self) {
        self.pos -= self.width;
        self.width = 0;
    }

    /// The next character; what [`Lexer::back`] unreads stays the same.
    fn peek(&mut self) -> Option<char> {
        let (pos, width) = (self.pos, self.width);
        let c = self.next();
        (self.pos, self.width) = (pos, width);
        c
    }

    fn accept(&mut self, valid: &[u8]) -> bool {
        let accepted = self.input.get(self.pos).is_some_and(|byte| valid.contains(byte));
        self.pos += usize::from(accepted);
        accepted
    }
}

fn unexpected(what: &str, c: Option<char>) -> String {
    format!("unexpected {what} {}", quoted(c))
}

fn unexpected_after(what: &str, c: Option<char>) -> String {
    format!("{what}: {}", quoted(c))
}

/// The end of the input quotes as U+FFFD.
fn quoted(c: Option<char>) -> String {
    go_format::quote_char(c.unwrap_or(char::REPLACEMENT_CHARACTER))
}

fn is_space(c: Option<char>) -> bool {
    matches!(c, Some(' ' | '\t' | '\n' | '\r'))
}

fn is_digit(c: Option<char>) -> bool {
    c.is_some_and(|c| c.is_ascii_digit())
}

fn is_alpha(c: Option<char>) -> bool {
    c.is_some_and(|c| c == '_' || c.is_ascii_alphabetic())
}

fn is_alphanumeric(c: Option<char>) -> bool {
    is_alpha(c) || is_digit(c)
}
