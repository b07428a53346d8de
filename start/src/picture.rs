//! The closure as a picture: a treemap in SVG that stands by itself, with no script and no link.
//!
//! Boxes are laid out as M. Bruls, K. Huizing and J. van Wijk do in "Squarified Treemaps" (2000):
//! largest first, in rows along the shorter side, a row being closed when one more box would make
//! its boxes less square.

use crate::closure::{Closure, Index, bytes, name};
use crate::seen_store::SeenStore;
use std::fmt::Write as _;

const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 800.0;

/// The line above the boxes.
const TITLE: f64 = 32.0;

/// A font size, with the width of a letter and the height of a line: estimates on the safe side.
struct Font {
    size: u8,
    letter: f64,
    line: f64,
}

/// The font that is easy to read, and a smaller one for small boxes.
const FONTS: [Font; 2] = [
    Font {
        size: 12,
        letter: 7.2,
        line: 15.0,
    },
    Font {
        size: 9,
        letter: 5.4,
        line: 11.0,
    },
];

/// The space between a box and its text.
const MARGIN: f64 = 4.0;

/// The colours of roots, of paths that programs rarely need when they run, and of all others.
const ROOT: &str = "#2f6f4f";
const BUILD_ONLY: &str = "#a8432f";
const OTHER: &str = "#3b5b8c";

/// A box of the picture.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Area {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

/// The picture of a closure.
pub(crate) fn svg(closure: &Closure, store: &SeenStore) -> String {
    let chains = closure.chains();
    let build_only: Vec<Index> = closure.build_only().iter().map(|(at, _)| *at).collect();
    let shown: Vec<Index> = closure
        .by_size()
        .into_iter()
        .filter(|index| closure.paths()[*index].size > 0)
        .collect();
    let sizes: Vec<f64> = shown
        .iter()
        .map(|index| number(closure.paths()[*index].size))
        .collect();
    let areas = squarify(
        &sizes,
        Area {
            x: 0.0,
            y: TITLE,
            width: WIDTH,
            height: HEIGHT - TITLE,
        },
    );
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#fff\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
         <text x=\"4\" y=\"21\" font-size=\"16\" fill=\"#222\">{} store paths, {}</text>\n",
        closure.paths().len(),
        bytes(closure.size())
    );
    for (place, (colour, words)) in (0_u8..).zip([
        (ROOT, "deployed"),
        (OTHER, "needed by it"),
        (BUILD_ONLY, "rarely needed when running"),
    ]) {
        let x = WIDTH - 500.0 + f64::from(place) * 150.0;
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"9\" width=\"14\" height=\"14\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"21\" fill=\"#222\">{words}</text>",
            x + 20.0
        );
    }
    for (index, area) in shown.into_iter().zip(areas) {
        let colour = if closure.roots().contains(&index) {
            ROOT
        } else if build_only.contains(&index) {
            BUILD_ONLY
        } else {
            OTHER
        };
        draw(&mut svg, closure, store, &chains[index], (area, colour));
    }
    svg.push_str("</svg>\n");
    svg
}

/// Draws the box of the last path of `chain`.
fn draw(
    svg: &mut String,
    closure: &Closure,
    store: &SeenStore,
    chain: &[Index],
    (area, colour): (Area, &str),
) {
    let Area {
        x,
        y,
        width,
        height,
    } = area;
    let Some(index) = chain.last().copied() else {
        return;
    };
    let path = &closure.paths()[index];
    let place = store.path(&path.path);
    // Names have no letter that XML would take for its own.
    let _ = writeln!(
        svg,
        "<g><title>{place}\n{}, {} with all that it needs\n{}</title>\
         <rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
         fill=\"{colour}\" stroke=\"#fff\"/>",
        bytes(path.size),
        bytes(closure.size_with_references(index)),
        closure.chain_words(chain)
    );
    let words = written(name(&path.path), &bytes(path.size), width, height);
    if let Some((font, lines)) = words {
        let mut bottom = y;
        for line in lines {
            bottom += font.line;
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{bottom:.1}\" font-size=\"{}\">{line}</text>",
                x + MARGIN,
                font.size
            );
        }
    }
    svg.push_str("</g>\n");
}

/// The lines that are written on a box: the name, broken after dashes, and the size where there is room;
/// nothing where not even the name fits.
fn written<'a>(
    name: &'a str,
    size: &'a str,
    width: f64,
    height: f64,
) -> Option<(&'static Font, Vec<String>)> {
    FONTS.iter().find_map(|font| {
        let fits =
            |line: &str| number(line.chars().count() as u64) * font.letter + 2.0 * MARGIN <= width;
        let room = |lines: usize| number(lines as u64) * font.line + MARGIN <= height;
        let mut lines: Vec<String> = Vec::new();
        for piece in name.split_inclusive('-') {
            match lines.last_mut() {
                Some(line) if fits(&format!("{line}{piece}")) => line.push_str(piece),
                _ => lines.push(piece.to_string()),
            }
        }
        if !room(lines.len()) || !lines.iter().all(|line| fits(line)) {
            return None;
        }
        if room(lines.len() + 1) && fits(size) {
            lines.push(size.to_string());
        }
        Some((font, lines))
    })
}

/// A count as a length.
fn number(count: u64) -> f64 {
    count as f64
}

/// Boxes as large as `sizes`, which are above nothing and the largest first, that fill `area`.
fn squarify(sizes: &[f64], mut area: Area) -> Vec<Area> {
    let mut areas = Vec::with_capacity(sizes.len());
    let mut rest = sizes;
    while !rest.is_empty() {
        let scale = area.width * area.height / rest.iter().sum::<f64>();
        let side = area.width.min(area.height);
        let mut count = 1;
        while count < rest.len()
            && worst(&rest[..=count], side, scale) <= worst(&rest[..count], side, scale)
        {
            count += 1;
        }
        let (row, after) = rest.split_at(count);
        let depth = row.iter().sum::<f64>() * scale / side;
        let is_column = area.width >= area.height;
        let mut at = 0.0;
        for size in row {
            let length = size * scale / depth;
            areas.push(if is_column {
                Area {
                    x: area.x,
                    y: area.y + at,
                    width: depth,
                    height: length,
                }
            } else {
                Area {
                    x: area.x + at,
                    y: area.y,
                    width: length,
                    height: depth,
                }
            });
            at += length;
        }
        if is_column {
            area.x += depth;
            area.width -= depth;
        } else {
            area.y += depth;
            area.height -= depth;
        }
        rest = after;
    }
    areas
}

/// The longest side of a row's least square box, as a multiple of its shortest.
fn worst(row: &[f64], side: f64, scale: f64) -> f64 {
    let total = row.iter().sum::<f64>() * scale;
    let depth = total / side;
    row.iter()
        .map(|size| {
            let length = size * scale / depth;
            (length / depth).max(depth / length)
        })
        .fold(1.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::closure::sample;

    #[test]
    fn the_picture_shows_every_path_with_its_chain() {
        insta::assert_snapshot!(svg(&sample(), &SeenStore::new("/nix/store")));
    }

    #[test]
    fn a_name_is_broken_then_made_smaller_and_then_left_out() {
        let lines = |width, height| {
            let written = written("libdb5.3-5.3.28+dfsg2", "1.9 MB", width, height);
            written.map(|(font, lines)| (font.size, lines.join("|")))
        };
        let expected = |size, text: &str| Some((size, text.to_string()));
        assert_eq!(
            lines(200.0, 40.0),
            expected(12, "libdb5.3-5.3.28+dfsg2|1.9 MB")
        );
        assert_eq!(
            lines(110.0, 60.0),
            expected(12, "libdb5.3-|5.3.28+dfsg2|1.9 MB")
        );
        assert_eq!(lines(130.0, 20.0), expected(9, "libdb5.3-5.3.28+dfsg2"));
        assert_eq!(lines(80.0, 30.0), expected(9, "libdb5.3-|5.3.28+dfsg2"));
        assert_eq!(lines(70.0, 300.0), None);
    }

    #[test]
    fn boxes_are_as_large_as_their_sizes_and_lie_side_by_side() {
        let sizes = [6.0, 6.0, 4.0, 3.0, 2.0, 2.0, 1.0];
        let all = Area {
            x: 0.0,
            y: 0.0,
            width: 6.0,
            height: 4.0,
        };
        let areas = squarify(&sizes, all);
        for (size, area) in sizes.iter().zip(&areas) {
            assert!((area.width * area.height - size).abs() < 1e-9, "{area:?}");
            assert!(area.x + area.width <= 6.0 + 1e-9 && area.y + area.height <= 4.0 + 1e-9);
        }
        let apart = |one: &Area, other: &Area| {
            one.x + one.width <= other.x + 1e-9
                || other.x + other.width <= one.x + 1e-9
                || one.y + one.height <= other.y + 1e-9
                || other.y + other.height <= one.y + 1e-9
        };
        for (at, one) in areas.iter().enumerate() {
            for other in &areas[at + 1..] {
                assert!(apart(one, other), "{one:?} {other:?}");
            }
        }
    }
}
