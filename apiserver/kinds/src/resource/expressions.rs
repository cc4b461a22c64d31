//! An expression that selects devices -> what is wrong with it. Source: dynamic-resource-allocation `cel/compile.go`.

use std::rc::Rc;

use api::field_errors::FieldErrors;
use cel::{
    Checker, Record, T,
    estimate::{self, Shape},
};

use crate::common::Path;

/// `CELSelectorExpressionMaxLength`, in bytes.
const EXPRESSION_BYTES: usize = 10 << 10;
/// `CELSelectorExpressionMaxCost`, in upstream's units.
const EXPRESSION_COST_MAX: u64 = 1_000_000;
/// `DriverNameMaxLength`, `DeviceMaxDomainLength`, `DeviceMaxIDLength`, `DeviceAttributeMaxValueLength`, in bytes.
const DRIVER_BYTES: u64 = 63;
const DOMAIN_BYTES: u64 = 63;
const ID_BYTES: u64 = 32;
const VALUE_BYTES: u64 = 64;
/// `ResourceSliceMaxAttributesAndCapacitiesPerDevice`
const ENTRIES: u64 = 32;

/// `validateCELSelector`: also what is stored already is compiled.
pub fn validate(source: &str, path: Path<'_>, causes: &mut FieldErrors) {
    if source.len() > EXPRESSION_BYTES {
        return causes.too_long(path, EXPRESSION_BYTES);
    }
    match cost(source) {
        Err(why) => causes.invalid(path, source, &why),
        Ok(cost) if cost > EXPRESSION_COST_MAX => causes.forbidden(path, "too complex, exceeds cost limit"),
        Ok(_) => {}
    }
}

/// What it may cost at most (`CompileCELExpression`).
fn cost(source: &str) -> Result<u64, String> {
    let failed = |issue: cel::Issue| format!("compilation failed: {}", issue.print(source));
    let expr = cel::parse(source).map_err(failed)?;
    let typ = Checker::new(vec![("device".to_owned(), device())]).check(&expr).map_err(failed)?;
    // An attribute may be anything, a bool for one.
    if !matches!(typ, T::Bool | T::Any) {
        return Err(format!("must evaluate to bool or the unknown type, not {}", typ.of_result()));
    }
    Ok(estimate::cost_with(&expr, vec![("device", shape())]))
}

/// With the gate DRAConsumableCapacity, and without DRAListTypeAttributes.
fn device() -> T<'static> {
    let by_domain = |held: T<'static>| T::Map(Rc::new(T::Text), Rc::new(T::Map(Rc::new(T::Text), Rc::new(held))));
    let fields = vec![
        ("driver", T::Text),
        ("allowMultipleAllocations", T::Bool),
        ("attributes", by_domain(T::Any)),
        ("capacity", by_domain(T::Library("kubernetes.Quantity"))),
    ];
    T::Record(Rc::new(Record { name: "kubernetes.DRADevice", fields }))
}

/// How large its parts may be.
fn shape() -> Shape<'static> {
    let text = |bytes| Shape::Made(bytes, None);
    let by_domain = |held| {
        let by_id = Shape::Entries(ENTRIES, Rc::new((text(ID_BYTES), held)));
        Shape::Entries(ENTRIES, Rc::new((text(DOMAIN_BYTES), by_id)))
    };
    Shape::Fields(Rc::new(vec![
        ("driver", text(DRIVER_BYTES)),
        ("allowMultipleAllocations", text(1)),
        ("attributes", by_domain(text(VALUE_BYTES))),
        ("capacity", by_domain(Shape::Unknown)),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Costs are those of upstream's `compile_test.go`; ours are no higher, and seldom lower.
    #[test]
    fn expressions_are_compiled_as_upstream_does() {
        let good = [
            ("true", 0),
            (r#"device.attributes["no-such-domain"].noSuchAttr.isGreaterThan(quantity("0"))"#, 6),
            (r#"device.attributes["no-such-domain"]["noSuchAttr"].isGreaterThan(quantity("0"))"#, 6),
            (r#"device.driver == """#, 2),
            (r#"device.driver == "dra.example.com""#, 4),
            (r#"device.attributes["dra.example.com"].name"#, 4),
            (r#"device.attributes["dra.example.com"]["name"]"#, 4),
            (r#"device.attributes["dra.example.com"].name > 0"#, 5),
            (r#"device.attributes["dra.example.com"].name == "fish""#, 5),
            (r#"device.attributes["dra.example.com"].name.isGreaterThan(semver("0.0.1"))"#, 6),
            (r#"device.capacity["dra.example.com"].name.isGreaterThan(quantity("1Ki"))"#, 6),
            (r#"device.attributes["dra.example.com"].a && device.attributes["dra.example.com"].b"#, 8),
            (r#"device.attributes["dra.example.com"].services.matches("[^a]?sym")"#, 18),
            ("device.allowMultipleAllocations == true", 3),
        ];
        for (source, upstream) in good {
            let of = cost(source).unwrap_or_else(|why| panic!("{source}: {why}"));
            assert!(of <= upstream && of + 1 >= upstream, "{source}: {of}, upstream {upstream}");
        }
        let cheaper = [
            (r#""no-such-domain" in device.attributes"#, 3),
            (r#"cel.bind(dra, device.attributes["dra.example.com"], dra.name)"#, 15),
            ("cel.bind(d, device, d.driver == '')", 15),
            (r#"device.attributes.exists_one(x, x == "dra.example.com")"#, 164),
            (r#"device.attributes["dra.example.com"].exists_one(x, x == "services")"#, 133),
            (r#"device.attributes["dra.example.com"].services.split("example").size() >= 2"#, 19),
            (r#"device.attributes["dra.example.com"].map(key, device.attributes["dra.example.com"][key] * 20).exists(e, e == 60)"#, 10_000),
            (r#"true ? device.attributes["d"].a : false"#, 10),
        ];
        for (source, upstream) in cheaper {
            assert!(cost(source).unwrap_or_else(|why| panic!("{source}: {why}")) <= upstream, "{source}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_in_upstreams_words() {
        let ten = "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]";
        let dear = (0..7).fold("int('1'.find('[0-9]*')) < 100".to_owned(), |inner, level| format!("{ten}.all(x{level}, {inner})"));
        let undeclared = |name: &str, place: &str, source: &str, dots: usize| {
            let at = dots + 1;
            let dots = ".".repeat(dots);
            format!("Invalid value: {source:?}: compilation failed: ERROR: <input>:1:{at}: {name}{place}\n | {source}\n | {dots}^")
        };
        let container = " (in container '')";
        let cases = [
            ("noSuchVar", undeclared("undeclared reference to 'noSuchVar'", container, "noSuchVar", 0)),
            (
                "device.attributes[true].someBoolean",
                undeclared(
                    "found no matching overload for '_[_]' applied to '(map(string, map(string, any)), bool)'",
                    "",
                    "device.attributes[true].someBoolean",
                    17,
                ),
            ),
            ("device.unknown", undeclared("undefined field 'unknown'", "", "device.unknown", 6)),
            (
                "device.attributes['d'].a.includes('x')",
                undeclared("undeclared reference to 'includes'", container, "device.attributes['d'].a.includes('x')", 33),
            ),
            ("1", "Invalid value: \"1\": must evaluate to bool or the unknown type, not int".to_owned()),
            ("null", "Invalid value: \"null\": must evaluate to bool or the unknown type, not null_type".to_owned()),
            ("device", "Invalid value: \"device\": must evaluate to bool or the unknown type, not kubernetes.DRADevice".to_owned()),
            // An attribute is not an object: what is beneath it is not known to be a bool.
            (
                "device.attributes['d'].a.b",
                "Invalid value: \"device.attributes['d'].a.b\": must evaluate to bool or the unknown type, not dyn".to_owned(),
            ),
            (dear.as_str(), "Forbidden: too complex, exceeds cost limit".to_owned()),
        ];
        for (source, wanted) in cases {
            let mut causes = FieldErrors::default();
            validate(source, Path::new("e"), &mut causes);
            let found: Vec<_> = causes.0.iter().map(|cause| cause.text()).collect();
            assert_eq!(found, [format!("e: {wanted}")], "{source}");
        }
        // Syntax, and a macro over what may be no list (`DynType` only with lists as attributes).
        for (source, part) in [
            ("?!", "Syntax error"),
            ("", "Syntax error"),
            ("device.attributes['d'].a.exists(x, x > 0)", "expression of type 'any' cannot be range of a comprehension"),
        ] {
            assert!(cost(source).is_err_and(|why| why.starts_with("compilation failed: ") && why.contains(part)), "{source}");
        }
        let whole = |bytes: usize| format!("device.driver == \"{}\"", "x".repeat(bytes - "device.driver == \"\"".len()));
        for (bytes, wrong) in [(EXPRESSION_BYTES, 0), (EXPRESSION_BYTES + 1, 1)] {
            let mut causes = FieldErrors::default();
            validate(&whole(bytes), Path::new("e"), &mut causes);
            assert_eq!(causes.0.len(), wrong, "{bytes}");
        }
    }
}
