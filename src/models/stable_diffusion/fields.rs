//! Reading a component's `config.json` strictly: what would change the network and is not known
//! here is refused, not skipped.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::sections::InvalidKey;

/// The keys of a configuration that nobody has taken yet.
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    /// Takes the object of a `config.json`.
    ///
    /// # Errors
    /// A value that is no object.
    pub(crate) fn new(value: &Value) -> Result<Self, InvalidKey> {
        match value {
            Value::Object(map) => Ok(Self(map.clone())),
            _ => Err(InvalidKey::new("config", "is no JSON object")),
        }
    }

    /// The value of `key`; `None` where it is missing or null.
    ///
    /// # Errors
    /// A value of another type.
    pub(crate) fn take<T: DeserializeOwned>(
        &mut self,
        key: &'static str,
    ) -> Result<Option<T>, InvalidKey> {
        match self.0.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value.clone())
                .map(Some)
                .map_err(|error| InvalidKey::new(key, format!("is {value}: {error}"))),
        }
    }

    /// The value of `key`, or `default` where it is missing or null.
    ///
    /// # Errors
    /// A value of another type.
    pub(crate) fn or<T: DeserializeOwned>(
        &mut self,
        key: &'static str,
        default: T,
    ) -> Result<T, InvalidKey> {
        Ok(self.take(key)?.unwrap_or(default))
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// A key that is missing or null, or a value of another type.
    pub(crate) fn need<T: DeserializeOwned>(&mut self, key: &'static str) -> Result<T, InvalidKey> {
        self.take(key)?
            .ok_or_else(|| InvalidKey::new(key, "is missing"))
    }

    /// Accepts `key` with this one value only.
    ///
    /// # Errors
    /// Another value.
    pub(crate) fn only(
        &mut self,
        key: &'static str,
        expected: impl Into<Value>,
    ) -> Result<(), InvalidKey> {
        let expected = expected.into();
        match self.0.remove(key) {
            None | Some(Value::Null) => Ok(()),
            Some(found) if same(&found, &expected) => Ok(()),
            Some(found) => Err(InvalidKey::new(
                key,
                format!("is {found}: only {expected} is supported"),
            )),
        }
    }

    /// Lets `keys` be anything: they say nothing about the network.
    pub(crate) fn ignore(&mut self, keys: &[&str]) {
        for key in keys {
            self.0.remove(*key);
        }
    }

    /// Refuses what is left and not switched off.
    ///
    /// # Errors
    /// A key that nobody took and whose value is neither null nor false.
    pub(crate) fn finish(self) -> Result<(), InvalidKey> {
        let strange = self.0.into_iter().find(|(key, value)| {
            !key.starts_with('_') && !matches!(value, Value::Null | Value::Bool(false))
        });
        match strange {
            None => Ok(()),
            Some((key, value)) => Err(InvalidKey::new(
                "config",
                format!("`{key}` is {value}, which is not supported"),
            )),
        }
    }
}

/// Returns true if two values are equal; 1 and 1.0 are.
fn same(found: &Value, expected: &Value) -> bool {
    match (found.as_f64(), expected.as_f64()) {
        (Some(found), Some(expected)) => found == expected,
        _ => found == expected,
    }
}

/// Refuses a number outside `1..=65536`: far above any model, and low enough that no product
/// overflows.
pub(super) fn in_range(values: &[(&'static str, usize)]) -> Result<(), InvalidKey> {
    match values
        .iter()
        .find(|(_, value)| !(1..=1 << 16).contains(value))
    {
        None => Ok(()),
        Some((key, value)) => Err(InvalidKey::new(
            *key,
            format!("{value} is not in 1..=65536"),
        )),
    }
}

/// Checks the channels of the levels and that they divide into the groups of the norms.
pub(super) fn check_channels(channels: &[usize], groups: usize) -> Result<(), InvalidKey> {
    let key = "block_out_channels";
    if channels.is_empty() || channels.len() > 16 {
        return Err(InvalidKey::new(
            key,
            format!("has {} levels: expected 1 to 16", channels.len()),
        ));
    }
    in_range(&[("norm_num_groups", groups)])?;
    for channels in channels {
        in_range(&[(key, *channels)])?;
        if !channels.is_multiple_of(groups) {
            return Err(InvalidKey::new(
                key,
                format!("{channels} do not divide into norm_num_groups, {groups}"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::stable_diffusion::{AutoencoderKlConfig, UNet2DConditionConfig};
    use proptest::prelude::*;
    use serde_json::json;

    proptest! {
        #[test]
        fn no_file_panics(
            key in prop::sample::select(vec![
                "attention_head_dim", "block_out_channels", "cross_attention_dim",
                "down_block_types", "layers_per_block", "norm_eps", "norm_num_groups",
                "sample_size", "scaling_factor", "up_block_types", "whatever",
            ]),
            value in prop::sample::select(vec![
                json!(null), json!(true), json!(0), json!(-1), json!(1e300), json!(u64::MAX),
                json!(0.5), json!("x"), json!([]), json!([0]), json!([1, 2, u64::MAX]), json!({}),
                json!(["DownBlock2D"]), json!([32]),
            ]),
        ) {
            let file = json!({"block_out_channels": [32, 64], key: value});
            let unet = UNet2DConditionConfig::from_json(&file);
            if let Ok(config) = unet {
                prop_assert!(config.size_multiple() > 0);
            }
            if let Ok(config) = AutoencoderKlConfig::from_json(&file) {
                prop_assert!(config.downsampling() > 0);
            }
        }
    }

    #[test]
    fn what_is_not_known_is_refused_unless_it_is_off() {
        let mut fields = Fields::new(&json!({
            "_class_name": "X", "channels": 4, "scale": 1, "off": null, "no": false, "act_fn": "silu"
        }))
        .unwrap();
        assert_eq!(fields.need::<usize>("channels").unwrap(), 4);
        assert_eq!(fields.or("other", 7usize).unwrap(), 7);
        fields.only("scale", 1.0).unwrap();
        fields.only("act_fn", "silu").unwrap();
        fields.finish().unwrap();

        let error = |value: Value, act: fn(&mut Fields) -> Result<(), InvalidKey>| {
            let mut fields = Fields::new(&value).unwrap();
            act(&mut fields)
                .and_then(|()| fields.finish())
                .unwrap_err()
                .to_string()
        };
        let text = error(json!({"class_embed_type": "timestep"}), |_| Ok(()));
        assert!(text.contains("class_embed_type"), "{text}");
        let text = error(json!({"act_fn": "gelu"}), |f| f.only("act_fn", "silu"));
        assert!(text.contains("act_fn") && text.contains("silu"), "{text}");
        let text = error(json!({"n": "x"}), |f| f.need::<usize>("n").map(drop));
        assert!(text.starts_with("n: is \"x\""), "{text}");
        let text = error(json!({}), |f| f.need::<usize>("n").map(drop));
        assert!(text.contains("missing"), "{text}");
        assert!(Fields::new(&json!([1])).is_err());
    }

    #[test]
    fn channels_must_divide_into_groups() {
        check_channels(&[32, 64], 32).unwrap();
        for (channels, groups) in [(&[][..], 32), (&[48], 32), (&[0], 32), (&[32], 0)] {
            assert!(check_channels(channels, groups).is_err(), "{channels:?}");
        }
    }
}
