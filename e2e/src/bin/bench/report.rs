//! Figures of two sides -> a table, and JSON.

use serde_json::{Value, json};

/// One number a row found.
#[derive(Clone, Debug)]
pub struct Figure {
    pub name: String,
    pub unit: &'static str,
    pub value: f64,
    pub better: Better,
    /// What issue 3 wants at full scale.
    pub goal: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    Lower,
    Higher,
}

/// What came of one row.
pub struct Outcome {
    pub row: &'static str,
    /// One list per run of each side.
    pub runs: [Vec<Vec<Figure>>; 2],
    pub skipped: Option<String>,
    pub failed: Option<String>,
}

/// A figure, of which less is better.
pub fn less(name: impl Into<String>, unit: &'static str, value: f64) -> Figure {
    Figure { name: name.into(), unit, value, better: Better::Lower, goal: None }
}

/// A figure, of which more is better.
pub fn more(name: impl Into<String>, unit: &'static str, value: f64) -> Figure {
    Figure { name: name.into(), unit, value, better: Better::Higher, goal: None }
}

impl Figure {
    pub fn goal(mut self, goal: f64) -> Self {
        self.goal = Some(goal);
        self
    }

    /// Read from `/proc`: means nothing where no process was named.
    pub fn of_process(&self) -> bool {
        self.unit.contains("CPU")
            || self.unit.contains("core")
            || self.unit.ends_with("MiB")
            || self.unit == "KiB"
            || self.unit == "B"
            || self.unit == "B/s"
    }
}

/// One line per figure; the ratio is above one where A is better.
pub fn table(outcomes: &[Outcome], names: &[String]) -> String {
    let two = names.len() == 2;
    let mut lines = vec![if two {
        format!("| row | figure | {} | {} | ratio | goal |\n| --- | --- | --- | --- | --- | --- |", names[0], names[1])
    } else {
        "| row | figure | measured | goal |\n| --- | --- | --- | --- |".to_owned()
    }];
    for outcome in outcomes {
        for line in merged(outcome) {
            let Line { figure, a, b } = &line;
            let goal = figure.goal.map_or(String::new(), |g| goal_text(figure, g, *a));
            let other = if two { format!(" {} | {} |", with_unit(*b, figure.unit), ratio(figure, *a, *b)) } else { String::new() };
            lines.push(format!("| {} | {} | {} |{other} {goal} |", outcome.row, figure.name, with_unit(*a, figure.unit)));
        }
        let filler = if two { " | | | |" } else { " | |" };
        if let Some(why) = &outcome.skipped {
            lines.push(format!("| {} | skipped: {} |{filler}", outcome.row, first_line(why)));
        }
        if let Some(why) = &outcome.failed {
            lines.push(format!("| {} | **FAILED**: {} |{filler}", outcome.row, first_line(why)));
        }
    }
    lines.join("\n")
}

pub fn json(outcomes: &[Outcome], names: &[String], head: Value) -> Value {
    let figure = |line: Line, outcome: &Outcome| {
        let side = |n: usize| -> Vec<f64> {
            let same = |f: &&Figure| f.name == line.figure.name;
            outcome.runs[n].iter().filter_map(|run| run.iter().find(same)).map(|f| f.value).collect()
        };
        json!({"name": line.figure.name, "unit": line.figure.unit, "lessIsBetter": line.figure.better == Better::Lower,
            "goal": line.figure.goal, "a": side(0), "b": side(1)})
    };
    let row = |o: &Outcome| {
        let figures: Vec<Value> = merged(o).into_iter().map(|l| figure(l, o)).collect();
        json!({"row": o.row, "figures": figures, "skipped": o.skipped, "failed": o.failed})
    };
    let mut whole = head;
    whole["sides"] = json!(names);
    whole["rows"] = outcomes.iter().map(row).collect();
    whole
}

struct Line {
    figure: Figure,
    a: Option<f64>,
    b: Option<f64>,
}

/// The median over the runs of each side, for every figure that one of them has.
fn merged(outcome: &Outcome) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for figure in outcome.runs.iter().flatten().flatten() {
        if lines.iter().any(|l| l.figure.name == figure.name) {
            continue;
        }
        let of = |runs: &[Vec<Figure>]| median(runs.iter().flatten().filter(|f| f.name == figure.name).map(|f| f.value).collect());
        lines.push(Line { a: of(&outcome.runs[0]), b: of(&outcome.runs[1]), figure: figure.clone() });
    }
    lines
}

/// Of two it is the mean.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle)?;
    Some(if values.len() % 2 == 1 { *upper } else { f64::midpoint(values[middle - 1], *upper) })
}

fn ratio(figure: &Figure, a: Option<f64>, b: Option<f64>) -> String {
    match (a, b, figure.better) {
        (Some(a), Some(b), Better::Lower) if a > 0.0 => format!("{:.2}x", b / a),
        (Some(a), Some(b), Better::Higher) if b > 0.0 => format!("{:.2}x", a / b),
        _ => String::new(),
    }
}

fn goal_text(figure: &Figure, goal: f64, measured: Option<f64>) -> String {
    let met = measured.is_some_and(|m| if figure.better == Better::Lower { m <= goal } else { m >= goal });
    let sign = if figure.better == Better::Lower { "<=" } else { ">=" };
    format!("{sign} {} ({})", number(goal), if met { "met" } else { "not met" })
}

fn with_unit(value: Option<f64>, unit: &str) -> String {
    value.map_or(String::new(), |v| format!("{} {unit}", number(v)))
}

/// Three significant digits, thousands apart.
fn number(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude >= 1000.0 {
        let whole = format!("{value:.0}");
        let cut = whole.len() % 3;
        let mut parts: Vec<&str> = whole.as_bytes()[cut..].chunks(3).filter_map(|c| std::str::from_utf8(c).ok()).collect();
        if cut > 0 {
            parts.insert(0, &whole[..cut]);
        }
        return parts.join(",");
    }
    match magnitude {
        m if m >= 100.0 => format!("{value:.0}"),
        m if m >= 10.0 => format!("{value:.1}"),
        m if m >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn first_line(text: &str) -> &str {
    let end = text.char_indices().nth(300).map_or(text.len(), |(at, _)| at);
    text[..end].lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_better_side_has_the_ratio_above_one() {
        let run = |cpu, rate| vec![less("cpu", "ms", cpu).goal(1.0), more("rate", "/s", rate)];
        let outcome = Outcome {
            row: "create",
            runs: [vec![run(0.5, 2000.0), run(1.0, 4000.0)], vec![run(3.0, 1000.0), run(3.0, 1000.0)]],
            skipped: None,
            failed: None,
        };
        let table = table(&[outcome], &["ours".into(), "theirs".into()]);
        assert!(table.contains("| create | cpu | 0.750 ms | 3.00 ms | 4.00x | <= 1.00 (met) |"), "{table}");
        assert!(table.contains("| create | rate | 3,000 /s | 1,000 /s | 3.00x |  |"), "{table}");
    }

    #[test]
    fn one_run_that_was_disturbed_does_not_count() {
        assert_eq!(median(vec![]), None);
        assert_eq!((median(vec![2.0]), median(vec![1.0, 2.0]), median(vec![90.0, 1.0, 2.0])), (Some(2.0), Some(1.5), Some(2.0)));
    }

    #[test]
    fn numbers_are_short() {
        let table = [(0.0444, "0.044"), (1.0, "1.00"), (47.03, "47.0"), (123.4, "123"), (1234.5, "1,234"), (123_456.0, "123,456")];
        for (value, text) in table {
            assert_eq!(number(value), text);
        }
    }
}
