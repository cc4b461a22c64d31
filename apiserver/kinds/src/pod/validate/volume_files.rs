//! Files that a volume is asked to hold -> what is wrong with how they are named. Source: `pkg/apis/core/validation`.

use api::field_errors::FieldErrors;
use serde_json::Value;

use super::{env, file_mode, local_path, require};
use crate::common::{Path, Read};

/// `validateKeyToPath` of each.
pub fn keys(items: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    for (i, item) in items.iter().enumerate() {
        let at = path.index(i);
        require(item, "key", at, causes);
        require(item, "path", at, causes);
        local_path(item.text("path"), at.field("path"), causes);
        file_mode(item, "mode", at, causes);
    }
}

/// `validateDownwardAPIVolumeFile`
pub fn downward_file(file: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    require(file, "path", path, causes);
    local_path(file.text("path"), path.field("path"), causes);
    match (file.at("fieldRef"), file.at("resourceFieldRef")) {
        (Some(field), resource) => {
            env::field_ref(field, env::Place::Volume, path.field("fieldRef"), causes);
            if resource.is_some() {
                causes.invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
            }
        }
        (None, Some(resource)) => env::resource_field_ref(resource, env::Place::Volume, path.field("resourceFieldRef"), causes),
        (None, None) => causes.required(path, "one of fieldRef and resourceFieldRef is required"),
    }
    file_mode(file, "mode", path, causes);
}
