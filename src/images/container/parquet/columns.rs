//! Columns of the hub's image data sets: which leaf has the images, the labels and the clients.

use std::collections::BTreeMap;
use std::path::Path;

use parquet::basic::{ConvertedType, LogicalType, Type as Physical};
use parquet::file::metadata::FileMetaData;
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor, Type};
use serde::Deserialize;

use super::super::files::fault;
use crate::images::error::ImagesError;
use crate::images::name::shown_text;

/// Names of the column of images.
const IMAGES: [&str; 2] = ["image", "img"];
/// Names of the column of labels.
pub(super) const LABELS: [&str; 3] = ["label", "labels", "fine_label"];
/// Names of the column of clients.
pub(super) const CLIENTS: [&str; 2] = ["client", "patient"];
/// Key of the metadata in which the hub's writer describes the columns.
const METADATA: &str = "huggingface";
/// Number of columns that an error names.
const MAX_NAMED: usize = 40;

/// Returns the number of the leaf that has the bytes of the images.
///
/// # Errors
/// [`ImagesError::Container`] if there is not exactly one column of images, or it is of another
/// layout.
pub(super) fn images(path: &Path, schema: &SchemaDescriptor) -> Result<usize, ImagesError> {
    let name = one_of(path, schema, &IMAGES, "images")?;
    let is_image = |column: &ColumnDescriptor| {
        let parts: Vec<&str> = column.path().parts().iter().map(String::as_str).collect();
        let placed = match parts.as_slice() {
            [only] => *only == name && !is_text(column),
            [first, "bytes"] => *first == name,
            _ => false,
        };
        placed && column.max_rep_level() == 0 && column.physical_type() == Physical::BYTE_ARRAY
    };
    let leaf = schema.columns().iter().position(|column| is_image(column));
    leaf.ok_or_else(|| {
        fault(
            path,
            format!(
                "the column `{name}` has no image files: expected binary values, or a structure \
                 with `bytes`, as the hub's image data sets have; the columns are {}",
                described(schema)
            ),
        )
    })
}

/// Returns the number and the name of the leaf with one of `names`: integers or texts.
///
/// # Errors
/// [`ImagesError::Container`] if there is not exactly one such column, or it is of another type.
pub(super) fn named<'n>(
    path: &Path,
    schema: &SchemaDescriptor,
    names: &[&'n str],
    what: &str,
) -> Result<(usize, &'n str), ImagesError> {
    let name = one_of(path, schema, names, what)?;
    let is_name = |column: &ColumnDescriptor| {
        let known = matches!(
            column.physical_type(),
            Physical::INT32 | Physical::INT64 | Physical::BYTE_ARRAY
        );
        column.path().parts() == [name] && known && column.max_rep_level() == 0
    };
    let leaf = schema.columns().iter().position(|column| is_name(column));
    let leaf = leaf.ok_or_else(|| {
        fault(
            path,
            format!(
                "the column `{name}` is not usable: expected one integer or text in each row; the \
                 columns are {}",
                described(schema)
            ),
        )
    })?;
    Ok((leaf, name))
}

/// Returns the one of `names` that the file has.
fn one_of<'n>(
    path: &Path,
    schema: &SchemaDescriptor,
    names: &[&'n str],
    what: &str,
) -> Result<&'n str, ImagesError> {
    let fields = schema.root_schema().get_fields();
    let mut found = names
        .iter()
        .filter(|name| fields.iter().any(|field| field.name() == **name));
    match (found.next(), found.next()) {
        (Some(name), None) => Ok(name),
        _ => Err(fault(
            path,
            format!(
                "expected one column of {what}, named `{}`; the columns are {}",
                names.join("` or `"),
                described(schema)
            ),
        )),
    }
}

fn is_text(column: &ColumnDescriptor) -> bool {
    column.converted_type() == ConvertedType::UTF8
        || matches!(column.logical_type_ref(), Some(LogicalType::String))
}

/// Names the columns with their types.
fn described(schema: &SchemaDescriptor) -> String {
    let fields = schema.root_schema().get_fields();
    let mut columns: Vec<String> = fields
        .iter()
        .take(MAX_NAMED)
        .map(|field| format!("`{}`: {}", shown_text(field.name()), type_name(field)))
        .collect();
    if fields.len() > MAX_NAMED {
        columns.push(format!("{} more", fields.len() - MAX_NAMED));
    }
    columns.join(", ")
}

fn type_name(field: &Type) -> String {
    let basic = field.get_basic_info();
    if field.is_group() {
        let parts = field.get_fields().iter().take(MAX_NAMED);
        let parts: Vec<String> = parts.map(|part| shown_text(part.name())).collect();
        let list = basic.converted_type() == ConvertedType::LIST;
        let kind = if list { "list" } else { "structure" };
        return format!("{kind} of {}", parts.join(", "));
    }
    match basic.logical_type_ref() {
        Some(LogicalType::String) => "text".to_owned(),
        _ if basic.converted_type() == ConvertedType::UTF8 => "text".to_owned(),
        _ => field.get_physical_type().to_string().to_lowercase(),
    }
}

/// The description of a data set, as far as it names classes.
#[derive(Deserialize)]
struct Description {
    info: Option<Info>,
}

#[derive(Deserialize)]
struct Info {
    features: Option<BTreeMap<String, serde_json::Value>>,
}

/// Returns the names of the classes that the integers of a column stand for, if the file has them.
///
/// # Errors
/// [`ImagesError::Container`] if the description is not that of a data set.
pub(super) fn class_names(
    path: &Path,
    metadata: &FileMetaData,
    column: &str,
) -> Result<Option<Vec<String>>, ImagesError> {
    let pairs = metadata.key_value_metadata().into_iter().flatten();
    let text = pairs
        .filter(|pair| pair.key == METADATA)
        .find_map(|pair| pair.value.as_deref());
    let Some(text) = text else { return Ok(None) };
    let unusable = || {
        fault(
            path,
            format!("its metadata `{METADATA}` is not usable: expected JSON as the hub writes it"),
        )
    };
    let description: Description = serde_json::from_str(text).map_err(|_| unusable())?;
    let features = description.info.and_then(|info| info.features);
    let Some(names) = features
        .as_ref()
        .and_then(|all| all.get(column)?.get("names"))
    else {
        return Ok(None);
    };
    if names.is_null() {
        return Ok(None);
    }
    let names: Option<Vec<String>> = names.as_array().and_then(|names| {
        names
            .iter()
            .map(|name| Some(name.as_str()?.to_owned()))
            .collect()
    });
    names.map(Some).ok_or_else(unusable)
}
