//! A CustomResourceDefinition -> the kinds that it makes, one for each version, and the strategy of their objects.
//!
//! Source: apiextensions-apiserver `pkg/registry/customresource`, `pkg/apiserver/customresource_handler.go`.

use std::{borrow::Cow, sync::Arc};

use api::{
    Gvk, Status,
    field_errors::{FieldError, FieldErrors, Reason},
    time::Timestamp,
};
use apiserver::{
    engine::{Claims, Engine},
    kind::{
        Came, Claimant, Conversion, Ctx, Field, Finalizers, Handler, Kind, Lookup, Name, Names, ReadStep, ScalePaths, Scope, Storage,
        Strategy, Subresource, names,
    },
    schema::{Schema, Shape},
};
use kinds::{
    common::{ALL_VERBS, OBJECT_VERBS, Path, Read, edit, name_rules},
    schema::TABLES,
};
use serde_json::Value;

use crate::{
    columns::{self, Cells},
    conversion::Webhook,
    json_path::JsonPath,
    published, rules,
    schema::{Judged, Node, complete, embedded, judge, lists, prune},
};

/// The kinds of an established definition, the one that is stored first. `engine` is who calls its webhook.
pub fn kinds(definition: &Value, engine: &Arc<Engine>) -> Vec<Kind> {
    let spec = definition.at("spec");
    let names = definition.at("status").at("acceptedNames");
    let mut versions: Vec<&Value> = spec.list("versions").iter().collect();
    versions.sort_by_key(|version| !version.is_true("storage"));
    let Some(stored) = versions.first().map(|version| version.text("name").to_owned()) else { return Vec::new() };
    let whole = Whole {
        group: spec.text("group"),
        plural: names.text("plural"),
        names,
        scope: if spec.text("scope") == "Cluster" { Scope::Cluster } else { Scope::Namespaced },
        stored: &stored,
        conversion: conversion(definition, &versions, engine),
        deprecations: versions
            .iter()
            .filter(|version| version.is_true("served"))
            .map(|version| (version.text("name"), version.is_true("deprecated")))
            .collect(),
        preserves: spec.is_true("preserveUnknownFields"),
        is_ending: definition.at("metadata").at("deletionTimestamp").is_some(),
        fields: fields(&versions),
    };
    versions.into_iter().map(|version| whole.kind(version)).collect()
}

/// What all versions share.
struct Whole<'d> {
    group: &'d str,
    plural: &'d str,
    names: Option<&'d Value>,
    scope: Scope,
    stored: &'d str,
    conversion: Conversion,
    /// Versions that are served, and whether they are deprecated.
    deprecations: Vec<(&'d str, bool)>,
    preserves: bool,
    is_ending: bool,
    /// The selectable fields of all versions.
    fields: Vec<Field>,
}

impl Whole<'_> {
    fn kind(&self, version: &Value) -> Kind {
        let name = version.text("name");
        let gvk = Gvk::new(self.group, name, self.names.text("kind"));
        let open_api = version.at("schema").at("openAPIV3Schema").unwrap_or(&Value::Null);
        let node = Arc::new(Node::of(open_api));
        let shape = Arc::new(Shaper { node: node.clone(), preserves: self.preserves });
        let (columns, cells) = columns::of(version);
        let scale = version.at("subresources").at("scale").map(scale_paths);
        let has_status = version.at("subresources").at("status").is_some();
        let is_stored = name == self.stored;
        let is_served = version.is_true("served");
        let owned = |text: &str| Name::Owned(text.to_owned());
        let schema = Schema::shaped(&gvk, open_api, Some(&TABLES), shape.clone(), published::v2);
        let subresources = if is_served { subresources(&gvk, has_status, scale.as_ref()) } else { Vec::new() };
        Kind {
            group: owned(self.group),
            version: owned(name),
            kind: owned(&gvk.kind),
            plural: owned(self.plural),
            singular: owned(self.names.text("singular")),
            short_names: words(self.names.list("shortNames")),
            categories: words(self.names.list("categories")),
            scope: self.scope,
            verbs: if is_served { names(ALL_VERBS) } else { Names::new() },
            storage: match is_stored {
                true => Storage::Kept { prefix: Name::Owned(format!("{}/{}", self.group, self.plural)), ttl_seconds: None },
                false => Storage::As { group: owned(self.group), version: owned(self.stored), plural: owned(self.plural) },
            },
            conversion: self.conversion.clone(),
            read: Some(ReadStep::new(move |object: &mut Value, came| shape.read(object, came))),
            subresources,
            columns: columns.into(),
            fields: self.selectable(version, is_stored).into(),
            schema,
            generation: true,
            finalizers: Finalizers::Any,
            strategy: Arc::new(CustomResources {
                cells,
                scale: version.at("subresources").at("scale").map(Scale::of),
                warning: self.deprecation(&gvk, version),
                ending: self.is_ending.then_some(Ending),
                has_rules: rules::has_rules(&node),
                node,
            }),
        }
    }

    /// `defaultDeprecationWarning`
    fn deprecation(&self, gvk: &Gvk, version: &Value) -> Option<String> {
        if !version.is_true("deprecated") {
            return None;
        }
        let text = version.text("deprecationWarning");
        if !text.is_empty() {
            return Some(text.to_owned());
        }
        let newer = self.deprecations.iter().filter(|(name, is_deprecated)| !is_deprecated && priority(name) > priority(&gvk.version));
        let instead = newer.max_by_key(|(name, _)| priority(name));
        let instead = instead.map(|(name, _)| format!("; use {}/{name} {}", gvk.group, gvk.kind)).unwrap_or_default();
        Some(format!("{} {} is deprecated{instead}", gvk.api_version(), gvk.kind))
    }

    /// A version's own fields; the one that is stored looks those of the others up as well, under labels that nobody can name.
    fn selectable(&self, version: &Value, is_stored: bool) -> Vec<Field> {
        let own = fields(&[version]);
        let others = self.fields.iter().filter(|field| is_stored && !own.contains(field));
        let hidden = others.map(|field| Field { label: Name::Owned(format!(" {}", field.label)), ..field.clone() });
        own.iter().cloned().chain(hidden).collect()
    }
}

fn words(list: &[Value]) -> Names {
    list.iter().filter_map(Value::as_str).map(|word| Name::Owned(word.to_owned())).collect()
}

fn fields(versions: &[&Value]) -> Vec<Field> {
    let mut out: Vec<Field> = Vec::new();
    for path in versions.iter().flat_map(|version| version.list("selectableFields")).map(|field| field.text("jsonPath")) {
        let Some(pointer) = JsonPath::parse(path).and_then(|path| path.pointer()) else { continue };
        let label = Name::Owned(path.trim_start_matches('.').to_owned());
        if out.iter().all(|field| field.label != label) {
            out.push(Field { label, pointer: Name::Owned(pointer), default: "".into(), lookup: Lookup::Scan, instead: None });
        }
    }
    out
}

/// How objects of the definition go from one version to another.
fn conversion(definition: &Value, versions: &[&Value], engine: &Arc<Engine>) -> Conversion {
    if versions.len() < 2 {
        return Conversion::None;
    }
    if definition.at("spec").at("conversion").text("strategy") == "Webhook" {
        return Conversion::Remote(Arc::new(Webhook::of(definition, engine)));
    }
    let preserves = definition.at("spec").is_true("preserveUnknownFields");
    let shaper = |version: &&Value| {
        let node = Arc::new(Node::of(version.at("schema").at("openAPIV3Schema").unwrap_or(&Value::Null)));
        (version.text("name").to_owned(), Shaper { node, preserves })
    };
    let shapers: Vec<(String, Shaper)> = versions.iter().map(shaper).collect();
    // The strategy `None`: only the version's name changes. An object has the defaults of the version that it comes from, and keeps what the other knows.
    Conversion::Direct(Arc::new(move |to: &Gvk, mut object: Value| {
        let shaper = |version: &str| shapers.iter().find(|(name, _)| name == version).map(|(_, shaper)| shaper);
        let from = (&object).text("apiVersion").rsplit('/').next().unwrap_or_default().to_owned();
        if let Some(shaper) = shaper(&from) {
            shaper.read(&mut object, Came::AsStored);
        }
        if let Some(map) = object.as_object_mut() {
            map.insert("apiVersion".into(), to.api_version().into());
        }
        if let Some(shaper) = shaper(&to.version) {
            shaper.read(&mut object, Came::Converted);
        }
        object
    }))
}

fn subresources(gvk: &Gvk, has_status: bool, scale: Option<&ScalePaths>) -> Vec<Subresource> {
    let mut out = Vec::new();
    if has_status {
        out.push(kinds::common::status(&gvk.group, &gvk.version, &gvk.kind));
    }
    if let Some(paths) = scale {
        out.push(Subresource {
            name: "scale".into(),
            body: Gvk::new("autoscaling", "v1", "Scale"),
            schema: kinds::schema::built_in("io.k8s.api.autoscaling.v1.Scale".into()),
            verbs: names(OBJECT_VERBS),
            handler: Handler::Scale(paths.clone()),
        });
    }
    out
}

fn scale_paths(scale: &Value) -> ScalePaths {
    let pointer = |name: &str| Name::Owned(pointer(scale.text(name)));
    ScalePaths {
        spec_replicas: pointer("specReplicasPath"),
        status_replicas: pointer("statusReplicasPath"),
        selector: pointer("labelSelectorPath"),
    }
}

/// `.spec.replicas` as `/spec/replicas`.
fn pointer(path: &str) -> String {
    path.strip_prefix('.').filter(|path| !path.is_empty()).map_or_else(String::new, |path| format!("/{}", path.replace('.', "/")))
}

/// What becomes of objects that are read: from a client, or from the store.
struct Shaper {
    node: Arc<Node>,
    preserves: bool,
}

impl Shape for Shaper {
    fn shape(&self, object: &mut Value) -> Vec<String> {
        if self.preserves {
            return Vec::new();
        }
        let unknown = prune::resource(&self.node, object);
        complete::drop_nulls(&self.node, object);
        unknown
    }
}

impl Shaper {
    /// Of what is stored: it may have been written under another schema. What was converted has its defaults from where it comes.
    fn read(&self, object: &mut Value, came: Came) {
        self.shape(object);
        if came == Came::AsStored {
            complete::defaults(&self.node, object);
        }
    }
}

/// Versions in their order (`CompareKubeAwareVersionStrings`): `v2`, `v1`, `v2beta1`, `v1alpha2`, and then others.
fn priority(version: &str) -> (u8, u64, u64) {
    let parsed = version.strip_prefix('v').and_then(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (major, rest) = (rest[..end].parse().ok()?, &rest[end..]);
        let minor = |word: &str| rest.strip_prefix(word).and_then(|minor| minor.parse().ok());
        match rest {
            "" => Some((3, major, 0)),
            _ => minor("beta").map(|minor| (2, major, minor)).or_else(|| minor("alpha").map(|minor| (1, major, minor))),
        }
    });
    parsed.unwrap_or((0, 0, 0))
}

struct CustomResources {
    node: Arc<Node>,
    has_rules: bool,
    cells: Cells,
    scale: Option<Scale>,
    warning: Option<String>,
    ending: Option<Ending>,
}

impl Strategy for CustomResources {
    /// Of the metadata only what the system keeps goes with a status (`statusStrategy.PrepareForUpdate`).
    fn prepare_subresource(&self, _ctx: &Ctx<'_>, new: &mut Value, old: &Value) {
        let mut metadata = old.at("metadata").cloned().unwrap_or_default();
        for name in ["managedFields", "resourceVersion"] {
            edit::carry_as(&mut metadata, name, new.at("metadata").at(name));
        }
        edit::set(new, "metadata", metadata);
    }

    fn default(&self, object: &mut Value) {
        complete::defaults(&self.node, object);
    }

    fn validate_create(&self, object: &Value, causes: &mut FieldErrors) {
        self.judged(object, None, causes);
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        self.judged(new, Some(old), causes);
    }

    fn validate_subresource(&self, _subresource: &str, new: &Value, old: &Value, causes: &mut FieldErrors) {
        let judged = match (self.node.properties.get("status"), new.get("status")) {
            (Some(node), Some(status)) => judge(node, status, old.get("status"), "status", causes),
            _ => Judged::Complete,
        };
        if let Some(scale) = &self.scale {
            scale.status(new, causes);
        }
        self.whole(new, Some(old), judged, causes);
    }

    fn deprecation(&self) -> Option<Cow<'static, str>> {
        self.warning.clone().map(Cow::Owned)
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let finalizers =
            |object: &Value| object.at("metadata").list("finalizers").iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let had: Vec<String> = old.map(finalizers).unwrap_or_default();
        let mut added: Vec<String> = finalizers(new);
        added.retain(|finalizer| !had.contains(finalizer));
        added.sort();
        added.dedup();
        added.iter().flat_map(|finalizer| finalizer_warnings(finalizer)).collect()
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn claimant(&self) -> Option<&dyn Claimant> {
        self.ending.as_ref().map(|ending| ending as &dyn Claimant)
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        self.cells.of(object, now)
    }
}

impl CustomResources {
    fn judged(&self, new: &Value, old: Option<&Value>, causes: &mut FieldErrors) {
        let judged = judge(&self.node, new, old, "", causes);
        if let Some(scale) = &self.scale {
            scale.spec(new, causes);
            scale.status(new, causes);
        }
        self.whole(new, old, judged, causes);
    }

    /// What goes beyond one value: embedded resources, lists that are sets or maps.
    fn whole(&self, new: &Value, old: Option<&Value>, judged: Judged, causes: &mut FieldErrors) {
        embedded(&self.node, new, Path::ROOT, causes);
        let was_unique = |old: &Value| {
            let mut before = FieldErrors::default();
            lists::unique(&self.node, old, Path::ROOT, &mut before);
            before.is_empty()
        };
        if old.is_none_or(was_unique) {
            lists::unique(&self.node, new, Path::ROOT, causes);
        }
        let blocks = |cause: &FieldError| {
            matches!(cause.reason, Reason::NotSupported | Reason::Required | Reason::TooLong | Reason::TooMany | Reason::TypeInvalid)
        };
        let judged = if causes.0.iter().any(blocks) { Judged::Blocked } else { judged };
        match judged {
            _ if !self.has_rules => {}
            Judged::Complete => rules::run(&self.node, new, old, Path::ROOT, causes),
            Judged::Blocked => {
                let why = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
                causes.invalid("<nil>", Value::Null, why);
            }
        }
    }
}

/// `validateKubeFinalizerName`
fn finalizer_warnings(finalizer: &str) -> Vec<String> {
    const STANDARD: [&str; 3] = ["orphan", "foregroundDeletion", "kubernetes"];
    let mut out: Vec<String> =
        name_rules::qualified(finalizer).iter().map(|why| format!("metadata.finalizers: {}: {why}", api::quoted(finalizer))).collect();
    if !finalizer.contains('/') && !STANDARD.contains(&finalizer) {
        let how = if finalizer.contains('.') { "name including a path (/)" } else { "name" };
        out.push(format!(
            "metadata.finalizers: {}: prefer a domain-qualified finalizer {how} to avoid accidental conflicts with other finalizer writers",
            api::quoted(finalizer)
        ));
    }
    out
}

/// Where a scale finds its numbers, as the definition writes it.
struct Scale {
    spec_replicas: String,
    status_replicas: String,
    selector: String,
}

impl Scale {
    fn of(scale: &Value) -> Self {
        let path = |name: &str| scale.text(name).to_owned();
        Self { spec_replicas: path("specReplicasPath"), status_replicas: path("statusReplicasPath"), selector: path("labelSelectorPath") }
    }

    fn spec(&self, object: &Value, causes: &mut FieldErrors) {
        replicas(object, &self.spec_replicas, causes);
    }

    fn status(&self, object: &Value, causes: &mut FieldErrors) {
        replicas(object, &self.status_replicas, causes);
        if let Some(other) = object.pointer(&pointer(&self.selector)).filter(|found| !found.is_string() && !self.selector.is_empty()) {
            let why = format!("{} accessor error: {} is of the type {}, expected string", self.selector, go_value(other), go_type(other));
            causes.invalid(self.selector.as_str(), "", &why);
        }
    }
}

fn replicas(object: &Value, path: &str, causes: &mut FieldErrors) {
    let Some(found) = object.pointer(&pointer(path)) else { return };
    match found.as_i64() {
        None => {
            let why = format!("{path} accessor error: {} is of the type {}, expected int64", go_value(found), go_type(found));
            causes.invalid(path, 0, &why);
        }
        Some(count) if count < 0 => causes.invalid(path, count, "should be a non-negative integer"),
        Some(count) if count > i64::from(i32::MAX) => {
            causes.invalid(path, count, &format!("should be less than or equal to {}", i32::MAX));
        }
        Some(_) => {}
    }
}

/// As Go's `%v` writes it.
fn go_value(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if !number.is_i64() => number.as_f64().map_or_else(|| number.to_string(), |number| number.to_string()),
        other => other.to_string(),
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_i64() => "int64",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// Of a definition that is being deleted: no more objects are made (`forbidCreateAdmission`).
struct Ending;

#[async_trait::async_trait]
impl Claimant for Ending {
    async fn claim(&self, _ctx: &Ctx<'_>, _object: &mut Value, old: Option<&Value>) -> Result<Claims, Status> {
        match old {
            Some(_) => Ok(Claims::default()),
            None => Err(Status::new(405, "MethodNotAllowed", "create not allowed while custom resource definition is terminating")),
        }
    }

    async fn release(&self, _ctx: &Ctx<'_>, _object: &Value) -> Result<Claims, Status> {
        Ok(Claims::default())
    }
}
