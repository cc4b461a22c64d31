//! Kinds -> the operations on their paths, and beside them those of discovery; in neither version's form yet.
//!
//! Source: apiserver `pkg/endpoints/installer.go`, `pkg/endpoints/discovery`, `pkg/routes`; kube-openapi `pkg/builder`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use api::Gvk;

use super::{
    definitions::Definitions,
    parameters::{NAMESPACE, PATH, PRETTY, Parameter},
};
use crate::{
    kind::{Handler, Kind, Scope, Subresource},
    schema::Schema,
};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// One method on one path.
#[derive(Clone, Debug, Default)]
pub struct Operation {
    pub path: String,
    pub method: &'static str,
    /// `x-kubernetes-action`; empty for what is not about a kind.
    pub action: &'static str,
    pub id: String,
    pub description: String,
    pub tag: String,
    pub gvk: Option<Gvk>,
    pub parameters: Vec<Parameter>,
    /// Definition of the body, if one is sent.
    pub body: Option<String>,
    /// Definition of the reply; `None`: text.
    pub reply: Option<String>,
    pub codes: &'static [&'static str],
    pub consumes: &'static [&'static str],
    pub produces: &'static [&'static str],
}

/// The operations on one path, and the parameters that they share.
#[derive(Debug, Default)]
pub struct PathItem {
    pub shared: Vec<Parameter>,
    pub operations: Vec<Operation>,
}

/// Media types of a patch's body.
const PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
/// Custom resources are not merged strategically.
const CUSTOM_PATCHES: &[&str] = &["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];
const MEDIA: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const STREAMED: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
const CUSTOM_MEDIA: &[&str] = &["application/json", "application/yaml"];
const TEXT: &[&str] = &["text/plain", "application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const ANY: &[&str] = &["*/*"];

/// By path; what all operations on a path take stands with the path.
pub fn paths(operations: Vec<Operation>) -> BTreeMap<String, PathItem> {
    let mut paths: BTreeMap<String, PathItem> = BTreeMap::new();
    for mut operation in operations {
        operation.parameters.sort_by(|a, b| (&a.name, a.place).cmp(&(&b.name, b.place)));
        paths.entry(operation.path.clone()).or_default().operations.push(operation);
    }
    for item in paths.values_mut() {
        let Some((first, others)) = item.operations.split_first() else { continue };
        let is_shared = |parameter: &&Parameter| others.iter().all(|operation| operation.parameters.contains(parameter));
        item.shared = first.parameters.iter().filter(is_shared).cloned().collect();
        for operation in &mut item.operations {
            operation.parameters.retain(|parameter| !item.shared.contains(parameter));
        }
    }
    paths
}

/// The definitions that operations name.
pub fn named(operations: &[Operation]) -> BTreeSet<&str> {
    operations.iter().flat_map(|operation| [&operation.body, &operation.reply]).flatten().map(String::as_str).collect()
}

/// Whether the kind is one of the binary's own: custom ones are described by their definitions alone.
fn is_built_in(kind: &Kind) -> bool {
    matches!(kind.schema, Schema::BuiltIn { .. })
}

/// Beside kinds: discovery, version, keys of service accounts. Each has a document of its own in version 3, but for lists of resources.
pub fn of_no_kind(kinds: &[Arc<Kind>]) -> Vec<Operation> {
    let one = |path: &str, id: &str, description: &str, tag: &str, reply: Option<String>| Operation {
        path: path.into(),
        method: "get",
        id: id.into(),
        description: description.into(),
        tag: tag.into(),
        consumes: if reply.is_some() { MEDIA } else { &[] },
        produces: if reply.is_some() { MEDIA } else { CUSTOM_MEDIA.split_at(1).0 },
        reply,
        codes: &["200"],
        ..Operation::default()
    };
    let versions = "get available API versions";
    let mut out = vec![
        one("/api/", "getCoreAPIVersions", versions, "core", Some(format!("{META}APIVersions"))),
        one("/apis/", "getAPIVersions", versions, "apis", Some(format!("{META}APIGroupList"))),
    ];
    let groups: BTreeSet<&str> = kinds.iter().filter(|kind| is_built_in(kind)).map(|kind| kind.group.as_ref()).collect();
    for group in groups.into_iter().filter(|group| !group.is_empty()) {
        let (path, id) = (format!("/apis/{group}/"), format!("get{}APIGroup", group_words(group)));
        out.push(one(&path, &id, "get information of a group", &uncapital(&group_words(group)), Some(format!("{META}APIGroup"))));
    }
    let mut version = one(
        "/version/",
        "getCodeVersion",
        "get the version information for this server",
        "version",
        Some("io.k8s.apimachinery.pkg.version.Info".into()),
    );
    (version.consumes, version.produces) = (MEDIA.split_at(1).0, MEDIA.split_at(1).0);
    let issuer = "get service account issuer OpenID";
    let keys = format!("{issuer} JSON Web Key Set (contains public token verification keys)");
    let about = format!("{issuer} configuration, also known as the 'OIDC discovery doc'");
    let mut jwks = one("/openid/v1/jwks/", "getServiceAccountIssuerOpenIDKeyset", &keys, "openid", None);
    jwks.produces = &["application/jwk-set+json"];
    let configuration = "/.well-known/openid-configuration/";
    out.extend([version, jwks, one(configuration, "getServiceAccountIssuerOpenIDConfiguration", &about, "WellKnown", None)]);
    out
}

/// The lists of resources of the group versions that have built-in kinds, and every operation of the kinds.
pub fn of_kinds(kinds: &[Arc<Kind>], definitions: &Definitions<'_>) -> Vec<Operation> {
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for kind in kinds {
        let maker = Maker { kind, definitions };
        if is_built_in(kind) && seen.insert(maker.root()) {
            out.push(maker.resources());
        }
        out.extend(maker.operations());
    }
    out
}

struct Maker<'a> {
    kind: &'a Kind,
    definitions: &'a Definitions<'a>,
}

impl Maker<'_> {
    fn root(&self) -> String {
        let Kind { group, version, .. } = self.kind;
        if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
    }

    fn resources(&self) -> Operation {
        Operation {
            path: format!("{}/", self.root()),
            method: "get",
            id: format!("get{}APIResources", self.prefix()),
            description: "get available resources".into(),
            tag: self.tag(),
            reply: Some(format!("{META}APIResourceList")),
            codes: &["200"],
            consumes: MEDIA,
            produces: MEDIA,
            ..Operation::default()
        }
    }

    fn operations(&self) -> Vec<Operation> {
        let kind = self.kind;
        let (root, plural) = (self.root(), &kind.plural);
        let is_namespaced = kind.scope == Scope::Namespaced;
        let place = if is_namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{root}{place}/{plural}");
        let item = format!("{collection}/{{name}}");
        let mut out = Vec::new();
        for verb in kind.verbs.iter() {
            let path = if matches!(&**verb, "list" | "create" | "deletecollection") { &collection } else { &item };
            out.extend(self.resource(verb, path.clone()));
        }
        let all = |id: String, verb: &str, path: String| self.resource(verb, path).map(|operation| Operation { id, ..operation });
        if is_namespaced && kind.serves("list") {
            out.extend(all(format!("list{}{}ForAllNamespaces", self.prefix(), kind.kind), "list", format!("{root}/{plural}")));
        }
        if kind.serves("watch") && is_built_in(kind) {
            out.extend(self.watches(&root, place));
        }
        for sub in &kind.subresources {
            let path = format!("{item}/{}", sub.name);
            match &sub.handler {
                Handler::Connect(connect) if sub.body != kind.gvk() => out.extend(self.connections(sub, &path, connect.takes_path())),
                _ => out.extend(sub.verbs.iter().filter_map(|verb| self.subresource(sub, verb, path.clone()))),
            }
        }
        for operation in &mut out {
            if operation.path.contains("{namespace}") {
                operation.parameters.push(NAMESPACE.clone());
            }
        }
        out
    }

    fn resource(&self, verb: &str, path: String) -> Option<Operation> {
        let kind = &self.kind.kind;
        let own = self.definitions.text(self.kind.schema.name()).is_some().then(|| self.kind.schema.name().to_owned());
        let verbed = VERBS.iter().find(|verbed| verbed.verb == verb)?;
        let deletes = matches!(verb, "delete" | "deletecollection");
        let collection = if verb == "deletecollection" { "Collection" } else { "" };
        let sentence = match verb {
            "list" if !self.kind.serves("watch") => "list objects of kind".to_owned(),
            "create" | "delete" => format!("{} {}", verbed.sentence, article(kind)),
            _ => verbed.sentence.to_owned(),
        };
        let mut out = self.verbed(verbed, path);
        out.id = format!("{}{}{collection}{}{kind}", verbed.word, self.prefix(), self.middle());
        out.description = format!("{sentence} {kind}");
        out.reply = match verb {
            "list" => own.as_ref().map(|own| format!("{own}List")),
            _ if deletes && !(verb == "delete" && self.kind.strategy.returns_deleted()) => Some(format!("{META}Status")),
            _ => own.clone(),
        };
        out.body = verbed.body(own);
        if out.path.ends_with("{name}") {
            out.parameters.push(Parameter::name_of(kind));
        }
        if verb == "list" {
            out.produces = self.media(STREAMED);
        }
        Some(out)
    }

    /// The deprecated paths that have the verb in them.
    fn watches(&self, root: &str, place: &str) -> Vec<Operation> {
        const INSTEAD: &str = "deprecated: use the 'watch' parameter with a list operation instead";
        let Kind { kind, plural, .. } = self.kind;
        let (prefix, middle) = (self.prefix(), self.middle());
        let one = |path: String, action: &'static str, id: String, description: String| Operation {
            path,
            method: "get",
            action,
            id,
            description,
            tag: self.tag(),
            gvk: Some(self.kind.gvk()),
            parameters: [Parameter::listed(self.definitions, "#list"), vec![PRETTY.clone()]].concat(),
            reply: Some(format!("{META}WatchEvent")),
            codes: &["200"],
            consumes: ANY,
            produces: self.media(STREAMED),
            ..Operation::default()
        };
        let collection = format!("{root}/watch{place}/{plural}");
        let many = format!("watch individual changes to a list of {kind}. {INSTEAD}.");
        let single =
            format!("watch changes to an object of kind {kind}. {INSTEAD}, filtered to a single item with the 'fieldSelector' parameter.");
        let mut out = vec![one(collection.clone(), "watchlist", format!("watch{prefix}{middle}{kind}List"), many.clone())];
        if self.kind.serves("get") {
            let mut item = one(format!("{collection}/{{name}}"), "watch", format!("watch{prefix}{middle}{kind}"), single);
            item.parameters.push(Parameter::name_of(kind));
            out.push(item);
        }
        if !place.is_empty() {
            out.push(one(format!("{root}/watch/{plural}"), "watchlist", format!("watch{prefix}{kind}ListForAllNamespaces"), many));
        }
        out
    }

    fn subresource(&self, sub: &Subresource, verb: &str, path: String) -> Option<Operation> {
        let verbed = VERBS.iter().find(|verbed| verbed.verb == verb)?;
        let definition = self.definitions.of_body(self.kind, sub).map(str::to_owned);
        let (kind, name) = (&self.kind.kind, sub.name.as_ref());
        let mut out = self.verbed(verbed, path);
        out.id = format!("{}{}{}{kind}{}", verbed.word, self.prefix(), self.middle(), capital(name));
        out.description = match verb {
            "create" => format!("create {name} of {} {kind}", article(kind)),
            _ => format!("{} {name} of the specified {kind}", verbed.sentence.trim_end_matches(" the specified")),
        };
        out.gvk = Some(sub.body.clone());
        out.parameters.push(Parameter::name_of(&sub.body.kind));
        if matches!(sub.handler, Handler::Connect(_)) {
            out.parameters.extend(Parameter::listed(self.definitions, &format!("#{}/{name}", self.kind.plural)));
            out.produces = TEXT;
        } else {
            (out.reply, out.body) = (definition.clone(), verbed.body(definition));
        }
        Some(out)
    }

    fn connections(&self, sub: &Subresource, path: &str, takes_path: bool) -> Vec<Operation> {
        let (kind, name) = (&self.kind.kind, sub.name.as_ref());
        let methods = [("get", "get"), ("create", "post"), ("update", "put"), ("patch", "patch"), ("delete", "delete")];
        let mut methods: Vec<&'static str> =
            methods.into_iter().filter(|(verb, _)| sub.verbs.iter().any(|v| v == verb)).map(|(_, m)| m).collect();
        if takes_path {
            methods.extend(["head", "options"]);
        }
        let listed = Parameter::listed(self.definitions, &format!("#{}/{name}", self.kind.plural));
        let one = |method: &'static str, path: String, end: &str| Operation {
            path,
            method,
            action: "connect",
            id: format!("connect{}{}{}{kind}{}{end}", self.prefix(), capital(method), self.middle(), capital(name)),
            description: format!("connect {} requests to {name} of {kind}", method.to_uppercase()),
            tag: self.tag(),
            gvk: Some(sub.body.clone()),
            parameters: [listed.clone(), vec![Parameter::name_of(&sub.body.kind)]].concat(),
            codes: &["200"],
            consumes: ANY,
            produces: ANY,
            ..Operation::default()
        };
        let mut out: Vec<Operation> = methods.iter().map(|method| one(method, path.to_owned(), "")).collect();
        if takes_path {
            for mut operation in methods.iter().map(|method| one(method, format!("{path}/{{path}}"), "WithPath")) {
                operation.parameters.push(PATH.clone());
                out.push(operation);
            }
        }
        out
    }

    fn verbed(&self, verbed: &Verb, path: String) -> Operation {
        let listed = if verbed.verb == "get" { Vec::new() } else { Parameter::listed(self.definitions, &format!("#{}", verbed.verb)) };
        let patches = if is_built_in(self.kind) { PATCHES } else { CUSTOM_PATCHES };
        Operation {
            path,
            method: verbed.method,
            action: verbed.action,
            tag: self.tag(),
            gvk: Some(self.kind.gvk()),
            parameters: [listed, vec![PRETTY.clone()]].concat(),
            codes: verbed.codes,
            consumes: if verbed.verb == "patch" { patches } else { ANY },
            produces: self.media(MEDIA),
            ..Operation::default()
        }
    }

    fn media(&self, of_built_in: &'static [&'static str]) -> &'static [&'static str] {
        if self.kind.schema.has_protobuf() { of_built_in } else { CUSTOM_MEDIA }
    }

    fn middle(&self) -> &'static str {
        if self.kind.scope == Scope::Namespaced { "Namespaced" } else { "" }
    }

    fn tag(&self) -> String {
        format!("{}_{}", uncapital(&group_words(&self.kind.group)), self.kind.version)
    }

    /// `CoreV1`, `RbacAuthorizationV1`.
    fn prefix(&self) -> String {
        format!("{}{}", group_words(&self.kind.group), capital(&self.kind.version))
    }
}

fn group_words(group: &str) -> String {
    match group {
        "" => "Core".into(),
        group => group.trim_end_matches(".k8s.io").split('.').map(capital).collect(),
    }
}

struct Verb {
    verb: &'static str,
    word: &'static str,
    method: &'static str,
    action: &'static str,
    sentence: &'static str,
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
    verb: &'static str,
    word: &'static str,
    method: &'static str,
    action: &'static str,
    sentence: &'static str,
    codes: &'static [&'static str],
) -> Verb {
    Verb { verb, word, method, action, sentence, codes }
}

const VERBS: &[Verb] = &[
    verb("get", "read", "get", "get", "read the specified", &["200"]),
    verb("list", "list", "get", "list", "list or watch objects of kind", &["200"]),
    verb("create", "create", "post", "post", "create", &["200", "201", "202"]),
    verb("update", "replace", "put", "put", "replace the specified", &["200", "201"]),
    verb("patch", "patch", "patch", "patch", "partially update the specified", &["200", "201"]),
    verb("delete", "delete", "delete", "delete", "delete", &["200", "202"]),
    verb("deletecollection", "delete", "delete", "deletecollection", "delete collection of", &["200"]),
];

/// What a status code says of itself.
pub fn reason(code: &str) -> &'static str {
    match code {
        "201" => "Created",
        "202" => "Accepted",
        _ => "OK",
    }
}

fn article(kind: &str) -> &'static str {
    if kind.starts_with(['A', 'E', 'I', 'O', 'U']) { "an" } else { "a" }
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

fn uncapital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}
