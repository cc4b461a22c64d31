//! A pod's `spec` as JSON -> its view. Read leniently: absent, null and mistyped are one.

use serde_json::Value;

use crate::{ContainerView, List, SpecView, Stated};

impl SpecView for Value {
    type Container = Value;

    fn containers(&self) -> &[Value] {
        array(self, "containers")
    }

    fn init_containers(&self) -> &[Value] {
        array(self, "initContainers")
    }

    fn resources(&self) -> Option<Stated<'_>> {
        self.get("resources").filter(|own| !own.is_null()).map(stated)
    }

    fn overhead(&self) -> List<'_> {
        list(self, "overhead")
    }
}

impl ContainerView for Value {
    fn restart_policy(&self) -> Option<&str> {
        self.get("restartPolicy")?.as_str()
    }

    fn resources(&self) -> Stated<'_> {
        self.get("resources").map(stated).unwrap_or_default()
    }

    fn host_ports(&self) -> impl Iterator<Item = (i32, &str, &str)> {
        array(self, "ports").iter().map(|port| {
            let number = port.get("hostPort").and_then(Value::as_i64).and_then(|number| i32::try_from(number).ok());
            (number.unwrap_or(0), text(port, "hostIP"), text(port, "protocol"))
        })
    }
}

fn stated(resources: &Value) -> Stated<'_> {
    Stated { requests: list(resources, "requests"), limits: list(resources, "limits") }
}

fn list<'v>(holder: &'v Value, name: &str) -> List<'v> {
    holder.get(name).and_then(Value::as_object).map_or(List::Empty, List::Json)
}

fn array<'v>(holder: &'v Value, name: &str) -> &'v [Value] {
    holder.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'v>(holder: &'v Value, name: &str) -> &'v str {
    holder.get(name).and_then(Value::as_str).unwrap_or("")
}
