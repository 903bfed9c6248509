//! Reads a Jinja template for the names that it looks up. Not a parser: it follows tags, strings and scopes, which is
//! enough to tell a variable from a filter, a test, an attribute, an argument's name or a name that the template set.

use std::collections::BTreeSet;

/// Bytes that are read, names that are kept, their length, and scopes inside one another: published templates have
/// some 30 KB, 60 names and 5 scopes.
const LONGEST: usize = 1 << 20;
const NAMES: usize = 256;
const NAME_BYTES: usize = 64;
const SCOPES: usize = 64;

const KEYWORDS: &[&str] = &[
    "and",
    "or",
    "not",
    "in",
    "is",
    "if",
    "else",
    "true",
    "false",
    "none",
    "True",
    "False",
    "None",
    "recursive",
    "ignore",
    "missing",
    "with",
    "without",
    "context",
    "import",
    "as",
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Token<'a> {
    Name(&'a str),
    /// A string, a number, or one operator.
    Other(&'a str),
}

/// Every variable that is read before it is set.
pub(super) fn reads(template: &str) -> BTreeSet<String> {
    let end = template.floor_char_boundary(LONGEST);
    let mut rest = template.get(..end).unwrap_or_default();
    let mut walk = Walk { found: BTreeSet::new(), scopes: vec![Vec::new()] };
    while let Some(open) = rest.find('{') {
        let tag = rest.get(open..).unwrap_or_default();
        rest = if let Some(comment) = tag.strip_prefix("{#") {
            let Some(close) = comment.find("#}") else { break };
            comment.get(close + 2..).unwrap_or_default()
        } else if let Some(body) = tag.strip_prefix("{{") {
            let (tokens, after) = tokens(body, "}}");
            walk.expression(&tokens);
            after
        } else if let Some(body) = tag.strip_prefix("{%") {
            let (tokens, after) = tokens(body, "%}");
            if tokens.first() == Some(&Token::Name("raw")) {
                let Some(close) = after.find("endraw") else { break };
                after.get(close..).and_then(|text| text.split_once("%}")).map_or("", |(_, after)| after)
            } else {
                walk.statement(&tokens);
                after
            }
        } else {
            tag.get(1..).unwrap_or_default()
        };
        if walk.scopes.len() > SCOPES || walk.found.len() >= NAMES {
            break;
        }
    }
    walk.found
}

/// The tokens up to `close`, and what stands behind it.
fn tokens<'a>(text: &'a str, close: &str) -> (Vec<Token<'a>>, &'a str) {
    // Signs at both ends say what becomes of the white space around.
    let (mut tokens, mut rest, mut depth) = (Vec::new(), text.trim_start_matches(['-', '+']), 0_u32);
    loop {
        rest = rest.trim_start();
        let Some(first) = rest.chars().next() else { return (tokens, "") };
        if depth == 0 {
            let bare = rest.strip_prefix(['-', '+']).unwrap_or(rest);
            if let Some(after) = bare.strip_prefix(close) {
                return (tokens, after);
            }
        }
        let length = if first.is_alphabetic() || first == '_' {
            let named = |c: char| c.is_alphanumeric() || c == '_';
            rest.find(|c| !named(c)).unwrap_or(rest.len())
        } else if first.is_ascii_digit() {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
        } else if matches!(first, '"' | '\'') {
            string(rest, first)
        } else if ["==", "!=", "<=", ">="].iter().any(|operator| rest.starts_with(operator)) {
            2
        } else {
            first.len_utf8()
        };
        let (token, after) = rest.split_at(length);
        match first {
            '(' | '[' | '{' => depth = depth.saturating_add(1),
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        let name = first.is_alphabetic() || first == '_';
        tokens.push(if name { Token::Name(token) } else { Token::Other(token) });
        rest = after;
    }
}

/// Bytes of the string at the front.
fn string(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + quote.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

struct Walk<'a> {
    found: BTreeSet<String>,
    /// Names that the template has set, by scope.
    scopes: Vec<Vec<&'a str>>,
}

impl<'a> Walk<'a> {
    fn bind(&mut self, name: &'a str) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.push(name);
        }
    }

    fn close(&mut self) {
        // The outermost one stays, whatever the template closes.
        if self.scopes.len() > 1 {
            self.scopes.pop();
        }
    }

    fn statement(&mut self, tokens: &[Token<'a>]) {
        let Some((Token::Name(tag), rest)) = tokens.split_first() else { return };
        match *tag {
            "for" => self.enter_loop(rest),
            "macro" => {
                if let Some(Token::Name(name)) = rest.first() {
                    self.bind(name);
                }
                self.scopes.push(Vec::new());
                self.parameters(rest.get(1..).unwrap_or_default());
            }
            "call" => {
                self.scopes.push(Vec::new());
                let call =
                    if rest.first() == Some(&Token::Other("(")) { self.parameters(rest) } else { rest };
                self.expression(call);
            }
            "with" => {
                self.scopes.push(Vec::new());
                self.assignments(rest);
            }
            "set" => self.assign(rest),
            "endfor" | "endmacro" | "endcall" | "endwith" => self.close(),
            "block" | "endblock" | "filter" | "endfilter" => {}
            _ => self.expression(rest),
        }
    }

    fn enter_loop(&mut self, tokens: &[Token<'a>]) {
        let split = position(tokens, |token| *token == Token::Name("in"));
        let (targets, rest) = tokens.split_at(split);
        let (items, condition) = rest.split_at(position(rest, |token| *token == Token::Name("if")));
        self.expression(items);
        self.scopes.push(vec!["loop"]);
        self.targets(targets);
        self.expression(condition);
    }

    /// `a = 1` or, where the value follows as text, `a`.
    fn assign(&mut self, tokens: &[Token<'a>]) {
        let (targets, value) = tokens.split_at(position(tokens, |token| *token == Token::Other("=")));
        self.expression(value);
        self.targets(targets);
    }

    /// `a = 1, b = 2`
    fn assignments(&mut self, mut tokens: &[Token<'a>]) {
        while !tokens.is_empty() {
            let (one, rest) = tokens.split_at(position(tokens, |token| *token == Token::Other(",")));
            self.assign(one);
            tokens = rest.get(1..).unwrap_or_default();
        }
    }

    /// Names that are set; of `space.name` neither is.
    fn targets(&mut self, tokens: &[Token<'a>]) {
        for (at, token) in tokens.iter().enumerate() {
            let around = [at.checked_sub(1), Some(at + 1)];
            let dotted = around.iter().flatten().any(|at| tokens.get(*at) == Some(&Token::Other(".")));
            if let Token::Name(name) = token
                && !dotted
            {
                self.bind(name);
            }
        }
    }

    /// `(a, b=1)`; returns what stands behind it.
    fn parameters<'t>(&mut self, tokens: &'t [Token<'a>]) -> &'t [Token<'a>] {
        let mut depth = 0_u32;
        let mut before = None;
        for (at, token) in tokens.iter().enumerate() {
            match token {
                Token::Other("(" | "[" | "{") => depth += 1,
                Token::Other(")" | "]" | "}") => depth = depth.saturating_sub(1),
                Token::Name(name) if depth == 1 && matches!(before, Some(Token::Other("(" | ","))) => {
                    self.bind(name);
                }
                _ => {}
            }
            if depth == 0 {
                // Values that parameters have unless given.
                self.expression(tokens.get(..at).unwrap_or_default());
                return tokens.get(at + 1..).unwrap_or_default();
            }
            before = Some(*token);
        }
        &[]
    }

    fn expression(&mut self, tokens: &[Token<'a>]) {
        for (at, token) in tokens.iter().enumerate() {
            let Token::Name(name) = token else { continue };
            let before = |back: usize| at.checked_sub(back).and_then(|at| tokens.get(at));
            let is = Some(&Token::Name("is"));
            let test = before(1) == is || (before(1) == Some(&Token::Name("not")) && before(2) == is);
            let part = matches!(before(1), Some(Token::Other("." | "|")));
            let called_or_argument = matches!(tokens.get(at + 1), Some(Token::Other("(" | "=")));
            let set = self.scopes.iter().any(|scope| scope.contains(name));
            let usable = name.len() <= NAME_BYTES && self.found.len() < NAMES && !KEYWORDS.contains(name);
            if usable && !(test || part || called_or_argument || set) {
                self.found.insert((*name).to_owned());
            }
        }
    }
}

/// Where the first such token stands outside all brackets, or the end.
fn position(tokens: &[Token<'_>], wanted: impl Fn(&Token<'_>) -> bool) -> usize {
    let mut depth = 0_u32;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Other("(" | "[" | "{") => depth += 1,
            Token::Other(")" | "]" | "}") => depth = depth.saturating_sub(1),
            _ if depth == 0 && wanted(token) => return at,
            _ => {}
        }
    }
    tokens.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(template: &str) -> Vec<String> {
        reads(template).into_iter().collect()
    }

    #[test]
    fn the_idioms_of_published_templates_are_understood() {
        for (template, wanted) in [
            // Qwen3: a switch that is looked for, and an argument in a namespace.
            (
                "{%- set ns = namespace(multi_step_tool=true, last=messages|length - 1) %}\
                 {%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}\
                 {%- if enable_thinking is defined and enable_thinking is false %}x{%- endif %}{%- endif %}",
                &["add_generation_prompt", "enable_thinking", "messages"][..],
            ),
            // Llama 3: set unless it is given.
            (
                "{%- if not date_string is defined %}{%- set date_string = \"26 Jul 2024\" %}{%- endif %}\
                 {%- if not tools is defined %}{%- set tools = none %}{%- endif %}{{- \"Date: \" + date_string }}",
                &["date_string", "tools"],
            ),
            ("{% set thinking = thinking if thinking is not none else false %}{{ thinking }}", &["thinking"]),
            (
                "{% set effort = reasoning_effort | default('medium', true) %}{{ effort }}",
                &["reasoning_effort"],
            ),
            (
                "{%- set truncate_history_thinking = truncate_history_thinking if truncate_history_thinking is defined else True %}",
                &["truncate_history_thinking"],
            ),
            // Command R: loops with a condition, and attributes.
            (
                "{% for document in documents if document.text %}{{ loop.index0 }}{{ document['title'] | trim }}{% endfor %}",
                &["documents"],
            ),
            // What a loop or a macro names is its own, and only inside it.
            (
                "{% macro show(item, depth=indent) %}{{ item }}{{ depth }}{% endmacro %}{{ show(item=first) }}{{ depth }}",
                &["depth", "first", "indent"],
            ),
            (
                "{% for a, b in pairs.items() %}{{ a ~ b }}{% else %}{{ none_given }}{% endfor %}{{ a }}",
                &["a", "none_given", "pairs"],
            ),
            ("{% with a = one, b = two(a, c) %}{{ a }}{{ b }}{% endwith %}", &["c", "one"]),
            ("{% call(x) render(y) %}{{ x }}{{ z }}{% endcall %}", &["y", "z"]),
            ("{% set text %}{{ inner }}{% endset %}{{ text }}", &["inner"]),
            ("{% generation %}{{ message }}{% endgeneration %}", &["message"]),
            // Nothing of strings, comments, raw text and plain text.
            ("{{ 'a }} {{ b' ~ \"\\\"c\" }}{# {{ d }} #}{% raw %}{{ e }}{% endraw %} f {g} {{ h }}", &["h"]),
            ("{{ {'a': {'b': c}}['a'] }}{{ d }}", &["c", "d"]),
            (
                "{{ raise_exception('no') }}{{ x is not mapping }}{{ y is in z }}{{ 1e5 }}{{ w[k] }}",
                &["k", "w", "x", "y", "z"],
            ),
            ("{%- if(open)%}{%endif-%}", &["open"]),
            ("{{ unfinished", &["unfinished"]),
            ("{% endfor %}{% endmacro %}{{ a }}{% set b = 1 %}{{ b }}", &["a"]),
        ] {
            assert_eq!(found(template), wanted, "{template}");
        }
    }

    #[test]
    fn a_hostile_template_costs_little() {
        let many: String = (0..100_000).map(|n| format!("{{{{ v{n} }}}}")).collect();
        assert_eq!(found(&many).len(), NAMES);
        assert!(found(&"{% for a in b %}".repeat(60_000)).len() < 3);
        assert!(found(&format!("{{{{ {} }}}}", "x".repeat(NAME_BYTES + 1))).is_empty());
        assert!(found(&format!("{}{{{{ late }}}}", " ".repeat(LONGEST))).is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_read_to_its_end(text in "[{}%#'\"\\\\()\\[\\]a-c=,.|é \n]{0,64}") {
            let names = found(&text);
            prop_assert!(names.iter().all(|name| text.contains(name.as_str())));
        }
    }
}
