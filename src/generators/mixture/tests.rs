//! Mixtures of models that only say who they are.

use std::sync::{Arc, Mutex};

use serde_json::json;

use super::*;
use crate::generators::{GeneratorSection, ModelConfig};
use crate::schedule::Schedule;
use crate::sections::InvalidKey;
use crate::streams::{Phase, RngKey};

/// Requests that members received: member, class, parameters of the parent, degree.
type Log = Arc<Mutex<Vec<(u8, u32, String, f64)>>>;

/// A model whose images are all of one level, and whose parameters count variations.
struct Stub {
    level: u8,
    conditions: u32,
    log: Log,
}

impl Stub {
    fn answer(&self, count: usize, generation: impl Fn(usize) -> u32) -> Generated {
        let images = ImageBatch::new(vec![self.level; count * 3], count, 1, 1).unwrap();
        let parameters = (0..count).map(|index| Parameters::of(&generation(index)).unwrap());
        Generated::new(images, parameters.collect()).unwrap()
    }
}

impl Generator for Stub {
    fn image_size(&self) -> (usize, usize) {
        (1, 1)
    }
    fn batch_size(&self) -> usize {
        10 * usize::from(self.level)
    }
    fn initial_conditions(
        &self,
        requests: &[ConditionRequest<'_>],
    ) -> Result<Vec<Condition>, GeneratorError> {
        let class = |request: &ConditionRequest<'_>| match request.class {
            Some("b") => Condition(self.conditions - 1),
            _ => Condition(0),
        };
        Ok(requests.iter().map(class).collect())
    }
    fn num_conditions(&self) -> u32 {
        self.conditions
    }
    fn describe_conditions(&self, _: Option<&str>) -> Vec<String> {
        vec![format!("{} conditions", self.conditions)]
    }
    fn preflight(&self, work: &[PlannedWork]) -> Result<Vec<String>, GeneratorError> {
        let images = work.iter().map(|work| work.images.to_string());
        Ok(vec![images.collect::<Vec<_>>().join(" ")])
    }
    fn drain_warnings(&self) -> Vec<String> {
        vec!["slow".to_owned()]
    }
    fn random(&self, requests: &[SampleRequest]) -> Result<Generated, GeneratorError> {
        let mut log = self.log.lock().unwrap();
        log.extend(
            requests
                .iter()
                .map(|r| (self.level, r.condition.0, String::new(), 0.0)),
        );
        Ok(self.answer(requests.len(), |_| 0))
    }
    fn vary(
        &self,
        parents: &Generated,
        requests: &[SampleRequest],
        variation: Variation,
    ) -> Result<Generated, GeneratorError> {
        let mut log = self.log.lock().unwrap();
        for (index, request) in requests.iter().enumerate() {
            let text = parents.parameters(index).text().to_owned();
            log.push((self.level, request.condition.0, text, variation.degree));
        }
        let before = |index: usize| parents.parameters(index).read::<u32>().unwrap_or(100);
        Ok(self.answer(requests.len(), |index| before(index) + 1))
    }
    fn evaluations(&self, _: Operation) -> Result<u64, GeneratorError> {
        Ok(10 * u64::from(self.level))
    }
}

fn member(name: &str, share: f64, pixels: bool) -> Member {
    let text = format!("command = ['x']\nimage_size = 1\npixels = {pixels}\n");
    Member {
        name: name.to_owned(),
        share,
        variation_degree: None,
        model: ModelConfig::Program(toml::from_str(&text).unwrap()),
    }
}

fn rule(names: &[&str]) -> Schedule<String> {
    match names {
        [one] => Schedule::Constant((*one).to_owned()),
        _ => Schedule::List(names.iter().map(|name| (*name).to_owned()).collect()),
    }
}

fn config(members: Vec<Member>, variations: &[&str]) -> Config {
    Config {
        variations: rule(variations),
        members,
    }
}

/// Members of the levels 1, 2, … with so many conditions.
fn open(config: &Config, conditions: &[u32]) -> (Box<dyn Generator>, Log) {
    config.validate().unwrap();
    let log = Log::default();
    let stubs = conditions
        .iter()
        .zip(1..)
        .map(|(conditions, level)| OpenedGenerator {
            generator: Box::new(Stub {
                level,
                conditions: *conditions,
                log: Arc::clone(&log),
            }),
            weights_digest: (level == 1).then(|| "abc".to_owned()),
            warnings: vec!["old".to_owned()],
        });
    let opened = Mixture::combine(config, stubs.collect()).unwrap();
    assert!(opened.weights_digest.is_some());
    assert_eq!(opened.warnings[0], "member \"sim\": old");
    (opened.generator, log)
}

fn key(sample: u64) -> RngKey {
    RngKey {
        seed: 3,
        phase: Phase::Random,
        iteration: 0,
        repeat: 0,
        sample,
    }
}

fn requests(count: u64, condition: u32) -> Vec<SampleRequest> {
    let request = |sample| SampleRequest {
        condition: Condition(condition),
        rng_key: key(sample),
    };
    (0..count).map(request).collect()
}

fn levels(generated: &Generated) -> Vec<u8> {
    generated.images.iter().map(|image| image[0]).collect()
}

fn texts(generated: &Generated) -> Vec<&str> {
    let indices = 0..generated.len();
    indices
        .map(|index| generated.parameters(index).text())
        .collect()
}

#[test]
fn random_images_have_the_shares_and_do_not_depend_on_the_batch() {
    let both = config(
        vec![member("sim", 3.0, false), member("net", 1.0, true)],
        &["parent"],
    );
    let (mixture, _) = open(&both, &[1, 1]);
    let all = mixture.random(&requests(4000, 0)).unwrap();
    let first = levels(&all).iter().filter(|level| **level == 1).count();
    // Four standard errors of 27 images.
    assert!(first.abs_diff(3000) < 110, "{first}");
    let mut parts = Generated::from(ImageBatch::empty(1, 1));
    for chunk in requests(4000, 0).chunks(7) {
        parts.extend(&mixture.random(chunk).unwrap()).unwrap();
    }
    assert!(parts == all);
    for (level, text) in levels(&all).iter().zip(texts(&all)) {
        let name = if *level == 1 { "sim" } else { "net" };
        assert_eq!(text, format!("{{\"member\":\"{name}\",\"parameters\":0}}"));
    }
    // The choice of the member says nothing about the stream that the member uses.
    let low = |(request, level): (&SampleRequest, &u8)| {
        *level == 1 && request.rng_key.rng().uniform() < 0.5
    };
    let low = requests(4000, 0)
        .iter()
        .zip(&levels(&all))
        .filter(|pair| low(*pair))
        .count();
    assert!(low.abs_diff(first / 2) < 120, "{low} of {first}");
    let none = config(
        vec![member("sim", 0.0, true), member("net", 1.0, true)],
        &["parent"],
    );
    let (mixture, _) = open(&none, &[1, 1]);
    assert_eq!(levels(&mixture.random(&requests(50, 0)).unwrap()), [2; 50]);
}

#[test]
fn a_variation_is_made_by_the_member_of_the_parent_or_by_the_rule() {
    let mut both = config(
        vec![member("sim", 1.0, false), member("net", 1.0, true)],
        &["parent", "parent", "net"],
    );
    both.members[1].variation_degree = Some(Schedule::List(vec![0.0, 5.0, 6.0]));
    let (mixture, log) = open(&both, &[1, 1]);
    let parents = mixture.random(&requests(12, 0)).unwrap();
    assert!(levels(&parents).contains(&1) && levels(&parents).contains(&2));
    let children = mixture
        .vary(&parents, &requests(12, 0), Variation::new(0.5, 1))
        .unwrap();
    assert_eq!(levels(&children), levels(&parents));
    for text in texts(&children) {
        assert!(text.ends_with("\"parameters\":1}"), "{text}");
    }
    log.lock().unwrap().clear();
    let last = mixture
        .vary(&children, &requests(12, 0), Variation::new(0.25, 2))
        .unwrap();
    assert_eq!(levels(&last), [2; 12]);
    let taken = levels(&children)
        .iter()
        .filter(|level| **level == 1)
        .count();
    let foreign = texts(&last)
        .iter()
        .filter(|text| text.contains(":101}"))
        .count();
    assert_eq!(
        taken, foreign,
        "a member receives no parameters of another one"
    );
    let requested = log.lock().unwrap().clone();
    let expected = |text: &str| text == "1" || text.is_empty();
    assert!(
        requested
            .iter()
            .all(|(_, _, text, degree)| *degree == 6.0 && expected(text))
    );
    // An image of no member is varied by one that varies pixels.
    let foreign = Generated::from(ImageBatch::new(vec![9; 9], 3, 1, 1).unwrap());
    let varied = mixture
        .vary(&foreign, &requests(3, 0), Variation::new(0.5, 1))
        .unwrap();
    assert_eq!(levels(&varied), [2; 3]);
    let only = config(vec![member("sim", 1.0, false)], &["parent"]);
    let (mixture, _) = open(&only, &[1]);
    let error = mixture.vary(&foreign, &requests(3, 0), Variation::new(0.5, 1));
    let error = error.err().unwrap().to_string();
    assert!(
        error.contains("expected a member that varies pixels"),
        "{error}"
    );
}

#[test]
fn every_member_knows_its_condition_of_an_image() {
    let both = config(
        vec![member("sim", 1.0, true), member("net", 0.0, true)],
        &["parent", "net"],
    );
    let (mixture, log) = open(&both, &[3, 4]);
    assert_eq!(mixture.num_conditions(), 12);
    let asked = [Some("a"), Some("b")].map(|class| ConditionRequest {
        class,
        rng_key: key(0),
    });
    let conditions = mixture.initial_conditions(&asked).unwrap();
    assert_eq!(conditions, [Condition(0), Condition(2 + 3 * 3)]);
    let requests = requests(1, conditions[1].0);
    let parent = mixture.random(&requests).unwrap();
    mixture
        .vary(&parent, &requests, Variation::new(1.0, 1))
        .unwrap();
    let log = log.lock().unwrap();
    assert_eq!((log[0].0, log[0].1), (1, 2));
    assert_eq!((log[1].0, log[1].1), (2, 3));
    assert_eq!(
        mixture.describe_conditions(None),
        [
            "member \"sim\": 3 conditions",
            "member \"net\": 4 conditions"
        ]
    );
}

#[test]
fn costs_are_those_of_the_expected_shares() {
    let both = config(
        vec![member("sim", 3.0, true), member("net", 1.0, true)],
        &["parent", "parent", "net", "parent"],
    );
    let (mixture, _) = open(&both, &[1, 1]);
    let vary = |population| Operation::Vary(Variation::new(1.0, population));
    let cost = |operation| mixture.evaluations(operation).unwrap();
    // 0.75 · 10 + 0.25 · 20, rounded up.
    assert_eq!(
        [
            cost(Operation::Random),
            cost(vary(1)),
            cost(vary(2)),
            cost(vary(3))
        ],
        [13, 13, 20, 20]
    );
    let work = [Operation::Random, vary(2)].map(|operation| PlannedWork {
        operation,
        images: 100,
        each: 1,
    });
    assert_eq!(
        mixture.preflight(&work).unwrap(),
        ["member \"sim\": 75", "member \"net\": 25 100"]
    );
    assert_eq!(mixture.drain_warnings()[1], "member \"net\": slow");
    assert_eq!(mixture.batch_size(), 10);
}

#[test]
fn a_wrong_configuration_names_the_member_and_the_key() {
    // Long because it lists the cases.
    let error = |config: &Config| -> InvalidKey { config.validate().unwrap_err() };
    let two = |change: fn(&mut Config)| {
        let mut both = config(
            vec![member("sim", 1.0, false), member("net", 1.0, true)],
            &["parent"],
        );
        change(&mut both);
        let error = error(&both);
        (error.key, error.message)
    };
    for (found, key, part) in [
        (two(|c| c.members.clear()), "members", "[[model.members]]"),
        (
            two(|c| c.members[1].name = "sim".into()),
            "members[1].name",
            "earlier member",
        ),
        (
            two(|c| c.members[0].name = "parent".into()),
            "members[0].name",
            "expected a name",
        ),
        (
            two(|c| c.members[0].share = -1.0),
            "members[0].share",
            "at least 0",
        ),
        (
            two(|c| c.members.iter_mut().for_each(|m| m.share = 0.0)),
            "members",
            "above 0",
        ),
        (
            two(|c| c.variations = rule(&["nett"])),
            "variations",
            "name of a member",
        ),
        (
            two(|c| c.variations = rule(&["net", "sim"])),
            "variations[1]",
            "\"net\" may have made",
        ),
        (
            two(|c| c.variations = rule(&["sim"])),
            "variations",
            "varies the parameters",
        ),
        (
            two(|c| {
                let text = "command = ['x']\nimage_size = [2, 1]\n";
                c.members[1].model = ModelConfig::Program(toml::from_str(text).unwrap());
            }),
            "members[1].image_size",
            "\"sim\"",
        ),
        (
            two(|c| {
                let text = "command = ['x']\nimage_size = 1\nprocesses = 0\n";
                c.members[1].model = ModelConfig::Program(toml::from_str(text).unwrap());
            }),
            "members[1].processes",
            "expected 1",
        ),
        (
            two(|c| {
                for (member, class) in c.members.iter_mut().zip(["a", "b"]) {
                    let text =
                        format!("command = ['x']\nimage_size = 1\nclasses = {{{class} = 1}}\n");
                    member.model = ModelConfig::Program(toml::from_str(&text).unwrap());
                }
            }),
            "members[1].classes",
            "the same classes",
        ),
    ] {
        assert_eq!(found.0, key, "{}", found.1);
        assert!(found.1.contains(part), "{}: {}", found.0, found.1);
    }
    // A simulator that makes every image may also vary every image, and be followed by a network.
    let simulated = config(
        vec![member("sim", 1.0, false), member("net", 0.0, true)],
        &["sim", "sim", "net", "net"],
    );
    simulated.validate().unwrap();
    assert_eq!(simulated.schedules_by_key(), [("variations".to_owned(), 4)]);
    let mut both = config(
        vec![member("sim", 1.0, true), member("net", 1.0, true)],
        &["parent"],
    );
    both.members[1].variation_degree = Some(Schedule::List(vec![f64::INFINITY; 2]));
    assert_eq!(
        both.schedules_by_key(),
        [("members[1].variation_degree".to_owned(), 2)]
    );
    let vary = Operation::Vary(Variation::new(1.0, 1));
    let error = both.check_operation(vary).unwrap_err().to_string();
    assert!(
        error.starts_with("members[1].variation_degree: "),
        "{error}"
    );
    let written = toml::to_string(&both).unwrap();
    assert!(
        written.contains("[[members]]") && written.contains("type = \"program\""),
        "{written}"
    );
    assert!(json!(both)["members"][0]["command"].is_array());
}
