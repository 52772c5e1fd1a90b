use super::*;

fn files(root: &Path, names: &[&str]) -> Vec<PathBuf> {
    names.iter().map(|name| root.join(name)).collect()
}

fn by_pattern(pattern: &str) -> ClientsConfig {
    ClientsConfig {
        pattern: Some(pattern.to_owned()),
        ..ClientsConfig::default()
    }
}

/// The clients of `a/1.png` and `2.png` by a CSV file with this text.
fn by_table(text: &str, column: Option<&str>) -> Result<Vec<u32>, String> {
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("clients.csv");
    std::fs::write(&csv, text).unwrap();
    let config = ClientsConfig {
        csv: Some(csv),
        column: column.map(str::to_owned),
        ..ClientsConfig::default()
    };
    config.validate(ClientPlace::Path).unwrap();
    let root = folder.path().join("data");
    let clients = config.of_files(&root, &files(&root, &["a/1.png", "2.png"]));
    clients.map_err(|error| error.to_string())
}

#[test]
fn a_pattern_finds_the_client_in_the_path() {
    let root = Path::new("private");
    let names = ["p1/x_1.png", "p2/x_1.png", "p1/x_2.png"];
    let folders = by_pattern("^([^/]+)/");
    assert_eq!(
        folders.of_files(root, &files(root, &names)).unwrap(),
        [0, 1, 0]
    );
    let numbers = by_pattern(r"_(\d+)\.png$");
    assert_eq!(
        numbers.of_files(root, &files(root, &names)).unwrap(),
        [0, 0, 1]
    );
    for other in ["x.png", "/_.png"] {
        let error = numbers.of_files(root, &files(root, &[other]));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("data.clients.pattern"), "{error}");
    }
}

#[test]
fn a_table_names_the_client_of_each_file() {
    let rows = "center,client,file\n1,x,2.png\n1, x ,a/1.png\n2,y,absent.png\n";
    assert_eq!(by_table(rows, None), Ok(vec![0, 0]));
    let rows = "file,patient,center\na/1.png,\"4,2\",1\n2.png,4,1\n";
    assert_eq!(by_table(rows, Some("patient")), Ok(vec![0, 1]));
    assert_eq!(by_table(rows, Some("center")), Ok(vec![0, 0]));
    for (text, expected) in [
        ("file,client\n2.png,x\n", "1.png: its client is unknown"),
        (
            "file,patient\n2.png,x\n",
            "line 1: expected one column `client`",
        ),
        ("file,client,file\n", "line 1: expected one column `file`"),
        (
            "file,client\n2.png,x\n2.png,x\n",
            "line 3: `2.png` is on an earlier line too",
        ),
        ("file,client\n2.png,\n", "line 2: has no client"),
        ("file,client\n2.png\n", "line 2"),
        ("", "line 1: expected one column"),
    ] {
        let error = by_table(text, None).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn an_array_has_a_client_for_each_image() {
    assert_eq!(
        numbered(&["7", "-1", "7", "9"].map(str::to_owned)),
        [0, 1, 0, 2]
    );
}

#[test]
fn invalid_keys_are_named() {
    let refused = |config: &ClientsConfig, place: ClientPlace, expected: &str| {
        let error = config.validate(place).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(
        &ClientsConfig::default(),
        ClientPlace::Path,
        "clients: names no clients",
    );
    ClientsConfig::default()
        .validate(ClientPlace::Container)
        .unwrap();
    refused(
        &by_pattern("("),
        ClientPlace::Path,
        "clients.pattern: is no regular expression",
    );
    refused(&by_pattern("p[0-9]+"), ClientPlace::Path, "has no group");
    refused(
        &by_pattern("(p)"),
        ClientPlace::Container,
        "clients.pattern: is for folders",
    );
    let both = ClientsConfig {
        csv: Some("c.csv".into()),
        ..by_pattern("(p)")
    };
    refused(
        &both,
        ClientPlace::Path,
        "clients.pattern: conflicts with clients.csv",
    );
    let column = ClientsConfig {
        column: Some("patient".to_owned()),
        ..by_pattern("(p)")
    };
    refused(
        &column,
        ClientPlace::Path,
        "clients.column: is given without csv",
    );
    for (max_images, declared_size) in [(Some(0), None), (None, Some(0))] {
        let config = ClientsConfig {
            max_images,
            declared_size,
            ..by_pattern("(p)")
        };
        refused(&config, ClientPlace::Path, "is 0: expected 1 or more");
    }
}
