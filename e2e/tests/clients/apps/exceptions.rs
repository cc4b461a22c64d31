//! What was found of each file, and the list of exceptions -> what is not as it should be.
//!
//! A line is `side what file  reason`: client, server or both; lacks (a kind that is not served), refused, changed, owners (who owns what, and nothing else).

use std::collections::BTreeSet;

use super::Side;

/// Something about one file that is not as it should be.
pub struct Found {
    pub side: Side,
    pub what: &'static str,
    pub file: String,
    pub detail: String,
}

pub struct Exceptions(Vec<Line>);

struct Line {
    sides: Vec<Side>,
    what: String,
    file: String,
}

impl Exceptions {
    /// Lines that begin with `#`, and empty ones, say nothing. Panics where a line has no reason.
    pub fn read(text: &str) -> Self {
        let told = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(told.map(|line| Line::read(line).unwrap_or_else(|| panic!("no line of the exceptions: {line}"))).collect())
    }

    /// Of these files: findings that no line has, and lines of which nothing is left.
    pub fn judge(&self, files: &BTreeSet<String>, found: &[Found]) -> Vec<String> {
        let is_of = |line: &Line, found: &Found| line.sides.contains(&found.side) && line.what == found.what && line.file == found.file;
        let new = found.iter().filter(|found| !self.0.iter().any(|line| is_of(line, found)));
        let new = new.map(|found| format!("{:?}-side {} {}: {}", found.side, found.what, found.file, found.detail));
        let sides =
            self.0.iter().filter(|line| files.contains(&line.file)).flat_map(|line| line.sides.iter().map(move |side| (line, side)));
        let gone = sides.filter(|(line, side)| !found.iter().any(|found| is_of(line, found) && found.side == **side));
        new.chain(gone.map(|(line, side)| format!("{side:?}-side nothing is left of: {} {}", line.what, line.file))).collect()
    }
}

impl Line {
    fn read(line: &str) -> Option<Self> {
        let (head, reason) = line.split_once("  ")?;
        let [sides, what, file] = head.split(' ').collect::<Vec<_>>().try_into().ok()?;
        let sides = match sides {
            "client" => vec![Side::Client],
            "server" => vec![Side::Server],
            "both" => vec![Side::Client, Side::Server],
            _ => return None,
        };
        (!reason.trim().is_empty()).then(|| Self { sides, what: what.to_owned(), file: file.to_owned() })
    }
}

#[test]
fn a_line_that_no_longer_holds_is_told() {
    let lines = Exceptions::read(
        "# three\nboth refused a.yaml  a placeholder\nclient changed b.yaml  a reason\nboth lacks other.yaml  of the other half\n",
    );
    let files = ["a.yaml", "b.yaml"].map(str::to_owned).into();
    let found = |side, what, file: &str| Found { side, what, file: file.to_owned(), detail: "x".to_owned() };
    let refused = [Side::Client, Side::Server].map(|side| found(side, "refused", "a.yaml"));
    let [client, server] = refused;
    let changed = found(Side::Client, "changed", "b.yaml");
    assert_eq!(lines.judge(&files, &[client, changed]), ["Server-side nothing is left of: refused a.yaml"]);
    let changed = found(Side::Server, "changed", "b.yaml");
    let wrong = lines.judge(&files, &[found(Side::Client, "refused", "a.yaml"), server, changed]);
    assert_eq!(wrong, ["Server-side changed b.yaml: x", "Client-side nothing is left of: changed b.yaml"]);
}
