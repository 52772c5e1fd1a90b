//! The protocol against arbitrary bytes.

use std::io::Cursor;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::protocol::{Answer, Frame, Hello, Message, PixelForm, hello, request};
use super::reader::{MessageReader, ReadFailure};
use super::*;
use crate::generators::Parameters;
use crate::images::png;
use crate::streams::{Phase, RngKey};

const FRAME: Frame = Frame {
    height: 2,
    width: 3,
};

/// Reads all messages, up to the first failure.
fn read_all(bytes: &[u8]) -> (Vec<Message>, ReadFailure) {
    let mut reader = MessageReader::new(Cursor::new(bytes), FRAME);
    let mut messages = Vec::new();
    loop {
        match reader.read() {
            Ok(message) => messages.push(message),
            Err(failure) => return (messages, failure),
        }
    }
}

/// The description of the violation that bytes contain.
fn violation(bytes: &[u8]) -> String {
    match read_all(bytes) {
        (messages, ReadFailure::Violation(how)) if messages.is_empty() => how,
        other => panic!("{:?}: {other:?}", String::from_utf8_lossy(bytes)),
    }
}

fn encoded(pixels: &[u8], height: usize, width: usize) -> String {
    use base64::Engine as _;
    let image = ImageBatch::new(pixels.to_vec(), 1, height, width).unwrap();
    base64::engine::general_purpose::STANDARD.encode(png(&image).unwrap())
}

fn sample(sample: u64) -> SampleRequest {
    SampleRequest {
        condition: Condition::UNCONDITIONAL,
        rng_key: RngKey {
            seed: 1,
            phase: Phase::Random,
            iteration: 0,
            repeat: 0,
            sample,
        },
    }
}

#[test]
fn messages_of_both_forms_are_read() {
    let pixels: Vec<u8> = (0..18).collect();
    let png = encoded(&pixels, 2, 3);
    let mut bytes = format!(
        "{{\"type\":\"hello\",\"version\":1,\"pixels\":\"raw\",\"degrees\":[0,1.5]}}\n\
         {{\"type\":\"image\",\"id\":4,\"parameters\":{{\"a\":[1, 0.1]}},\"png\":\"{png}\"}}\r\n\
         {{\"type\":\"image\",\"id\":5,\"raw\":18}}\n"
    )
    .into_bytes();
    bytes.extend(&pixels);
    bytes.extend(b"{\"type\":\"error\",\"id\":6,\"message\":\"no \\u001b degree\"}\n");
    let (messages, end) = read_all(&bytes);
    assert!(matches!(end, ReadFailure::Ended), "{end:?}");
    let image = |id, parameters| Message::Image {
        id,
        answer: Answer {
            pixels: pixels.clone(),
            parameters,
        },
    };
    let hello = Hello {
        pixels: Some(PixelForm::Raw),
        degrees: Some([0.0, 1.5]),
    };
    let message = "no \\u{1b} degree".to_owned();
    assert_eq!(
        messages,
        [
            Message::Hello(hello),
            image(4, Parameters::from_text(r#"{"a":[1,0.1]}"#).unwrap()),
            image(5, Parameters::NONE),
            Message::Error { id: 6, message },
        ]
    );
}

#[test]
fn violations_name_what_was_expected() {
    // Long because it lists the violations.
    let png = encoded(&[0; 12], 2, 2);
    let cut = encoded(&[7; 18], 2, 3);
    let cut = &cut[..cut.len() - 16];
    let long = "x".repeat(70_000);
    for (line, expected) in [
        ("loading the model", "one message of the protocol"),
        ("", "one message of the protocol"),
        (
            "{\"type\":\"image\",\"id\":1,\"raw\":18} {}",
            "trailing characters",
        ),
        (
            r#"{"type":"image","id":1}"#,
            "either the key `png` or the key `raw`",
        ),
        (r#"{"type":"image","id":1,"png":"","raw":18}"#, "with two"),
        (
            r#"{"type":"image","id":1,"raw":17}"#,
            "expected 18, 3 x 2 x 3",
        ),
        (
            r#"{"type":"image","id":1,"raw":-18}"#,
            "one message of the protocol",
        ),
        (
            r#"{"type":"image","id":1,"raw":18446744073709551615}"#,
            "expected 18",
        ),
        (
            r#"{"type":"image","id":1.0,"raw":18}"#,
            "one message of the protocol",
        ),
        (
            r#"{"type":"image","id":1,"parameters":NaN,"raw":18}"#,
            "one message of the protocol",
        ),
        (
            r#"{"type":"image","id":1,"parameters":1e999,"raw":18}"#,
            "one message of the protocol",
        ),
        (
            r#"{"type":"image","id":1,"id":2,"raw":18}"#,
            "duplicate field",
        ),
        (
            r#"{"type":"image","id":1,"raw":18,"comment":1}"#,
            "unknown field `comment`",
        ),
        (r#"{"type":"picture","id":1}"#, "unknown variant `picture`"),
        (r#"{"type":"image","id":1,"png":"!"}"#, "not base64"),
        (
            r#"{"type":"image","id":1,"png":"R0lGODlhAQABAAAAADs="}"#,
            "not a PNG file",
        ),
        (
            &format!(r#"{{"type":"image","id":1,"png":"{png}"}}"#),
            "2x2: expected 2x3",
        ),
        (
            &format!(r#"{{"type":"image","id":1,"png":"{cut}"}}"#),
            "damaged",
        ),
        (
            &format!(r#"{{"type":"image","id":1,"parameters":"{long}","raw":18}}"#),
            "expected at most 65536",
        ),
        (r#"{"type":"hello","version":2}"#, "expected 1"),
        (
            r#"{"type":"hello","version":1,"pixels":"jpeg"}"#,
            "unknown variant `jpeg`",
        ),
        (
            r#"{"type":"hello","version":1,"degrees":[1,0]}"#,
            "smallest and the largest",
        ),
    ] {
        let how = violation(format!("{line}\n").as_bytes());
        assert!(how.contains(expected), "{line}: {how}");
        assert!(how.len() < 600, "{how}");
    }
    let endless = vec![b' '; FRAME.max_line() + 1];
    assert!(violation(&endless).contains("a line of more than"));
    let nested = format!(
        "{{\"type\":\"image\",\"parameters\":{}\n",
        "[".repeat(100_000)
    );
    assert!(violation(nested.as_bytes()).contains("recursion limit"));
}

#[test]
fn an_end_within_a_message_is_told_from_an_end_between_messages() {
    for (bytes, whole) in [
        ("", true),
        ("{\"type\":\"hello\",\"version\":1}\n", true),
        ("{\"type\":\"hello\",\"version\":1}", false),
        ("{\"type\":\"image\",\"id\":1,\"raw\":18}\n", false),
        (
            "{\"type\":\"image\",\"id\":1,\"raw\":18}\n0123456789",
            false,
        ),
    ] {
        match read_all(bytes.as_bytes()).1 {
            ReadFailure::Ended => assert!(whole, "{bytes}"),
            ReadFailure::Truncated => assert!(!whole, "{bytes}"),
            other => panic!("{bytes}: {other:?}"),
        }
    }
}

#[test]
fn requests_have_everything_that_the_protocol_describes() {
    let line = |bytes: &[u8]| -> (Value, Vec<u8>) {
        let at = bytes.iter().position(|byte| *byte == b'\n').unwrap();
        let value = serde_json::from_slice(&bytes[..at]).unwrap();
        (value, bytes[at + 1..].to_vec())
    };
    let (first, _) = line(&hello(FRAME, true));
    assert_eq!(first["image_size"], json!([2, 3]));
    assert_eq!(
        (&first["version"], &first["pixels"]),
        (&json!(1), &json!(true))
    );
    let random = Request {
        sample: sample(7),
        parent: None,
    };
    let class = json!({ "species": "cat" });
    let (value, rest) = line(&request(&random, 3, &class, 2, FRAME, None).unwrap());
    let seed = value["seed"].as_u64().unwrap();
    assert!(seed < 1 << 53 && seed != 0);
    assert_eq!(
        value,
        json!({ "type": "random", "id": 3, "seed": seed, "class": class, "remaining": 2,
                "population": 0 })
    );
    assert!(rest.is_empty());
    let pixels: Vec<u8> = (0..18).collect();
    let parameters = Parameters::from_text(r#"{"angle":0.1}"#).unwrap();
    let vary = Request {
        sample: sample(7),
        parent: Some(Parent {
            pixels: &pixels,
            parameters: &parameters,
            variation: Variation {
                degree: 0.5,
                population: 4,
            },
        }),
    };
    let (value, rest) = line(&request(&vary, 4, &class, 0, FRAME, None).unwrap());
    let mut expected = json!({ "type": "vary", "id": 4, "seed": seed, "class": class,
        "remaining": 0, "degree": 0.5, "population": 4, "parameters": { "angle": 0.1 } });
    assert_eq!((&value, rest.len()), (&expected, 0));
    let raw = request(&vary, 4, &class, 0, FRAME, Some(PixelForm::Raw)).unwrap();
    expected["raw"] = json!(18);
    assert_eq!(line(&raw), (expected.clone(), pixels.clone()));
    let png = request(&vary, 4, &class, 0, FRAME, Some(PixelForm::Png)).unwrap();
    expected.as_object_mut().unwrap().remove("raw");
    expected["png"] = json!(encoded(&pixels, 2, 3));
    assert_eq!(line(&png), (expected, Vec::new()));
}

proptest! {
    #[test]
    fn any_bytes_are_messages_or_one_failure(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        with in prop::bool::ANY,
    ) {
        // Half of the cases begin with a valid message.
        let mut input = Vec::new();
        if with {
            input.extend(b"{\"type\":\"image\",\"id\":1,\"raw\":18}\n");
        }
        input.extend(&bytes);
        let (messages, _) = read_all(&input);
        for message in messages {
            if let Message::Image { answer, .. } = message {
                prop_assert_eq!(answer.pixels.len(), FRAME.bytes());
            }
        }
    }

    #[test]
    fn a_damaged_stream_yields_no_image_of_another_size(
        at in 0usize..200,
        value in any::<u8>(),
        cut in 0usize..300,
    ) {
        let png = encoded(&[9; 18], 2, 3);
        let mut input = format!(
            "{{\"type\":\"image\",\"id\":1,\"parameters\":{{\"x\":[1,2]}},\"png\":\"{png}\"}}\n\
             {{\"type\":\"image\",\"id\":2,\"raw\":18}}\n"
        )
        .into_bytes();
        input.extend([b'\n'; 18]);
        if let Some(byte) = input.get_mut(at) {
            *byte = value;
        }
        input.truncate(cut);
        let (messages, _) = read_all(&input);
        for message in messages {
            if let Message::Image { answer, .. } = message {
                prop_assert_eq!(answer.pixels.len(), FRAME.bytes());
            }
        }
    }
}
