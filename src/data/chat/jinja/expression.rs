//! Rewrites the expressions of a template: operators that differ from Python's become filters.

use super::source::{FIELD, OF_DICT, SLICE, Token};

/// The filter that replaces an operator.
pub const OPERATE: &str = "__operate__";
/// The operator of `-x`.
pub const NEGATE: &str = "-x";
/// The filter that replaces `~`.
pub const CONCAT: &str = "__concat__";
/// The function that makes a tuple.
pub const TUPLE: &str = "__tuple__";

/// The depth of nested expressions, less than minijinja's.
const DEEPEST: usize = 100;
/// Words that are no names.
const KEYWORDS: [&str; 7] = ["and", "else", "if", "in", "is", "not", "or"];
/// Filters that return text.
const OF_TEXT: [&str; 9] =
    ["capitalize", "indent", "join", "lower", "replace", "string", "title", "tojson", "trim"];

/// The expression is not one of Jinja: minijinja reports it.
#[derive(Debug)]
pub struct NoExpression;

type Parsed<T = String> = Result<T, NoExpression>;

/// A rewritten part of an expression.
struct Part {
    text: String,
    /// True if a filter can follow.
    is_atom: bool,
    /// True if it is surely text, of which minijinja's `+` is that of Python.
    is_text: bool,
}

impl Part {
    fn atom(text: String) -> Part {
        Part { text, is_atom: true, is_text: false }
    }

    fn loose(text: String) -> Part {
        Part { text, is_atom: false, is_text: false }
    }

    fn into_atom(self) -> String {
        if self.is_atom { self.text } else { format!("({})", self.text) }
    }

    /// Returns the filter that replaces `self operator right`; `source` is the operator with the
    /// space before it.
    fn operate(self, source: &str, operator: &str, right: Part) -> Part {
        let space = space_before(source);
        Part::atom(format!("{}|{OPERATE}('{operator}',{space}{})", self.into_atom(), right.text))
    }
}

fn space_before(token: &str) -> &str {
    &token[..token.len() - token.trim_start().len()]
}

/// Reads the tokens of a tag as Jinja's parser does, and writes them for minijinja. White space
/// stays, so that the lines of errors are right.
pub struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    pub fn new(tokens: &'a [Token]) -> Parser<'a> {
        Parser { tokens, at: 0, depth: 0 }
    }

    /// Returns the remaining tokens if they are spaces only.
    pub fn end(mut self) -> Parsed {
        let space = self.space();
        if self.at < self.tokens.len() { Err(NoExpression) } else { Ok(space) }
    }

    fn space(&mut self) -> String {
        let mut space = String::new();
        while let Some(Token::Space(text)) = self.tokens.get(self.at) {
            space.push_str(text);
            self.at += 1;
        }
        space
    }

    /// The tokens that follow, without spaces.
    fn ahead(&self) -> impl Iterator<Item = &'a Token> + use<'a> {
        self.tokens[self.at..].iter().filter(|token| !matches!(token, Token::Space(_)))
    }

    fn next_is(&self, text: &str) -> bool {
        self.ahead().next().is_some_and(|token| token.is(text))
    }

    /// Takes the next token with the space before it.
    fn take(&mut self) -> Parsed {
        let mut text = self.space();
        text.push_str(self.tokens.get(self.at).ok_or(NoExpression)?.text());
        self.at += 1;
        Ok(text)
    }

    /// Takes the next token if it is `text`.
    fn eat(&mut self, text: &str) -> Option<String> {
        if self.next_is(text) { self.take().ok() } else { None }
    }

    fn expect(&mut self, text: &str) -> Parsed {
        self.eat(text).ok_or(NoExpression)
    }

    fn name(&mut self) -> Parsed {
        if matches!(self.ahead().next(), Some(Token::Name(_))) { self.take() } else { Err(NoExpression) }
    }

    /// Takes tokens through `text`.
    pub fn through(&mut self, text: &str) -> Parsed {
        let mut out = String::new();
        loop {
            let is_last = self.next_is(text);
            out.push_str(&self.take()?);
            if is_last {
                return Ok(out);
            }
        }
    }

    /// Takes the operator that follows, if it is one of `operators`; longer ones stand first.
    fn operator(&mut self, operators: &[&'static str]) -> Option<(String, &'static str)> {
        let tokens = self.tokens[self.at..].iter().skip_while(|token| matches!(token, Token::Space(_)));
        let signs = tokens.take(2).take_while(|token| matches!(token, Token::Other(_)));
        let after: String = signs.map(Token::text).collect();
        let operator = *operators.iter().find(|operator| after.starts_with(**operator))?;
        // `*` is not part of `**`.
        let longer = ["**", "//", "==", "<=", ">="].iter().any(|long| after.starts_with(long));
        if longer && operator.len() == 1 {
            return None;
        }
        let mut text = String::new();
        for _ in 0..operator.len() {
            text.push_str(&self.take().ok()?);
        }
        Some((text, operator))
    }

    /// One expression, or several as a tuple.
    pub fn tuple(&mut self) -> Parsed {
        self.tuple_of(Parser::condition)
    }

    /// The iterable of a `for` tag, before `if` or `recursive`.
    pub fn iterable(&mut self) -> Parsed {
        self.tuple_of(Parser::or)
    }

    /// The condition of a `for` tag and `recursive`.
    pub fn rest_of_loop(&mut self) -> Parsed {
        let condition = match self.eat("if") {
            Some(word) => word + &self.expression()?,
            None => String::new(),
        };
        Ok(condition + &self.eat("recursive").unwrap_or_default())
    }

    fn tuple_of(&mut self, item: fn(&mut Self) -> Parsed<Part>) -> Parsed {
        let mut text = item(self)?.text;
        if !self.next_is(",") {
            return Ok(text);
        }
        while let Some(comma) = self.eat(",") {
            text.push_str(&comma);
            if self.ahead().next().is_none() {
                break;
            }
            text.push_str(&item(self)?.text);
        }
        Ok(format!(" {TUPLE}({text})"))
    }

    /// `name = expression, …` of a `with` tag.
    pub fn assignments(&mut self) -> Parsed {
        let mut out = String::new();
        while self.ahead().next().is_some() {
            out.push_str(&self.through("=")?);
            out.push_str(&self.expression()?);
            out.push_str(&self.eat(",").unwrap_or_default());
        }
        Ok(out)
    }

    pub fn expression(&mut self) -> Parsed {
        Ok(self.condition()?.text)
    }

    fn condition(&mut self) -> Parsed<Part> {
        self.nested(Parser::condition_within)
    }

    fn condition_within(&mut self) -> Parsed<Part> {
        let mut part = self.or()?;
        while let Some(word) = self.eat("if") {
            let mut text = part.text + &word + &self.or()?.text;
            if let Some(word) = self.eat("else") {
                text = text + &word + &self.condition()?.text;
            }
            part = Part::loose(text);
        }
        Ok(part)
    }

    fn or(&mut self) -> Parsed<Part> {
        self.words("or", |this| this.words("and", Parser::not))
    }

    fn words(&mut self, word: &str, operand: fn(&mut Self) -> Parsed<Part>) -> Parsed<Part> {
        let mut part = operand(self)?;
        while let Some(word) = self.eat(word) {
            part = Part::loose(part.text + &word + &operand(self)?.text);
        }
        Ok(part)
    }

    fn not(&mut self) -> Parsed<Part> {
        match self.eat("not") {
            Some(word) => Ok(Part::loose(word + &self.nested(Parser::not)?.text)),
            None => self.compare(),
        }
    }

    fn compare(&mut self) -> Parsed<Part> {
        let first = self.sum()?;
        let mut others = Vec::new();
        loop {
            let mut words = self.ahead();
            let is_not_in = words.next().is_some_and(|token| token.is("not"))
                && words.next().is_some_and(|token| token.is("in"));
            let operator = if is_not_in {
                Some((self.take()? + &self.take()?, "not in"))
            } else if let Some(word) = self.eat("in") {
                Some((word, "in"))
            } else {
                self.operator(&["==", "!=", "<=", ">=", "<", ">"])
            };
            let Some((text, operator)) = operator else { break };
            others.push((text, operator, self.sum()?));
        }
        if others.len() == 1 && !matches!(others[0].1, "==" | "!=") {
            let (text, operator, right) = others.remove(0);
            return Ok(match operator {
                "not in" => Part::loose(format!(" not {}", first.operate(&text, "in", right).text)),
                _ => first.operate(&text, operator, right),
            });
        }
        if others.is_empty() {
            return Ok(first);
        }
        let others = others.into_iter().map(|(operator, _, operand)| operator + &operand.text);
        Ok(Part::loose(first.text + &others.collect::<String>()))
    }

    fn sum(&mut self) -> Parsed<Part> {
        let mut left = self.concat()?;
        while let Some((text, operator)) = self.operator(&["+", "-"]) {
            let right = self.concat()?;
            let is_text = operator == "+" && (left.is_text || right.is_text);
            left = if is_text {
                Part { text: left.text + &text + &right.text, is_atom: false, is_text }
            } else {
                left.operate(&text, operator, right)
            };
        }
        Ok(left)
    }

    fn concat(&mut self) -> Parsed<Part> {
        let first = self.multiply()?;
        let mut others = Vec::new();
        while let Some(sign) = self.eat("~") {
            others.push(space_before(&sign).to_owned() + &self.multiply()?.text);
        }
        if others.is_empty() {
            return Ok(first);
        }
        let text = format!("{}|{CONCAT}({})", first.into_atom(), others.join(","));
        Ok(Part { text, is_atom: true, is_text: true })
    }

    fn multiply(&mut self) -> Parsed<Part> {
        let mut left = self.power()?;
        while let Some((text, operator)) = self.operator(&["//", "*", "/", "%"]) {
            left = left.operate(&text, operator, self.power()?);
        }
        Ok(left)
    }

    fn power(&mut self) -> Parsed<Part> {
        let mut left = self.unary(true)?;
        while let Some((text, operator)) = self.operator(&["**"]) {
            left = left.operate(&text, operator, self.unary(true)?);
        }
        Ok(left)
    }

    /// Reads an operand of its own kind or in brackets.
    fn nested(&mut self, read: impl Fn(&mut Self) -> Parsed<Part>) -> Parsed<Part> {
        if self.depth == DEEPEST {
            return Err(NoExpression);
        }
        self.depth += 1;
        let part = read(self);
        self.depth -= 1;
        part
    }

    fn unary(&mut self, with_filter: bool) -> Parsed<Part> {
        let part = if let Some((sign, _)) = self.operator(&["-"]) {
            let operand = self.nested(|this| this.unary(false))?;
            if operand.text.starts_with(|c: char| c.is_ascii_digit()) {
                Part::loose(sign + &operand.text)
            } else {
                let operand = Part::atom(format!("{} {}", space_before(&sign), operand.into_atom()));
                operand.operate("", NEGATE, Part::atom("0".to_owned()))
            }
        } else if let Some((sign, operator)) = self.operator(&["+"]) {
            Part::atom(" 0".to_owned()).operate(&sign, operator, self.nested(|this| this.unary(false))?)
        } else {
            let primary = self.primary()?;
            self.postfix(primary)?
        };
        if with_filter { self.filters(part) } else { Ok(part) }
    }

    fn primary(&mut self) -> Parsed<Part> {
        match self.ahead().next().ok_or(NoExpression)? {
            Token::Name(name) if !KEYWORDS.contains(&&name[..]) => Ok(Part::atom(self.take()?)),
            Token::Text(_) => {
                let mut text = String::new();
                while matches!(self.ahead().next(), Some(Token::Text(_))) {
                    text.push_str(&self.take()?);
                }
                Ok(Part { text, is_atom: true, is_text: true })
            }
            Token::Other(open) if open == "(" => self.brackets(),
            Token::Other(open) if open == "[" => {
                let open = self.take()?;
                Ok(Part::atom(open + &self.items("]", Parser::expression)?))
            }
            Token::Other(open) if open == "{" => {
                let open = self.take()?;
                let pair =
                    |this: &mut Self| Ok(this.expression()? + &this.expect(":")? + &this.expression()?);
                Ok(Part::atom(open + &self.items("}", pair)?))
            }
            _ => Err(NoExpression),
        }
    }

    /// An expression or a tuple in parentheses.
    fn brackets(&mut self) -> Parsed<Part> {
        let open = self.take()?;
        if let Some(close) = self.eat(")") {
            return Ok(Part::atom(format!(" {TUPLE}({close}")));
        }
        let first = self.condition()?;
        if let Some(close) = self.eat(")") {
            return Ok(Part { text: open + &first.text + &close, is_atom: true, is_text: first.is_text });
        }
        let comma = self.expect(",")?;
        let others = self.items(")", Parser::expression)?;
        Ok(Part::atom(format!(" {TUPLE}({}{comma}{others}", first.text)))
    }

    /// Items with commas between them, through the closing bracket.
    fn items(&mut self, close: &str, item: impl Fn(&mut Self) -> Parsed) -> Parsed {
        let mut out = String::new();
        loop {
            if let Some(close) = self.eat(close) {
                return Ok(out + &close);
            }
            out.push_str(&item(self)?);
            if !self.next_is(close) {
                out.push_str(&self.expect(",")?);
            }
        }
    }

    /// The arguments of a call, with their parentheses.
    pub fn arguments(&mut self) -> Parsed {
        let open = self.expect("(")?;
        let argument = |this: &mut Self| {
            let mut text = String::new();
            if let Some((stars, _)) = this.operator(&["**"]) {
                text.push_str(&stars);
            } else if let Some(star) = this.eat("*") {
                text.push_str(&star);
            } else {
                let mut ahead = this.ahead();
                let is_named = matches!(ahead.next(), Some(Token::Name(_)))
                    && ahead.next().is_some_and(|token| token.is("="))
                    && !ahead.next().is_some_and(|token| token.is("="));
                if is_named {
                    text.push_str(&(this.take()? + &this.take()?));
                }
            }
            Ok(text + &this.expression()?)
        };
        Ok(open + &self.items(")", argument)?)
    }

    fn postfix(&mut self, mut part: Part) -> Parsed<Part> {
        loop {
            let text = match self.ahead().next() {
                Some(token) if token.is(".") => {
                    let dot = self.take()?;
                    let name = self.name()?;
                    let is_method = OF_DICT.contains(&name.trim());
                    if is_method && !self.next_is("(") {
                        format!("{dot}{FIELD}('{}')", name.trim())
                    } else {
                        dot + &name
                    }
                }
                Some(token) if token.is("[") => self.subscript()?,
                Some(token) if token.is("(") => self.arguments()?,
                _ => return Ok(part),
            };
            part = Part::atom(part.text + &text);
        }
    }

    /// `[x]` or a slice.
    fn subscript(&mut self) -> Parsed {
        let open = self.expect("[")?;
        let mut parts = vec![String::new()];
        loop {
            if let Some(close) = self.eat("]") {
                let is_empty = parts.iter().all(String::is_empty);
                if let [item] = &parts[..] {
                    return if is_empty { Err(NoExpression) } else { Ok(open + item + &close) };
                }
                for part in &mut parts {
                    *part = part.trim().to_owned();
                    if part.is_empty() {
                        part.push_str("none");
                    }
                }
                return Ok(format!(".{SLICE}({})", parts.join(", ")));
            }
            if self.eat(":").is_some() {
                parts.push(String::new());
            } else {
                let part = parts.last_mut().filter(|part| part.is_empty()).ok_or(NoExpression)?;
                *part = self.expression()?;
            }
        }
    }

    fn filters(&mut self, mut part: Part) -> Parsed<Part> {
        loop {
            if let Some(sign) = self.eat("|") {
                let name = self.name()?;
                let is_text = OF_TEXT.contains(&name.trim());
                let arguments = if self.next_is("(") { self.arguments()? } else { String::new() };
                part = Part { text: part.text + &sign + &name + &arguments, is_atom: true, is_text };
            } else if let Some(word) = self.eat("is") {
                part = Part::loose(part.text + &word + &self.test()?);
            } else {
                return Ok(part);
            }
        }
    }

    /// The name of a test, and its argument.
    fn test(&mut self) -> Parsed {
        let mut text = self.eat("not").unwrap_or_default() + &self.name()?;
        let has_argument = match self.ahead().next() {
            Some(Token::Name(name)) => !["and", "else", "or"].contains(&&name[..]),
            Some(Token::Text(_)) => true,
            Some(Token::Other(open)) => matches!(&open[..], "[" | "{"),
            _ => false,
        };
        if self.next_is("(") {
            text.push_str(&self.arguments()?);
        } else if has_argument {
            let argument = self.primary()?;
            text.push_str(&self.postfix(argument)?.text);
        }
        Ok(text)
    }
}
