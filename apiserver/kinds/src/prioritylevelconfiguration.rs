//! PriorityLevelConfiguration: the strategy of how much of the server some requests get. Source:
//! `pkg/registry/flowcontrol/prioritylevelconfiguration`, `ValidatePriorityLevelConfiguration` in `pkg/apis/flowcontrol/validation`, and its defaults.

use std::borrow::Cow;

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Ctx, Kind, MetaCheck, Scope, Strategy};
use serde_json::{Value, json};

use crate::{
    common::{
        self, Path, Read,
        edit::{child, default_number, default_to, keep_metadata, remove, set},
        read, table,
    },
    flow,
    flowschema::conditions,
};

const SPEC: Path<'static> = Path::new("spec");
const ZERO_SHARES: &str = "flowcontrol.k8s.io/preserve-zero-concurrency-shares";
const QUEUES: i64 = 10_000_000;
/// Bits of a hash that hands of queues are dealt by (`shufflesharding.MaxHashBits`).
const HASH_BITS: f64 = 60.0;
const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    table::column(
        "Type",
        "string",
        "`type` indicates whether this priority level is subject to limitation on request execution.  A value of `\"Exempt\"` means that requests of this priority level are not subject to a limit (and thus are never queued) and do not detract from the capacity made available to other priority levels.  A value of `\"Limited\"` means that (a) requests of this priority level _are_ subject to limits and (b) some of the server's limited capacity is made available exclusively to this priority level. Required.",
    ),
    table::column(
        "NominalConcurrencyShares",
        "string",
        "`nominalConcurrencyShares` (NCS) contributes to the computation of the NominalConcurrencyLimit (NominalCL) of this level. This is the number of execution seats available at this priority level. This is used both for requests dispatched from this priority level as well as requests dispatched from other priority levels borrowing seats from this level. The server's concurrency limit (ServerCL) is divided among the Limited priority levels in proportion to their NCS values:\n\nNominalCL(i)  = ceil( ServerCL * NCS(i) / sum_ncs ) sum_ncs = sum[priority level k] NCS(k)\n\nBigger numbers mean a larger nominal concurrency limit, at the expense of every other priority level.\n\nIf not specified, this field defaults to a value of 30.\n\nSetting this field to zero supports the construction of a \"jail\" for this priority level that is used to hold some request(s)",
    ),
    table::column(
        "Queues",
        "string",
        "`queues` is the number of queues for this priority level. The queues exist independently at each apiserver. The value must be positive.  Setting it to 1 effectively precludes shufflesharding and thus makes the distinguisher method of associated flow schemas irrelevant.  This field has a default value of 64.",
    ),
    table::column(
        "HandSize",
        "string",
        "`handSize` is a small positive number that configures the shuffle sharding of requests into queues.  When enqueuing a request at this priority level the request's flow identifier (a string pair) is hashed and the hash value is used to shuffle the list of queues and deal a hand of the size specified here.  The request is put into one of the shortest queues in that hand. `handSize` must be no larger than `queues`, and should be significantly smaller (so that a few heavy flows do not saturate most of the queues).  See the user-facing documentation for more extensive guidance on setting this field.  This field has a default value of 8.",
    ),
    table::column(
        "QueueLengthLimit",
        "string",
        "`queueLengthLimit` is the maximum number of requests allowed to be waiting in a given queue of this priority level at a time; excess requests are rejected.  This value must be positive.  If not specified, it will be defaulted to 50.",
    ),
    table::AGE_COLUMN,
];

pub fn kind() -> Kind {
    let (name, plural) = ("PriorityLevelConfiguration", "prioritylevelconfigurations");
    Kind {
        scope: Scope::Cluster,
        subresources: vec![common::status(flow::GROUP, "v1", name)],
        columns: Cow::Borrowed(COLUMNS),
        generation: true,
        ..common::kind(flow::GROUP, "v1", name, plural, "io.k8s.api.flowcontrol.v1", PriorityLevels)
    }
}

struct PriorityLevels;

impl Strategy for PriorityLevels {
    fn default(&self, object: &mut Value) {
        let Some(spec) = child(object, "spec") else { return };
        for (field, shares) in [("exempt", 0), ("limited", 30)] {
            if let Some(level) = child(spec, field) {
                default_to(level, "nominalConcurrencyShares", shares);
                default_to(level, "lendablePercent", 0);
            }
        }
        let response = child(spec, "limited").and_then(|limited| child(limited, "limitResponse"));
        if let Some(queuing) = response.and_then(|response| child(response, "queuing")) {
            for (field, number) in [("queues", 64), ("handSize", 8), ("queueLengthLimit", 50)] {
                default_number(queuing, field, number);
            }
        }
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, object: &mut Value) {
        set(object, "status", json!({}));
    }

    fn prepare_subresource(&self, _ctx: &Ctx<'_>, new: &mut Value, old: &Value) {
        keep_metadata(new, old);
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        let (name, spec) = (read::name(object), object.at("spec"));
        if object.at("metadata").at("annotations").at(ZERO_SHARES).is_some() {
            causes.forbidden("metadata.annotations", &format!("annotation '{ZERO_SHARES}' is forbidden"));
        }
        self::spec(spec, name, causes);
        mandatory(spec, name, causes);
        conditions(object, causes);
    }

    fn validate_subresource(&self, _subresource: &str, new: &Value, _old: &Value, causes: &mut FieldErrors) {
        conditions(new, causes);
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Create
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let (spec, limited) = (object.at("spec"), object.at("spec").at("limited"));
        let number =
            |of: Option<&Value>, field: &str| -> Value { of.map_or_else(|| "<none>".into(), |of| of.int(field).unwrap_or(0).into()) };
        let queuing = limited.at("limitResponse").at("queuing");
        vec![
            read::name(object).into(),
            spec.text("type").into(),
            number(limited, "nominalConcurrencyShares"),
            number(queuing, "queues"),
            number(queuing, "handSize"),
            number(queuing, "queueLengthLimit"),
            table::age(object, now),
        ]
    }
}

/// `ValidatePriorityLevelConfigurationSpec`
fn spec(spec: Option<&Value>, name: &str, causes: &mut FieldErrors) {
    let (typ, exempt, limited) = (spec.text("type"), spec.at("exempt"), spec.at("limited"));
    if (name == "exempt") != (typ == "Exempt") {
        causes.invalid(SPEC.field("type"), typ, "must be 'Exempt' if and only if `name` is 'exempt'");
    }
    match typ {
        "Exempt" => {
            if limited.is_some() {
                causes.forbidden(SPEC.field("limited"), "must be nil if the type is not Limited");
            }
            if let Some(exempt) = exempt {
                shares(exempt, SPEC.field("exempt"), causes);
                lending(exempt, SPEC.field("exempt"), causes);
            }
        }
        "Limited" => {
            if exempt.is_some() {
                causes.forbidden(SPEC.field("exempt"), "must be nil if the type is Limited");
            }
            match limited {
                None => causes.required(SPEC.field("limited"), "must not be empty when type is Limited"),
                Some(limited) => self::limited(limited, SPEC.field("limited"), causes),
            }
        }
        other => causes.not_supported(SPEC.field("type"), other, &["Exempt", "Limited"]),
    }
}

fn limited(limited: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    shares(limited, path, causes);
    response(limited.at("limitResponse"), path.field("limitResponse"), causes);
    lending(limited, path, causes);
    if let Some(percent) = limited.int("borrowingLimitPercent").filter(|percent| *percent < 0) {
        causes.invalid(path.field("borrowingLimitPercent"), percent, "if specified, must be a non-negative integer");
    }
}

fn shares(level: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    if let Some(shares) = level.int("nominalConcurrencyShares").filter(|shares| *shares < 0) {
        causes.invalid(path.field("nominalConcurrencyShares"), shares, "must be a non-negative integer");
    }
}

fn lending(level: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    if let Some(percent) = level.int("lendablePercent").filter(|percent| !(0..=100).contains(percent)) {
        causes.invalid(path.field("lendablePercent"), percent, "must be between 0 and 100, inclusive");
    }
}

/// `ValidateLimitResponse`
fn response(response: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    let (queuing, at) = (response.at("queuing"), path.field("queuing"));
    match (response.text("type"), queuing) {
        ("Reject", Some(_)) => causes.forbidden(at, "must be nil if limited.limitResponse.type is not Limited"),
        ("Reject", None) => {}
        ("Queue", None) => causes.required(at, "must not be empty if limited.limitResponse.type is Limited"),
        ("Queue", Some(queuing)) => self::queuing(queuing, at, causes),
        (other, _) => causes.not_supported(path.field("type"), other, &["Queue", "Reject"]),
    }
}

/// `ValidatePriorityLevelQueuingConfiguration`
fn queuing(queuing: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let number = |field: &str| queuing.int(field).unwrap_or(0);
    let (length, queues, hand) = (number("queueLengthLimit"), number("queues"), number("handSize"));
    if length <= 0 {
        causes.invalid(path.field("queueLengthLimit"), length, "must be positive");
    }
    if queues <= 0 {
        causes.invalid(path.field("queues"), queues, "must be positive");
    } else if queues > QUEUES {
        causes.invalid(path.field("queues"), queues, &format!("must not be greater than {QUEUES}"));
    }
    let at = path.field("handSize");
    if hand <= 0 {
        causes.invalid(at, hand, "must be positive");
    } else if hand > queues {
        causes.invalid(at, hand, &format!("should not be greater than queues ({queues})"));
    } else if entropy_bits(queues, hand) > HASH_BITS {
        let text = format!("required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}");
        causes.invalid(at, hand, &text);
    }
}

/// `shufflesharding.RequiredEntropyBits`
#[expect(clippy::cast_precision_loss, reason = "both are numbers of 32 bits")]
fn entropy_bits(deck: i64, hand: i64) -> f64 {
    ((deck as f64).log2() * hand as f64).ceil()
}

/// `ValidateIfMandatoryPriorityLevelConfigurationObject`
fn mandatory(spec: Option<&Value>, name: &str, causes: &mut FieldErrors) {
    let Some(mut fixed) = flow::objects::mandatory_level(name) else { return };
    let mut have = spec.cloned().unwrap_or(Value::Null);
    let mut but = "";
    if name == "exempt" {
        but = " except the 'spec.exempt' field";
        remove(&mut have, "exempt");
        remove(&mut fixed, "exempt");
    }
    if !read::same(Some(&have), Some(&fixed)) {
        let shown = spec.cloned().unwrap_or(Value::Null);
        causes.invalid(SPEC, shown, &format!("spec of '{name}'{but} must equal the fixed value"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": name}, "spec": spec});
        PriorityLevels.default(&mut object);
        object
    }

    fn texts(name: &str, spec: Value) -> Vec<String> {
        let mut causes = FieldErrors::default();
        PriorityLevels.validate(&of(name, spec), &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn defaults_are_upstreams() {
        let queue = of("a", json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}}}));
        let queuing = json!({"queues": 64, "handSize": 8, "queueLengthLimit": 50});
        let wanted = json!({"limitResponse": {"type": "Queue", "queuing": queuing}, "nominalConcurrencyShares": 30, "lendablePercent": 0});
        assert_eq!(queue["spec"]["limited"], wanted);
        let exempt = of("exempt", json!({"type": "Exempt", "exempt": {}}));
        assert_eq!(exempt["spec"]["exempt"], json!({"nominalConcurrencyShares": 0, "lendablePercent": 0}));
    }

    #[test]
    fn each_rule_has_its_words() {
        let queue = |queuing: Value| json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": queuing}}});
        let at = "spec.limited.limitResponse.queuing";
        let cases: Vec<(Value, Vec<String>)> = vec![
            (queue(json!({})), vec![]),
            (json!({"type": "Limited"}), vec!["spec.limited: Required value: must not be empty when type is Limited".into()]),
            (
                json!({"type": "Boundless"}),
                vec![r#"spec.type: Unsupported value: "Boundless": supported values: "Exempt", "Limited""#.into()],
            ),
            (
                json!({"type": "Exempt", "limited": {}}),
                vec![
                    "spec.type: Invalid value: \"Exempt\": must be 'Exempt' if and only if `name` is 'exempt'".into(),
                    "spec.limited: Forbidden: must be nil if the type is not Limited".into(),
                ],
            ),
            (
                json!({"type": "Limited", "exempt": {}, "limited": {"nominalConcurrencyShares": -1, "lendablePercent": 101,
                    "borrowingLimitPercent": -1, "limitResponse": {"type": "Reject", "queuing": {}}}}),
                vec![
                    "spec.exempt: Forbidden: must be nil if the type is Limited".into(),
                    "spec.limited.nominalConcurrencyShares: Invalid value: -1: must be a non-negative integer".into(),
                    "spec.limited.limitResponse.queuing: Forbidden: must be nil if limited.limitResponse.type is not Limited".into(),
                    "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive".into(),
                    "spec.limited.borrowingLimitPercent: Invalid value: -1: if specified, must be a non-negative integer".into(),
                ],
            ),
            (
                queue(json!({"queues": -1, "handSize": 2, "queueLengthLimit": -1})),
                vec![
                    format!("{at}.queueLengthLimit: Invalid value: -1: must be positive"),
                    format!("{at}.queues: Invalid value: -1: must be positive"),
                    format!("{at}.handSize: Invalid value: 2: should not be greater than queues (-1)"),
                ],
            ),
            (
                queue(json!({"queues": 1024, "handSize": 7})),
                vec![format!(
                    "{at}.handSize: Invalid value: 7: required entropy bits of deckSize 1024 and handSize 7 should not be greater than 60"
                )],
            ),
            (queue(json!({"queues": 1024, "handSize": 6})), vec![]),
        ];
        for (spec, wanted) in cases {
            assert_eq!(texts("a", spec.clone()), wanted, "{spec}");
        }
    }

    #[test]
    fn what_is_mandatory_stays_but_for_what_is_exempt() {
        let mut exempt = flow::objects::mandatory_level("exempt").unwrap();
        exempt["exempt"]["nominalConcurrencyShares"] = json!(7);
        assert_eq!(texts("exempt", exempt), Vec::<String>::new());
        let mut rest = flow::objects::mandatory_level("catch-all").unwrap();
        assert_eq!(texts("catch-all", rest.clone()), Vec::<String>::new());
        rest["limited"]["nominalConcurrencyShares"] = json!(7);
        assert!(texts("catch-all", rest)[0].ends_with("spec of 'catch-all' must equal the fixed value"));
    }

    #[test]
    fn cells_are_upstreams() {
        let cells = |object: Value| Value::from(PriorityLevels.cells(&object, Timestamp::UNIX_EPOCH));
        let rest = of("catch-all", flow::objects::mandatory_level("catch-all").unwrap());
        assert_eq!(cells(rest), json!(["catch-all", "Limited", 5, "<none>", "<none>", "<none>", "<unknown>"]));
        let exempt = of("exempt", json!({"type": "Exempt"}));
        assert_eq!(cells(exempt), json!(["exempt", "Exempt", "<none>", "<none>", "<none>", "<none>", "<unknown>"]));
    }
}
