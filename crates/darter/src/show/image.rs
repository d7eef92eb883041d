//! An image: its manifests and layers, and where each came from.

use darter_api::{Explanation, ImageExplanation, ImagePart, ImageRole};

use darter_core::layer::expanded_name;

use super::status::received;
use crate::table::{Align, Table};
use crate::units;

pub(super) fn describe(image: &ImageExplanation) -> String {
    let mut text = format!("{}  {}\n\n", image.image, image.digest);
    let mut table = Table::new([
        ("PART", Align::Left),
        ("DIGEST", Align::Left),
        ("SIZE", Align::Right),
        ("TOOK", Align::Right),
        ("FROM", Align::Left),
    ]);
    for part in &image.parts {
        table.row([
            role(part.role).to_owned(),
            part.digest.short(),
            part.length.map_or_else(|| "-".to_owned(), units::size),
            part.explanation.as_ref().map_or_else(|| "-".to_owned(), took),
            from(part),
        ]);
    }
    text += &table.render();
    text += "\n`darter explain DIGEST` tells more of one part.\n";
    text
}

fn took(explanation: &Explanation) -> String {
    explanation.seconds.map_or_else(|| "not complete".to_owned(), units::seconds)
}

fn from(part: &ImagePart) -> String {
    match (&part.explanation, part.role) {
        (Some(Explanation { failed: Some(reason), .. }), _) => format!("thrown away: {reason}"),
        (Some(told), _) if expanded_name(&told.name).is_some() => format!("{} (expanded)", received(&told.traffic)),
        (Some(explanation), _) => received(&explanation.traffic),
        (None, ImageRole::Index | ImageRole::Manifest) => "cached".to_owned(),
        (None, _) => "never here".to_owned(),
    }
}

const fn role(role: ImageRole) -> &'static str {
    match role {
        ImageRole::Index => "index",
        ImageRole::Manifest => "manifest",
        ImageRole::Config => "config",
        ImageRole::Layer => "layer",
    }
}
