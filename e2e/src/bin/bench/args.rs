//! The command line -> what to measure, how much of it, and where to write it.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};

use crate::subject::Side;

pub const USAGE: &str = "\
bench: what a Kubernetes API server costs, over HTTP alone.

  --skiff FILE              start this binary (`FILE server`, an empty folder for each row)
  --kubeconfig FILE         or measure the server that this file names (client certificate or token)
  --pid-a N,N               its processes: CPU time, memory and written bytes are read from /proc
  --skiff-b FILE            the other side: the rows run A B B A
  --rounds N                so many times (1 unless told otherwise); the figure of a side is the median of its runs
  --kubeconfig-b FILE, --pid-b N,N
  --rows NAME,NAME          only these (`--rows list` prints them); a name that ends with a dash takes all that begin so
  --scale small|full        full unless told otherwise
  --hollow FILE             the binary whose `agent --hollow N` makes nodes; by default that of --skiff
  --up                      with --skiff: also rows that need a node (root, containerd); starts `FILE up`
  --image NAME              the image of pods on real nodes, local to them (docker.io/library/busybox:1.35)
  --json FILE               write all figures of all runs
";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    Small,
    Full,
}

#[derive(Debug)]
pub struct Args {
    pub sides: Vec<Side>,
    pub names: Vec<String>,
    pub rows: Vec<String>,
    pub scale: Scale,
    pub rounds: usize,
    pub hollow: Option<PathBuf>,
    pub up: bool,
    pub image: String,
    pub json: Option<PathBuf>,
}

#[derive(Default)]
struct Raw {
    skiff: [Option<PathBuf>; 2],
    kubeconfig: [Option<PathBuf>; 2],
    pids: [Vec<u32>; 2],
}

impl Args {
    pub fn parse(words: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut words = words;
        let mut raw = Raw::default();
        let mut args = Self {
            sides: Vec::new(),
            names: Vec::new(),
            rows: Vec::new(),
            scale: Scale::Full,
            rounds: 1,
            hollow: None,
            up: false,
            image: "docker.io/library/busybox:1.35".into(),
            json: None,
        };
        while let Some(word) = words.next() {
            if word == "--up" {
                args.up = true;
                continue;
            }
            if word == "--help" || word == "-h" {
                bail!("{USAGE}");
            }
            let value = words.next().with_context(|| format!("{word} wants a value\n{USAGE}"))?;
            args.take(&mut raw, &word, value)?;
        }
        args.sides = raw.sides()?;
        ensure!(args.rows == ["list"] || !args.sides.is_empty(), "name a server: --skiff or --kubeconfig\n{USAGE}");
        args.hollow = args.hollow.or(raw.skiff[0].clone());
        args.names = args.sides.iter().map(Side::name).collect();
        Ok(args)
    }

    fn take(&mut self, raw: &mut Raw, word: &str, value: String) -> anyhow::Result<()> {
        let binary = || -> anyhow::Result<PathBuf> { PathBuf::from(&value).canonicalize().with_context(|| value.clone()) };
        match word {
            "--skiff" | "--skiff-a" => raw.skiff[0] = Some(binary()?),
            "--skiff-b" => raw.skiff[1] = Some(binary()?),
            "--kubeconfig" | "--kubeconfig-a" => raw.kubeconfig[0] = Some(value.into()),
            "--kubeconfig-b" => raw.kubeconfig[1] = Some(value.into()),
            "--pid-a" => raw.pids[0] = numbers(&value)?,
            "--pid-b" => raw.pids[1] = numbers(&value)?,
            "--rows" => self.rows = value.split(',').map(str::to_owned).collect(),
            "--scale" => {
                self.scale = match value.as_str() {
                    "small" => Scale::Small,
                    "full" => Scale::Full,
                    _ => bail!("--scale is small or full"),
                }
            }
            "--rounds" => self.rounds = value.parse().context("--rounds is a number")?,
            "--hollow" => self.hollow = Some(binary()?),
            "--image" => self.image = value,
            "--json" => self.json = Some(value.into()),
            _ => bail!("no such flag: {word}\n{USAGE}"),
        }
        Ok(())
    }
}

impl Raw {
    fn sides(&self) -> anyhow::Result<Vec<Side>> {
        let mut sides = Vec::new();
        for n in 0..2 {
            match (&self.skiff[n], &self.kubeconfig[n]) {
                (Some(_), Some(_)) => bail!("a side is a binary or a kubeconfig, not both"),
                (Some(bin), None) => sides.push(Side::Binary(bin.clone())),
                (None, Some(file)) => sides.push(Side::Running { kubeconfig: file.clone(), pids: self.pids[n].clone() }),
                (None, None) => {}
            }
        }
        Ok(sides)
    }
}

impl Side {
    fn name(&self) -> String {
        match self {
            Self::Running { kubeconfig, .. } => kubeconfig.display().to_string(),
            Self::Binary(bin) => bin.display().to_string(),
        }
    }
}

impl Scale {
    pub fn of(self, small: usize, full: usize) -> usize {
        if self == Self::Small { small } else { full }
    }
}

fn numbers(text: &str) -> anyhow::Result<Vec<u32>> {
    text.split(',').map(|n| n.parse().with_context(|| format!("{n:?} is no process id"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_read_and_checked() {
        let parse = |line: &str| Args::parse(line.split_whitespace().map(str::to_owned));
        let args = parse("--kubeconfig a --pid-a 1,2 --kubeconfig-b b --rows create,get --scale small --rounds 3").unwrap();
        assert_eq!(args.names, ["a", "b"]);
        assert!(matches!(&args.sides[0], Side::Running { pids, .. } if pids == &[1, 2]));
        assert_eq!((args.scale, args.rows.len(), args.rounds), (Scale::Small, 2, 3));
        for wrong in [
            "",
            "--kubeconfig",
            "--kubeconfig a --pid-a x",
            "--kubeconfig a --nothing b",
            "--kubeconfig a --scale big",
            "--kubeconfig a --rounds x",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
