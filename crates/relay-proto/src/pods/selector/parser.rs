//! The parser of selectors.

use std::collections::BTreeSet;

use crate::pods::parameter::{InvalidParameter, check_key, check_value};

/// The condition of one label, in canonical form.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Condition {
    /// It has one of these values; never empty.
    In(BTreeSet<String>),
    /// It has none of these values; never empty. With `present` the label must exist.
    NotIn {
        values: BTreeSet<String>,
        present: bool,
    },
    Present,
    Absent,
    /// Present and absent at once.
    Never,
}

/// A token of a selector. `in` and `notin` are words, with a meaning only after a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Sign(&'a str),
    End,
}

/// White space between tokens, as in Kubernetes.
const SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

pub(super) struct Parser<'a> {
    text: &'a str,
    /// The position of the next token, and the token.
    at: usize,
    next: Token<'a>,
}

impl<'a> Parser<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let mut parser = Self { text, at: 0, next: Token::Sign("") };
        parser.advance();
        parser
    }

    /// Parses the conditions one by one.
    pub(super) fn conditions(
        mut self,
        mut take: impl FnMut(String, Condition),
    ) -> Result<(), InvalidParameter> {
        if self.next == Token::End {
            return Ok(());
        }
        loop {
            let (key, condition) = self.condition()?;
            take(key, condition);
            match self.next {
                Token::End => return Ok(()),
                Token::Sign(",") => self.advance(),
                _ => return Err(self.expected("a comma or the end")),
            }
        }
    }

    fn condition(&mut self) -> Result<(String, Condition), InvalidParameter> {
        if self.next == Token::Sign("!") {
            self.advance();
            return Ok((self.key()?, Condition::Absent));
        }
        let key = self.key()?;
        let not_in = |values| Condition::NotIn { values, present: false };
        let condition = match self.next {
            Token::End | Token::Sign(",") => Condition::Present,
            Token::Sign("=" | "==") => Condition::In([self.one_value()?].into()),
            Token::Sign("!=") => not_in([self.one_value()?].into()),
            Token::Word("in") => Condition::In(self.values()?),
            Token::Word("notin") => not_in(self.values()?),
            Token::Sign("<" | ">") => {
                return Err(self.expected("=, ==, !=, in or notin, as numbers are not compared here"));
            }
            _ => return Err(self.expected("=, ==, !=, in, notin, a comma or the end")),
        };
        Ok((key, condition))
    }

    fn key(&mut self) -> Result<String, InvalidParameter> {
        let Token::Word(key) = self.next else { return Err(self.expected("the key of a label")) };
        check_key(key).map_err(|rule| self.wrong(rule))?;
        self.advance();
        Ok(key.into())
    }

    fn one_value(&mut self) -> Result<String, InvalidParameter> {
        self.advance();
        match self.next {
            Token::End | Token::Sign(",") => Ok(String::new()),
            Token::Word(_) => self.value(),
            Token::Sign(_) => Err(self.expected("the value of a label")),
        }
    }

    /// The next word as a value.
    fn value(&mut self) -> Result<String, InvalidParameter> {
        let Token::Word(value) = self.next else { return Ok(String::new()) };
        check_value(value).map_err(|rule| self.wrong(rule))?;
        self.advance();
        Ok(value.into())
    }

    /// Values in parentheses; a missing one is the empty value.
    fn values(&mut self) -> Result<BTreeSet<String>, InvalidParameter> {
        self.advance();
        if self.next != Token::Sign("(") {
            return Err(self.expected("\"(\" and values"));
        }
        self.advance();
        if self.next == Token::Sign(")") {
            return Err(self.expected("at least one value"));
        }
        let mut values = BTreeSet::new();
        loop {
            values.insert(self.value()?);
            match self.next {
                Token::Sign(",") => self.advance(),
                Token::Sign(")") => {
                    self.advance();
                    return Ok(values);
                }
                _ => return Err(self.expected("a comma or \")\"")),
            }
        }
    }

    fn advance(&mut self) {
        let passed = match self.next {
            Token::Word(text) | Token::Sign(text) => text.len(),
            Token::End => 0,
        };
        let rest = &self.text[self.at + passed..];
        let rest = rest.trim_start_matches(SPACE);
        self.at = self.text.len() - rest.len();
        const SIGNS: [char; 7] = ['=', '!', '(', ')', ',', '<', '>'];
        let two = rest.get(..2).filter(|two| matches!(*two, "==" | "!="));
        self.next = match rest.chars().next() {
            None => Token::End,
            Some(sign) if SIGNS.contains(&sign) => Token::Sign(two.unwrap_or(&rest[..1])),
            Some(_) => {
                let end = rest.find(|c| SIGNS.contains(&c) || SPACE.contains(&c)).unwrap_or(rest.len());
                Token::Word(&rest[..end])
            }
        };
    }

    fn expected(&self, what: &str) -> InvalidParameter {
        self.wrong(&format!("expected {what}"))
    }

    /// An error at the next token.
    fn wrong(&self, rule: &str) -> InvalidParameter {
        let place = self.text[..self.at].chars().count() + 1;
        let found = match self.next {
            Token::End => "the end".to_owned(),
            Token::Word(text) | Token::Sign(text) => {
                format!("{:?}", text.chars().take(20).collect::<String>())
            }
        };
        InvalidParameter::at("label", self.text, place, format!("at character {place}, {found}: {rule}"))
    }
}
