//! Tests of the generator of text with small fonts.

use std::path::Path;

use super::testing::{Letter, be32, font, rectangle, write};
use super::*;
use crate::progress::Silent;
use crate::streams::{Phase, RngKey};

/// A horizontal bar as `a`, and a vertical bar as `b`.
fn bars(thickness: i16) -> Vec<Letter> {
    vec![
        ('a', vec![rectangle(0, 300, 800, 300 + thickness)]),
        ('b', vec![rectangle(300, 0, 300 + thickness, 800)]),
    ]
}

/// A folder of three fonts with `a` and `b`.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, thickness) in [("one.ttf", 100), ("two.TTF", 150), ("three.otf", 400)] {
        write(folder.path(), name, &font(900, &bars(thickness)));
    }
    folder
}

/// Returns the bytes of a collection of fonts.
fn collection(fonts: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = [b"ttcf".as_slice(), &be32(0x0001_0000), &be32(fonts.len())].concat();
    let mut offset = 12 + 4 * fonts.len();
    for font in fonts {
        bytes.extend(be32(offset));
        offset += font.len();
    }
    let mut offset = 12 + 4 * fonts.len();
    for font in fonts {
        // Offsets of tables count from the beginning of the file.
        let tables = usize::from(u16::from_be_bytes([font[4], font[5]]));
        let mut moved = font.clone();
        for table in 0..tables {
            let at = 12 + 16 * table + 8;
            let old = u32::from_be_bytes(font[at..at + 4].try_into().unwrap());
            moved[at..at + 4].copy_from_slice(&be32(old as usize + offset));
        }
        offset += moved.len();
        bytes.extend(moved);
    }
    bytes
}

fn config(fonts: &Path, text: &str) -> Config {
    let fonts = toml::Value::from(fonts.to_str().unwrap());
    let text = format!("fonts = [{fonts}]\n{text}");
    toml::from_str(&text).unwrap()
}

/// Ranges for all parameters.
const RANGES: &str = "image_size = [20, 24]
weight = [0.1, 0.3]
size = [0.5, 0.9]
rotation = [-30, 30]
shear = [-20, 20]
stretch = [0.5, 2]
x = [-0.1, 0.1]
y = [0, 0.05]
warp = 0.05
blur = [0, 1]
foreground = [[200, 255], [0, 255], 7]
background = [0, 90]
texts = [\"a\", \"b\"]
";

fn request(condition: u32, phase: Phase, sample: u64) -> SampleRequest {
    SampleRequest {
        condition: Condition(condition),
        rng_key: RngKey {
            seed: 5,
            phase,
            iteration: 0,
            repeat: 0,
            sample,
        },
    }
}

fn requests(phase: Phase, count: u64) -> Vec<SampleRequest> {
    (0..count)
        .map(|sample| request(sample as u32 % 2, phase, sample))
        .collect()
}

fn open(config: &Config) -> TextModel {
    TextModel::open(config).unwrap().0
}

fn by(degree: f64) -> Variation {
    Variation {
        degree,
        population: 1,
    }
}

fn read(generated: &Generated) -> Vec<TextParameters> {
    let indices = 0..generated.len();
    indices
        .map(|index| generated.parameters(index).read().unwrap())
        .collect()
}

/// The values of an image of one channel, `[height][width]`.
fn rows(generated: &Generated, index: usize) -> Vec<Vec<u8>> {
    let image = generated.images.get(index).unwrap();
    let gray: Vec<u8> = image.iter().step_by(3).copied().collect();
    gray.chunks(generated.images.width())
        .map(<[u8]>::to_vec)
        .collect()
}

#[test]
fn images_depend_on_their_keys_alone() {
    let folder = folder();
    let model = open(&config(folder.path(), RANGES));
    let (random, vary) = (requests(Phase::Random, 40), requests(Phase::Vary, 40));
    let images = model.random(&random).unwrap();
    let varied = model.vary(&images, &vary, by(0.4)).unwrap();
    assert_eq!((images.images.height(), images.images.width()), (20, 24));
    assert!(images != model.random(&vary).unwrap());
    let mut parts = Generated::from(ImageBatch::empty(20, 24));
    let mut varied_parts = parts.clone();
    for start in (0..40).step_by(8) {
        let part = model.random(&random[start..start + 8]).unwrap();
        parts.extend(&part).unwrap();
        let part = model.vary(
            &images.slice(start..start + 8),
            &vary[start..start + 8],
            by(0.4),
        );
        varied_parts.extend(&part.unwrap()).unwrap();
    }
    assert!(parts == images && varied_parts == varied);
    // A run with the fonts at another place, and after reading parameters back from text.
    let moved = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        std::fs::create_dir_all(moved.path().join("deep")).unwrap();
        std::fs::copy(
            entry.path(),
            moved.path().join("deep").join(entry.file_name()),
        )
        .unwrap();
    }
    let again = open(&config(moved.path(), RANGES));
    assert_eq!(again.faces.digest, model.faces.digest);
    let texts = (0..40).map(|index| Parameters::from_text(images.parameters(index).text()));
    let stored = Generated::new(images.images.clone(), texts.map(Result::unwrap).collect());
    assert!(again.vary(&stored.unwrap(), &vary, by(0.4)).unwrap() == varied);
}

#[test]
fn degree_0_returns_the_parents_and_more_moves_them_further() {
    let folder = folder();
    let model = open(&config(folder.path(), RANGES));
    let images = model.random(&requests(Phase::Random, 300)).unwrap();
    let vary = |degree| model.vary(&images, &requests(Phase::Vary, 300), by(degree));
    assert!(vary(0.0).unwrap() == images);
    let parents = read(&images);
    let (mut changed, mut turned) = (vec![], vec![]);
    for degree in [0.1, 0.5, 1.0] {
        let children = read(&vary(degree).unwrap());
        let pairs = || parents.iter().zip(&children);
        assert!(pairs().all(|(parent, child)| parent.text == child.text));
        changed.push(
            pairs()
                .filter(|(parent, child)| parent.font != child.font)
                .count(),
        );
        let turn = |(parent, child): (&TextParameters, &TextParameters)| {
            let turn = (parent.rotation - child.rotation).abs();
            assert!(turn <= 60.0 * degree + 1e-3, "{turn}");
            turn
        };
        turned.push(pairs().map(turn).sum::<f64>() / 300.0);
        for child in &children {
            assert!((0.5..=0.9).contains(&child.size) && (0.0..=0.05).contains(&child.y));
            assert!(child.warp.iter().all(|d| d.abs() <= 0.05) && child.warp.len() == 32);
            let [red, _, blue] = child.foreground.rgb();
            assert!(red >= 200 && blue == 7);
        }
    }
    assert!(
        (10..=60).contains(&changed[0]) && changed[2] == 300,
        "{changed:?}"
    );
    assert!(turned[0] < turned[1] && turned[1] < turned[2], "{turned:?}");
    for degree in [-0.1, 1.1, f64::NAN] {
        let error = vary(degree).err().unwrap();
        assert!(matches!(error, GeneratorError::Degree { .. }), "{error}");
    }
}

#[test]
fn factors_of_single_parameters_follow_the_population() {
    let folder = folder();
    let text = format!("{RANGES}[steps]\nfont = 0\nrotation = [1, 0, 0.5]\n");
    let model = open(&config(folder.path(), &text));
    assert_eq!(model.config.schedules(), [("steps.rotation", 3)]);
    let images = model.random(&requests(Phase::Random, 100)).unwrap();
    let parents = read(&images);
    let most = |population| {
        let variation = Variation {
            degree: 1.0,
            population,
        };
        let children = model.vary(&images, &requests(Phase::Vary, 100), variation);
        let children = read(&children.unwrap());
        assert!(
            parents
                .iter()
                .zip(&children)
                .all(|(p, c)| p.font == c.font && p.size != c.size)
        );
        let turns = parents
            .iter()
            .zip(&children)
            .map(|(p, c)| (p.rotation - c.rotation).abs());
        turns.fold(0.0, f64::max)
    };
    assert_eq!(most(1), 0.0);
    let half = most(2);
    assert!(half > 20.0 && half <= 30.0, "{half}");
}

#[test]
fn a_bar_is_drawn_where_its_parameters_say() {
    let folder = folder();
    let fixed = "image_size = [40, 20]\nsize = 0.8\nexclude_fonts = [\"TWO\", \"three\"]\n";
    let image = |text: &str| {
        let model = open(&config(folder.path(), &format!("{fixed}{text}")));
        let image = model.random(&[request(0, Phase::Random, 0)]).unwrap();
        assert_eq!(read(&image)[0].font, "one.ttf");
        rows(&image, 0)
    };
    // 0.8 of the width, an eighth as high: 16 x 2 pixels, in the center of 20 x 40.
    let bar = image("texts = \"a\"");
    for (y, row) in bar.iter().enumerate() {
        for (x, level) in row.iter().enumerate() {
            let inside = (19..21).contains(&y) && (2..18).contains(&x);
            assert_eq!(*level, if inside { 255 } else { 0 }, "{y} {x}");
        }
    }
    let sum = |rows: &[Vec<u8>]| rows.iter().flatten().map(|v| f64::from(*v)).sum::<f64>() / 255.0;
    let near = |value: f64, expected: f64| assert!((value - expected).abs() < 0.6, "{value}");
    near(sum(&bar), 32.0);
    // Turned by 90 degrees, it becomes vertical, and so does the text `b`: 32 pixels of 40.
    let turned = image("texts = \"a\"\nrotation = 90");
    near(sum(&turned), 32.0 * 4.0);
    assert_eq!(turned[6][10], 255);
    near(sum(&image("texts = \"b\"")), 32.0 * 4.0);
    // Thicker strokes stay within the same box; thinner ones lose area.
    let thick = image("texts = \"a\"\nweight = 0.4");
    assert_eq!((thick[20][1], thick[20][18]), (0, 0));
    // 16 x 6 pixels without the corners, which are beveled.
    near(sum(&thick), 16.0 * 6.04 - 11.5);
    assert!(sum(&image("texts = \"a\"\nweight = 0.05")) < 20.0);
    // Moved to the lower right.
    let moved = image("texts = \"a\"\nx = 0.1\ny = 0.25");
    assert_eq!(
        (moved[29][4], moved[29][19], moved[29][3], moved[28][9]),
        (255, 255, 0, 0)
    );
    // A blur keeps the sum but lowers the peak.
    let blurred = image("texts = \"a\"\nblur = 2");
    near(sum(&blurred), 31.0);
    assert!(blurred.iter().flatten().all(|level| *level < 140));
    // Colors: the text is darker than what is behind it.
    let inverse = image("texts = \"a\"\nforeground = 10\nbackground = 200");
    assert_eq!((inverse[20][10], inverse[0][0]), (10, 200));
    // Two letters are one advance width apart.
    let two = image("texts = \"ab\"\nfit = \"em\"\ncenter = \"none\"");
    assert_eq!((two[20][0], two[20][9]), (255, 0));
}

#[test]
fn warps_bend_a_bar() {
    let folder = folder();
    let text = "image_size = 40\ntexts = \"a\"\nwarp = 0.2\nwarp_nodes = 3";
    let model = open(&config(folder.path(), text));
    let image = |warp: Vec<f64>| {
        let random = model.random(&[request(0, Phase::Random, 0)]).unwrap();
        let mut parameters = read(&random).remove(0);
        parameters.font = "one.ttf".to_owned();
        parameters.warp = warp;
        rows(&model.render(vec![parameters]).unwrap(), 0)
    };
    let straight = image(vec![0.0; 18]);
    assert_eq!(
        (straight[20][6], straight[20][20], straight[20][33]),
        (255, 255, 255)
    );
    let mut down = vec![0.0; 18];
    down[13] = 0.2;
    let bent = image(down);
    let row_of = |x: usize| (0..40).find(|y| bent[*y][x] > 128).unwrap();
    assert!(row_of(20) > row_of(6) + 3 && row_of(20) > row_of(33) + 3);
}

#[test]
fn a_small_change_of_the_font_prefers_one_that_looks_alike() {
    let folder = tempfile::tempdir().unwrap();
    for index in 0..10i16 {
        // Of an L, the foot grows from font to font.
        let l = vec![
            rectangle(0, 0, 100, 800),
            rectangle(100, 0, 200 + 50 * index, 100),
        ];
        write(
            folder.path(),
            &format!("{index}.ttf"),
            &font(900, &[('l', l)]),
        );
    }
    let model = open(&config(folder.path(), "image_size = 28\ntexts = \"l\""));
    let mut rng = request(0, Phase::Vary, 0).rng_key.rng();
    let mut chosen = |share| -> BTreeSet<usize> {
        let drawable = &model.drawable[0];
        let other = |_| {
            model
                .other_font(drawable, "4.ttf", share, &mut rng)
                .unwrap()
        };
        (0..400).filter_map(other).collect()
    };
    assert!(chosen(0.2).is_subset(&BTreeSet::from([3, 5])));
    assert_eq!(chosen(1.0).len(), 9);
    let error = model
        .other_font(&model.drawable[0], "x.ttf", 0.5, &mut rng)
        .unwrap_err();
    assert!(error.to_string().contains("x.ttf"), "{error}");
}

#[test]
fn fonts_without_a_character_are_left_out_for_a_text() {
    let folder = folder();
    let square = ('a', vec![rectangle(100, 0, 600, 500)]);
    // It looks like the glyph of missing characters.
    write(
        folder.path(),
        "square.ttf",
        &font(900, &[square, bars(90).remove(1)]),
    );
    write(folder.path(), "onlyb.ttf", &font(900, &bars(80)[1..]));
    write(
        folder.path(),
        "blank.ttf",
        &font(900, &[('a', vec![]), ('b', vec![]), (' ', vec![])]),
    );
    let text = "image_size = 28\ntexts = [\"a\", \"b\", \"aa\"]";
    let (model, warnings) = TextModel::open(&config(folder.path(), text)).unwrap();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("3 of 6 fonts") && warnings[0].contains("3 of 3 texts"));
    let counts: Vec<usize> = model
        .drawable
        .iter()
        .map(|drawable| drawable.faces.len())
        .collect();
    assert_eq!(counts, [3, 5, 3]);
    let conditions = [0, 1, 2];
    let many =
        (0..60).map(|sample| request(conditions[sample as usize % 3], Phase::Random, sample));
    let drawn = read(&model.random(&many.collect::<Vec<_>>()).unwrap());
    assert!(
        drawn
            .iter()
            .any(|parameters| parameters.font == "onlyb.ttf")
    );
    assert!(drawn.iter().all(|p| p.text == "b" || p.font != "onlyb.ttf"));
    let text = "image_size = 28\ntexts = [\"a\", \"c\"]";
    let error = TextModel::open(&config(folder.path(), text))
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.starts_with("fonts: ") && error.contains("\"c\" among 6"),
        "{error}"
    );
    // A space is blank, and only fonts that have it are used.
    let text = "image_size = 28\ntexts = \"a b\"";
    assert!(TextModel::open(&config(folder.path(), text)).is_err());
    assert!(model.random(&[request(3, Phase::Random, 0)]).is_err());
}

#[test]
fn files_that_are_no_fonts_are_counted_or_refused() {
    let folder = folder();
    let broken = write(folder.path(), "broken.ttf", b"\0\x01\0\0 no font");
    let cut = font(900, &bars(70));
    write(folder.path(), "cut.ttf", &cut[..cut.len() / 2]);
    write(folder.path(), "read.me", b"text");
    let text = "image_size = 28\ntexts = \"a\"";
    let (model, warnings) = TextModel::open(&config(folder.path(), text)).unwrap();
    assert!(warnings[0].contains("broken.ttf"), "{warnings:?}");
    assert_eq!(model.drawable[0].faces.len(), 3);
    let error = |path: &Path| {
        let error = TextModel::open(&config(path, text)).err().unwrap();
        error.to_string()
    };
    assert!(error(&broken).contains("not a font"));
    assert!(error(&folder.path().join("none")).contains("cannot read"));
    let empty = tempfile::tempdir().unwrap();
    assert!(error(empty.path()).contains("has no fonts"));
}

#[test]
fn the_digest_changes_with_the_fonts_but_not_with_their_place() {
    let digest = |folder: &Path, exclude: &str| {
        let text = format!("image_size = 28\ntexts = \"a\"\nexclude_fonts = [{exclude}]");
        open(&config(folder, &text)).faces.digest
    };
    let folder = folder();
    let before = digest(folder.path(), "");
    assert_eq!(before.len(), 64);
    assert!(before != digest(folder.path(), "\"two\""));
    // A copy of a font under another name changes nothing.
    write(folder.path(), "zcopy.ttf", &font(900, &bars(100)));
    assert_eq!(digest(folder.path(), ""), before);
    write(folder.path(), "one.ttf", &font(900, &bars(101)));
    assert!(digest(folder.path(), "") != before);
}

#[test]
fn fonts_of_a_collection_and_files_of_one_name_have_names_of_their_own() {
    let folder = folder();
    let two = [font(900, &bars(30)), font(900, &bars(60))];
    write(folder.path(), "pair.ttc", &collection(&two));
    std::fs::create_dir(folder.path().join("other")).unwrap();
    write(
        &folder.path().join("other"),
        "one.ttf",
        &font(900, &bars(33)),
    );
    let model = open(&config(folder.path(), "image_size = 28\ntexts = \"b\""));
    let names: Vec<&str> = model
        .faces
        .faces
        .iter()
        .map(|face| face.name.as_str())
        .collect();
    let expected = [
        "one.ttf",
        "one.ttf~2",
        "pair.ttc",
        "pair.ttc#1",
        "three.otf",
        "two.TTF",
    ];
    assert_eq!(names, expected);
    let width = |name: &str| {
        let face = model.faces.position(name).unwrap();
        let contour = &model.faces.faces[face].glyphs[&'b'].contours[0];
        let x: Vec<f32> = contour.iter().map(|point| point[0]).collect();
        x.iter().copied().fold(0.0, f32::max) - 0.3
    };
    assert!(
        (width("pair.ttc") - 0.03).abs() < 1e-6,
        "{}",
        width("pair.ttc")
    );
    assert!((width("pair.ttc#1") - 0.06).abs() < 1e-6);
}

#[test]
fn every_range_error_names_its_key() {
    let folder = folder();
    let valid = "image_size = 28\ntexts = \"a\"\n";
    config(folder.path(), valid).validate().unwrap();
    for (text, key) in [
        ("exclude_fonts = [\"\"]", "exclude_fonts"),
        ("size = [0.9, 0.5]", "size"),
        ("size = 0", "size"),
        ("weight = 0", "weight"),
        ("rotation = [0, 200]", "rotation"),
        ("shear = 80", "shear"),
        ("stretch = 0", "stretch"),
        ("x = 2", "x"),
        ("y = -2", "y"),
        ("warp = -0.1", "warp"),
        ("warp = nan", "warp"),
        ("warp_nodes = 1", "warp_nodes"),
        ("blur = -1", "blur"),
        ("foreground = 256", "foreground"),
        ("background = [0, 1, -3]", "background"),
        ("batch_size = 0", "batch_size"),
        ("steps = { font = -1 }", "steps.font"),
        ("steps = { warp = [1, 1e9] }", "steps.warp"),
    ] {
        let error = config(folder.path(), &format!("{valid}{text}")).validate();
        assert_eq!(error.unwrap_err().key, key, "{text}");
    }
    for (text, key) in [
        ("image_size = 0", "image_size"),
        ("image_size = [9, 9999]", "image_size"),
    ] {
        let error = config(folder.path(), &format!("{text}\ntexts = \"a\"")).validate();
        assert_eq!(error.unwrap_err().key, key, "{text}");
    }
    let none: Config = toml::from_str("fonts = []\nimage_size = 28\ntexts = \"a\"").unwrap();
    assert_eq!(none.validate().unwrap_err().key, "fonts");
    for text in [
        "weigth = 1",
        "center = \"left\"",
        "steps = { fonts = 1 }",
        "foreground = \"red\"",
    ] {
        let text = format!("fonts = [\"x\"]\n{valid}{text}");
        assert!(toml::from_str::<Config>(&text).is_err(), "{text}");
    }
    // What is written is read back.
    let full = config(folder.path(), RANGES);
    full.validate().unwrap();
    assert_eq!(
        toml::from_str::<Config>(&toml::to_string(&full).unwrap()).unwrap(),
        full
    );
    assert!(full.open(&[], &Silent).unwrap().weights_digest.is_some());
}

#[test]
fn parents_of_other_fonts_and_numbers_out_of_range_are_refused() {
    let folder = folder();
    let model = open(&config(folder.path(), RANGES));
    let images = model.random(&requests(Phase::Random, 2)).unwrap();
    let check = |change: &dyn Fn(&mut TextParameters)| {
        let mut parent: TextParameters = images.parameters(1).read().unwrap();
        change(&mut parent);
        let checked = model.check_parent(Condition(1), &Parameters::of(&parent).unwrap());
        checked.map_err(|error| error.to_string())
    };
    check(&|_| ()).unwrap();
    let font = check(&|parent| parent.font = "four.ttf".to_owned()).unwrap_err();
    assert!(font.contains("the font four.ttf"), "{font}");
    let blur = check(&|parent| parent.blur = 1e9).unwrap_err();
    assert!(blur.contains("blur = 1000000000"), "{blur}");
    let stretch = check(&|parent| parent.stretch = -1.0).unwrap_err();
    assert!(stretch.contains("expected 0.1 to 10"), "{stretch}");
    let none = model.check_parent(Condition(0), &Parameters::NONE);
    assert!(none.err().unwrap().to_string().contains("no parameters"));
    assert!(
        model
            .check_parent(Condition(2), images.parameters(0))
            .is_err()
    );
}
