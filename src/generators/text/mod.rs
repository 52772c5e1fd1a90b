//! Texts drawn with fonts, as a foundation model without a network.
//!
//! A random image draws a font and every other parameter from its range. A variation moves the
//! parameters of its parent within their ranges, by at most the variation degree times the range,
//! and changes the font with a probability that grows with the degree, to one that looks alike. The
//! parameters are stored with the image; pixels of parents are not used.

mod config;
mod fonts;
mod likeness;
mod outline;
mod parameters;
mod range;
mod render;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod texts;
mod warp;

pub use config::Config;

use std::collections::BTreeSet;

use candle_core::Device;
use rayon::prelude::*;

use super::{
    Condition, ConditionRequest, Generated, Generator, GeneratorError, GeneratorSection,
    OpenedGenerator, Operation, Parameters, SampleRequest, Variation, check_pairs,
};
use crate::hub::Requirement;
use crate::images::ImageBatch;
use crate::progress::Observer;
use crate::sections::{InvalidKey, Section};
use crate::streams::KeyedRng;
use config::{Shares, evaluations};
use fonts::{Faces, Flattening};
use likeness::Likeness;
use outline::Glyph;
use parameters::TextParameters;
use texts::Texts;

impl Section for Config {
    const NON_IDENTITY_KEYS: &'static [&'static str] = &["fonts", "batch_size"];
}

impl GeneratorSection for Config {
    fn validate(&self) -> Result<(), InvalidKey> {
        Self::validate(self)
    }

    /// Returns false: an image of another model has no parameters that could be varied.
    fn varies_pixels(&self) -> bool {
        false
    }

    fn image_size(&self) -> (usize, usize) {
        self.image_size.pair()
    }

    fn schedules(&self) -> Vec<(&'static str, usize)> {
        let schedules = self.steps.all().into_iter();
        schedules
            .filter_map(|(key, schedule)| Some((key, schedule.len()?)))
            .collect()
    }

    fn check_operation(&self, operation: Operation) -> Result<(), GeneratorError> {
        evaluations(operation).map(drop)
    }

    fn classes(&self) -> Option<(&'static str, Vec<&str>)> {
        self.texts.classes()
    }

    fn requirements(&self) -> Vec<Requirement> {
        self.fonts.iter().map(Requirement::path).collect()
    }

    fn open(&self, _: &[Device], _: &dyn Observer) -> Result<OpenedGenerator, GeneratorError> {
        // All CPU cores draw, whatever the devices of the networks are.
        let (model, warnings) = TextModel::open(self)?;
        Ok(OpenedGenerator {
            weights_digest: Some(model.faces.digest.clone()),
            generator: Box::new(model),
            warnings,
        })
    }
}

/// The fonts of a run, and the texts that it draws.
struct TextModel {
    config: Config,
    texts: Texts,
    faces: Faces,
    drawable: Vec<Drawable>,
}

/// The fonts that have all characters of a text.
struct Drawable {
    /// Indices into the fonts, ascending.
    faces: Vec<usize>,
    likeness: Likeness,
}

impl TextModel {
    /// Reads the fonts; returns warnings about fonts that are left out.
    fn open(config: &Config) -> Result<(Self, Vec<String>), GeneratorError> {
        config.validate()?;
        let texts = Texts::new(&config.texts)?;
        let characters: BTreeSet<char> = texts.all().iter().flat_map(|text| text.chars()).collect();
        let mut faces = Faces::read(
            &config.fonts,
            &config.exclude_fonts,
            &characters,
            flattening(config),
        )?;
        let mut warnings = std::mem::take(&mut faces.warnings);
        let drawable = texts.all().par_iter().map(|text| {
            let has = |index: &usize| {
                let face = faces.faces.get(*index);
                face.is_some_and(|face| text.chars().all(|c| face.glyphs.contains_key(&c)))
            };
            let indices: Vec<usize> = (0..faces.faces.len()).filter(has).collect();
            let outlines = indices.iter().map(|index| glyphs(&faces, *index, text));
            let likeness = Likeness::new(config, outlines)?;
            Ok(Drawable {
                faces: indices,
                likeness,
            })
        });
        let drawable = drawable.collect::<Result<Vec<Drawable>, GeneratorError>>()?;
        warnings.extend(check_fonts(&texts, &drawable, faces.faces.len())?);
        let model = Self {
            config: config.clone(),
            texts,
            faces,
            drawable,
        };
        Ok((model, warnings))
    }

    /// Returns the text of a condition and the fonts that can draw it.
    fn text(&self, condition: Condition) -> Result<(&str, &Drawable), GeneratorError> {
        let index = condition.0 as usize;
        match (self.texts.all().get(index), self.drawable.get(index)) {
            (Some(text), Some(drawable)) => Ok((text, drawable)),
            _ => Err(GeneratorError::Input(format!(
                "text {index} does not exist: the model has {}",
                self.texts.all().len()
            ))),
        }
    }

    fn name(&self, face: usize) -> &str {
        self.faces.faces.get(face).map_or("", |face| &face.name)
    }

    fn draw(&self, request: &SampleRequest) -> Result<TextParameters, GeneratorError> {
        let (text, drawable) = self.text(request.condition)?;
        let mut rng = request.rng_key.rng();
        let chosen = rng.below(drawable.faces.len() as u64) as usize;
        let face = drawable.faces.get(chosen).copied().unwrap_or_default();
        Ok(TextParameters::draw(
            &self.config,
            text,
            self.name(face),
            &mut rng,
        ))
    }

    fn varied(
        &self,
        parent: &TextParameters,
        request: &SampleRequest,
        shares: &Shares,
    ) -> Result<TextParameters, GeneratorError> {
        let (text, drawable) = self.text(request.condition)?;
        let mut rng = request.rng_key.rng();
        let mut varied = parent.vary(&self.config, shares, &mut rng);
        if let Some(face) = self.other_font(drawable, &parent.font, shares.font, &mut rng)? {
            varied.font = self.name(face).to_owned();
        }
        varied.text = text.to_owned();
        Ok(varied)
    }

    /// Draws another font with probability `share`, one of the same share of all fonts that look
    /// most like `font`. Returns `None` if the font stays.
    fn other_font(
        &self,
        drawable: &Drawable,
        font: &str,
        share: f64,
        rng: &mut KeyedRng,
    ) -> Result<Option<usize>, GeneratorError> {
        let position = self.position(drawable, font)?;
        let (coin, others) = (rng.uniform(), drawable.faces.len() - 1);
        if coin >= share || others == 0 {
            return Ok(None);
        }
        let count = (share.min(1.0) * others as f64).ceil() as usize;
        let near = drawable.likeness.nearest(position, count.clamp(1, others));
        let chosen = near.get(rng.below(near.len() as u64) as usize);
        Ok(chosen.and_then(|index| drawable.faces.get(*index)).copied())
    }

    /// Returns the place of a font among those that can draw a text.
    fn position(&self, drawable: &Drawable, font: &str) -> Result<usize, GeneratorError> {
        let face = self.faces.position(font);
        let position = face.and_then(|face| drawable.faces.binary_search(&face).ok());
        position.ok_or_else(|| {
            GeneratorError::Input(format!(
                "the font {font} of an image is not among the fonts of the model that have its \
                 text: expected the fonts with which the image was drawn"
            ))
        })
    }

    /// Draws images of `[count, height, width, 3]` with their parameters.
    fn render(&self, parameters: Vec<TextParameters>) -> Result<Generated, GeneratorError> {
        let (height, width) = self.config.image_size.pair();
        let images = parameters.par_iter().map(|parameters| {
            let face = self.faces.position(&parameters.font).unwrap_or(usize::MAX);
            let glyphs = glyphs(&self.faces, face, &parameters.text);
            let levels = render::coverage(&self.config, parameters, glyphs)?;
            let mut pixels = Vec::with_capacity(3 * levels.len());
            render::paint(&levels, parameters, &mut pixels);
            Ok((pixels, Parameters::of(parameters)?))
        });
        let images = images.collect::<Result<Vec<_>, GeneratorError>>()?;
        let (pixels, parameters): (Vec<Vec<u8>>, Vec<Parameters>) = images.into_iter().unzip();
        let images = ImageBatch::new(pixels.concat(), parameters.len(), height, width)?;
        Generated::new(images, parameters)
    }
}

/// Returns a warning if fonts are left out because they lack characters.
///
/// # Errors
/// [`InvalidKey`] naming `fonts` if a text has no font.
fn check_fonts(
    texts: &Texts,
    drawable: &[Drawable],
    total: usize,
) -> Result<Option<String>, InvalidKey> {
    let counts = drawable.iter().map(|drawable| drawable.faces.len());
    let fewest = counts.zip(texts.all()).min();
    match fewest {
        Some((0, text)) => {
            let message = format!(
                "has no font with all characters of the text \"{text}\" among {total}: expected \
                 fonts that have them"
            );
            Err(InvalidKey::new("fonts", message))
        }
        Some((left, text)) if left < total => {
            let concerned = drawable.iter().filter(|d| d.faces.len() < total).count();
            Ok(Some(format!(
                "model.fonts: fonts that lack characters of a text are left out for it; this \
                 concerns {concerned} of {} texts, most of all \"{text}\", which {} of {total} \
                 fonts lack",
                texts.all().len(),
                total - left
            )))
        }
        _ => Ok(None),
    }
}

/// Returns the outlines of the characters of a text; those that the font lacks are left out.
fn glyphs<'a>(
    faces: &'a Faces,
    face: usize,
    text: &'a str,
) -> impl Iterator<Item = &'a Glyph> + use<'a> {
    let face = faces.faces.get(face);
    text.chars()
        .filter_map(move |character| face?.glyphs.get(&character))
}

/// Returns how finely outlines become polygons: the error is a fraction of a pixel, and segments
/// are short where they are warped.
fn flattening(config: &Config) -> Flattening {
    let (height, width) = config.image_size.pair();
    let pixels = height.max(width) as f32 * config.size.high as f32;
    Flattening {
        tolerance: (0.05 / pixels).clamp(1e-4, 5e-3),
        longest: if config.warp > 0.0 { 0.06 } else { 1e3 },
    }
}

impl Generator for TextModel {
    fn image_size(&self) -> (usize, usize) {
        self.config.image_size.pair()
    }

    fn batch_size(&self) -> usize {
        self.config.batch_size
    }

    fn initial_conditions(
        &self,
        requests: &[ConditionRequest<'_>],
    ) -> Result<Vec<Condition>, GeneratorError> {
        let conditions = requests.iter().map(|request| self.texts.choose(request));
        Ok(conditions.collect::<Result<_, InvalidKey>>()?)
    }

    fn num_conditions(&self) -> u32 {
        u32::try_from(self.texts.all().len()).unwrap_or(u32::MAX)
    }

    fn describe_conditions(&self, class: Option<&str>) -> Vec<String> {
        self.texts.describe(class)
    }

    fn random(&self, requests: &[SampleRequest]) -> Result<Generated, GeneratorError> {
        let parameters = requests.par_iter().map(|request| self.draw(request));
        self.render(parameters.collect::<Result<_, _>>()?)
    }

    fn vary(
        &self,
        parents: &Generated,
        requests: &[SampleRequest],
        variation: Variation,
    ) -> Result<Generated, GeneratorError> {
        self.evaluations(Operation::Vary(variation))?;
        check_pairs(parents, requests)?;
        let shares = Shares::new(&self.config.steps, variation);
        let parameters = requests.par_iter().enumerate().map(|(index, request)| {
            let parent = TextParameters::read(parents.parameters(index))?;
            self.varied(&parent, request, &shares)
        });
        self.render(parameters.collect::<Result<_, _>>()?)
    }

    fn check_parent(
        &self,
        condition: Condition,
        parameters: &Parameters,
    ) -> Result<(), GeneratorError> {
        let (_, drawable) = self.text(condition)?;
        let parent = TextParameters::read(parameters)?;
        self.position(drawable, &parent.font).map(drop)
    }

    fn evaluations(&self, operation: Operation) -> Result<u64, GeneratorError> {
        evaluations(operation)
    }
}
