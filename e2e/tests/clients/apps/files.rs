//! A folder of manifests -> files with what they name, in batches of which no file is in another's way.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

/// One file, as a user applies it.
pub struct File {
    /// Below the folder.
    pub name: String,
    pub objects: Vec<Object>,
    /// Resources whose writes the file's policies judge (`*`: all), and `in <namespace>` where a quota or limits do.
    judges: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Object {
    pub api_version: String,
    pub kind: String,
    /// Empty where the file says none.
    pub namespace: String,
    /// Empty where the server makes one.
    pub name: String,
}

/// Files for one command.
#[derive(Default)]
pub struct Batch {
    pub files: Vec<File>,
    held: BTreeSet<Object>,
    touched: BTreeSet<String>,
    judged: BTreeSet<String>,
}

/// All files below a folder, in order of their paths.
pub fn read(root: &Path) -> Vec<File> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the shared data") {
            let path = entry.expect("it can be listed").path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found.iter().map(|path| File::read(root, path)).collect()
}

/// Each file goes where no other file has an object of its own, or judges what it has. Namespaces and definitions come first.
pub fn batches(files: Vec<File>) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    for file in files {
        match batches.iter_mut().find(|batch| batch.takes(&file)) {
            Some(batch) => batch.add(file),
            None => {
                let mut batch = Batch::default();
                batch.add(file);
                batches.push(batch);
            }
        }
    }
    for batch in &mut batches {
        let is_first = |object: &Object| matches!(object.kind.as_str(), "Namespace" | "CustomResourceDefinition");
        batch.files.sort_by_key(|file| !file.objects.iter().any(is_first));
    }
    batches
}

impl File {
    fn read(root: &Path, path: &Path) -> Self {
        let text = fs::read_to_string(path).expect("a file of the shared data");
        let documents: Vec<Value> = serde_yaml::from_multiple(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let objects: Vec<Value> = documents.into_iter().flat_map(items).collect();
        let name = path.strip_prefix(root).expect("it is below").display().to_string();
        Self { name, judges: objects.iter().flat_map(judged).collect(), objects: objects.iter().map(Object::of).collect() }
    }

    fn touches(&self) -> BTreeSet<String> {
        self.objects.iter().flat_map(|object| [object.resource(), format!("in {}", object.home()), "*".to_owned()]).collect()
    }

    fn holds(&self) -> impl Iterator<Item = Object> {
        // Other versions of a kind have the same objects.
        let group = |version: &str| version.split_once('/').map_or("", |(group, _)| group).to_owned();
        self.objects.iter().map(move |o| Object { api_version: group(&o.api_version), namespace: o.home().to_owned(), ..o.clone() })
    }
}

impl Object {
    fn of(value: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let meta = &value["metadata"];
        Self {
            api_version: text(&value["apiVersion"]),
            kind: text(&value["kind"]),
            namespace: text(&meta["namespace"]),
            name: text(&meta["name"]),
        }
    }

    /// Where it comes to stand, in a kind with namespaces or without.
    pub fn at(&self, spaced: bool) -> Self {
        Self { namespace: if spaced { self.home().to_owned() } else { String::new() }, ..self.clone() }
    }

    /// Version and kind.
    pub fn type_of(&self) -> (String, String) {
        (self.api_version.clone(), self.kind.clone())
    }

    /// As kubectl prints it.
    pub fn told(&self) -> String {
        let group = self.api_version.split_once('/').map(|(group, _)| format!(".{group}")).unwrap_or_default();
        format!("{}{group}/{}", self.kind.to_lowercase(), self.name)
    }

    fn home(&self) -> &str {
        if self.namespace.is_empty() { "default" } else { &self.namespace }
    }

    /// As rules of policies name it.
    fn resource(&self) -> String {
        let kind = self.kind.to_lowercase();
        match kind.strip_suffix('y') {
            Some(stem) => format!("{stem}ies"),
            None if kind.ends_with('s') => format!("{kind}es"),
            None => format!("{kind}s"),
        }
    }
}

impl Batch {
    fn takes(&self, file: &File) -> bool {
        file.holds().all(|object| !self.held.contains(&object))
            && file.judges.is_disjoint(&self.touched)
            && self.judged.is_disjoint(&file.touches())
    }

    fn add(&mut self, file: File) {
        self.held.extend(file.holds());
        self.touched.extend(file.touches());
        self.judged.extend(file.judges.iter().cloned());
        self.files.push(file);
    }
}

/// What a document holds: itself, or the items of a list, which may leave out what they are.
fn items(mut document: Value) -> Vec<Value> {
    let kind = document["kind"].as_str().unwrap_or_default().to_owned();
    let version = document["apiVersion"].clone();
    match (kind.strip_suffix("List"), document["items"].take()) {
        (Some(of), Value::Array(mut items)) => {
            for item in items.iter_mut().filter(|item| item["kind"].is_null()) {
                (item["kind"], item["apiVersion"]) = (of.into(), version.clone());
            }
            items
        }
        _ if kind.is_empty() => Vec::new(),
        _ => vec![document],
    }
}

fn judged(object: &Value) -> Vec<String> {
    let all = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let rules: Vec<Value> = match object["kind"].as_str().unwrap_or_default() {
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => {
            all(object, "webhooks").iter().flat_map(|webhook| all(webhook, "rules")).collect()
        }
        "ValidatingAdmissionPolicy" => all(&object["spec"]["matchConstraints"], "resourceRules"),
        "ResourceQuota" | "LimitRange" => return vec![format!("in {}", Object::of(object).home())],
        _ => return Vec::new(),
    };
    let named = rules.iter().flat_map(|rule| all(rule, "resources"));
    named.filter_map(|name| Some(name.as_str()?.split('/').next()?.to_owned())).collect()
}
