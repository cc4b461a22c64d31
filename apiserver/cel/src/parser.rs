//! Tokens -> an expression.

use super::{
    lexer::{Token, is_reserved, tokens},
    syntax::{Expr, Issue, Literal, Macro, Node, Optional},
};

/// Nesting of brackets, links of one chain, and depth of the whole tree: all that goes through it does so on the stack (cel-go's bound of nesting is 250).
const NESTING_MAX: usize = 30;
const LINKS_MAX: usize = 60;
const TREE_DEPTH_MAX: usize = 100;
/// Length of an expression, in characters (cel-go's `expressionSizeCodePointLimit`).
const EXPRESSION_LENGTH_MAX: usize = 100_000;

/// # Errors
/// What is wrong, and where.
pub fn parse(source: &str) -> Result<Expr, Issue> {
    if source.chars().count() > EXPRESSION_LENGTH_MAX {
        return Err(Issue {
            at: 0,
            why: format!("expression code point size exceeds limit: size: {}, limit {EXPRESSION_LENGTH_MAX}", source.chars().count()),
        });
    }
    let mut parser = Parser { tokens: tokens(source)?, next: 0, depth: 0 };
    let expr = parser.expr()?;
    match parser.peek() {
        Token::End if depth(&expr) > TREE_DEPTH_MAX => Err(too_deep(expr.at)),
        Token::End => Ok(expr),
        other => Err(parser.unexpected(&other.clone())),
    }
}

fn too_deep(at: usize) -> Issue {
    Issue { at, why: format!("expression recursion limit exceeded: {TREE_DEPTH_MAX}") }
}

/// Of a tree, without going down into it on the stack.
pub fn depth(expr: &Expr) -> usize {
    let (mut open, mut deepest) = (vec![(expr, 1)], 0);
    while let Some((expr, level)) = open.pop() {
        deepest = deepest.max(level);
        open.extend(parts(expr).into_iter().map(|inner| (inner, level + 1)));
    }
    deepest
}

/// The names that are selected from a variable anywhere in an expression: `a` and `b` in `variables.a + variables.b`.
pub fn selected_from<'e>(expr: &'e Expr, variable: &str) -> Vec<&'e str> {
    let (mut open, mut names) = (vec![expr], Vec::new());
    while let Some(expr) = open.pop() {
        if let Node::Select(operand, name, _) | Node::Has(operand, name) = &expr.node
            && matches!(&operand.node, Node::Ident(of) if of == variable)
        {
            names.push(name.as_str());
        }
        open.extend(parts(expr));
    }
    names
}

fn parts(expr: &Expr) -> Vec<&Expr> {
    match &expr.node {
        Node::Literal(_) | Node::Ident(_) => Vec::new(),
        Node::Select(operand, ..) | Node::Has(operand, _) => vec![operand],
        Node::Call(target, _, arguments) => target.as_deref().into_iter().chain(arguments).collect(),
        Node::List(elements) => elements.iter().map(|(element, _)| element).collect(),
        Node::Map(entries) => entries.iter().flat_map(|(key, value, _)| [key, value]).collect(),
        Node::Message(_, fields) => fields.iter().map(|(_, value, _)| value).collect(),
        Node::Macro(_, range, _, body) => std::iter::once(&**range).chain(body).collect(),
        Node::Bind(_, value, body) => vec![value, body],
    }
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    next: usize,
    depth: usize,
}

type Parsed = Result<Expr, Issue>;

/// What may begin an operand, and what may stand in a message, as ANTLR lists it (cel-go `parser/gen/CEL.g4`).
const OPERANDS: &str = "'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER";
const FIELDS: &str = "'}', ',', '?', IDENTIFIER, ESC_IDENTIFIER";

/// From the loosest: what stands between operands.
const LEVELS: [&[&str]; 5] = [&["||"], &["&&"], &["<", "<=", ">=", ">", "==", "!=", "in"], &["+", "-"], &["*", "/", "%"]];

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.next).map_or(&Token::End, |(_, token)| token)
    }

    fn at(&self) -> usize {
        self.tokens.get(self.next).or(self.tokens.last()).map_or(0, |(at, _)| *at)
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        self.next += 1;
        token
    }

    fn is(&self, symbol: &str) -> bool {
        matches!(self.peek(), Token::Symbol(found) if *found == symbol)
    }

    fn eat(&mut self, symbol: &str) -> bool {
        let is = self.is(symbol);
        self.next += usize::from(is);
        is
    }

    fn expect(&mut self, symbol: &str) -> Result<(), Issue> {
        if self.eat(symbol) { Ok(()) } else { Err(self.unexpected(&self.peek().clone())) }
    }

    fn unexpected(&self, token: &Token) -> Issue {
        self.mismatched(token, "an expression")
    }

    /// `wanted` is what the grammar has here, in ANTLR's words.
    fn mismatched(&self, token: &Token, wanted: &str) -> Issue {
        let shown = match token {
            Token::End => "'<EOF>'".to_owned(),
            Token::Symbol(symbol) => format!("{symbol:?}").replace('"', "'"),
            Token::Ident(word) | Token::Quoted(word) => format!("'{word}'"),
            Token::Literal(literal) => format!("{literal:?}"),
        };
        Issue { at: self.at(), why: format!("Syntax error: mismatched input {shown} expecting {{{wanted}}}") }
    }

    fn expr(&mut self) -> Parsed {
        self.depth += 1;
        if self.depth > NESTING_MAX {
            return Err(too_deep(self.at()));
        }
        let expr = self.conditional();
        self.depth -= 1;
        expr
    }

    fn conditional(&mut self) -> Parsed {
        let condition = self.binary(0)?;
        let at = self.at();
        if !self.eat("?") {
            return Ok(condition);
        }
        let then = self.binary(0)?;
        self.expect(":")?;
        let other = self.expr()?;
        Ok(Expr { at, node: Node::Call(None, "_?_:_".into(), vec![condition, then, other]) })
    }

    fn binary(&mut self, level: usize) -> Parsed {
        let Some(symbols) = LEVELS.get(level) else { return self.unary() };
        let mut left = self.binary(level + 1)?;
        let mut links = 0;
        while let Some(symbol) = symbols.iter().find(|symbol| self.is(symbol)) {
            let at = self.at();
            self.next += 1;
            links += 1;
            // A chain leans to the left: it is as deep as it is long.
            if links > LINKS_MAX && level > 1 {
                return Err(too_deep(at));
            }
            let right = self.binary(level + 1)?;
            let name = if *symbol == "in" { "@in".to_owned() } else { format!("_{symbol}_") };
            left = match left.node {
                // `&&` and `||` are one call of many.
                Node::Call(None, same, mut operands) if level <= 1 && same == name && links > 1 => {
                    operands.push(right);
                    Expr { at: left.at, node: Node::Call(None, same, operands) }
                }
                node => Expr { at, node: Node::Call(None, name, vec![Expr { at: left.at, node }, right]) },
            };
        }
        Ok(left)
    }

    fn unary(&mut self) -> Parsed {
        let at = self.at();
        let mut count = 0;
        if self.is("!") {
            while self.eat("!") {
                count += 1;
            }
            let operand = self.member()?;
            return Ok(if count % 2 == 0 { operand } else { Expr { at, node: Node::Call(None, "!_".into(), vec![operand]) } });
        }
        while self.eat("-") {
            count += 1;
        }
        if count == 1 {
            match self.peek().clone() {
                Token::Literal(Literal::Int(value)) => {
                    self.next += 1;
                    return self.members(Expr { at, node: Node::Literal(Literal::Int(value.wrapping_neg())) });
                }
                Token::Literal(Literal::Double(value)) => {
                    self.next += 1;
                    return self.members(Expr { at, node: Node::Literal(Literal::Double(-value)) });
                }
                _ => {}
            }
        }
        let operand = self.member()?;
        Ok(if count % 2 == 0 { operand } else { Expr { at, node: Node::Call(None, "-_".into(), vec![operand]) } })
    }

    fn member(&mut self) -> Parsed {
        let primary = self.primary()?;
        self.members(primary)
    }

    fn members(&mut self, mut left: Expr) -> Parsed {
        let mut links = 0;
        loop {
            links += 1;
            if links > LINKS_MAX {
                return Err(too_deep(self.at()));
            }
            let at = self.at();
            if self.eat(".") {
                let optional = if self.eat("?") { Optional::Yes } else { Optional::No };
                let name = match self.take() {
                    Token::Ident(name) | Token::Quoted(name) => name,
                    // Words that mean something elsewhere may name a field.
                    Token::Symbol("in") => "in".to_owned(),
                    other => {
                        self.next -= 1;
                        return Err(self.unexpected(&other));
                    }
                };
                left = if optional == Optional::No && self.is("(") {
                    self.call(left, name)?
                } else {
                    Expr { at, node: Node::Select(Box::new(left), name, optional) }
                };
            } else if self.eat("[") {
                let name = if self.eat("?") { "_[?_]" } else { "_[_]" };
                let index = self.expr()?;
                self.expect("]")?;
                left = Expr { at, node: Node::Call(None, name.into(), vec![left, index]) };
            } else if self.is("{")
                && let Some(name) = type_name(&left)
            {
                self.next += 1;
                left = self.message(left.at, name)?;
            } else {
                return Ok(left);
            }
        }
    }

    /// A call stands where its arguments begin.
    fn call(&mut self, target: Expr, name: String) -> Parsed {
        let at = self.at();
        self.expect("(")?;
        let mut arguments = self.list(")")?;
        if matches!(&target.node, Node::Ident(space) if space == "cel") && name == "bind" && arguments.len() == 3 {
            let (Some(body), Some(value), Some(variable)) = (arguments.pop(), arguments.pop(), arguments.pop()) else {
                return Err(Issue { at, why: "cel.bind() needs three arguments".into() });
            };
            let Node::Ident(variable) = variable.node else {
                return Err(Issue { at: variable.at, why: "cel.bind() variable names must be simple identifiers".into() });
            };
            return Ok(Expr { at, node: Node::Bind(variable, Box::new(value), Box::new(body)) });
        }
        let found = Macro::of(&name, arguments.len());
        let Some((kind, variables)) = found.filter(|(kind, _)| *kind != Macro::All || arguments.len() > 1) else {
            return Ok(Expr { at, node: Node::Call(Some(Box::new(target)), name, arguments) });
        };
        let rest = arguments.split_off(variables);
        let mut names = Vec::new();
        for argument in arguments {
            match argument.node {
                Node::Ident(name) => names.push(name),
                _ => return Err(Issue { at: argument.at, why: "argument must be a simple name".into() }),
            }
        }
        Ok(Expr { at, node: Node::Macro(kind, Box::new(target), names, rest) })
    }

    fn list(&mut self, end: &str) -> Result<Vec<Expr>, Issue> {
        let mut out = Vec::new();
        while !self.eat(end) {
            out.push(self.expr()?);
            if !self.eat(",") {
                self.expect(end)?;
                break;
            }
        }
        Ok(out)
    }

    fn primary(&mut self) -> Parsed {
        let at = self.at();
        match self.take() {
            Token::Literal(Literal::Int(i64::MIN)) => Err(Issue { at, why: "invalid int literal".into() }),
            Token::Literal(literal) => Ok(Expr { at, node: Node::Literal(literal) }),
            Token::Symbol("(") => {
                let inner = self.expr()?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Symbol("[") => self.elements(at),
            Token::Symbol("{") => self.entries(at),
            Token::Symbol(".") if matches!(self.peek(), Token::Ident(_)) => self.primary(),
            Token::Ident(name) if is_reserved(&name) => Err(Issue { at, why: format!("reserved identifier: {name}") }),
            Token::Ident(name) if self.is("(") => {
                let at = self.at();
                self.next += 1;
                let mut arguments = self.list(")")?;
                if name != "has" {
                    return Ok(Expr { at, node: Node::Call(None, name, arguments) });
                }
                match arguments.pop().map(|argument| argument.node) {
                    Some(Node::Select(operand, field, Optional::No)) if arguments.is_empty() => {
                        Ok(Expr { at, node: Node::Has(operand, field) })
                    }
                    _ => Err(Issue { at, why: "invalid argument to has() macro".into() }),
                }
            }
            Token::Ident(name) => Ok(Expr { at, node: Node::Ident(name) }),
            other => {
                self.next -= 1;
                Err(self.mismatched(&other, OPERANDS))
            }
        }
    }

    fn elements(&mut self, at: usize) -> Parsed {
        let mut out = Vec::new();
        while !self.eat("]") {
            let optional = if self.eat("?") { Optional::Yes } else { Optional::No };
            out.push((self.expr()?, optional));
            if !self.eat(",") {
                self.expect("]")?;
                break;
            }
        }
        Ok(Expr { at, node: Node::List(out) })
    }

    fn message(&mut self, at: usize, name: String) -> Parsed {
        let mut out = Vec::new();
        while !self.eat("}") {
            let optional = if self.eat("?") { Optional::Yes } else { Optional::No };
            let field = match self.take() {
                Token::Ident(name) | Token::Quoted(name) => name,
                other => {
                    self.next -= 1;
                    return Err(self.mismatched(&other, FIELDS));
                }
            };
            self.expect(":")?;
            out.push((field, self.expr()?, optional));
            if !self.eat(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok(Expr { at, node: Node::Message(name, out) })
    }

    fn entries(&mut self, at: usize) -> Parsed {
        let mut out = Vec::new();
        while !self.eat("}") {
            let optional = if self.eat("?") { Optional::Yes } else { Optional::No };
            let key = self.expr()?;
            self.expect(":")?;
            out.push((key, self.expr()?, optional));
            if !self.eat(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok(Expr { at, node: Node::Map(out) })
    }
}

/// `a.b.c`, where an expression is nothing else.
fn type_name(expr: &Expr) -> Option<String> {
    match &expr.node {
        Node::Ident(name) => Some(name.clone()),
        Node::Select(operand, name, Optional::No) => Some(format!("{}.{name}", type_name(operand)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a stock server answered.
    #[test]
    fn what_is_expected_is_listed_as_cel_go_does() {
        let told = |source: &str| parse(source).unwrap_err().print(source);
        let operand = |source: &str, at: usize| {
            let dots = ".".repeat(at - 1);
            format!("ERROR: <input>:1:{at}: Syntax error: mismatched input '<EOF>' expecting {{{OPERANDS}}}\n | {source}\n | {dots}^")
        };
        for (source, at) in [("1 +", 4), ("'a' +", 6), ("self.x ==", 10), ("device.x +", 11)] {
            assert_eq!(told(source), operand(source, at));
        }
        assert!(told("Object{").starts_with("ERROR: <input>:1:8: Syntax error: mismatched input '<EOF>' expecting {'}', ','"));
    }

    #[test]
    fn what_is_missing_is_listed_as_the_grammar_has_it() {
        let why = |source: &str| parse(source).unwrap_err().print(source);
        let operands = format!("mismatched input '<EOF>' expecting {{{OPERANDS}}}");
        assert_eq!(why("1 +"), format!("ERROR: <input>:1:4: Syntax error: {operands}\n | 1 +\n | ...^"));
        assert!(why("Object{").contains("mismatched input '<EOF>' expecting {'}', ',', '?', IDENTIFIER, ESC_IDENTIFIER}"));
    }

    #[test]
    fn a_call_stands_at_its_bracket() {
        assert_eq!(["f(1)", "a.f(1)", "a.b.all(x, x)", "a.b"].map(|source| parse(source).unwrap().at), [1, 3, 7, 1]);
    }

    #[test]
    fn what_is_nested_too_deep_or_cut_short_is_told() {
        let deep = [
            "(".repeat(10_000),
            ".".repeat(10_000),
            "-".repeat(3) + &"[".repeat(10_000),
            "a ? b : ".repeat(10_000),
            "f(".repeat(10_000),
            "{1: ".repeat(10_000),
            vec!["1"; 10_000].join("+"),
            vec!["1"; 10_000].join(" in "),
            format!("a{}", ".b".repeat(10_000)),
            format!("a{}", "[0]".repeat(10_000)),
        ];
        for source in deep {
            assert!(parse(&source).is_err());
        }
        for source in
            ["", "1 +", "a.", "[1", "{1", "has(a)", "'a", "0x", "9223372036854775808", "a ? b", "for", "while", "if(a)", "x.all(1, y)"]
        {
            assert!(parse(source).is_err(), "{source}");
        }
        assert!(parse("-9223372036854775808").is_ok());
        assert!(parse(&vec!["true"; 5000].join(" && ")).is_ok(), "a long conjunction is no deep one");
    }
}
