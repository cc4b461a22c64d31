//! ResourceClaimTemplate: the claims that each pod gets for itself. Source: `pkg/registry/resource/resourceclaimtemplate`,
//! `ValidateResourceClaimTemplate`.

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Ctx, Kind, Strategy};
use serde_json::Value;

use super::{GROUP, PACKAGE, VERSION, authorized, requests};
use crate::{
    common::{self, Path, Read, edit, read, selector, table},
    schema::internal,
};

const SPEC: Path<'static> = Path::new("spec");

pub fn kind() -> Kind {
    common::kind(GROUP, VERSION, "ResourceClaimTemplate", "resourceclaimtemplates", PACKAGE, Templates)
}

struct Templates;

impl Strategy for Templates {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = edit::make_child(object, "spec").and_then(|spec| edit::make_child(spec, "spec")) {
            requests::default(spec);
        }
    }

    fn validate_request(&self, ctx: &Ctx<'_>, new: &Value, old: Option<&Value>, causes: &mut FieldErrors) {
        // The spec never changes.
        if old.is_none() {
            authorized::admin_requests(ctx, new.at("spec").at("spec").at("devices").list("requests"), causes);
        }
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        let (spec, metadata, at) = (object.at("spec"), object.at("spec").at("metadata"), SPEC.field("metadata"));
        selector::labels(metadata.at("labels"), at.field("labels"), causes);
        selector::annotations(metadata.at("annotations"), at.field("annotations"), causes);
        requests::validate(spec.at("spec").at("devices"), SPEC.field("spec").field("devices"), causes);
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        if !read::same(new.at("spec"), old.at("spec")) {
            causes.invalid(SPEC, internal::shown("resource.ResourceClaimTemplateSpec", new.at("spec")), "field is immutable");
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        table::metadata_cells(object, now)
    }
}
