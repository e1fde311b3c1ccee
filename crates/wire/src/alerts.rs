//! Alerts to and from the wire.

use std::sync::Arc;

use prost::Message;
use watchfire_event::{
    Alert, AlertId, AlertTimes, BootNanos, Level, MatchedField, ProcessNode, RuleId, UnixNanos,
};

use crate::batch::kind_from;
use crate::process::{ConversionError, decode_process, encode_process};
use crate::v1;

/// The message for one alert. `times.stored` stays behind: only the store knows it.
pub fn encode_alert(alert: &Alert) -> v1::Alert {
    v1::Alert {
        id: alert.id.0.to_vec(),
        sequence: alert.sequence,
        rule_id: alert.rule.id.clone(),
        rule_title: alert.rule.title.clone(),
        attack: alert.attack.clone(),
        level: alert.level as u32,
        kind: alert.kind as u32,
        matched: alert
            .matched
            .iter()
            .map(|field| v1::MatchedField { name: field.name.clone(), value: field.value.clone() })
            .collect(),
        tree: alert.tree.iter().map(|node| encode_process(&node.process)).collect(),
        kernel: alert.times.kernel.0,
        decoded: alert.times.decoded.0,
        judged: alert.times.judged.0,
        booted: alert.times.booted.0,
    }
}

/// The bytes of one encoded alert, as stores keep them.
pub fn encode_alert_bytes(alert: &Alert) -> Vec<u8> {
    encode_alert(alert).encode_to_vec()
}

/// An alert from the bytes of [`encode_alert_bytes`].
pub fn decode_alert_bytes(bytes: &[u8]) -> Result<Alert, ConversionError> {
    let alert =
        v1::Alert::decode(bytes).map_err(|source| ConversionError::Malformed { what: "Alert", source })?;
    decode_alert(alert)
}

/// An alert from its message.
pub fn decode_alert(alert: v1::Alert) -> Result<Alert, ConversionError> {
    let id = <[u8; 16]>::try_from(alert.id.as_slice()).map_err(|_| ConversionError::BadValue {
        what: "length of an alert id",
        value: alert.id.len() as u64,
    })?;
    let level = u8::try_from(alert.level)
        .map_err(|_| ConversionError::BadValue { what: "level", value: alert.level.into() })?;
    let nodes = alert
        .tree
        .into_iter()
        .map(|process| decode_process(process).map(|process| ProcessNode { process: Arc::new(process) }));
    let tree: Vec<ProcessNode> = nodes.collect::<Result<_, _>>()?;
    if tree.is_empty() {
        return Err(ConversionError::Missing("the process of an alert"));
    }
    Ok(Alert {
        id: AlertId(id),
        sequence: alert.sequence,
        rule: RuleId { id: alert.rule_id, title: alert.rule_title },
        attack: alert.attack,
        level: Level::try_from(level)?,
        kind: kind_from(alert.kind)?,
        matched: alert
            .matched
            .into_iter()
            .map(|field| MatchedField { name: field.name, value: field.value })
            .collect(),
        tree,
        times: AlertTimes {
            kernel: BootNanos(alert.kernel),
            decoded: BootNanos(alert.decoded),
            judged: BootNanos(alert.judged),
            stored: None,
            booted: UnixNanos(alert.booted),
        },
    })
}
