//! Arguments, environment, file -> the verb and its flags.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf};

use anyhow::{Context, bail};
use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches, builder::ArgPredicate};
use serde_json::{Map, Value};

use super::{Cli, Verb};

impl Cli {
    /// Reads the process's own arguments and environment; prints help or usage errors and exits as clap does.
    ///
    /// # Errors
    /// A config file that cannot be read, is no YAML map, or has a key that is no flag.
    pub fn read(args: impl IntoIterator<Item = OsString> + Clone) -> anyhow::Result<Self> {
        let command = with_environment(Cli::command());
        let first = command.clone().ignore_errors(true).get_matches_from(args.clone());
        let file = first.subcommand().and_then(|(verb, m)| Some((verb, m.try_get_one::<PathBuf>("config").ok().flatten().cloned()?)));
        let command = match file {
            Some((verb, path)) => {
                with_file(command, verb, &read_file(&path)?).with_context(|| format!("config file {}", path.display()))?
            }
            None => command,
        };
        let matches = command.clone().get_matches_from(args);
        let mut cli = Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
        let shown = matches.subcommand().and_then(|(verb, given)| Some(shown(command.find_subcommand(verb)?, given)));
        match &mut cli.verb {
            Verb::Server(server) => server.shown = shown.unwrap_or_default(),
            Verb::Up(up) => up.server.shown = shown.unwrap_or_default(),
            _ => {}
        }
        Ok(cli)
    }
}

/// Names and values of all flags of a verb; of a secret it is told that it is one, as upstream tells it.
pub(super) fn shown(verb: &Command, given: &ArgMatches) -> BTreeMap<String, String> {
    let flags = verb.get_arguments().filter(|arg| !matches!(arg.get_long(), None | Some("help" | "version")));
    let value = |arg: &Arg| {
        let given = given.get_raw(arg.get_id().as_str()).into_iter().flatten();
        given.map(|value| value.to_string_lossy().into_owned()).collect::<Vec<_>>().join(",")
    };
    let told = |arg: &Arg| match value(arg) {
        text if !text.is_empty() && arg.is_hide_env_values_set() => "CLASSIFIED".to_owned(),
        text => text,
    };
    flags.filter_map(|arg| Some((arg.get_long()?.to_owned(), told(arg)))).collect()
}

fn read_file(path: &PathBuf) -> anyhow::Result<Map<String, Value>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("config file {}", path.display()))?;
    let options = serde_yaml::options! { legacy_octal_numbers: true };
    match serde_yaml::from_str_with_options(&text, options).with_context(|| format!("config file {}", path.display()))? {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        _ => bail!("config file {}: not a map of flag names to values", path.display()),
    }
}

/// `--data-dir` can also be given as `SKIFF_DATA_DIR`, of whatever verb.
pub(super) fn with_environment(command: Command) -> Command {
    command.mut_subcommands(|sub| {
        with_environment(sub).mut_args(|arg| match arg.get_long() {
            Some("help" | "version") | None => arg,
            Some(long) => {
                let name = format!("SKIFF_{}", long.to_uppercase().replace('-', "_"));
                // Else `--flag -1` is refused as if it had no value at all.
                let takes = arg.get_action().takes_values();
                arg.env(name).hide_env(true).allow_negative_numbers(takes)
            }
        })
    })
}

/// The file of `verb`, which other verbs may share: its values become the flags' defaults, so that the environment and the command line win over them.
pub(super) fn with_file(mut command: Command, verb: &str, file: &Map<String, Value>) -> anyhow::Result<Command> {
    for (key, value) in file {
        let known = |sub: &Command| sub.get_arguments().any(|a| a.get_long() == Some(key) && key != "config");
        if !command.get_subcommands().any(known) {
            bail!("unknown key {key:?}: keys are the names of flags, see `skiff {verb} --help`");
        }
        let text = as_flag(value).with_context(|| format!("key {key:?}: a list or a map of maps is no value of a flag"))?;
        let id = key.replace('-', "_");
        command = command.mut_subcommands(|sub| {
            if !known(&sub) {
                return sub;
            }
            let others = excluding(&sub, &id).into_iter().map(|other| (other, ArgPredicate::IsPresent, None::<&str>));
            sub.mut_arg(&id, |arg| arg.default_value(text.clone()).default_value_ifs(others))
        });
    }
    Ok(command)
}

/// The flags that exclude that one: where one of them is given, what the file says of it does not count.
fn excluding(sub: &Command, id: &str) -> Vec<String> {
    let excludes = |one: &Arg, other: &str| sub.get_arg_conflicts_with(one).iter().any(|arg| arg.get_id() == other);
    let Some(own) = sub.get_arguments().find(|arg| arg.get_id() == id) else { return Vec::new() };
    let others = sub.get_arguments().filter(|other| excludes(own, other.get_id().as_str()) || excludes(other, id));
    others.map(|other| other.get_id().to_string()).collect()
}

fn as_flag(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(s.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Array(items) => items.iter().map(as_flag).collect::<Option<Vec<_>>>().map(|v| v.join(",")),
        Value::Null | Value::Object(_) => None,
    }
}
