//! A kind -> the operations on its paths, in neither version's form yet. Source: apiserver `pkg/endpoints/installer.go`.

use api::Gvk;

use super::definitions::Definitions;
use crate::kind::{Handler, Kind, Scope};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// One method on one path.
pub struct Operation {
    pub path: String,
    pub method: &'static str,
    /// `x-kubernetes-action`.
    pub action: &'static str,
    pub id: String,
    pub description: String,
    pub tag: String,
    pub gvk: Gvk,
    pub parameters: Vec<&'static Parameter>,
    /// Definition of the body, if one is sent.
    pub body: Option<String>,
    /// Definition of the reply; `None`: text.
    pub reply: Option<String>,
    pub codes: &'static [&'static str],
}

pub struct Parameter {
    pub name: &'static str,
    /// `string`, `boolean`, `integer`.
    pub typ: &'static str,
    pub description: &'static str,
}

/// Media types of a patch's body; apply patches are not served yet.
pub const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
pub const MEDIA: [&str; 2] = ["application/json", "application/yaml"];

/// Every operation of a kind.
pub fn operations(kind: &Kind, definitions: &Definitions<'_>) -> Vec<Operation> {
    let maker = Maker { kind, definitions };
    let root = if kind.group.is_empty() { format!("/api/{}", kind.version) } else { format!("/apis/{}/{}", kind.group, kind.version) };
    let collection = match kind.scope {
        Scope::Namespaced => format!("{root}/namespaces/{{namespace}}/{}", kind.plural),
        Scope::Cluster => format!("{root}/{}", kind.plural),
    };
    let item = format!("{collection}/{{name}}");
    let mut out = Vec::new();
    for verb in kind.verbs.iter() {
        let path = if matches!(&**verb, "list" | "create" | "deletecollection") { &collection } else { &item };
        out.extend(maker.resource(verb, path.clone()));
    }
    if kind.scope == Scope::Namespaced && kind.serves("list") {
        let mut all = maker.resource("list", format!("{root}/{}", kind.plural));
        all.iter_mut().for_each(|op| op.id = format!("list{}{}ForAllNamespaces", maker.prefix(), kind.kind));
        out.extend(all);
    }
    for sub in &kind.subresources {
        let path = format!("{item}/{}", sub.name);
        out.extend(sub.verbs.iter().flat_map(|verb| maker.subresource(sub, verb, path.clone())));
    }
    out
}

struct Maker<'a> {
    kind: &'a Kind,
    definitions: &'a Definitions<'a>,
}

impl Maker<'_> {
    fn resource(&self, verb: &str, path: String) -> Option<Operation> {
        let described = self.definitions.text(self.kind.schema.name()).is_some();
        let own = described.then(|| self.kind.schema.name().to_owned());
        let verbed = self.verbed(verb)?;
        let kind = &self.kind.kind;
        let middle = if self.kind.scope == Scope::Namespaced { "Namespaced" } else { "" };
        let collection = if verb == "deletecollection" { "Collection" } else { "" };
        Some(Operation {
            id: format!("{}{}{collection}{middle}{kind}", verbed.word, self.prefix()),
            description: format!("{} {kind}", verbed.sentence),
            reply: match verb {
                "list" => own.as_ref().map(|own| format!("{own}List")),
                "delete" | "deletecollection" => Some(format!("{META}Status")),
                _ => own.clone(),
            },
            body: verbed.body(own),
            path,
            ..self.blank(&verbed)
        })
    }

    fn subresource(&self, sub: &crate::kind::Subresource, verb: &str, path: String) -> Option<Operation> {
        let connect = matches!(sub.handler, Handler::Connect(_));
        let verbed = if connect { connected(verb)? } else { self.verbed(verb)? };
        let definition = self.definitions.of_body(self.kind, sub).map(str::to_owned);
        let (kind, name) = (&self.kind.kind, sub.name.as_ref());
        let middle = if self.kind.scope == Scope::Namespaced { "Namespaced" } else { "" };
        Some(Operation {
            id: format!("{}{}{middle}{kind}{}", verbed.word, self.prefix(), capital(name)),
            description: format!("{} {name} of the specified {kind}", verbed.sentence),
            reply: if connect { None } else { definition.clone() },
            body: if connect { None } else { verbed.body(definition) },
            path,
            gvk: sub.body.clone(),
            ..self.blank(&verbed)
        })
    }

    fn blank(&self, verbed: &Verb) -> Operation {
        Operation {
            path: String::new(),
            method: verbed.method,
            action: verbed.action,
            id: String::new(),
            description: String::new(),
            tag: format!("{}_{}", uncapital(&self.group()), self.kind.version),
            gvk: self.kind.gvk(),
            parameters: verbed.parameters.iter().copied().flatten().collect(),
            body: None,
            reply: None,
            codes: verbed.codes,
        }
    }

    fn verbed(&self, verb: &str) -> Option<Verb> {
        VERBS.iter().find(|(name, _)| *name == verb).map(|(_, verb)| *verb)
    }

    /// `CoreV1`, `RbacAuthorizationV1`.
    fn prefix(&self) -> String {
        format!("{}{}", self.group(), capital(&self.kind.version))
    }

    fn group(&self) -> String {
        match self.kind.group.as_ref() {
            "" => "Core".into(),
            group => group.trim_end_matches(".k8s.io").split('.').map(capital).collect(),
        }
    }
}

#[derive(Clone, Copy)]
struct Verb {
    word: &'static str,
    method: &'static str,
    action: &'static str,
    sentence: &'static str,
    parameters: &'static [&'static [Parameter]],
    codes: &'static [&'static str],
}

impl Verb {
    fn body(&self, own: Option<String>) -> Option<String> {
        match self.action {
            "patch" => Some(format!("{META}Patch")),
            "delete" | "deletecollection" => Some(format!("{META}DeleteOptions")),
            "put" | "post" => own,
            _ => None,
        }
    }
}

const fn verb(
    word: &'static str,
    method: &'static str,
    action: &'static str,
    sentence: &'static str,
    parameters: &'static [&'static [Parameter]],
    codes: &'static [&'static str],
) -> Verb {
    Verb { word, method, action, sentence, parameters, codes }
}

const VERBS: &[(&str, Verb)] = &[
    ("get", verb("read", "get", "get", "read the specified", &[], &["200"])),
    ("list", verb("list", "get", "list", "list or watch objects of kind", &[LIST], &["200"])),
    ("create", verb("create", "post", "post", "create a", &[WRITE], &["200", "201", "202"])),
    ("update", verb("replace", "put", "put", "replace the specified", &[WRITE], &["200", "201"])),
    ("patch", verb("patch", "patch", "patch", "partially update the specified", &[WRITE, FORCE], &["200", "201"])),
    ("delete", verb("delete", "delete", "delete", "delete a", &[DELETE], &["200", "202"])),
    ("deletecollection", verb("delete", "delete", "deletecollection", "delete collection of", &[DELETE, LIST], &["200"])),
];

fn connected(verb: &str) -> Option<Verb> {
    let (word, method) = match verb {
        "get" => ("connectGet", "get"),
        "create" => ("connectPost", "post"),
        "update" => ("connectPut", "put"),
        "patch" => ("connectPatch", "patch"),
        "delete" => ("connectDelete", "delete"),
        _ => return None,
    };
    Some(Verb { word, method, action: "connect", sentence: "connect to", parameters: &[], codes: &["200"] })
}

const fn parameter(name: &'static str, typ: &'static str, description: &'static str) -> Parameter {
    Parameter { name, typ, description }
}

pub static PRETTY: Parameter = parameter("pretty", "string", "If 'true', the reply is indented.");
pub static NAME: Parameter = parameter("name", "string", "Name of the object.");
pub static NAMESPACE: Parameter = parameter("namespace", "string", "Namespace of the object.");

const WRITE: &[Parameter] = &[
    parameter("dryRun", "string", "With 'All' every stage of the request is run, but nothing is stored."),
    parameter("fieldManager", "string", "A name for who makes the change: printable, at most 128 characters."),
    parameter(
        "fieldValidation",
        "string",
        "What happens to unknown and duplicate fields: Ignore drops them silently, Warn (the default) answers with a warning for each, Strict refuses the request.",
    ),
];
const FORCE: &[Parameter] = &[parameter("force", "boolean", "Take over fields that others own. Only for apply patches.")];
const DELETE: &[Parameter] = &[
    parameter("dryRun", "string", "With 'All' every stage of the request is run, but nothing is stored."),
    parameter("gracePeriodSeconds", "integer", "Seconds until the object is deleted; 0 means at once."),
    parameter("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    parameter("propagationPolicy", "string", "What happens to dependents: Orphan, Background or Foreground."),
];
const LIST: &[Parameter] = &[
    parameter("allowWatchBookmarks", "boolean", "Ask for events of type BOOKMARK in a watch."),
    parameter("continue", "string", "The token of the previous page."),
    parameter("fieldSelector", "string", "Only objects with these fields."),
    parameter("labelSelector", "string", "Only objects with these labels."),
    parameter("limit", "integer", "At most so many objects; the reply has a continue token if there are more."),
    parameter("resourceVersion", "string", "From which version on the reply may be."),
    parameter("resourceVersionMatch", "string", "How resourceVersion is meant: Exact or NotOlderThan."),
    parameter("sendInitialEvents", "boolean", "Begin a watch with the objects that there are."),
    parameter("timeoutSeconds", "integer", "End the call after so many seconds."),
    parameter("watch", "boolean", "Stream changes instead of listing."),
];

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

fn uncapital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}
