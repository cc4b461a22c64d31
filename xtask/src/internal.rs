//! Upstream's internal Go types -> a table of how they print as JSON, with the names that their fields have in the published versions.
//!
//! A type is a line `=package.Type`; then one line per field, in Go's order: `name published type`. `published` is left as `+` where the fields stand
//! in the same object there, and `+name` where they stand in the object `name` (Go embeds them); `^name` is beside the
//! object, not in it. `~` before the type: left out where it is zero.
//! Types: `s` text, `n` number, `b` boolean, `q` quantity, `?` a pointer or list of what prints as it stands, `m` a map (its keys sorted),
//! `@type` a structure, `*type` a pointer to one, `[type` a list, `{type` a map of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::Path,
};

use regex::Regex;

/// What refusals show; with it comes all that it is made of.
const ROOTS: &[&str] = &[
    "core.PodTemplateSpec",
    "core.PersistentVolumeSource",
    "core.PersistentVolumeClaimSpec",
    "core.VolumeNodeAffinity",
    "core.EventSource",
    "core.ObjectReference",
    "rbac.RoleRef",
    "resource.AllocationResult",
    "resource.DeviceAttribute",
    "resource.ResourceClaimSpec",
    "resource.ResourceClaimTemplateSpec",
];

/// Package, its sources, and those of the version that is published.
const PACKAGES: &[(&str, &str, &str)] = &[
    ("core", "pkg/apis/core", "staging/src/k8s.io/api/core/v1"),
    ("rbac", "pkg/apis/rbac", "staging/src/k8s.io/api/rbac/v1"),
    ("resource", "pkg/apis/resource", "staging/src/k8s.io/api/resource/v1"),
    ("metav1", "staging/src/k8s.io/apimachinery/pkg/apis/meta/v1", "staging/src/k8s.io/apimachinery/pkg/apis/meta/v1"),
];

/// Types that print in a way of their own, or that are passed on.
const LEAVES: &[(&str, &str)] = &[
    ("resource.Quantity", "q"),
    ("intstr.IntOrString", "?"),
    ("metav1.Time", "?"),
    ("metav1.MicroTime", "?"),
    ("metav1.FieldsV1", "?"),
    ("runtime.RawExtension", "?"),
    ("runtime.Object", "?"),
    ("types.UID", "s"),
    ("string", "s"),
    ("bool", "b"),
];

/// What stands in the object around it in the published version (conversions written by hand).
const OUTSIDE: &[(&str, &[&str])] =
    &[("core.PodSecurityContext", &["HostNetwork", "HostPID", "HostIPC", "ShareProcessNamespace", "HostUsers"])];

/// Structs, and other names of types, of all packages.
#[derive(Default)]
struct Source {
    structs: BTreeMap<String, Vec<Field>>,
    names: BTreeMap<String, String>,
}

#[derive(Clone)]
struct Field {
    /// Empty where the type is embedded.
    name: String,
    go: String,
    json: Option<String>,
    omits: bool,
}

/// `root` is a checkout of upstream.
pub fn render(root: &Path) -> String {
    let (mut inside, mut published) = (Source::default(), Source::default());
    for (package, internal, version) in PACKAGES {
        inside.read(package, &root.join(internal));
        published.read(package, &root.join(version));
    }
    let (mut out, mut done) = (String::new(), BTreeSet::new());
    let mut due: Vec<String> = ROOTS.iter().map(|name| (*name).to_owned()).collect();
    while let Some(name) = due.pop() {
        if !done.insert(name.clone()) {
            continue;
        }
        writeln!(out, "={name}").expect("writing to memory");
        let fields = inside.structs.get(&name).unwrap_or_else(|| panic!("no such type: {name}"));
        for field in fields {
            let (shown, typ) = (field.json.clone().unwrap_or_else(|| field.name.clone()), inside.typ(&name, &field.go));
            due.extend(typ.split_once(['@', '*', '[', '{']).map(|(_, to)| to.to_owned()).filter(|to| to.contains('.')));
            let mark = if field.omits { "~" } else { "" };
            let place = published.place(&name, field);
            if field.name.is_empty() {
                writeln!(out, "{place} {typ}").expect("writing to memory");
            } else {
                writeln!(out, "{shown} {place} {mark}{typ}").expect("writing to memory");
            }
        }
    }
    out
}

impl Source {
    fn read(&mut self, package: &str, directory: &Path) {
        let begin = Regex::new(r"^type (\w+) struct ?\{").expect("valid");
        let name = Regex::new(r"^type (\w+) (?:= )?([\w.*\[\]]+)$").expect("valid");
        let field = Regex::new(r"^\t(?:(\w+)\s+)?([\w.*\[\]]+)(?:\s+`([^`]*)`)?(?:\s*//.*)?$").expect("valid");
        for file in fs::read_dir(directory).expect("upstream's sources can be read").filter_map(Result::ok).map(|entry| entry.path()) {
            let of_file = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if !of_file.ends_with(".go") || of_file.starts_with("zz_") || of_file.ends_with("_test.go") || of_file.contains("generated") {
                continue;
            }
            let mut current: Option<(String, Vec<Field>)> = None;
            for line in fs::read_to_string(&file).expect("a source file is UTF-8").lines() {
                if let Some(found) = begin.captures(line) {
                    self.structs.extend(current.take());
                    current = Some((format!("{package}.{}", &found[1]), Vec::new()));
                } else if let Some(found) = name.captures(line) {
                    self.names.insert(format!("{package}.{}", &found[1]), found[2].to_owned());
                } else if line.starts_with('}') {
                    self.structs.extend(current.take());
                } else if let (Some((_, fields)), Some(found)) = (&mut current, field.captures(line)) {
                    let text = |at: usize| found.get(at).map_or("", |m| m.as_str()).to_owned();
                    fields.push(Field::of(text(1), text(2), &text(3)));
                }
            }
        }
    }

    /// The type of a field of `owner`, as the table writes it.
    fn typ(&self, owner: &str, go: &str) -> String {
        let package = owner.split('.').next().unwrap_or_default();
        let full = if go.contains('.') || is_plain(go) { go.to_owned() } else { format!("{package}.{go}") };
        if let Some((_, typ)) = LEAVES.iter().find(|(name, _)| *name == full && !(package == "resource" && go == "Quantity")) {
            return (*typ).to_owned();
        }
        if is_plain(go) && !go.starts_with(['*', '[']) && !go.starts_with("map[") {
            return "n".to_owned();
        }
        if let Some(inner) = go.strip_prefix('*') {
            return self.around('*', &self.typ(owner, inner));
        }
        if go == "[]byte" {
            return "?".to_owned();
        }
        if let Some(inner) = go.strip_prefix("[]") {
            return self.around('[', &self.typ(owner, inner));
        }
        if let Some((_, inner)) = go.strip_prefix("map[").and_then(|rest| rest.split_once(']')) {
            return self.around('{', &self.typ(owner, inner));
        }
        match self.names.get(&full) {
            Some(other) => self.typ(&full, other),
            None if self.structs.contains_key(&full) => format!("@{full}"),
            None => panic!("{owner}: no such type: {go}"),
        }
    }

    fn around(&self, mark: char, inner: &str) -> String {
        match (mark, inner.strip_prefix('@')) {
            (_, Some(name)) => format!("{mark}{name}"),
            ('{', None) => "m".to_owned(),
            (_, None) => "?".to_owned(),
        }
    }

    /// Where a field stands in the published version.
    fn place(&self, owner: &str, field: &Field) -> String {
        let fields = self.structs.get(owner).map(Vec::as_slice).unwrap_or_default();
        let short = |go: &str| go.rsplit(['.', '*']).next().unwrap_or_default().to_owned();
        let same = |other: &&Field| other.name == field.name && (!field.name.is_empty() || short(&other.go) == short(&field.go));
        match (fields.iter().find(same), field.name.is_empty()) {
            (Some(found), true) => format!("+{}", found.json.clone().unwrap_or_default()),
            (Some(found), false) => found.json.clone().unwrap_or_else(|| panic!("{owner}.{} has no name", field.name)),
            (None, _) => {
                let is_outside = OUTSIDE.iter().any(|(of, names)| *of == owner && names.contains(&field.name.as_str()));
                assert!(is_outside, "{owner}.{} is not published", field.name);
                format!("^{}{}", field.name[..1].to_lowercase(), &field.name[1..])
            }
        }
    }
}

impl Field {
    fn of(name: String, go: String, tags: &str) -> Self {
        let tag = tags.split_once("json:\"").and_then(|(_, rest)| rest.split_once('"')).map(|(tag, _)| tag);
        let json = tag.and_then(|tag| tag.split(',').next()).filter(|json| !json.is_empty() && !name.is_empty() || !json.is_empty());
        let omits = tag.is_some_and(|tag| tag.contains("omitempty"));
        Self { json: json.map(str::to_owned), name, go, omits }
    }
}

/// Go's own types, and lists and maps of them.
fn is_plain(go: &str) -> bool {
    let bare = go.trim_start_matches(['*', '[', ']']);
    go.starts_with(['*', '[']) || go.starts_with("map[") || ["string", "bool", "int", "byte", "float64"].contains(&bare) || bare.starts_with("int32") || bare.starts_with("int64")
}
