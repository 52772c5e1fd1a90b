use std::io::Write;

use candle_core::{DType, Device};
use tempfile::NamedTempFile;
use zip::CompressionMethod;
use zip::write::SimpleFileOptions;

use super::*;

/// One tensor of a test file: name, storage, offset, shape, strides.
type Row<'a> = (&'a str, &'a str, u32, &'a [u32], &'a [u32]);

const ROWS: &[Row<'_>] = &[
    ("plain", "7", 0, &[2, 3], &[3, 1]),
    ("shifted", "9", 4, &[4], &[1]),
    ("transposed", "9", 0, &[2, 4], &[1, 2]),
    ("scalar", "9", 7, &[], &[]),
];
const STORAGES: &[(&str, u32)] = &[("7", 6), ("9", 8)];

fn int(out: &mut Vec<u8>, value: u32) {
    out.push(b'J');
    out.extend(value.to_le_bytes());
}

fn text(out: &mut Vec<u8>, value: &str) {
    out.push(b'X');
    out.extend((value.len() as u32).to_le_bytes());
    out.extend(value.as_bytes());
}

fn ints(out: &mut Vec<u8>, values: &[u32]) {
    out.push(b'(');
    for value in values {
        int(out, *value);
    }
    out.push(b't');
}

/// A state dict as Python would pickle it; `wrap` puts it below that key.
fn pickle(rows: &[Row<'_>], wrap: Option<&str>, legacy: bool) -> Vec<u8> {
    let mut out = b"\x80\x02".to_vec();
    if let Some(key) = wrap {
        out.extend(b"}(");
        text(&mut out, key);
    }
    out.extend(b"ccollections\nOrderedDict\n)R(");
    for (name, storage, offset, shape, strides) in rows {
        let count = STORAGES.iter().find(|(key, _)| key == storage);
        text(&mut out, name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(b"ctorch\nFloatStorage\n");
        text(&mut out, storage);
        text(&mut out, "cpu");
        int(&mut out, count.map_or(1, |(_, count)| *count));
        out.extend(if legacy { &b"NtQ"[..] } else { b"tQ" });
        int(&mut out, *offset);
        ints(&mut out, shape);
        ints(&mut out, strides);
        out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    out.push(b'u');
    if wrap.is_some() {
        text(&mut out, "step");
        out.extend(b"K\x07u");
    }
    out.push(b'.');
    out
}

fn tensor(out: &mut Vec<u8>, storage: &str, count: u32) {
    out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    text(out, "storage");
    out.extend(b"ctorch\nFloatStorage\n");
    text(out, storage);
    text(out, "cuda:0");
    int(out, count);
    out.extend(b"tQ");
    int(out, 0);
    ints(out, &[count]);
    ints(out, &[1]);
    out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
}

/// A module with attributes of all kinds and, in it, `modules` as TorchScript pickles them.
fn script(modules: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut out = b"c__torch__.net.___torch_mangle_3\nNet\n)\x81}(".to_vec();
    text(&mut out, "training");
    out.push(0x89);
    text(&mut out, "sizes");
    out.extend(b"ctorch.jit._pickle\nbuild_intlist\n](K\x01K\x02e\x85R");
    text(&mut out, "weight");
    tensor(&mut out, "7", 6);
    text(&mut out, "bias");
    out.push(b'N');
    for (name, module) in modules {
        text(&mut out, name);
        out.extend(module);
    }
    out.extend(b"ub");
    out
}

fn script_file(module: &[u8]) -> Vec<u8> {
    let pickle = [b"\x80\x02", module, b"."].concat();
    zip_file(&pickle, CompressionMethod::Stored)
}

/// Storage `key` holds 100 · key, 100 · key + 1, ….
fn floats(key: &str, count: u32) -> Vec<u8> {
    let base = key.parse::<f32>().unwrap() * 100.0;
    (0..count)
        .flat_map(|i| (base + i as f32).to_le_bytes())
        .collect()
}

fn zip_file(pickle: &[u8], method: CompressionMethod) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(method);
    let mut member = |name: &str, bytes: &[u8]| {
        writer.start_file(name, options).unwrap();
        writer.write_all(bytes).unwrap();
    };
    member("model/data.pkl", pickle);
    member("model/byteorder", b"little");
    for (key, count) in STORAGES {
        member(&format!("model/data/{key}"), &floats(key, *count));
    }
    member("model/version", b"3\n");
    writer.finish().unwrap().into_inner()
}

fn legacy_file(pickle: &[u8]) -> Vec<u8> {
    let mut out = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.".to_vec();
    out.extend(b"\x80\x02M\xe9\x03.");
    out.extend(b"\x80\x02}(X\x0d\0\0\0little_endian\x88u.");
    out.extend(pickle);
    out.extend(b"\x80\x02](");
    for (key, _) in STORAGES {
        text(&mut out, key);
    }
    out.extend(b"e.");
    for (key, count) in STORAGES {
        out.extend(u64::from(*count).to_le_bytes());
        out.extend(floats(key, *count));
    }
    out
}

const HEADER: &str = r#"{"__metadata__":{"a":"b"},"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"y":{"dtype":"F16","shape":[1,2],"data_offsets":[8,12]}}"#;

fn safetensors_file(header: &str) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend([0; 12]);
    out
}

fn open(bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file.flush().unwrap();
    // The open file outlives its name.
    Checkpoint::open(file.path())
}

fn refusal(bytes: &[u8]) -> String {
    open(bytes).expect_err("a refusal").to_string()
}

fn check_rows(checkpoint: &Checkpoint) {
    let values = |name: &str| -> Vec<f32> {
        let tensor = checkpoint.tensor(name).unwrap().unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    };
    assert_eq!(values("plain"), [700., 701., 702., 703., 704., 705.]);
    assert_eq!(values("shifted"), [904., 905., 906., 907.]);
    assert_eq!(
        values("transposed"),
        [900., 902., 904., 906., 901., 903., 905., 907.]
    );
    assert_eq!(values("scalar"), [907.]);
    let names: Vec<String> = checkpoint.tensors().map(|info| info.name).collect();
    assert_eq!(names, ["plain", "scalar", "shifted", "transposed"]);
}

#[test]
fn both_formats_and_nested_dicts_are_read() {
    let stored = CompressionMethod::Stored;
    check_rows(&open(&zip_file(&pickle(ROWS, None, false), stored)).unwrap());
    check_rows(&open(&zip_file(&pickle(ROWS, Some("state_dict"), false), stored)).unwrap());
    check_rows(&open(&legacy_file(&pickle(ROWS, None, true))).unwrap());
}

#[test]
fn a_torchscript_archive_gives_its_module_s_state_dict() {
    let inner = script(&[("0", script(&[]))]);
    let checkpoint = open(&script_file(&script(&[("visual", inner)]))).unwrap();
    let names: Vec<String> = checkpoint.tensors().map(|info| info.name).collect();
    assert_eq!(names, ["visual.0.weight", "visual.weight", "weight"]);
    let weight = checkpoint.tensor("visual.0.weight").unwrap().unwrap();
    let values: Vec<f32> = weight.to_vec1().unwrap();
    assert_eq!(values, [700., 701., 702., 703., 704., 705.]);
}

#[test]
fn broken_modules_are_refused_with_a_reason() {
    let mut deep = script(&[]);
    for _ in 0..70 {
        deep = script(&[("m", deep)]);
    }
    let class = b"c__torch__\nNet\n";
    let with = |rest: &[u8]| script_file(&[class, rest].concat());
    let cases: &[(Vec<u8>, &str)] = &[
        (script_file(&deep), "nested more than 64 deep"),
        (with(b")\x81}b"), "no tensors"),
        (with(b")\x81Nb"), "has no dict of attributes"),
        (with(b")\x81"), "has no dict of attributes"),
        (with(b")R"), "with arguments it never has"),
        (with(b"K\x01\x85\x81}b"), "no class of a TorchScript"),
        (script_file(b"ctorch\nFloatStorage\n)\x81}b"), "no class"),
    ];
    for (bytes, reason) in cases {
        let message = refusal(bytes);
        assert!(message.contains(reason), "{message}");
    }
    // A module that is its own part is listed once.
    let mut own = b"c__torch__\nNet\n)\x81q\x00}(".to_vec();
    text(&mut own, "weight");
    tensor(&mut own, "7", 6);
    text(&mut own, "self");
    own.extend(b"h\x00ub");
    assert_eq!(open(&script_file(&own)).unwrap().tensors().count(), 1);
}

#[test]
fn other_files_are_refused_with_a_reason() {
    let stored = CompressionMethod::Stored;
    let zipped = |rows: &[Row<'_>]| zip_file(&pickle(rows, None, false), stored);
    let cases: &[(Vec<u8>, &str)] = &[
        (b"not a checkpoint".to_vec(), "begins neither like"),
        (Vec::new(), "begins neither like"),
        (
            zip_file(&pickle(ROWS, Some("weights"), false), stored),
            r#"its first keys are ["weights", "step"]"#,
        ),
        (
            zip_file(&pickle(ROWS, None, false), CompressionMethod::Deflated),
            "is compressed",
        ),
        (zipped(&[("a", "7", 1, &[6], &[1])]), "leaves its storage"),
        (zipped(&[("a", "8", 0, &[1], &[1])]), "no \"data/8\""),
        (
            zipped(&[("a", "7", 0, &[7], &[0])]),
            "stores elements twice",
        ),
        (
            zipped(&[("a", "7", 0, &[1], &[1]), ("a", "7", 0, &[1], &[1])]),
            "it is there twice",
        ),
        (
            zip_file(b"\x80\x02cos\nsystem\n(X\x01\0\0\0atR.", stored),
            "\"os.system\"",
        ),
        (zip_file(b"\x80\x02}.", stored), "neither tensors nor"),
    ];
    for (bytes, reason) in cases {
        let message = refusal(bytes);
        assert!(message.contains(reason), "{message}");
    }
    let mut truncated = legacy_file(&pickle(ROWS, None, true));
    truncated.pop();
    assert!(refusal(&truncated).contains("not wholly in the file"));
    truncated.extend([0, 0]);
    assert!(refusal(&truncated).contains("1 bytes follow"));
}

#[test]
fn safetensors_must_fill_their_file() {
    let good = safetensors_file(HEADER);
    let checkpoint = open(&good).unwrap();
    let y = checkpoint.tensor("y").unwrap().unwrap();
    assert_eq!((y.dtype(), y.dims()), (DType::F16, &[1, 2][..]));
    let mut longer = good.clone();
    longer.push(0);
    assert!(refusal(&longer).contains("tensors take 12 bytes, and 13 bytes follow the header"));
    let shorter = refusal(&good[..good.len() - 1]);
    assert!(shorter.contains("take 12 bytes, and 11 bytes"), "{shorter}");
}

/// The crate's validation finds each kind of fault, and the error names the tensor.
#[test]
fn faulty_safetensors_headers_are_refused() {
    let x = |offsets: &str| format!(r#"{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}"#);
    for (from, to, reason) in [
        (
            "[8,12]",
            "[9,13]",
            "tensor y: its data is at bytes 9 to 13, expected to begin at 8",
        ),
        (
            "[8,12]",
            "[7,11]",
            "tensor y: its data is at bytes 7 to 11, expected to begin at 8",
        ),
        (
            "[0,8]",
            "[2,10]",
            "tensor x: its data is at bytes 2 to 10, expected to begin at 0",
        ),
        ("[8,12]", "[12,8]", "tensor y: its data is at bytes 12 to 8"),
        ("[8,12]", "[8,18446744073709551615]", "tensor y: type F16"),
        (
            "F16",
            "I64",
            "tensor y: type I64 and shape [1, 2] do not fit its 4 bytes",
        ),
        (
            "[1,2]",
            "[1,3]",
            "tensor y: type F16 and shape [1, 3] do not fit its 4 bytes",
        ),
        (
            "[1,2]",
            "[4294967296,4294967296]",
            "tensor y: type F16 and shape [4294967296",
        ),
        ("[1,2]", "[1,-2]", "tensor y: invalid value"),
        ("F16", "C64", "do not fit its 4 bytes"),
        ("F16", "F4", "do not fit its 4 bytes"),
        ("F16", "F17", "tensor y: unknown variant `F17`"),
        ("\"y\"", "\"x\"", "`x` is there twice"),
        (
            "\"shape\":[1,2]",
            "\"size\":[1,2]",
            "tensor y: missing field `shape`",
        ),
    ] {
        assert!(HEADER.contains(from), "{from}");
        let message = refusal(&safetensors_file(&HEADER.replace(from, to)));
        assert!(message.contains(reason), "{from} {to}: {message}");
    }
    let unsupported = HEADER.replace("F16", "U64").replace("[1,2]", "[1]");
    let unsupported = unsupported.replace("[8,12]", "[8,16]");
    let mut file = safetensors_file(&unsupported);
    file.extend([0; 4]);
    let message = refusal(&file);
    assert!(
        message.contains("tensor y: type U64 is not supported"),
        "{message}"
    );
    // Two equal entries would pass every check of offsets.
    let twice = format!(r#"{{"x":{0},"x":{0}}}"#, x("[0,8]"));
    let message = refusal(&safetensors_file(&twice));
    assert!(message.contains("`x` is there twice"), "{message}");
    // A header that claims more bytes than the file has, or than any header needs.
    for len in [1 << 20, 33 << 20, u64::MAX] {
        let mut file = safetensors_file(HEADER);
        file[..8].copy_from_slice(&len.to_le_bytes());
        let message = refusal(&file);
        assert!(
            message.contains(&format!("its header is {len} bytes long")),
            "{message}"
        );
    }
}

#[test]
fn loading_lists_every_mismatch() {
    let bytes = zip_file(&pickle(ROWS, None, false), CompressionMethod::Stored);
    let checkpoint = open(&bytes).unwrap();
    let load = |ignore: &[&str], want: &[(&str, &[usize])]| {
        checkpoint.load(DType::F32, &Device::Cpu, ignore, |vb| {
            want.iter()
                .map(|(name, shape)| vb.get(*shape, name))
                .collect::<candle_core::Result<Vec<_>>>()
        })
    };
    let all: &[(&str, &[usize])] = &[("plain", &[2, 3]), ("shifted", &[4]), ("scalar", &[])];
    assert!(load(&["trans*"], all).is_ok());
    assert!(load(&["*posed"], all).is_ok());
    assert!(load(&["transposed"], all).is_ok());

    let message = load(
        &["shifted"],
        &[("plain", &[3, 2]), ("lost", &[1]), ("gone", &[])],
    )
    .expect_err("a mismatch")
    .to_string();
    assert!(
        message.ends_with(
            "does not fit the model: other shapes: plain is [2, 3] in the file and [3, 2] in the model; \
             missing: lost, gone; unknown to the model: scalar, transposed"
        ),
        "{message}"
    );
    assert!(message.contains(&checkpoint.path().display().to_string()));

    // A model that fails on its own account says so.
    let failed = checkpoint.load(
        DType::F32,
        &Device::Cpu,
        &[],
        |_| -> candle_core::Result<()> { candle_core::bail!("no such model") },
    );
    assert!(failed.is_err_and(|e| e.to_string().contains("no such model")));
}

#[test]
fn long_lists_are_cut() {
    let mismatch = Mismatch {
        missing: (0..9).map(|i| format!("t{i}")).collect(),
        ..Mismatch::default()
    };
    assert_eq!(mismatch.to_string(), "missing: t0, t1, t2, t3 and 5 more");
}
